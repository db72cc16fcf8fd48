"""The pages of backends and prices."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import models
from django.utils import timezone

from audit.models import AdminEvent
from billing.models import PriceEntry
from outbound.credentials import CredentialError, decrypt_credential
from routing.models import Backend
from tests.administration.desk import ADDRESS, Desk, body, page
from tests.factories import BACKEND_SECRET, make_backend, unique


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
        "longest_trip_s": 300,
        "quality": 0,
        "check_every_s": 0,
        "keep_alive_s": 4,
        "breaker_rules-TOTAL_FORMS": 0,
        "breaker_rules-INITIAL_FORMS": 0,
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
