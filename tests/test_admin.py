"""The administration: who may do what, what is recorded, and what is never shown.

In this process with Django's client, so that a failure can be put between a change and its commit.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.db import connection, models
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from audit import admin_trail
from audit.admin_trail import MOST_ROWS, SECRET_FIELDS, AuditedAdmin, ReadOnlyAdmin, read_facts
from audit.models import AdminEvent
from audit.services import record_event
from billing.ids import smallest_id_at, uuid7
from billing.models import ListPrice, PriceEntry, QuarantinedFrame, Spool, UsageRecord
from billing.money import format_nanousd
from routing.credentials import CredentialError, decrypt_credential
from routing.models import Backend, CatalogueModel, Grant, ModelAlias, Route
from teams.models import ApiKey, Application, Department, Member, Role, Team
from teams.services import create_key
from tests.factories import BACKEND_SECRET, make_backend, make_caller, make_model, make_team, unique
from tests.people import Account, make_admin, make_reader, make_team_member

ADDRESS = "https://provider.example/v1"
READ_ONLY = [ListPrice, UsageRecord, Spool, QuarantinedFrame, AdminEvent]
OURS = [Department, Team, Application, Member, ApiKey, CatalogueModel, Grant, Backend, Route, PriceEntry]
HOSTILE = "<script>alert('x')</script>"


class Desk:
    """Somebody at the administration."""

    def __init__(self, account: Account) -> None:
        self.name = account.username
        self.client = Client(headers={"host": "localhost"})
        self.client.force_login(account.user)

    def get(self, path: str) -> Any:
        """A page."""
        return self.client.get(path)

    def post(self, path: str, form: dict[str, Any] | None = None) -> Any:
        """A form, as it was sent."""
        return self.client.post(path, form or {})

    def add(self, model: type[models.Model], **form: Any) -> Any:
        """The add page's form."""
        return self.post(page(model, "add"), form)

    def change(self, target: models.Model, **form: Any) -> Any:
        """The change page's form."""
        return self.post(page(type(target), "change", target), form)

    def events(self, target: models.Model) -> list[Any]:
        """What this person did to `target`, oldest first."""
        label, pk = target._meta.label_lower, str(target.pk)
        return list(
            AdminEvent.objects.filter(actor=self.name, object_type=label, object_id=pk).order_by("id")
        )


def page(model: type[models.Model], kind: str, target: models.Model | None = None) -> str:
    """The path of one of a model's pages."""
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{kind}"
    return reverse(name, args=[target.pk] if target else [])


def body(response: HttpResponse) -> str:
    return response.content.decode()


@pytest.fixture(scope="module")
def desk() -> Desk:
    """A superuser's."""
    return Desk(make_admin())


@pytest.fixture(scope="module")
def auditor() -> Desk:
    return Desk(make_reader(Role.SECURITY_AUDITOR))


@pytest.fixture(scope="module")
def finance() -> Desk:
    return Desk(make_reader(Role.FINANCE))


@pytest.fixture(scope="module")
def rows() -> dict[type[models.Model], models.Model]:
    """One row of every model."""
    caller = make_caller(ADDRESS)
    account = make_team_member(caller.team)
    frame = QuarantinedFrame.objects.create(spool=uuid4(), seq=1, body=b'{"bad": "\xff"}', error=HOSTILE)
    key = caller.key
    found: list[models.Model] = [
        *(caller.team.department, caller.team, caller.application, caller.backend, key),
        Member.objects.get(user=account.user),
        Grant.objects.select_related("model").get(team=caller.team),
        CatalogueModel.objects.get(name=caller.model),
        Route.objects.get(backend=caller.backend),
        PriceEntry.objects.get(backend=caller.backend),
        make_list_price(),
        make_record(team=caller.team, key=key),
        Spool.objects.create(id=uuid4(), host="a-host"),
        frame,
        AdminEvent.objects.filter(object_type="teams.apikey", object_id=str(key.pk)).get(),
        account.user,
        Group.objects.create(name=unique("group")),
    ]
    return {type(row): row for row in found}


