"""The pages of people, roles, departments and teams."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models import Q

from teams.models import Department, Member, Role, Team
from tests.administration.desk import HOSTILE, Desk, body, page
from tests.factories import make_team, unique
from tests.people import make_account, make_admin, make_person

FIRST, SECOND = "correct horse battery staple", "staple battery horse correct"


def person_form(user: User, *memberships: Member, **changes: Any) -> dict[str, Any]:
    """The form of a person's page as a browser sends it."""
    form: dict[str, Any] = {
        "username": user.username,
        "is_active": "on",
        "date_joined_0": f"{user.date_joined:%Y-%m-%d}",
        "date_joined_1": f"{user.date_joined:%H:%M:%S}",
        "memberships-TOTAL_FORMS": len(memberships),
        "memberships-INITIAL_FORMS": len([row for row in memberships if row.pk]),
    }
    for number, row in enumerate(memberships):
        fields = {"id": row.pk or "", "user": user.pk, "role": row.role, "team": row.team_id or ""}
        fields["department"] = row.department_id or ""
        form |= {f"memberships-{number}-{name}": value for name, value in fields.items()}
    return {**form, **changes}


def test_a_person_is_made_given_roles_and_a_password_without_a_trace_of_it(desk: Desk) -> None:
    username, team = unique("person"), make_team()
    form = {"username": username, "usable_password": "true", "password1": FIRST, "password2": FIRST}
    form |= {"memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0"}
    assert desk.add(User, **form).status_code == 302
    user = User.objects.get(username=username)
    change = person_form(user, Member(role=Role.TEAM_OWNER, team=team), email="a@company.example")
    assert desk.change(user, **change).status_code == 302
    replacement = {**form, "password1": SECOND, "password2": SECOND}
    assert desk.post(f"/admin/auth/user/{user.pk}/password/", replacement).status_code == 302
    created, changed, replaced = desk.events(user)
    assert created.after["password"] == "set"
    assert changed.after == {"email": "a@company.example"}
    assert (replaced.before, replaced.after) == ({"password": "set"}, {"password": "replaced"})
    (given,) = desk.events(Member.objects.get(user=user))
    assert (given.action, given.after["role"], given.after["team"]) == (
        "member.create",
        "team_owner",
        team.slug,
    )
    shown = body(desk.get(page(User, "change", user)))
    for hidden in ("pbkdf2", User.objects.get(pk=user.pk).password[-20:], FIRST, SECOND):
        assert hidden not in shown + json.dumps([event.after for event in desk.events(user)])


def test_nobody_is_left_without_a_password_by_its_page(desk: Desk) -> None:
    user = make_account().user
    path = f"/admin/auth/user/{user.pk}/password/"
    assert 'name="usable_password"' not in body(desk.get(path))
    for button in ("unset-password", "set-password"):
        desk.post(path, {"usable_password": "false", button: "1"})
        assert User.objects.get(pk=user.pk).has_usable_password()


def test_a_password_nobody_can_use_is_told_as_none(desk: Desk) -> None:
    user = make_account().user
    user.set_unusable_password()
    user.save()
    assert "No password set." in body(desk.get(page(User, "change", user)))
    form = {"password1": FIRST, "password2": FIRST}
    assert desk.post(f"/admin/auth/user/{user.pk}/password/", form).status_code == 302
    (event,) = desk.events(user)
    assert (event.before, event.after) == ({"password": "not set"}, {"password": "set"})


def test_a_nul_in_a_query_is_refused(desk: Desk) -> None:
    for path in ("/admin/teams/member/?role__exact=%00", "/admin/teams/apikey/?q=a%00b"):
        assert desk.get(path).status_code == 400


def test_djangos_flags_groups_and_permissions_are_not_on_the_page(desk: Desk) -> None:
    user = make_account().user
    shown = body(desk.get(page(User, "change", user)))
    assert not any(f'name="{field}"' in shown for field in ("is_staff", "groups", "user_permissions"))
    desk.change(user, **person_form(user, is_staff="on"))
    assert not User.objects.get(pk=user.pk).is_staff


def test_an_auditor_sees_people_without_their_passwords(auditor: Desk) -> None:
    user = make_account().user
    shown = body(auditor.get(page(User, "change", user)))
    assert user.username in shown
    assert user.password not in shown
    assert 'type="password"' not in shown
    assert auditor.get(f"/admin/auth/user/{user.pk}/password/").status_code == 403


@pytest.mark.parametrize(
    ("role", "place"),
    [
        (Role.FINANCE, "team"),
        (Role.TEAM_OWNER, "nowhere"),
        (Role.TEAM_OWNER, "department"),
        (Role.DEPARTMENT_MANAGER, "nowhere"),
        (Role.DEPARTMENT_MANAGER, "team"),
    ],
)
def test_a_role_in_the_wrong_place_is_refused_with_the_rule(desk: Desk, role: Role, place: str) -> None:
    user, team = make_account().user, make_team()
    form = {"user": user.pk, "role": role}
    form |= {"team": {"team": team.pk}, "department": {"department": team.department_id}}.get(place, {})
    response = desk.add(Member, **form)
    assert response.status_code == 200
    assert "a department manager has a department" in body(response)
    assert not Member.objects.filter(user=user).exists()


