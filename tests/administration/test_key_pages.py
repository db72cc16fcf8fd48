"""The pages of API keys."""

import dataclasses
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils import timezone

from audit.admin_trail import read_facts
from audit.models import AdminEvent
from teams.admin.key_forms import ExistingKeyForm
from teams.admin.keys import ApiKeyAdmin
from teams.models import ApiKey, ApiKeyUse, Application
from teams.services import create_key, pause_key, revoke_key
from tests.administration.desk import HOSTILE, Desk, body, page
from tests.factories import make_model, make_team, unique


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
    assert "not one of the available choices" in body(response)
    assert key is None


def existing_key(**fields: Any) -> ApiKey:
    return create_key(make_team(), fields.pop("name", unique("key")), actor="tests", **fields).key


def key_form(key: ApiKey, **changes: Any) -> dict[str, Any]:
    """The form of a key's page as a browser sends it when nothing was typed."""
    key = ApiKey.objects.get(pk=key.pk)
    form: dict[str, Any] = {
        "name": key.name,
        "application": key.application_id or "",
        "scopes": key.scopes,
        "allowed_models": key.allowed_models,
        "ip_ranges": "\n".join(key.ip_ranges),
    }
    if key.expires_at is None:
        form["never_expires"] = "on"
    else:
        form |= {"expires_at_0": f"{key.expires_at:%Y-%m-%d}", "expires_at_1": f"{key.expires_at:%H:%M:%S}"}
    return {**form, **changes}


def changed(desk: Desk, key: ApiKey, **changes: Any) -> set[str]:
    """The fields that differ after the key's form was sent with `changes`."""
    before = read_facts(ApiKey.objects.get(pk=key.pk))
    response = desk.change(key, **key_form(key, **changes))
    assert response.status_code == 302, body(response)
    after = read_facts(ApiKey.objects.get(pk=key.pk))
    return {name for name in after if after[name] != before[name]}


def test_a_new_key_is_asked_for_its_team_first_and_offers_what_the_team_has(desk: Desk) -> None:
    team, other = make_team(), make_team()
    granted, ungranted = make_model(team=team), make_model(team=other)
    application = Application.objects.create(team=team, slug=unique("app"), name="An application")
    stranger = Application.objects.create(team=other, slug=unique("app"), name="An application")
    asked = body(desk.get(page(ApiKey, "add")))
    assert "Whose key is it?" in asked
    assert 'name="name"' not in asked
    for nonsense in ("0", "x", "999999999999", "-1"):
        assert "Choose one of the teams." in body(desk.get(f"{page(ApiKey, 'add')}?team={nonsense}"))
    shown = body(desk.get(f"{page(ApiKey, 'add')}?team={team.pk}"))
    assert f"Team {team.slug}" in shown
    assert granted.name in shown
    assert ungranted.name not in shown
    assert application.slug in shown
    assert stranger.slug not in shown


def test_without_a_team_the_page_says_what_to_do(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.db.models.QuerySet.exists", lambda self: False)
    assert "there is none yet" in body(desk.get(page(ApiKey, "add")))


def test_a_key_is_made_with_its_restrictions(desk: Desk) -> None:
    team = make_team()
    first, second = make_model(team=team), make_model(team=team)
    _, key = new_key(
        desk,
        team=team.pk,
        scopes=["embeddings", "chat"],
        allowed_models=[second.name, first.name],
        ip_ranges=" 192.0.2.7 \r\n\r\n2001:db8::/32\r\n10.0.0.0/8",
    )
    assert key is not None
    assert key.scopes == ["chat", "embeddings"]
    assert key.allowed_models == sorted([first.name, second.name])
    assert key.ip_ranges == ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"ip_ranges": "10.0.0.1/8"}, "has bits of hosts set; the whole range is 10.0.0.0/8"),
        ({"ip_ranges": "here\n192.0.2.0/24"}, "is not an address range such as"),
        ({"ip_ranges": "\n".join(f"10.0.{n}.0/24" for n in range(101))}, "At most 100 are possible"),
        ({"ip_ranges": HOSTILE}, "is not an address range such as"),
        ({"scopes": ["everything"]}, "Select a valid choice"),
        ({"allowed_models": ["gpt-nobody"]}, "The team has not been granted gpt-nobody"),
        ({"allowed_models": [HOSTILE]}, "The team has not been granted"),
    ],
)
def test_an_impossible_restriction_is_refused_and_kept_in_the_form(
    desk: Desk, form: dict[str, Any], message: str
) -> None:
    key = existing_key()
    for response in (new_key(desk, **form)[0], desk.change(key, **key_form(key, **form))):
        shown = body(response)
        assert response.status_code == 200
        assert message in shown
        assert "<script>alert" not in shown
        if "here" in str(form.get("ip_ranges")):
            assert "here\n192.0.2.0/24" in shown


