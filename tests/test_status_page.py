"""The status page: for whom it is, and what it says."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from audit.models import AdminEvent
from gateway_site.version import VERSION
from routing.models import Backend
from teams.models import Role
from teams.services import create_key
from tests.factories import make_team, unique
from tests.people import Account, make_account, make_admin, make_person, make_team_member
from tests.processes import Product
from tests.test_pages import sign_in, words


@pytest.fixture
def visitor(product: Product) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=product.url) as client:
        yield client


def test_a_stranger_is_asked_to_sign_in_and_led_back(visitor: httpx.Client) -> None:
    answer = visitor.get("/status/")
    assert (answer.status_code, answer.headers["location"]) == (302, "/sign-in/?next=/status/")
    assert sign_in(visitor, make_admin(), to="/status/").headers["location"] == "/status/"


@pytest.mark.parametrize(
    "make", [make_account, lambda: make_team_member(make_team())], ids=["nobody", "member"]
)
def test_who_may_not_use_the_administration_is_refused(
    visitor: httpx.Client, make: Callable[[], Account]
) -> None:
    sign_in(visitor, make())
    assert visitor.get("/status/").status_code == 403
    assert 'href="/status/"' not in visitor.get("/").text


def test_it_shows_the_workers_the_stores_and_what_was_changed(
    visitor: httpx.Client, product: Product
) -> None:
    sign_in(visitor, make_admin())
    assert 'href="/status/"' in visitor.get("/").text
    created = create_key(make_team(), unique("key"), actor=unique("actor"))
    page = visitor.get("/status/")
    assert page.status_code == 200
    assert "no-store" in page.headers["cache-control"]
    text = words(page)
    assert f"Version {VERSION}" in text
    assert f"0 (this one) {product.web.pid}" in text
    assert "PostgreSQL answers; 0 migrations to apply" in text
    assert "Redis or Valkey answers; noeviction" in text
    assert "of unbounded memory used" in text
    assert "Limits and budgets counters can be asked;" in text
    assert "0 spools wait" in text
    event = AdminEvent.objects.get(object_id=str(created.key.pk), action="key.create")
    assert f"{event.actor} key.create {event.object_label}" in text
    assert created.secret not in page.text
    assert visitor.post("/status/").status_code in {403, 405}


def test_it_gives_the_reason_that_readiness_does_not(visitor: httpx.Client, product: Product) -> None:
    backend = Backend.objects.create(
        name=unique("unreadable"),
        base_url="https://llm.example/v1",
        upstream_model="m",
        credential_reference="env:GATEWAY_CREDENTIAL_NOT_SET",
    )
    try:
        product.wait_for_configuration()
        sign_in(visitor, make_person(Role.SECURITY_AUDITOR))
        text = words(visitor.get("/status/"))
        assert "backends are left out" in text
        assert f"{backend.name}: The credential reference" in text
        assert "The credential reference env:... cannot be read." in text
        assert "This worker serves; not everything around it is well" in text
    finally:
        backend.delete()


def test_changes_are_shown_to_those_who_may_see_events_only(visitor: httpx.Client) -> None:
    sign_in(visitor, make_person(Role.FINANCE))
    page = visitor.get("/status/")
    assert (page.status_code, "Last changes" in page.text) == (200, False)