def make_list_price() -> ListPrice:
    return ListPrice.objects.create(
        provider=unique("provider"),
        model=HOSTILE[:128],
        mode="chat",
        effective_from=timezone.now(),
        input_usd_per_million=Decimal(1),
        output_usd_per_million=Decimal(1),
    )


def make_record(team: Team | None = None, key: ApiKey | None = None, **fields: Any) -> UsageRecord:
    """A ledger row that cost 1.234567891 USD."""
    now = timezone.now()
    zeros = ["cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"]
    zeros += ["cached_input_cost_nanousd", "cache_write_cost_nanousd", "output_cost_nanousd", "duration_ms"]
    values: dict[str, Any] = {
        **dict.fromkeys(zeros, 0),
        "request_id": uuid7(),
        "spool": uuid4(),
        "seq": 1,
        "admitted_at": now,
        "ended_at": now,
        "operation": "chat",
        "streamed": False,
        "status": "completed",
        "http_status": 200,
        "input_tokens": 7,
        "estimated": False,
        "input_cost_nanousd": 1_234_567_891,
        "cost_nanousd": 1_234_567_891,
        "attempts": 1,
        "team_id": team.pk if team else None,
        "team": team.slug if team else "",
        "api_key_id": key.pk if key else None,
        "end_user": HOSTILE,
    }
    return UsageRecord.objects.create(**{**values, **fields})


# --- Who may do what -------------------------------------------------------------------------------------


def test_every_registered_page_is_audited_or_read_only() -> None:
    bases = (AuditedAdmin, ReadOnlyAdmin)
    assert [model for model, site in admin.site._registry.items() if not isinstance(site, bases)] == []
    assert {*OURS, *READ_ONLY, User, Group} == set(admin.site._registry)


@pytest.mark.parametrize("model", [*OURS, *READ_ONLY, User, Group])
def test_every_page_opens_for_a_superuser(
    desk: Desk, rows: dict[type[models.Model], models.Model], model: type[models.Model]
) -> None:
    paths = [
        page(model, "changelist"),
        page(model, "change", rows[model]),
        page(model, "history", rows[model]),
    ]
    paths += [page(model, "add")] if model not in READ_ONLY else []
    for path in [*paths, f"{paths[0]}?q=word"]:
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


@pytest.mark.parametrize("model", [*OURS, *READ_ONLY])
def test_the_auditor_reads_everything_and_writes_nothing(
    auditor: Desk, rows: dict[type[models.Model], models.Model], model: type[models.Model]
) -> None:
    row = rows[model]
    assert auditor.get(page(model, "changelist")).status_code == 200
    assert auditor.get(page(model, "change", row)).status_code == 200
    before = read_facts(model._default_manager.get(pk=row.pk))
    assert auditor.add(model).status_code == 403
    assert auditor.change(row).status_code == 403
    assert auditor.post(page(model, "delete", row), {"post": "yes"}).status_code == 403
    assert read_facts(model._default_manager.get(pk=row.pk)) == before


@pytest.mark.parametrize("model", [*OURS, *READ_ONLY])
def test_finance_reads_teams_and_money_only(
    finance: Desk, rows: dict[type[models.Model], models.Model], model: type[models.Model]
) -> None:
    may_read = model._meta.app_label in {"teams", "billing"}
    assert finance.get(page(model, "changelist")).status_code == (200 if may_read else 403)
    assert finance.get(page(model, "change", rows[model])).status_code == (200 if may_read else 403)
    assert finance.change(rows[model]).status_code == 403