def test_a_form_sent_unchanged_changes_nothing(desk: Desk) -> None:
    key = existing_key(
        scopes=["chat"], allowed_models=["a-model-no-longer-granted"], ip_ranges=["192.0.2.0/24"]
    )
    assert changed(desk, key) == set()
    assert changed(desk, existing_key(never_expires=True)) == set()
    assert desk.events(key) == []


def test_a_keys_rules_are_changed_and_recorded(desk: Desk) -> None:
    key = existing_key(name="Before")
    model = make_model(team=key.team)
    application = Application.objects.create(team=key.team, slug="app", name="An application")
    later = timezone.now() + timedelta(days=5)
    changes: list[tuple[str, dict[str, Any], Any]] = [
        ("name", {"name": HOSTILE}, HOSTILE),
        ("application", {"application": application.pk}, "app"),
        ("scopes", {"scopes": ["models"]}, ["models"]),
        ("allowed_models", {"allowed_models": [model.name]}, [model.name]),
        ("ip_ranges", {"ip_ranges": "192.0.2.0/24"}, ["192.0.2.0/24"]),
        (
            "expires_at",
            {"expires_at_0": f"{later:%Y-%m-%d}", "expires_at_1": "12:00:00"},
            f"{later:%Y-%m-%d}T12:00:00+00:00",
        ),
        ("expires_at", {"expires_at_0": "", "expires_at_1": "", "never_expires": "on"}, None),
    ]
    for field, form, told in changes:
        assert changed(desk, key, **form) == {field}
        assert desk.events(key)[-1].action == "key.change"
        assert desk.events(key)[-1].after == {field: told}
    assert len(desk.events(key)) == len(changes)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"expires_at_0": "", "expires_at_1": ""}, "Give a moment, or choose never."),
        ({"expires_at_0": "2020-01-01"}, "This moment has passed."),
        ({"expires_at_0": "someday"}, "Enter a valid date."),
        ({"never_expires": "on"}, "Give a moment or choose never, not both."),
    ],
)
def test_an_unclear_end_is_refused(desk: Desk, form: dict[str, str], message: str) -> None:
    key = existing_key()
    response = desk.change(key, **key_form(key, **form))
    assert message in body(response)
    assert desk.events(key) == []


