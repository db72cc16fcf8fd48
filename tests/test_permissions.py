"""Roles: what each may do where, who may give which, and that the platform keeps an admin."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.db import IntegrityError, connection, models, transaction
from django.test.utils import CaptureQueriesContext

from audit.models import AdminEvent
from billing.ids import uuid7
from billing.models import UsageRecord
from routing.models import Backend, CatalogueModel, Grant, Route
from teams.models import PLATFORM_ROLES, TEAM_ROLES, ApiKey, Application, Department, Member, Role, Team
from teams.permissions import Access, HeldRole, Scope, access_of, scope_of
from teams.platform_admins import LastPlatformAdmin, keeping_a_platform_admin
from teams.roles import MODEL_RIGHTS, Action
from tests.administration.desk import make_record
from tests.factories import make_caller, unique
from tests.people import make_account, make_admin, make_person
from tests.roles_table import ACTIONS, EXPECTED, ROLES

ADDRESS = "https://provider.example/v1"


@dataclass(frozen=True)
class Company:
    """Two departments: `home` with the teams `own` and `sibling`, and another one with `foreign`."""

    home: Department
    own: Team
    sibling: Team
    foreign: Team

    def access(self, role: str) -> Access:
        """Of somebody with this one role, in `own` or `home` where it has a scope."""
        if role in PLATFORM_ROLES:
            return Access((HeldRole(role),))
        if role == Role.DEPARTMENT_MANAGER:
            return Access((HeldRole(role, department_id=self.home.pk),))
        return Access((HeldRole(role, team_id=self.own.pk),))

    def reach(self, role: str, cell: str) -> dict[str, bool]:
        """In which place a cell of the table allows something."""
        is_own, is_manager = cell == "own", role == Role.DEPARTMENT_MANAGER
        everywhere = cell == "all"
        return {
            "own": everywhere or is_own,
            "sibling": everywhere or (is_own and is_manager),
            "foreign": everywhere,
            "platform": everywhere,
        }


@pytest.fixture(scope="module")
def company() -> Company:
    def team(department: Department) -> Team:
        return Team.objects.create(department=department, slug=unique("team"), name="A team")

    home, other = (
        Department.objects.create(slug=unique("department"), name="A department") for _ in range(2)
    )
    return Company(home, team(home), team(home), team(other))


# --- The table -------------------------------------------------------------------------------------------


def test_the_table_here_names_every_action_and_every_role() -> None:
    assert sorted(Action) == ACTIONS
    assert sorted(Role) == sorted(ROLES)


@pytest.mark.parametrize(("action", "role"), EXPECTED)
def test_each_role_may_do_what_the_table_says_where_it_says(company: Company, action: str, role: str) -> None:
    access, cell = company.access(role), EXPECTED[action, role]
    places = {"own": company.own, "sibling": company.sibling, "foreign": company.foreign, "platform": None}
    found = {name: access.may(Action(action), place) for name, place in places.items()}
    assert found == company.reach(role, cell)
    assert access.may_somewhere(Action(action)) == (cell != "-")


@pytest.mark.parametrize("action", ACTIONS)
def test_nobody_an_outsider_and_a_closed_account_may_do_nothing(company: Company, action: str) -> None:
    closed = make_admin().user
    closed.is_active = False
    for user in (AnonymousUser(), make_account().user, closed):
        access = access_of(user)
        assert not access.may_somewhere(Action(action))
        assert not access.may(Action(action), company.own)


def test_a_superuser_counts_as_a_platform_admin(company: Company) -> None:
    access = access_of(make_account(is_superuser=True).user)
    assert all(access.may(action) and access.may(action, company.foreign) for action in Action)


def test_several_roles_add_up_each_in_its_own_place(company: Company) -> None:
    user = make_account().user
    Member.objects.create(user=user, role=Role.VIEWER, team=company.own)
    Member.objects.create(user=user, role=Role.TEAM_OWNER, team=company.foreign)
    access = access_of(user)
    assert access.may(Action.KEY_REVOKE, company.foreign)
    assert not access.may(Action.KEY_REVOKE, company.own)
    assert access.may(Action.KEY_VIEW, company.own)
    assert not access.may(Action.KEY_VIEW, company.sibling)


def test_memberships_are_read_once_for_a_requests_user() -> None:
    user = User.objects.get(pk=make_person(Role.FINANCE).user.pk)
    with CaptureQueriesContext(connection) as queries:
        for _ in range(3):
            assert access_of(user).may(Action.LEDGER_VIEW)
    assert len(queries) == 1


# --- What exists for whom --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def belongings(company: Company) -> dict[str, dict[type[models.Model], models.Model]]:
    """One row of every model that has a place, for each of the three teams; one of the platform's own."""
    return {name: _belongings(getattr(company, name)) for name in ("own", "sibling", "foreign")}


