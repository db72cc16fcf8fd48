"""Changes reach a running worker within a second, and a worker outlives its database."""

import time
from datetime import timedelta

import httpx
import pytest
from django.utils import timezone

from routing.models import Backend, Grant, Route
from teams.models import ApiKey, Team
from teams.services import revoke_key
from tests.factories import Caller, make_backend, make_caller
from tests.processes import Product, Simulator, wait_for


@pytest.fixture
def caller(product: Product, simulator: Simulator) -> Caller:
    return make_caller(simulator.base_url, product)


def status_of(product: Product, caller: Caller) -> int:
    return httpx.post(
        f"{product.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {caller.secret}"},
        json={"model": caller.model, "messages": [{"role": "user", "content": "hello"}]},
    ).status_code


def seconds_until(product: Product, caller: Caller, status: int) -> float:
    started = time.monotonic()
    wait_for(lambda: status_of(product, caller) == status, f"HTTP {status}")
    return time.monotonic() - started


def test_a_revoked_key_is_refused_within_a_second(product: Product, caller: Caller) -> None:
    assert status_of(product, caller) == 200
    assert revoke_key(caller.key, actor="tests")
    assert seconds_until(product, caller, 401) < 1
    assert not revoke_key(caller.key, actor="tests")


def test_an_expired_key_is_refused(product: Product, caller: Caller) -> None:
    created = timezone.now() - timedelta(days=2)
    ApiKey.objects.filter(pk=caller.key.pk).update(created_at=created, expires_at=created + timedelta(days=1))
    assert seconds_until(product, caller, 401) < 1


def test_keys_of_an_inactive_team_are_refused_until_it_is_active_again(
    product: Product, caller: Caller
) -> None:
    for is_active, status in ((False, 401), (True, 200)):
        Team.objects.filter(pk=caller.team.pk).update(is_active=is_active)
        assert seconds_until(product, caller, status) < 1


def test_a_withdrawn_grant_acts_within_a_second(product: Product, caller: Caller) -> None:
    assert status_of(product, caller) == 200
    Grant.objects.filter(team=caller.team).delete()
    assert seconds_until(product, caller, 403) < 1


def test_a_disabled_backend_gives_way_to_the_next(
    product: Product, caller: Caller, simulator: Simulator
) -> None:
    second = make_backend(simulator.base_url)
    route = Route.objects.get(backend=caller.backend)
    Route.objects.create(model=route.model, backend=second, priority=2)
    Backend.objects.filter(pk=caller.backend.pk).update(is_active=False)
    product.wait_for_configuration()
    assert status_of(product, caller) == 200


def test_a_backend_whose_credential_cannot_be_read_is_left_out_and_named(
    product: Product, simulator: Simulator
) -> None:
    backend = Backend.objects.create(
        name="unreadable",
        base_url=simulator.base_url,
        upstream_model="m",
        credential_reference="env:GATEWAY_CREDENTIAL_NOT_SET",
    )
    try:
        product.wait_for_configuration()
        ready = httpx.get(f"{product.url}/readyz").json()
        assert ready["status"] == "degraded"
        left_out = [fault for fault in ready["degraded"] if fault["code"] == "backend_left_out"]
        assert "backends are left out" in left_out[0]["message"]
        assert "unreadable" not in str(ready)
        assert "GATEWAY_CREDENTIAL_NOT_SET" not in str(ready)
    finally:
        backend.delete()


def test_liveness(product: Product) -> None:
    assert httpx.get(f"{product.url}/livez").json() == {"status": "ok"}
