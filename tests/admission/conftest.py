"""Departments on the run's store, each with keys of its own."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from billing.admission.rules import Rule
from tests.admission.desk import Desk
from tests.processes import PROCESSES


@pytest.fixture(scope="module", autouse=True)
def _alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """The session's gateway stands still: it would make counters anew of which a test has plans of its own."""
    mine = [item for item in request.session.items if item.path == request.path]
    processes = request.config.stash.get(PROCESSES, None)
    if processes is None or any("product" in item.fixturenames for item in mine):  # type: ignore[attr-defined]
        yield
        return
    with processes.paused():
        yield


@pytest.fixture
def make_desk() -> Iterator[Callable[..., Desk]]:
    """Makes a department with rules, in an open epoch; it is gone after the test."""
    made: list[Desk] = []

    def make(*rules: Rule, **fields: Any) -> Desk:
        made.append(Desk(os.environ["REDIS_URL"], rules, **fields))
        made[-1].open_epoch()
        return made[-1]

    yield make
    for desk in made:
        desk.delete()