def _belongings(team: Team) -> dict[type[models.Model], models.Model]:
    caller = make_caller(ADDRESS)
    application = Application.objects.create(team=team, slug="app", name="An application")
    ApiKey.objects.filter(pk=caller.key.pk).update(team=team, application=application)
    Grant.objects.filter(team=caller.team).update(team=team)
    rows: list[models.Model] = [
        team,
        team.department,
        application,
        ApiKey.objects.get(pk=caller.key.pk),
        Member.objects.create(user=make_account().user, role=Role.VIEWER, team=team),
        Grant.objects.get(team=team),
        CatalogueModel.objects.get(name=caller.model),
        make_record(team, department_id=team.department_id),
        caller.backend,
        Route.objects.get(backend=caller.backend),
        AdminEvent.objects.filter(object_type="teams.apikey", object_id=str(caller.key.pk)).get(),
    ]
    return {type(row): row for row in rows}


_PLACED = {
    Team: "team",
    Application: "application",
    ApiKey: "key",
    Member: "member",
    Grant: "grant",
    CatalogueModel: "model",
    UsageRecord: "ledger",
    Backend: "backend",
    Route: "route",
    AdminEvent: "event",
}


@pytest.mark.parametrize(("model", "role"), list(product(_PLACED, ROLES)))
def test_what_a_role_may_not_see_does_not_exist(
    company: Company,
    belongings: dict[str, dict[type[models.Model], models.Model]],
    model: type[models.Model],
    role: str,
) -> None:
    access, reach = company.access(role), company.reach(role, EXPECTED[f"{_PLACED[model]}.view", role])
    rows: models.QuerySet[Any] = model._default_manager.all()
    view = MODEL_RIGHTS[model._meta.label_lower].view
    for place in ("own", "sibling", "foreign"):
        row = belongings[place][model]
        assert access.visible(rows).filter(pk=row.pk).count() == int(reach[place]), place
        assert access.may(view, row) == reach[place], place


@pytest.mark.parametrize("role", ROLES)
def test_a_department_exists_for_the_platform_and_its_managers(company: Company, role: str) -> None:
    found = company.access(role).visible(Department.objects.filter(teams__in=[company.own, company.foreign]))
    expected = {
        "all": {company.home, company.foreign.department},
        "own": {company.home},
        "-": set(),
    }
    assert set(found) == expected[EXPECTED["department.view", role]]


def test_a_record_without_a_team_and_a_platform_role_are_the_platforms(company: Company) -> None:
    record = make_record(request_id=uuid7())
    admin = Member.objects.get(user=make_admin().user)
    assert scope_of(record) == scope_of(admin) == Scope()
    for role in (Role.DEPARTMENT_MANAGER, *TEAM_ROLES):
        access = company.access(role)
        assert not access.visible(UsageRecord.objects.filter(pk=record.pk)).exists()
        assert not access.visible(Member.objects.filter(pk=admin.pk)).exists()
        assert not access.may(Action.MEMBER_MANAGE, admin)


def test_a_model_granted_to_several_own_teams_is_listed_once(company: Company) -> None:
    model = CatalogueModel.objects.create(name=unique("model"))
    for team in (company.own, company.sibling):
        Grant.objects.create(team=team, model=model)
    rows = CatalogueModel.objects.filter(pk=model.pk)
    assert company.access(Role.DEPARTMENT_MANAGER).visible(rows).count() == 1


def test_a_team_that_moves_takes_no_history_along(company: Company) -> None:
    record = make_record(company.foreign, department_id=company.foreign.department_id)
    moved = Department.objects.create(slug=unique("department"), name="A department")
    manager = Access((HeldRole(Role.DEPARTMENT_MANAGER, department_id=moved.pk),))
    company.foreign.department, before = moved, company.foreign.department
    company.foreign.save()
    try:
        assert manager.visible(Team.objects.filter(pk=company.foreign.pk)).exists()
        assert not manager.visible(UsageRecord.objects.filter(pk=record.pk)).exists()
    finally:
        company.foreign.department = before
        company.foreign.save()


# --- Giving roles ----------------------------------------------------------------------------------------

_PLACES = ("own", "sibling", "foreign")


def _memberships(company: Company) -> Iterator[tuple[str, str, Member]]:
    """Every role in every place, unsaved, as a form has it."""
    for role in PLATFORM_ROLES:
        yield role, "platform", Member(role=role)
    yield Role.DEPARTMENT_MANAGER, "home", Member(role=Role.DEPARTMENT_MANAGER, department=company.home)
    elsewhere = company.foreign.department
    yield Role.DEPARTMENT_MANAGER, "elsewhere", Member(role=Role.DEPARTMENT_MANAGER, department=elsewhere)
    for role, place in product(TEAM_ROLES, _PLACES):
        yield role, place, Member(role=role, team=getattr(company, place))


