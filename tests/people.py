"""People for tests of pages: accounts with a role, each under a name of its own."""

from dataclasses import dataclass

from django.contrib.auth.models import User

from gateway_site import demo
from teams.models import Member, Role, Team
from tests.factories import unique

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Account:
    """A user and what to sign in with."""

    user: User
    username: str
    password: str = PASSWORD


def make_account(*, is_superuser: bool = False, is_staff: bool = False) -> Account:
    """Somebody without a role."""
    user = User.objects.create_user(
        unique("person"), password=PASSWORD, is_superuser=is_superuser, is_staff=is_staff or is_superuser
    )
    return Account(user, user.username)


def make_admin() -> Account:
    """A platform admin, who may do everything in the administration."""
    account = make_account(is_superuser=True)
    Member.objects.create(user=account.user, role=Role.PLATFORM_ADMIN)
    return account


def make_reader(role: Role) -> Account:
    """An auditor or a finance person, with the demo's permissions in the administration."""
    account = make_account(is_staff=True)
    account.user.groups.add(demo.read_only_group(role))
    Member.objects.create(user=account.user, role=role)
    return account


def make_team_member(team: Team) -> Account:
    """A member of a team, who has no part in the administration."""
    account = make_account()
    Member.objects.create(user=account.user, role=Role.TEAM_MEMBER, team=team)
    return account
