"""Backends that fail are left alone by every worker, one call finds out whether they are back, and they return."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from audit.models import AdminEvent
from outbound.breaker import RETURN_S
from routing.health.seen import read_seen
from routing.models import Backend, BreakerRule, CatalogueModel, Route
from tests.administration.desk import Desk
from tests.factories import Caller, make_backend, make_caller, wait_for_record
from tests.metrics import scrape
from tests.people import make_admin
from tests.processes import Processes, Product, Simulator, wait_for
from tests.recorded import recorded_backend
from tests.routes import CHAT
from tests.test_attempts import refusal

ANSWER = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()


@pytest.fixture(scope="module")
def products(processes: Processes, product: Product) -> tuple[Product, ...]:
    """Three workers."""
    return (product, *(processes.start_product(with_shipper=False) for _ in range(2)))


def make_pool(first: str, second: str, products: tuple[Product, ...]) -> Caller:
    """A model with a first backend, and one that is used when that is out."""
    caller = make_caller(first)
    Route.objects.create(
        model=caller.backend.catalogue_models.get(), backend=make_backend(second), priority=2
    )
    for product in products:
        product.wait_for_configuration()
    return caller


def served_by(product: Product, caller: Caller) -> str:
    answer = CHAT.ask(product, caller)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-gateway-backend"]


def event_of(backend: Backend, action: str) -> AdminEvent:
    events = AdminEvent.objects.filter(action=action, object_id=str(backend.pk))
    event = wait_for(events.first, f"the event {action}")
    assert isinstance(event, AdminEvent)
    return event


@pytest.mark.slow  # it waits for the return to be whole
def test_a_throttled_backend_is_left_alone_by_every_worker_until_it_said(
    products: tuple[Product, ...], simulator: Simulator, backend_port: int
) -> None:
    desk = Desk(make_admin())
    with recorded_backend(backend_port) as first:
        first.answer = refusal(429, b"Retry-After: 3")
        caller = make_pool(first.base_url, simulator.base_url, products)
        began = time.monotonic()
        assert served_by(products[0], caller) != caller.backend.name
        time.sleep(1)  # by then the others have heard
        page = desk.get("/admin/routing/backend/", {"q": caller.backend.name})
        assert "Fails: left alone until" in page.content.decode()
        for _ in range(5):
            for product in products:
                assert served_by(product, caller) != caller.backend.name
        assert len(first.bodies) == 1
        assert time.monotonic() - began < 3, "the machine is too slow to tell"
        first.answer_json(ANSWER)
        wait_for(lambda: served_by(products[1], caller) == caller.backend.name, "the backend's return")
        assert time.monotonic() - began >= 3
        assert read_seen(caller.backend.pk).left_alone_until is None
        trip, back = (event_of(caller.backend, action) for action in ("backend.trip", "backend.return"))
        assert trip.actor == "gateway"
        assert trip.after == {"reason": "backend_throttled", "wait_s": 3.0, "trips": 1}
        assert trip.at < back.at
        # Every worker gives it all of its calls again, and not at once.
        time.sleep(RETURN_S + 1)
        for product in products:
            assert served_by(product, caller) == caller.backend.name


def test_one_call_of_all_workers_finds_out_whether_it_is_back(
    products: tuple[Product, ...], simulator: Simulator, backend_port: int
) -> None:
    with recorded_backend(backend_port) as first:
        first.answer = refusal(503, b"Retry-After: 2")
        caller = make_pool(first.base_url, simulator.base_url, products)
        assert served_by(products[0], caller) != caller.backend.name
        time.sleep(1)
        first.answer, first.dripping = b"", b"HTTP/1.1 503 x"  # 1.4 s until it fails again
        time.sleep(1.1)
        with ThreadPoolExecutor(12) as pool:
            served = Counter(pool.map(lambda n: served_by(products[n % 3], caller), range(24)))
        assert len(first.bodies) == 2, "the call that tripped it and one probe"
        assert caller.backend.name not in served


def test_a_probe_whose_caller_leaves_is_followed_by_another(
    products: tuple[Product, ...], simulator: Simulator, backend_port: int
) -> None:
    with recorded_backend(backend_port) as first:
        first.answer = refusal(503, b"Retry-After: 1")
        caller = make_pool(first.base_url, simulator.base_url, products)
        assert served_by(products[0], caller) != caller.backend.name
        first.answer, first.dripping = b"", b"HTTP/1.1 200 OK\r\nX-Slow: yes"
        time.sleep(1)
        headers, body = {"Authorization": f"Bearer {caller.secret}"}, {"model": caller.model, **CHAT.content}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                CHAT.url(products[0], caller.model),
                json=body | {"stream": True},
                headers=headers,
                timeout=0.3,
            )
        assert len(first.bodies) == 2
        first.dripping = b""
        first.answer_json(ANSWER)
        wait_for(lambda: served_by(products[1], caller) == caller.backend.name, "another probe", 5)


def test_where_all_are_away_callers_are_told_when_to_come_back(product: Product, backend_port: int) -> None:
    with recorded_backend(backend_port) as only:
        only.answer = refusal(429, b"Retry-After: 60")
        caller = make_caller(only.base_url, product, longest_trip_s=20)
        assert CHAT.ask(product, caller).status_code == 429
        answers = [CHAT.ask(product, caller) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.headers["x-gateway-reason"] for answer in answers} == {"backends_away"}
        assert 18 <= int(answers[0].headers["retry-after"]) <= 20, "no longer than the backend's bound"
        assert answers[0].json()["error"]["code"] == "server_is_overloaded"
        record = wait_for_record(answers[0].headers["x-request-id"])
        assert (record.status, record.attempts) == ("refused", 0)
        assert len(only.bodies) == 1


def test_a_backend_that_never_trips_is_always_called(product: Product, backend_port: int) -> None:
    with recorded_backend(backend_port) as only:
        only.answer = refusal(500)
        caller = make_caller(only.base_url, product, longest_trip_s=0)
        assert {CHAT.ask(product, caller).headers["x-gateway-reason"] for _ in range(10)} == {"backend_error"}


def test_a_failing_backend_costs_its_callers_nothing(
    product: Product, simulator: Simulator, backend_port: int
) -> None:
    """It goes down in the middle of a load: every call is answered, and soon none is sent there."""
    caller = make_pool(f"http://127.0.0.1:{backend_port}/v1", simulator.base_url, (product,))
    limits = httpx.Limits(max_connections=16)
    with httpx.Client(limits=limits, timeout=20) as client, ThreadPoolExecutor(16) as pool:
        body = {"model": caller.model, **CHAT.content}
        headers = {"Authorization": f"Bearer {caller.secret}"}
        url = CHAT.url(product, caller.model)
        statuses = Counter(
            pool.map(lambda _: client.post(url, json=body, headers=headers).status_code, range(400))
        )
    assert statuses == {200: 400}
    errors = scrape(product).sum("gateway_backend_errors_total", backend=caller.backend.name)
    assert 5 <= errors <= 5 + 16, "those that were under way when it tripped"


def test_calls_are_shared_in_a_group(product: Product, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url)
    model = caller.backend.catalogue_models.get()
    CatalogueModel.objects.filter(pk=model.pk).update(strategy="round_robin")
    Route.objects.filter(model=model).update(weight=50)
    others = [make_backend(simulator.base_url) for _ in range(2)]
    for other, weight in zip(others, (50, 100), strict=True):
        Route.objects.create(model=model, backend=other, priority=1, weight=weight)
    product.wait_for_configuration()
    counts = Counter(served_by(product, caller) for _ in range(40))
    assert counts == {caller.backend.name: 10, others[0].name: 10, others[1].name: 20}
    Backend.objects.filter(pk=others[1].pk).update(is_draining=True)
    product.wait_for_configuration()
    assert Counter(served_by(product, caller) for _ in range(20)) == {
        caller.backend.name: 10,
        others[0].name: 10,
    }


def test_a_backend_that_is_checked_is_found_out_and_found_well_without_a_call(
    product: Product, simulator: Simulator, backend_port: int
) -> None:
    with recorded_backend(backend_port) as first:
        first.answer = refusal(500)
        caller = make_caller(first.base_url, check_every_s=1, longest_trip_s=2)
        BreakerRule.objects.create(backend=caller.backend, name="quick", failures=2, interval_s=30, trip_s=1)
        model = caller.backend.catalogue_models.get()
        Route.objects.create(model=model, backend=make_backend(simulator.base_url), priority=2)
        product.wait_for_configuration()
        event_of(caller.backend, "backend.trip")
        assert all(body == b"" for body in first.bodies), "checks have no body, and cost nothing"
        assert served_by(product, caller) != caller.backend.name
        first.answer_json(b'{"data": []}')
        event_of(caller.backend, "backend.return")


def test_administrators_see_what_a_backend_does_now(product: Product, simulator: Simulator) -> None:
    caller, desk = make_caller(simulator.base_url, product), Desk(make_admin())
    query = {"q": caller.backend.name}
    assert " ms</td>" not in desk.get("/admin/routing/backend/", query).content.decode()
    with ThreadPoolExecutor(1) as others:
        slow = others.submit(CHAT.ask, product, caller, simulator={"first_byte_s": 2.0})
        wait_for(lambda: read_seen(caller.backend.pk).under_way == 1, "the call under way")
        assert (
            '<td class="field-under_way">1</td>'
            in desk.get("/admin/routing/backend/", query).content.decode()
        )
        assert slow.result().status_code == 200
    told = wait_for(lambda: read_seen(caller.backend.pk).first_byte_ms, "how fast it was")
    assert 2_000 <= told < 3_000
    wait_for(lambda: read_seen(caller.backend.pk).under_way == 0, "no call under way")
    assert f"{told:,.0f} ms</td>" in desk.get("/admin/routing/backend/", query).content.decode()