def test_a_role_is_given_once(desk: Desk) -> None:
    account = make_person(Role.FINANCE)
    assert "already exists" in body(desk.add(Member, user=account.user.pk, role=Role.FINANCE))
    assert Member.objects.filter(user=account.user).count() == 1


def test_the_last_platform_admin_is_told_and_stays() -> None:
    account = make_admin()
    desk, others = Desk(account), User.objects.exclude(pk=account.user.pk).filter(is_active=True)
    closed = list(others.values_list("pk", flat=True))
    User.objects.filter(pk__in=closed).update(is_active=False)
    membership = Member.objects.get(user=account.user)
    bulk = {"action": "delete_selected", "post": "yes"}
    without_role = person_form(account.user, membership, **{"memberships-0-DELETE": "on"})
    try:
        attempts: list[Callable[[], Any]] = [
            lambda: desk.change(membership, user=account.user.pk, role=Role.FINANCE),
            lambda: desk.post(page(Member, "delete", membership), {"post": "yes"}),
            lambda: desk.post(page(Member, "changelist"), {**bulk, "_selected_action": membership.pk}),
            lambda: desk.change(account.user, **person_form(account.user, membership, is_active="")),
            lambda: desk.change(account.user, **without_role),
            lambda: desk.post(page(User, "delete", account.user), {"post": "yes"}),
            lambda: desk.post(page(User, "changelist"), {**bulk, "_selected_action": account.user.pk}),
        ]
        for attempt in attempts:
            answer = attempt()
            assert answer.status_code == 302
            told = body(desk.get("/admin/"))
            assert "this is the last platform admin" in told
            assert "successfully" not in told, "nothing of what did not happen"
        assert Member.objects.filter(Q(user=account.user) & Q(role=Role.PLATFORM_ADMIN)).exists()
        assert User.objects.get(pk=account.user.pk).is_active
        assert desk.events(membership) == desk.events(account.user) == []
    finally:
        User.objects.filter(pk__in=closed).update(is_active=True)


def test_a_team_is_deactivated_and_activated_after_a_confirmation(desk: Desk) -> None:
    team = make_team()
    path = page(Team, "changelist")
    for step, verb, is_active in (("deactivate", "Deactivate", False), ("activate", "Activate", True)):
        asked = desk.post(path, {"action": step, "_selected_action": team.pk, "index": "0"})
        shown = body(desk.get(asked["location"]))
        assert f"{verb} 1 team" in shown
        assert team.slug in shown
        assert Team.objects.get(pk=team.pk).is_active is not is_active
        assert desk.post(page(Team, step), {"id": team.pk}).status_code == 302
        assert Team.objects.get(pk=team.pk).is_active is is_active
        assert "There is nothing to" in body(desk.get(asked["location"]))
    actions = [(event.action, event.before, event.after) for event in desk.events(team)]
    assert actions == [
        ("team.deactivate", {"is_active": True}, {"is_active": False}),
        ("team.activate", {"is_active": False}, {"is_active": True}),
    ]


def test_a_team_is_not_deactivated_by_the_way(desk: Desk) -> None:
    team = make_team()
    desk.change(
        team,
        department=team.department_id,
        slug=team.slug,
        name="Renamed",
        is_active="",
        counters_away="refuse",
        reserve="most",
        max_queue_s=0,
        priority="normal",
    )
    stored = Team.objects.get(pk=team.pk)
    assert (stored.name, stored.is_active) == ("Renamed", True)


@pytest.mark.parametrize(
    "name",
    [
        HOSTILE,
        '"><img src=x onerror=alert(1)>',
        "'; DROP TABLE teams_team; --",
        "\u202egnirts",
        "\u0634\u0631\u0643\u0629",
        "x" * 200,
    ],
)
def test_any_name_is_shown_as_the_text_it_is(desk: Desk, name: str) -> None:
    slug = unique("department")
    assert desk.add(Department, slug=slug, name=name, time_zone="UTC").status_code == 302
    department = Department.objects.get(slug=slug)
    assert department.name == name
    team = Team.objects.create(department=department, slug=unique("team"), name=name)
    paths = [
        f"{page(Department, 'changelist')}?q={slug}",
        page(Department, "change", department),
        page(Department, "delete", department),
        f"{page(Team, 'deactivate')}?id={team.pk}",
        "/admin/",
    ]
    for path in paths:
        shown = body(desk.get(path))
        assert "<script>alert" not in shown
        assert "<img src=x" not in shown


@pytest.mark.parametrize("name", ["", " ", "x" * 201, "a\0b"])
def test_an_impossible_name_is_refused_and_nothing_is_lost(desk: Desk, name: str) -> None:
    slug = unique("department")
    response = desk.add(Department, slug=slug, name=name, cost_centre="4711", time_zone="UTC")
    assert response.status_code == 200
    assert 'value="4711"' in body(response)
    assert not Department.objects.filter(slug=slug).exists()
