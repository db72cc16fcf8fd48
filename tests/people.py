"""People for tests of pages: accounts with a role, each under a name of its own."""

from dataclasses import dataclass

from django.contrib.auth.models import User

from teams.models import Department, Member, Role, Team
from tests.factories import unique

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Account:
    """A user and what to sign in with."""

    user: User
    username: str
    password: str = PASSWORD


def make_account(*, is_superuser: bool = False) -> Account:
    """Somebody without a role."""
    user = User.objects.create_user(unique("person"), password=PASSWORD, is_superuser=is_superuser)
    return Account(user, user.username)


def make_person(role: str, *, team: Team | None = None, department: Department | None = None) -> Account:
    """Somebody with one role."""
    account = make_account()
    Member.objects.create(user=account.user, role=role, team=team, department=department)
    return account


def make_admin() -> Account:
    """A platform admin."""
    return make_person(Role.PLATFORM_ADMIN)


def make_team_member(team: Team) -> Account:
    """A member of a team, who has no part in the administration."""
    return make_person(Role.TEAM_MEMBER, team=team)
