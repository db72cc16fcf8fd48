"""Draining: no new calls within a second, and those under way end as usual."""

import time
from typing import Any

import httpx
import pytest

from audit.models import AdminEvent
from routing.draining import drain_backend, undrain_backend
from routing.models import Backend, CatalogueModel, Route
from routing.queries import list_models_served_only_by
from tests.factories import Caller, make_backend, make_caller, make_model, wait_for_record
from tests.processes import Product, Simulator, wait_for


@pytest.fixture
def caller(product: Product, simulator: Simulator) -> Caller:
    return make_caller(simulator.base_url, product)


def call(product: Product, caller: Caller, **fields: Any) -> httpx.Response:
    body = {"model": caller.model, "messages": [{"role": "user", "content": "hello"}], **fields}
    headers = {"Authorization": f"Bearer {caller.secret}"}
    return httpx.post(f"{product.base_url}/chat/completions", headers=headers, json=body, timeout=20)


def seconds_until(product: Product, caller: Caller, status: int) -> float:
    started = time.monotonic()
    wait_for(lambda: call(product, caller).status_code == status, f"HTTP {status}")
    return time.monotonic() - started


def test_a_draining_backend_gets_no_new_calls_within_a_second_and_ends_those_under_way(
    product: Product, caller: Caller
) -> None:
    body = {
        "model": caller.model,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "simulator": {"between_chunks_s": 0.3, "text": "one two three four five six"},
    }
    headers = {"Authorization": f"Bearer {caller.secret}"}
    with httpx.stream(
        "POST", f"{product.base_url}/chat/completions", headers=headers, json=body, timeout=20
    ) as stream:
        pieces = stream.iter_raw()
        first = next(pieces)
        assert drain_backend(caller.backend, actor="tests")
        assert seconds_until(product, caller, 503) < 1
        text = first + b"".join(pieces)
    assert text.endswith(b"data: [DONE]\n\n")
    assert wait_for_record(stream.headers["x-request-id"]).status == "completed"

    refused = call(product, caller)
    assert (refused.status_code, refused.headers["x-gateway-reason"]) == (503, "backends_draining")
    assert "is being drained for maintenance" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"] == "60"
    record = wait_for_record(refused.headers["x-request-id"])
    assert (record.status, record.reason, record.cost_nanousd) == ("refused", "backends_draining", 0)

    assert undrain_backend(caller.backend, actor="tests")
    assert seconds_until(product, caller, 200) < 1


def test_the_next_backend_takes_over_while_one_drains(
    product: Product, caller: Caller, simulator: Simulator
) -> None:
    second = make_backend(simulator.base_url)
    Route.objects.create(model=CatalogueModel.objects.get(name=caller.model), backend=second, priority=2)
    drain_backend(caller.backend, actor="tests")
    product.wait_for_configuration()
    answer = call(product, caller)
    assert answer.status_code == 200
    assert wait_for_record(answer.headers["x-request-id"]).backend == second.name
    drain_backend(second, actor="tests")
    product.wait_for_configuration()
    assert call(product, caller).headers["x-gateway-reason"] == "backends_draining"


def test_a_drained_backend_that_is_inactive_too_is_simply_not_there(product: Product, caller: Caller) -> None:
    Backend.objects.filter(pk=caller.backend.pk).update(is_draining=True, is_active=False)
    product.wait_for_configuration()
    assert call(product, caller).headers["x-gateway-reason"] == "no_backend"


def test_draining_twice_changes_nothing_and_each_change_has_one_event() -> None:
    backend = make_backend("https://provider.example/v1")
    results = [
        step(backend, actor="tests")
        for step in (drain_backend, drain_backend, undrain_backend, undrain_backend)
    ]
    assert results == [True, False, True, False]
    events = AdminEvent.objects.filter(object_type="routing.backend", object_id=str(backend.pk)).order_by(
        "id"
    )
    assert [(event.action, event.after) for event in events] == [
        ("backend.drain", {"is_draining": True}),
        ("backend.undrain", {"is_draining": False}),
    ]


def test_the_models_that_only_one_backend_serves_are_known() -> None:
    first, second = (make_backend("https://provider.example/v1") for _ in range(2))
    alone, shared = make_model(first), make_model(first, second)
    make_model(second)
    assert list_models_served_only_by(first) == [alone.name]
    drain_backend(second, actor="tests")
    assert list_models_served_only_by(first) == sorted([alone.name, shared.name])
    CatalogueModel.objects.filter(pk=alone.pk).update(is_active=False)
    assert list_models_served_only_by(first) == [shared.name]
