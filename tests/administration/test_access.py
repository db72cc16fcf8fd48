"""Who may open and do what."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import models
from django.test import Client

from audit.admin_trail import AuditedAdmin, ReadOnlyAdmin, read_facts
from billing.models import PriceEntry
from gateway_site.admin_site import SECTIONS
from teams.admin.confirmed import Step
from teams.models import PLATFORM_ROLES, TEAM_ROLES, ApiKey, Department, Member, Role, Team
from teams.roles import MODEL_RIGHTS, Action
from tests.administration.desk import HOSTILE, OURS, READ_ONLY, Desk, body, page
from tests.people import make_account, make_admin, make_person
from tests.roles_table import EXPECTED

PAGES = sorted(admin.site._registry, key=lambda model: model._meta.label)
Rows = dict[type[models.Model], models.Model]


def expected(model: type[models.Model], role: str) -> dict[str, bool]:
    """Which pages of a model the table opens to a role."""
    rights = MODEL_RIGHTS[model._meta.label_lower]

    def may(action: Action | None) -> bool:
        return action is not None and EXPECTED[action, role] == "all"

    return {
        "changelist": may(rights.view),
        "add": may(rights.add),
        "change": may(rights.change),
        "delete": may(rights.delete),
    }


def test_every_registered_page_is_audited_or_read_only_and_has_rights_and_a_section() -> None:
    bases = (AuditedAdmin, ReadOnlyAdmin)
    assert [model for model, site in admin.site._registry.items() if not isinstance(site, bases)] == []
    assert {*OURS, *READ_ONLY, User} == set(PAGES)
    labels = sorted(model._meta.label_lower for model in PAGES)
    only_inline = {  # on the pages of models, backends and policies
        "guards.guardrule",
        "guards.policyteam",
        "routing.modelalias",
        "routing.fallback",
        "routing.contentroute",
        "routing.breakerrule",
    }
    assert set(MODEL_RIGHTS) == {*labels, *only_inline}
    assert sorted(label for section in SECTIONS for label in section.models) == labels


def test_every_action_of_the_table_is_asked_for_somewhere() -> None:
    """By a model's pages, by a step with a confirmation, or at the door."""
    of_models = {
        action
        for rights in MODEL_RIGHTS.values()
        for action in (rights.view, rights.add, rights.change, rights.delete)
        if action is not None
    }
    of_steps = {step.action for page in admin.site._registry.values() for step in getattr(page, "steps", ())}
    assert of_models | of_steps | {Action.ADMINISTRATION_ENTER} == set(Action)


@pytest.mark.parametrize("role", PLATFORM_ROLES)
@pytest.mark.parametrize("model", PAGES)
def test_each_page_opens_to_whom_the_table_says(rows: Rows, model: type[models.Model], role: str) -> None:
    somebody, row, may = Desk(make_person(Role(role))), rows[model], expected(model, role)
    before = read_facts(model._default_manager.get(pk=row.pk))
    answers = {
        "changelist": somebody.get(page(model, "changelist")).status_code,
        "view": somebody.get(page(model, "change", row)).status_code,
        "history": somebody.get(page(model, "history", row)).status_code,
        "add": somebody.get(page(model, "add")).status_code,
        "change": somebody.change(row).status_code,
        "delete": somebody.get(page(model, "delete", row)).status_code,
    }
    may |= {"view": may["changelist"], "history": may["changelist"]}
    keeps = model in {PriceEntry}  # a price in force: nobody changes it, see test_backend_pages
    if keeps:
        may |= {"change": False, "delete": False}
    assert {name: status == 200 for name, status in answers.items()} == may, answers
    assert set(answers.values()) <= {200, 403}
    assert read_facts(model._default_manager.get(pk=row.pk)) == before


