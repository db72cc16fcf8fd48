"""The pages of API keys."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.http import HttpResponse
from django.utils import timezone

from audit.admin_trail import read_facts
from audit.models import AdminEvent
from teams.models import ApiKey, Application
from teams.services import create_key
from tests.administration.desk import HOSTILE, Desk, body, page
from tests.factories import make_team, unique


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
    assert "There is nothing to revoke here" in body(desk.get(asked["location"]))
