"""The last platform admin stays: nobody could mend an installation without one."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import IntegrityError, connection, transaction

_CONSTRAINTS = (
    "member_keeps_a_platform_admin",
    "user_keeps_a_platform_admin_on_update",
    "user_keeps_a_platform_admin_on_delete",
)


class LastPlatformAdmin(Exception):
    """The change would have left nobody who administers the platform."""

    def __str__(self) -> str:
        return "Nothing was changed: this is the last platform admin. Give somebody else this role first."


@contextmanager
def keeping_a_platform_admin() -> Iterator[None]:
    """A transaction that fails with LastPlatformAdmin where the database's triggers refuse it.

    They are asked at the end of the block rather than at the commit, so that the answer can be told.
    """
    try:
        with transaction.atomic():
            yield
            with connection.cursor() as cursor:
                cursor.execute(f"SET CONSTRAINTS {', '.join(_CONSTRAINTS)} IMMEDIATE")
                cursor.execute(f"SET CONSTRAINTS {', '.join(_CONSTRAINTS)} DEFERRED")
    except IntegrityError as error:
        diagnostics = getattr(error.__cause__, "diag", None)
        if diagnostics is not None and diagnostics.constraint_name == "keep_a_platform_admin":
            raise LastPlatformAdmin from error
        raise