@pytest.mark.parametrize("giver", ROLES)
def test_nobody_gives_a_role_above_or_outside_the_own(company: Company, giver: str) -> None:
    in_department = {(role, place) for role, place in product(TEAM_ROLES, ("own", "sibling"))}
    may_give: dict[str, set[tuple[str, str]]] = {
        Role.PLATFORM_ADMIN: {(role, place) for role, place, _ in _memberships(company)},
        Role.DEPARTMENT_MANAGER: {(Role.DEPARTMENT_MANAGER, "home"), *in_department},
        Role.TEAM_OWNER: {(role, "own") for role in TEAM_ROLES},
    }
    access = company.access(giver)
    found = {(role, place) for role, place, member in _memberships(company) if access.may_give(member)}
    assert found == may_give.get(giver, set())


def test_djangos_own_permissions_and_groups_give_nothing() -> None:
    clerk = make_person(Role.FINANCE).user
    group = Group.objects.create(name=unique("group"))
    group.permissions.set(Permission.objects.all())
    clerk.groups.add(group)
    clerk.user_permissions.set(Permission.objects.all())
    clerk = User.objects.get(pk=clerk.pk)
    assert clerk.has_perm("teams.view_apikey")
    assert not clerk.has_perm("teams.change_apikey")
    assert not clerk.has_perm("auth.view_user")
    assert not clerk.has_perm("auth.view_group")
    assert clerk.has_module_perms("billing")
    assert not clerk.has_module_perms("audit")
    assert clerk.get_all_permissions() == set()


# --- The last platform admin -----------------------------------------------------------------------------


@pytest.fixture
def only_admin() -> Iterator[User]:
    """The one platform admin there is: the others' accounts are closed meanwhile."""
    account = make_admin()
    others = User.objects.exclude(pk=account.user.pk).filter(is_active=True)
    closed = list(others.values_list("pk", flat=True))
    User.objects.filter(pk__in=closed).update(is_active=False)
    yield account.user
    User.objects.filter(pk__in=closed).update(is_active=True)


def test_the_last_platform_admin_stays_whatever_is_tried(only_admin: User) -> None:
    membership = Member.objects.get(user=only_admin)
    attempts: list[Callable[[], object]] = [
        lambda: Member.objects.get(pk=membership.pk).delete(),
        lambda: Member.objects.filter(pk=membership.pk).update(role=Role.FINANCE),
        lambda: User.objects.filter(pk=only_admin.pk).update(is_active=False),
        lambda: User.objects.get(pk=only_admin.pk).delete(),
        lambda: Member.objects.all().delete(),
    ]
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="last platform admin"), transaction.atomic():
            attempt()
        told = pytest.raises(LastPlatformAdmin, match="Give somebody else this role first")
        with told, keeping_a_platform_admin():
            attempt()
    assert access_of(User.objects.get(pk=only_admin.pk)).may(Action.MEMBER_MANAGE)


def test_the_last_superuser_counts(only_admin: User) -> None:
    User.objects.filter(pk=only_admin.pk).update(is_superuser=True)
    Member.objects.filter(user=only_admin).delete()
    with pytest.raises(LastPlatformAdmin), keeping_a_platform_admin():
        User.objects.filter(pk=only_admin.pk).update(is_superuser=False)
    with pytest.raises(LastPlatformAdmin), keeping_a_platform_admin():
        User.objects.get(pk=only_admin.pk).delete()


def test_the_role_can_be_handed_over_in_one_transaction(only_admin: User) -> None:
    heir = make_account().user
    with transaction.atomic():
        Member.objects.get(user=only_admin).delete()
        Member.objects.create(user=heir, role=Role.PLATFORM_ADMIN)
    assert access_of(heir).may(Action.ADMINISTRATION_ENTER)


def test_another_error_of_the_database_stays_what_it_is() -> None:
    team = make_caller(ADDRESS).team
    with pytest.raises(IntegrityError, match="team_slug"), keeping_a_platform_admin():
        Team.objects.create(department=team.department, slug=team.slug, name="A team")


def test_two_admins_who_remove_each_other_at_once_leave_one(only_admin: User) -> None:
    second = make_admin().user
    both_removed = threading.Barrier(2)
    outcomes: list[str] = []

    def remove(user: User) -> None:
        try:
            with transaction.atomic():
                Member.objects.filter(user=user).delete()
                both_removed.wait(10)
            outcomes.append("removed")
        except IntegrityError:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=remove, args=[user]) for user in (only_admin, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["refused", "removed"]