def test_what_is_nobodys_to_change_stays(desk: Desk) -> None:
    key, other = existing_key(), make_team()
    forged = {"team": other.pk, "digest": "x", "revoked_at_0": "2020-01-01", "hint": "sk-gw_...none"}
    forged |= {"paused_at_0": "2020-01-01", "created_by": "somebody", "replaces": "1", "pepper_version": "9"}
    assert changed(desk, key, **forged) == set()
    assert desk.post(page(ApiKey, "delete", key), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_key_that_has_ended_can_only_be_renamed(desk: Desk, end: str) -> None:
    key = existing_key()
    if end == "revoked":
        revoke_key(key, actor="tests", reason=HOSTILE)
    else:
        past = timezone.now() - timedelta(days=2)
        ApiKey.objects.filter(pk=key.pk).update(created_at=past, expires_at=past + timedelta(days=1))
    shown = body(desk.get(page(ApiKey, "change", key)))
    fields = re.findall(
        r'<(?:input|select|textarea)[^>]* name="(\w+)"', shown.partition('id="apikey_form"')[2]
    )
    assert [name for name in fields if not name.startswith(("csrf", "_"))] == ["name"]
    assert "<script>alert" not in shown
    assert changed(desk, key, name="Renamed", scopes=["chat"], never_expires="on") == {"name"}


def test_a_key_revoked_while_its_form_was_open_is_told_and_not_changed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = existing_key()
    check = ExistingKeyForm.clean

    def clean_and_be_overtaken(self: ExistingKeyForm) -> Any:
        revoke_key(ApiKey.objects.get(pk=key.pk), actor="tests")
        return check(self)

    monkeypatch.setattr(ExistingKeyForm, "clean", clean_and_be_overtaken)
    form = key_form(key, scopes=["chat"])
    assert desk.change(key, **form).status_code == 302
    monkeypatch.undo()
    assert "Nothing was saved. This key is revoked, and that is final." in body(desk.get("/admin/"))
    assert ApiKey.objects.get(pk=key.pk).scopes == []


def test_an_auditor_reads_a_key_without_a_field_to_change(auditor: Desk) -> None:
    key = existing_key(scopes=["chat"], ip_ranges=["192.0.2.0/24"])
    shown = body(auditor.get(page(ApiKey, "change", key)))
    assert "192.0.2.0/24" in shown
    assert "Never expires" not in shown
    assert "-link" not in shown.partition('id="content-main"')[2].partition("</ul>")[0]


# --- Steps -----------------------------------------------------------------------------------------------


def take(desk: Desk, step: str, *keys: ApiKey, **form: Any) -> Any:
    return desk.post(page(ApiKey, step), {"id": [key.pk for key in keys], **form})


def state(key: ApiKey) -> str:
    return ApiKey.objects.get(pk=key.pk).state_at(timezone.now())


def offered(desk: Desk, key: ApiKey) -> set[str]:
    return set(re.findall(r'class="(\w+)-link"', body(desk.get(page(ApiKey, "change", key)))))


def test_keys_are_revoked_with_a_reason_after_a_confirmation(desk: Desk) -> None:
    team = make_team()
    keys = [create_key(team, HOSTILE, actor="tests").key for _ in range(2)]
    form = {"action": "revoke", "_selected_action": [key.pk for key in keys], "index": "0"}
    asked = desk.post(page(ApiKey, "changelist"), form)
    assert asked.status_code == 302
    assert ApiKey.objects.filter(team=team, revoked_at=None).count() == 2
    shown = body(desk.get(asked["location"]))
    assert "Revoke 2 API keys" in shown
    assert "<script>alert" not in shown
    ids = [*(key.pk for key in keys), "x", "9" * 30, -1, "\u0662"]
    too_long = desk.post(page(ApiKey, "revoke"), {"id": ids, "reason": "x" * 501})
    assert "at most 500 characters" in body(too_long)
    assert desk.post(page(ApiKey, "revoke"), {"id": ids, "reason": "Leaked"}).status_code == 302
    assert "2 API keys were revoked." in body(desk.get("/admin/"))
    assert list(ApiKey.objects.filter(team=team).values_list("revoked_reason", flat=True)) == ["Leaked"] * 2
    assert [desk.events(key)[-1].action for key in keys] == ["key.revoke"] * 2
    assert [desk.events(key)[-1].after["reason"] for key in keys] == ["Leaked"] * 2
    assert "There is nothing to revoke here" in body(desk.get(asked["location"]))
    assert "There is nothing to revoke here" in body(take(desk, "revoke", *keys, reason="Again"))


def test_a_key_is_paused_and_resumed(desk: Desk) -> None:
    key = existing_key()
    assert offered(desk, key) == {"rotate", "pause", "revoke"}
    take(desk, "pause", key)
    assert (state(key), offered(desk, key)) == ("paused", {"rotate", "resume", "revoke"})
    take(desk, "pause", key)
    take(desk, "resume", key)
    assert "1 API key was resumed." in body(desk.get("/admin/"))
    assert (state(key), offered(desk, key)) == ("active", {"rotate", "pause", "revoke"})
    assert [event.action for event in desk.events(key)] == ["key.pause", "key.resume"]
    take(desk, "revoke", key, reason="")
    assert (state(key), offered(desk, key)) == ("revoked", set())


@pytest.mark.parametrize(("overlap", "hours"), [("0", 0), ("1", 1), ("168", 168)])
def test_a_key_is_rotated_and_the_new_secret_is_in_one_answer_only(
    desk: Desk, overlap: str, hours: int
) -> None:
    key = existing_key(scopes=["chat"], ip_ranges=["192.0.2.0/24"])
    response = take(desk, "rotate", key, overlap=overlap)
    assert response.status_code == 200
    assert "no-store" in response["cache-control"]
    new = ApiKey.objects.get(replaces=key)
    secret = re.findall(r'id="secret">(sk-gw_\w+)<', body(response))[0]
    assert bytes(new.digest) == _digest(secret)
    assert (new.scopes, new.ip_ranges) == (["chat"], ["192.0.2.0/24"])
    key.refresh_from_db()
    assert key.expires_at is not None
    assert abs(key.expires_at - timezone.now() - timedelta(hours=hours)) < timedelta(minutes=1)
    assert [event.action for event in desk.events(key)] == ["key.rotate"]
    for path in (
        page(ApiKey, "changelist"),
        page(ApiKey, "change", new),
        page(ApiKey, "change", key),
        "/admin/",
    ):
        assert secret not in body(desk.get(path))
    assert secret not in str(dict(desk.client.session)) + str(desk.client.cookies)
    assert "rotate" not in offered(desk, key)


@pytest.mark.parametrize("overlap", ["", "2", "-1", "999", "x", HOSTILE])
def test_an_overlap_that_is_not_offered_is_refused(desk: Desk, overlap: str) -> None:
    key = existing_key()
    response = take(desk, "rotate", key, overlap=overlap)
    assert response.status_code == 200
    assert "<script>alert" not in body(response)
    assert 'id="secret"' not in body(response)
    assert not ApiKey.objects.filter(replaces=key).exists()


def test_keys_are_rotated_one_at_a_time(desk: Desk) -> None:
    keys = [existing_key(), existing_key()]
    form = {"action": "rotate", "_selected_action": [key.pk for key in keys], "index": "0"}
    assert desk.post(page(ApiKey, "changelist"), form).status_code == 302
    assert "Select one to rotate." in body(desk.get("/admin/"))
    take(desk, "rotate", *keys, overlap="0")
    assert ApiKey.objects.filter(replaces__in=keys).count() == 1


def test_what_a_service_refuses_at_the_last_moment_is_told_and_nothing_is_done(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [existing_key(), existing_key()]

    def refuse(key: ApiKey, actor: str, values: Any) -> bool:
        if key.pk == keys[0].pk:
            raise ValidationError("This key is expired, and that is final.")
        return pause_key(key, actor=actor)

    (step,) = [step for step in ApiKeyAdmin.steps if step.name == "pause"]
    monkeypatch.setattr(ApiKeyAdmin, "steps", (dataclasses.replace(step, run=refuse),))
    admin_page = admin.site._registry[ApiKey]
    request = RequestFactory().post("/", {"id": [key.pk for key in keys]})
    request.user = desk.account.user
    shown = admin_page.step_view(request, ApiKeyAdmin.steps[0]).render()  # type: ignore[attr-defined]
    assert "This key is expired, and that is final." in body(shown)
    assert [state(key) for key in keys] == ["active"] * 2
    assert [desk.events(key) for key in keys] == [[], []]


# --- Lists -----------------------------------------------------------------------------------------------


def test_a_key_shows_when_and_from_where_it_was_last_used(desk: Desk) -> None:
    key = existing_key()
    assert "never used" in body(desk.get(page(ApiKey, "change", key)))
    at = timezone.now().replace(year=2025, month=1, day=2, hour=3, minute=4)
    ApiKeyUse.objects.create(key=key, last_used_at=at, last_used_ip="192.0.2.44")
    for path in (page(ApiKey, "change", key), f"{page(ApiKey, 'changelist')}?q={key.hint}"):
        assert "2025-01-02 03:04" in body(desk.get(path))
    assert "192.0.2.44" in body(desk.get(page(ApiKey, "change", key)))


def test_the_list_is_filtered_by_state(desk: Desk) -> None:
    team, now = make_team(), timezone.now()
    keys = {
        name: create_key(team, name, actor="tests").key for name in ("active", "paused", "revoked", "used")
    }
    keys["expiring"] = create_key(team, "expiring", actor="tests", expires_at=now + timedelta(days=3)).key
    keys["expired"] = create_key(team, "expired", actor="tests").key
    ApiKey.objects.filter(pk=keys["expired"].pk).update(
        created_at=now - timedelta(days=2), expires_at=now - timedelta(days=1)
    )
    pause_key(keys["paused"], actor="tests")
    revoke_key(keys["revoked"], actor="tests")
    ApiKeyUse.objects.create(key=keys["used"], last_used_at=now)
    expected = {
        "active": {"active", "used", "expiring"},
        "paused": {"paused"},
        "expired": {"expired"},
        "revoked": {"revoked"},
        "expiring": {"expiring"},
        "unused": {"active", "paused", "expiring"},
        "": set(keys),
        "nonsense": set(keys),
    }
    for chosen, names in expected.items():
        shown = body(desk.get(f"{page(ApiKey, 'changelist')}?q={team.slug}&state={chosen}"))
        assert set(re.findall(r'class="field-name[^>]*><a[^>]*>(\w+)<', shown)) == names, chosen


def test_a_whole_key_in_the_search_is_found_by_its_hint_and_not_repeated(desk: Desk) -> None:
    created = create_key(make_team(), unique("key"), actor="tests")
    response = desk.get(page(ApiKey, "changelist"), {"q": created.secret})
    assert response.status_code == 302
    assert created.secret not in response["location"]
    assert created.key.name in body(desk.get(response["location"]))


def test_keys_are_found_by_name_team_application_and_hint(desk: Desk) -> None:
    team = make_team()
    application = Application.objects.create(team=team, slug=unique("app"), name="An application")
    key = create_key(team, f"Nightly {unique('import')} Job", actor="tests", application=application).key
    other = existing_key()
    for term in (
        key.name,
        key.name.upper(),
        "import-",
        team.slug,
        application.slug,
        key.hint,
        f" {key.hint} ",
    ):
        shown = body(desk.get(page(ApiKey, "changelist"), {"q": term}))
        assert key.hint in shown, term
        assert other.hint not in shown, term
    for term in ("nothing like it", "%", "_", "\\", HOSTILE, "x" * 5000, "'\"", "sk-gw_...", "a & | !"):
        response = desk.get(page(ApiKey, "changelist"), {"q": term})
        assert response.status_code == 200
        assert key.hint not in body(response), term