@pytest.mark.parametrize("role", PLATFORM_ROLES)
@pytest.mark.parametrize(
    ("model", "step"),
    [(model, step) for model in PAGES for step in getattr(admin.site._registry[model], "steps", ())],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_each_step_is_taken_by_whom_the_table_says(
    rows: Rows, model: type[models.Model], step: Step, role: str
) -> None:
    somebody = Desk(make_person(Role(role)))
    may = EXPECTED[step.action, role] == "all"
    path = page(model, step.name)
    assert somebody.get(f"{path}?id={rows[model].pk}").status_code == (200 if may else 403)
    before = read_facts(model._default_manager.get(pk=rows[model].pk))
    if not may:
        assert somebody.post(path, {"id": rows[model].pk}).status_code == 403
        assert read_facts(model._default_manager.get(pk=rows[model].pk)) == before
    shown = body(somebody.get(page(model, "changelist")))
    assert (f'value="{step.name}"' in shown) == may


@pytest.mark.parametrize("role", PLATFORM_ROLES)
def test_the_index_shows_the_sections_in_order_as_far_as_the_role_goes(role: str) -> None:
    shown = body(Desk(make_person(Role(role))).get("/admin/"))
    visible = [
        section.name
        for section in SECTIONS
        if any(EXPECTED[MODEL_RIGHTS[label].view, role] == "all" for label in section.models)
    ]
    places = [shown.index(f'class="section">{name}<') for name in visible]
    assert places == sorted(places)
    hidden = {section.name for section in SECTIONS} - set(visible)
    assert [name for name in hidden if f'class="section">{name}<' in shown] == []


@pytest.mark.parametrize("model", PAGES)
def test_every_page_opens_for_an_admin_and_shows_hostile_names_as_text(
    desk: Desk, rows: Rows, model: type[models.Model]
) -> None:
    paths = [
        page(model, "changelist"),
        page(model, "change", rows[model]),
        page(model, "history", rows[model]),
    ]
    paths += [page(model, "add")] if model not in READ_ONLY else []
    for path in [*paths, f"{paths[0]}?q=word", f"{paths[0]}?q={HOSTILE}"]:
        response = desk.get(path)
        assert response.status_code == 200, path
        assert "<script>alert" not in body(response)


@pytest.mark.parametrize("model", READ_ONLY)
def test_nobody_writes_the_ledger_and_the_trail(
    desk: Desk, rows: dict[type[models.Model], models.Model], model: type[models.Model]
) -> None:
    row = rows[model]
    assert desk.get(page(model, "add")).status_code == 403
    assert desk.add(model).status_code == 403
    assert desk.change(row).status_code == 403
    assert desk.post(page(model, "delete", row), {"post": "yes"}).status_code == 403
    bulk = {"action": "delete_selected", "_selected_action": str(row.pk), "post": "yes"}
    desk.post(page(model, "changelist"), bulk)
    assert model._default_manager.filter(pk=row.pk).exists()
    assert 'name="action"' not in body(desk.get(page(model, "changelist")))


@pytest.mark.parametrize(
    "path", ["/admin/", "/admin/teams/apikey/", "/admin/teams/apikey/revoke/", "/admin/nothing/"]
)
def test_who_is_not_signed_in_is_led_to_the_one_sign_in_page(path: str) -> None:
    client = Client(headers={"host": "localhost"})
    for answer in (client.get(path), client.post(path)):
        assert answer.status_code == 302
        assert answer["location"].startswith("/admin/login/?next=")
        page_asked = client.get(answer["location"])
        assert page_asked["location"] == f"/sign-in/?next={path}"
    assert (
        client.post("/admin/login/", {"username": "x", "password": "y"})["location"]
        == "/sign-in/?next=/admin/"
    )


@pytest.mark.parametrize("role", ["outsider", "department_manager", *TEAM_ROLES])
def test_roles_of_teams_and_departments_are_told_that_this_is_not_open_to_them(rows: Rows, role: str) -> None:
    team = rows[Team]
    assert isinstance(team, Team)
    match role:
        case "outsider":
            account = make_account()
        case "department_manager":
            account = make_person(Role.DEPARTMENT_MANAGER, department=team.department)
        case _:
            account = make_person(Role(role), team=team)
    account.user.is_staff = True  # Django's flag admits nobody here
    account.user.save()
    somebody = Desk(account)
    for model in PAGES:
        for path in (page(model, "changelist"), page(model, "change", rows[model])):
            answer: Any = somebody.client.get(path, follow=True)
            assert answer.status_code == 403, path
            assert "You may not do this" in body(answer)
    assert somebody.post(page(ApiKey, "revoke"), {"id": rows[ApiKey].pk}).status_code == 302
    assert ApiKey.objects.get(pk=rows[ApiKey].pk).revoked_at is None


def test_a_role_taken_away_ends_at_the_next_request() -> None:
    account = make_person(Role.FINANCE)
    somebody = Desk(account)
    assert somebody.get("/admin/").status_code == 200
    Member.objects.filter(user=account.user).delete()
    assert somebody.get("/admin/").status_code == 302


def test_forms_need_a_token() -> None:
    client = Client(enforce_csrf_checks=True, headers={"host": "localhost"})
    client.force_login(make_admin().user)
    assert client.post(page(Department, "add"), {"slug": "x"}).status_code == 403
    for model in PAGES:
        for step in getattr(admin.site._registry[model], "steps", ()):
            assert client.post(page(model, step.name), {"id": "1"}).status_code == 403


def test_an_app_of_django_has_its_page_and_leads_back() -> None:
    assert Desk(make_admin()).get("/admin/teams/").status_code == 200