@pytest.mark.parametrize("model", [User, Group])
def test_users_and_groups_are_for_superusers_whatever_the_permissions(
    auditor: Desk, rows: dict[type[models.Model], models.Model], model: type[models.Model]
) -> None:
    clerk = make_reader(Role.SECURITY_AUDITOR)
    everything = {f"{verb}_{model._meta.model_name}" for verb in ("add", "change", "delete", "view")}
    clerk.user.user_permissions.set(Permission.objects.filter(codename__in=everything))
    for path in (page(model, "changelist"), page(model, "add"), page(model, "change", rows[model])):
        assert Desk(clerk).get(path).status_code == 403
        assert auditor.get(path).status_code == 403
    assert Desk(clerk).post(page(model, "delete", rows[model]), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("path", ["/admin/", "/admin/teams/apikey/", "/admin/teams/apikey/revoke/"])
def test_others_are_sent_to_sign_in(path: str) -> None:
    for client in (Desk(make_team_member(make_team())).client, Client(headers={"host": "localhost"})):
        for response in (client.get(path), client.post(path)):
            assert response.status_code == 302
            assert response["location"].startswith("/admin/login/?next=")


def test_forms_need_a_token() -> None:
    client = Client(enforce_csrf_checks=True, headers={"host": "localhost"})
    client.force_login(make_admin().user)
    assert client.post(page(Department, "add"), {"slug": "x"}).status_code == 403
    assert client.post(reverse("admin:teams_apikey_revoke"), {"id": "1"}).status_code == 403


# --- What is recorded ------------------------------------------------------------------------------------


def test_adding_changing_and_deleting_leave_one_event_each(desk: Desk) -> None:
    slug = unique("department")
    form = {"slug": slug, "name": "First", "cost_centre": "1", "time_zone": "UTC"}
    assert desk.add(Department, **form).status_code == 302
    department = Department.objects.get(slug=slug)
    assert desk.change(department, **{**form, "name": "Second"}).status_code == 302
    assert desk.change(department, **{**form, "name": "Second"}).status_code == 302
    assert desk.post(page(Department, "delete", department), {"post": "yes"}).status_code == 302
    created, changed, deleted = desk.events(department)
    assert [event.action for event in (created, changed, deleted)] == [
        "department.create",
        "department.change",
        "department.delete",
    ]
    assert created.before is None
    assert created.after["name"] == "First"
    assert (changed.before, changed.after) == ({"name": "First"}, {"name": "Second"})
    assert (deleted.before["name"], deleted.after) == ("Second", None)


def test_bulk_deletion_records_each_and_what_went_with_it(desk: Desk) -> None:
    teams = [make_team(), make_team()]
    member = Member.objects.get(user=make_team_member(teams[0]).user)
    form = {"action": "delete_selected", "_selected_action": [team.pk for team in teams], "post": "yes"}
    assert desk.post(page(Team, "changelist"), form).status_code == 302
    assert not Team.objects.filter(pk__in=[team.pk for team in teams]).exists()
    for row in (*teams, member):
        (event,) = desk.events(row)
        assert event.action == f"{row._meta.model_name}.delete"


def test_inline_rows_have_events_of_their_own(desk: Desk) -> None:
    first, second = make_backend(ADDRESS), make_backend(ADDRESS)
    model = make_model(first)
    route = Route.objects.get(model=model)
    form: dict[str, Any] = {
        "name": model.name,
        "is_active": "on",
        "aliases-TOTAL_FORMS": 1,
        "aliases-INITIAL_FORMS": 0,
        "aliases-0-name": (alias := unique("alias")),
        "aliases-0-model": model.pk,
        "routes-TOTAL_FORMS": 2,
        "routes-INITIAL_FORMS": 1,
        "routes-0-id": route.pk,
        "routes-0-model": model.pk,
        "routes-0-backend": first.pk,
        "routes-0-priority": 5,
        "routes-1-model": model.pk,
        "routes-1-backend": second.pk,
        "routes-1-priority": 2,
    }
    assert desk.change(model, **form).status_code == 302
    added = Route.objects.get(model=model, backend=second)
    assert [(event.before, event.after) for event in desk.events(route)] == [
        ({"priority": 1}, {"priority": 5})
    ]
    assert [event.after["backend"] for event in desk.events(added)] == [second.name]
    assert len(desk.events(ModelAlias.objects.get(name=alias, model=model))) == 1
    assert desk.events(model) == []
    form |= {"aliases-TOTAL_FORMS": 0}
    form |= {"routes-INITIAL_FORMS": 2, "routes-0-DELETE": "on", "routes-1-id": added.pk}
    assert desk.change(model, **form).status_code == 302
    assert desk.events(route)[-1].action == "route.delete"


@pytest.fixture
def failing_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event is written, and then the transaction fails."""
    write = record_event

    def write_and_fail(*arguments: Any, **words: Any) -> None:
        write(*arguments, **words)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(admin_trail, "record_event", write_and_fail)


@pytest.mark.usefixtures("failing_trail")
def test_change_and_event_are_kept_or_lost_together(desk: Desk) -> None:
    slug, team, events = unique("department"), make_team(), AdminEvent.objects.count()
    attempts: list[Callable[[], object]] = [
        lambda: desk.add(Department, slug=slug, name="A name", time_zone="UTC"),
        lambda: desk.change(team, department=team.department_id, slug=team.slug, name="Another"),
        lambda: desk.post(page(Team, "delete", team), {"post": "yes"}),
        lambda: desk.post(
            page(Team, "changelist"),
            {"action": "delete_selected", "_selected_action": team.pk, "post": "yes"},
        ),
    ]
    for attempt in attempts:
        with pytest.raises(RuntimeError, match="the disk is full"):
            attempt()
    assert not Department.objects.filter(slug=slug).exists()
    assert Team.objects.get(pk=team.pk).name == team.name
    assert AdminEvent.objects.count() == events


def test_a_new_key_and_its_event_are_kept_or_lost_together(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, events = unique("key"), AdminEvent.objects.count()
    monkeypatch.setattr("teams.admin.ApiKeyAdmin.log_addition", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        desk.add(ApiKey, team=make_team().pk, name=name)
    assert not ApiKey.objects.filter(name=name).exists()
    assert AdminEvent.objects.count() == events


def test_users_are_recorded_without_a_trace_of_the_password(desk: Desk) -> None:
    username, group = unique("person"), Group.objects.create(name=unique("group"))
    first, second = "correct horse battery staple", "staple battery horse correct"
    form = {"username": username, "usable_password": "true", "password1": first, "password2": first}
    assert desk.add(User, **form).status_code == 302
    user = User.objects.get(username=username)
    change = {"username": username, "is_staff": "on", "is_active": "on", "groups": group.pk}
    joined = {
        "date_joined_0": f"{user.date_joined:%Y-%m-%d}",
        "date_joined_1": f"{user.date_joined:%H:%M:%S}",
    }
    assert desk.change(user, **change, **joined).status_code == 302
    password_form = {"usable_password": "true", "password1": second, "password2": second}
    assert desk.post(f"/admin/auth/user/{user.pk}/password/", password_form).status_code == 302
    created, changed, replaced = desk.events(user)
    assert created.after["password"] == "set"
    assert (changed.after["is_staff"], changed.after["groups"]) == (True, [group.name])
    assert (replaced.before, replaced.after) == ({"password": "set"}, {"password": "replaced"})
    shown = body(desk.get(page(User, "change", user)))
    for hidden in ("pbkdf2", User.objects.get(pk=user.pk).password[-20:], first, second):
        assert hidden not in shown + json.dumps([event.after for event in desk.events(user)])


def test_ones_own_new_password_is_recorded() -> None:
    account = make_admin()
    desk, new = Desk(account), "staple battery horse correct"
    wrong = {"old_password": "wrong", "new_password1": new, "new_password2": new}
    assert desk.post("/admin/password_change/", wrong).status_code == 200
    assert desk.events(account.user) == []
    right = {**wrong, "old_password": account.password}
    assert desk.post("/admin/password_change/", right).status_code == 302
    assert [event.after for event in desk.events(account.user)] == [{"password": "replaced"}]


@pytest.mark.parametrize("model", [*OURS, User, Group])
def test_what_could_hold_a_secret_is_told_as_set_or_not(
    rows: dict[type[models.Model], models.Model], model: type[models.Model]
) -> None:
    words = ("password", "secret", "digest", "pepper", "token", "encrypted")
    for name, fact in read_facts(rows[model]).items():
        field = model._meta.get_field(name)
        if any(word in name for word in words) or isinstance(field, models.BinaryField):
            assert name in SECRET_FIELDS
            assert fact.told in {"set", "not set"}


# --- Keys ------------------------------------------------------------------------------------------------


def new_key(desk: Desk, **form: Any) -> tuple[HttpResponse, ApiKey | None]:
    name = unique("key")
    response = desk.add(ApiKey, **{"team": make_team().pk, "name": name, **form})
    return response, ApiKey.objects.filter(name=form.get("name", name)).first()


def test_a_new_keys_secret_is_in_one_answer_only(desk: Desk) -> None:
    response, key = new_key(desk)
    assert key is not None
    assert response.status_code == 200
    assert "no-store" in response["cache-control"]
    start = body(response).index("sk-gw_", body(response).index('id="secret"'))
    secret = body(response)[start : start + 55]
    assert bytes(key.digest) == _digest(secret)
    assert secret not in str(desk.client.cookies)
    assert secret not in str(dict(desk.client.session))
    later = [page(ApiKey, "changelist"), page(ApiKey, "change", key), page(ApiKey, "history", key), "/admin/"]
    later += [f"{page(AdminEvent, 'changelist')}?q={key.pk}", f"/admin/teams/apikey/revoke/?id={key.pk}"]
    (event,) = desk.events(key)
    later.append(page(AdminEvent, "change", event))
    for path in later:
        shown = body(desk.get(path))
        for hidden in (secret, secret[6:40], bytes(key.digest).hex(), "digest", "pepper"):
            assert hidden not in shown, path
    assert (event.action, key.created_by) == ("key.create", desk.name)
    assert secret not in json.dumps([entry.change_message for entry in LogEntry.objects.all()])


def _digest(secret: str) -> bytes:
    from django.conf import settings

    from teams.keys import Peppers

    peppers = Peppers.parse(settings.GATEWAY_KEY_PEPPERS)
    return peppers.digest(secret, peppers.current)


def test_a_key_expires_in_90_days_unless_told_otherwise(desk: Desk) -> None:
    _, usual = new_key(desk)
    _, endless = new_key(desk, never_expires="on")
    day = timezone.now() + timedelta(days=5)
    _, short = new_key(desk, expires_at_0=f"{day:%Y-%m-%d}", expires_at_1="12:00:00")
    assert usual is not None
    assert usual.expires_at is not None
    assert abs(usual.expires_at - timezone.now() - timedelta(days=90)) < timedelta(minutes=1)
    assert endless is not None
    assert endless.expires_at is None
    assert short is not None
    assert short.expires_at is not None
    assert short.expires_at.date() == day.date()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"}, "This moment has passed"),
        ({"name": "x" * 10_000}, "at most 200 characters"),
        ({"name": ""}, "This field is required"),
        ({"team": 10**12}, "Select a valid choice"),
        (
            {"expires_at_0": "2999-01-01", "expires_at_1": "00:00:00", "never_expires": "on"},
            "Give a moment or choose never, not both",
        ),
    ],
)
def test_an_impossible_key_is_not_made(desk: Desk, form: dict[str, Any], message: str) -> None:
    response, key = new_key(desk, **form)
    assert response.status_code == 200
    assert message in body(response)
    assert key is None


def test_a_key_of_another_teams_application_is_not_made(desk: Desk) -> None:
    stranger = Application.objects.create(team=make_team(), slug="app", name="An application")
    response, key = new_key(desk, application=stranger.pk)
    assert "belongs to another team" in body(response)
    assert key is None


def test_of_a_key_only_the_name_changes(desk: Desk) -> None:
    key, other = create_key(make_team(), "Before", actor="tests").key, make_team()
    before = read_facts(ApiKey.objects.get(pk=key.pk))
    form = {
        "name": HOSTILE,
        "team": other.pk,
        "digest": "x",
        "revoked_at_0": "2020-01-01",
        "hint": "sk-gw_...none",
    }
    assert desk.change(key, **form).status_code == 302
    after = read_facts(ApiKey.objects.get(pk=key.pk))
    assert {name for name in after if after[name] != before[name]} == {"name"}
    (event,) = desk.events(key)
    assert (event.before, event.after) == ({"name": "Before"}, {"name": HOSTILE})
    assert "<script>alert" not in body(desk.get(page(ApiKey, "changelist")))
    assert desk.post(page(ApiKey, "delete", key), {"post": "yes"}).status_code == 403


def test_keys_are_revoked_after_a_confirmation(desk: Desk, auditor: Desk) -> None:
    team = make_team()
    keys = [create_key(team, HOSTILE, actor="tests").key for _ in range(2)]
    form = {"action": "revoke", "_selected_action": [key.pk for key in keys], "index": "0"}
    asked = desk.post(page(ApiKey, "changelist"), form)
    assert asked.status_code == 302
    assert ApiKey.objects.filter(team=team, revoked_at=None).count() == 2
    shown = body(desk.get(asked["location"]))
    assert "Revoke 2 API keys" in shown
    assert "<script>alert" not in shown
    assert auditor.get(asked["location"]).status_code == 403
    assert auditor.post("/admin/teams/apikey/revoke/", {"id": keys[0].pk}).status_code == 403
    ids = [*(key.pk for key in keys), "x", "9" * 30, -1]
    assert desk.post("/admin/teams/apikey/revoke/", {"id": ids}).status_code == 302
    assert ApiKey.objects.filter(team=team, revoked_at=None).count() == 0
    assert [desk.events(key)[-1].action for key in keys] == ["key.revoke"] * 2
    assert "None of these keys can be revoked" in body(desk.get(asked["location"]))


# --- Backends --------------------------------------------------------------------------------------------


def backend_form(**changes: Any) -> dict[str, Any]:
    form = {
        "name": unique("backend"),
        "provider": "openai",
        "base_url": ADDRESS,
        "upstream_model": "a-model",
        "is_active": "on",
        "connect_timeout_s": 5,
        "first_byte_timeout_s": 120,
        "idle_timeout_s": 60,
        "total_timeout_s": 600,
        "prices-TOTAL_FORMS": 0,
        "prices-INITIAL_FORMS": 0,
    }
    return {**form, **changes}


def stored_secret(backend: Backend, base_url: str = ADDRESS) -> str | None:
    encrypted = Backend.objects.get(pk=backend.pk).credential_encrypted
    return None if encrypted is None else decrypt_credential(bytes(encrypted), base_url)


def test_a_credential_is_written_kept_replaced_and_removed_but_never_shown(desk: Desk) -> None:
    form = backend_form()
    assert desk.add(Backend, **form, credential="first-secret").status_code == 302
    backend = Backend.objects.get(name=form["name"])
    secrets: list[str | None] = [stored_secret(backend)]
    for change in ({}, {"credential": "second-secret"}, {"remove_credential": "on"}):
        assert desk.change(backend, **form, **change).status_code == 302
        secrets.append(stored_secret(backend))
    assert secrets == ["first-secret", "first-secret", "second-secret", None]
    told = [(event.before or {}, event.after or {}) for event in desk.events(backend)]
    assert [(old.get("credential_encrypted"), new.get("credential_encrypted")) for old, new in told] == [
        (None, "set"),
        ("set", "replaced"),
        ("set", "not set"),
    ]
    desk.change(backend, **form, credential="third-secret")
    paths = [page(Backend, "changelist"), page(Backend, "change", backend), page(Backend, "history", backend)]
    paths += [page(AdminEvent, "change", event) for event in desk.events(backend)]
    for path in paths:
        assert "-secret" not in body(desk.get(path))
    assert "-secret" not in json.dumps([entry.change_message for entry in LogEntry.objects.all()])


def test_a_refused_form_does_not_echo_the_credential_and_asks_for_it_again(desk: Desk) -> None:
    response = desk.add(Backend, **backend_form(total_timeout_s=0), credential="a-secret")
    assert response.status_code == 200
    assert "a-secret" not in body(response)
    assert "Enter the credential again" in body(response)
    assert 'autocomplete="new-password"' in body(response)


@pytest.mark.parametrize("credential", ["two\nlines", "snowman ☃", "x" * 2001])
def test_a_credential_that_fits_no_header_is_refused(desk: Desk, credential: str) -> None:
    form = backend_form(credential=credential)
    response = desk.add(Backend, **form)
    assert response.status_code == 200
    assert credential not in body(response)
    assert not Backend.objects.filter(name=form["name"]).exists()


def test_a_credential_has_to_be_entered_again_for_another_host(desk: Desk) -> None:
    backend = make_backend(ADDRESS)
    elsewhere = "https://elsewhere.example/v1"
    form = backend_form(name=backend.name, base_url=elsewhere)
    refused = desk.change(backend, **form)
    assert "The address has changed. The stored credential belongs to another host" in body(refused)
    assert Backend.objects.get(pk=backend.pk).base_url == ADDRESS
    assert desk.change(backend, **{**form, "base_url": f"{ADDRESS}/"}).status_code == 302
    assert stored_secret(backend) == BACKEND_SECRET
    assert desk.change(backend, **form, credential="another-one").status_code == 302
    assert stored_secret(backend, elsewhere) == "another-one"
    with pytest.raises(CredentialError):
        stored_secret(backend)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"credential": "one", "remove_credential": "on"}, "Enter a credential or remove it, not both"),
        ({"credential": "one", "credential_reference": "env:GATEWAY_CREDENTIAL_A"}, "not both"),
        ({"credential_reference": "NAME"}, "Write env:GATEWAY_CREDENTIAL_NAME or file:/path"),
        ({"credential": "one", "base_url": "https://["}, "not a valid URL"),
        ({"credential": "one", "base_url": "nothing"}, "Give an https:// address"),
        ({"base_url": "https://169.254.169.254/v1"}, "never called"),
        ({"base_url": "https://user:word@host/v1"}, "must not hold a user"),
        ({"base_url": "http://127.0.0.1:1/v1"}, "GATEWAY_PRIVATE_BACKENDS"),
    ],
)
def test_a_contradictory_or_forbidden_backend_is_refused(
    desk: Desk, changes: dict[str, str], message: str
) -> None:
    form = backend_form(**changes)
    response = desk.add(Backend, **form)
    assert response.status_code == 200
    assert message in body(response)
    assert not Backend.objects.filter(name=form["name"]).exists()


def test_a_viewer_sees_no_field_for_a_credential(
    auditor: Desk, rows: dict[type[models.Model], models.Model]
) -> None:
    shown = body(auditor.get(page(Backend, "change", rows[Backend])))
    assert 'type="password"' not in shown
    assert "Stored" in shown


def test_prices_are_added_to_a_backend_and_kept_once_in_force(desk: Desk) -> None:
    backend = make_backend(ADDRESS)
    (price,) = PriceEntry.objects.filter(backend=backend)
    later = timezone.now() + timedelta(days=2)
    row = {
        "prices-TOTAL_FORMS": 1,
        "prices-0-effective_from_0": f"{later:%Y-%m-%d}",
        "prices-0-effective_from_1": "00:00:00",
        "prices-0-input_usd_per_million": "0.123456789",
        "prices-0-output_usd_per_million": "1",
    }
    assert desk.change(backend, **backend_form(name=backend.name, **row)).status_code == 302
    added = PriceEntry.objects.exclude(pk=price.pk).get(backend=backend)
    assert desk.events(added)[0].after["input_usd_per_million"] == "0.123456789"
    assert "$0.123456789" in body(desk.get(f"{page(PriceEntry, 'changelist')}?q={backend.name}"))
    assert desk.change(price, input_usd_per_million="9").status_code == 403
    assert desk.post(page(PriceEntry, "delete", price), {"post": "yes"}).status_code == 403
    bulk = {"action": "delete_selected", "_selected_action": price.pk, "post": "yes"}
    assert desk.post(page(PriceEntry, "changelist"), bulk).status_code == 403
    assert desk.post(page(PriceEntry, "delete", added), {"post": "yes"}).status_code == 302


# --- The ledger ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nanousd", "shown"),
    [
        (0, "$0.000000000"),
        (1, "$0.000000001"),
        (-1, "-$0.000000001"),
        (10_200, "$0.000010200"),
        (1_234_567_891, "$1.234567891"),
        (9_007_199_254_740_993_000_000_001, "$9,007,199,254,740,993.000000001"),
    ],
)
def test_nano_dollars_are_shown_exactly(nanousd: int, shown: str) -> None:
    assert format_nanousd(nanousd) == shown


def test_the_ledger_is_searched_by_request_team_and_key(desk: Desk) -> None:
    team = make_team()
    key = create_key(team, "A key", actor="tests").key
    record, other = make_record(team, key), make_record()
    for term in (str(record.pk), team.slug, key.hint, f" {team.slug} "):
        shown = body(desk.get(f"{page(UsageRecord, 'changelist')}?q={term}"))
        assert str(record.pk) in shown
        assert str(other.pk) not in shown
        assert "$1.234567891" in shown
    assert "0 usage records" in body(desk.get(f"{page(UsageRecord, 'changelist')}?q=nobody"))


def test_the_ledgers_periods_are_ranges_of_its_key(desk: Desk) -> None:
    team, now = make_team(), timezone.now()
    ids = {age: smallest_id_at(now - timedelta(hours=age)) for age in (2, 48, 24 * 30)}
    for request_id in ids.values():
        make_record(team, request_id=request_id, status="failed")
    start = f"{page(UsageRecord, 'changelist')}?q={team.slug}"
    for query, count in (
        ("", 3),
        ("&period=hour", 0),
        ("&period=day", 1),
        ("&period=week", 2),
        ("&period=all", 3),
        ("&status__exact=failed", 1),
        ("&status__exact=failed&period=all", 3),
    ):
        assert f"{count} usage record" in body(desk.get(start + query)), query


def test_the_ledgers_list_counts_no_further_than_it_shows(desk: Desk) -> None:
    team = make_team()
    fields = read_facts(make_record(team))
    values = {name: fact.stored for name, fact in fields.items()}
    copies = [UsageRecord(request_id=uuid7(), **values) for _ in range(MOST_ROWS)]
    UsageRecord.objects.bulk_create(copies)
    with CaptureQueriesContext(connection) as queries:
        shown = body(desk.get(f"{page(UsageRecord, 'changelist')}?q={team.slug}&p=20"))
    assert f"{MOST_ROWS} usage records" in shown
    on_ledger = [query["sql"] for query in queries if "billing_usagerecord" in query["sql"]]
    assert len(on_ledger) == 2
    assert all("LIMIT" in sql for sql in on_ledger)
    assert 'ORDER BY "billing_usagerecord"."request_id" DESC' in on_ledger[1]


def test_lists_ask_a_fixed_number_of_queries(desk: Desk) -> None:
    for _ in range(5):
        make_caller("https://api.example.com/v1")
    counts = {}
    for model in OURS:
        with CaptureQueriesContext(connection) as queries:
            desk.get(page(model, "changelist"))
        counts[model.__name__] = len(queries)
    assert max(counts.values()) <= 6, counts
