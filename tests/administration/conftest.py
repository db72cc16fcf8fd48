"""People at the administration, and one row of everything."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest loads this file before Django is set up
    from django.db import models

    from tests.administration.desk import Desk


@pytest.fixture(scope="module")
def desk() -> "Desk":
    """A platform admin's."""
    from tests.administration.desk import Desk
    from tests.people import make_admin

    return Desk(make_admin())


@pytest.fixture(scope="module")
def auditor() -> "Desk":
    """A security auditor's."""
    from tests.administration.desk import Desk
    from tests.people import make_person

    return Desk(make_person("security_auditor"))


@pytest.fixture(scope="module")
def rows() -> "dict[type[models.Model], models.Model]":
    """One row of every model."""
    from tests.administration.desk import make_rows

    return make_rows()
