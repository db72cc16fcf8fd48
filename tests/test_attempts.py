"""Where a backend fails before its first byte another is asked, and what the failed call may have cost is charged."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from billing.models import UsageRecord
from routing.models import Route
from tests.factories import Caller, make_backend, make_budget, make_caller, wait_for_record
from tests.metrics import scrape
from tests.processes import Product, Simulator
from tests.recorded import Recorded, recorded_backend
from tests.routes import CHAT, EMBEDDINGS
from tests.routes import Route as Asked

EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
JSON = b"Content-Type: application/json\r\nConnection: close\r\n"


def refusal(status: int, *headers: bytes) -> bytes:
    body = b'{"error": {"message": "No.", "type": "server_error", "param": null, "code": null}}'
    head = b"HTTP/1.1 %d Refused\r\n" % status + JSON + b"Content-Length: %d\r\n" % len(body)
    return head + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


# what the first backend answers, and the reason noted; whether it may have cost
FAILURES: dict[str, tuple[bytes, str, bool]] = {
    "429": (refusal(429, b"Retry-After: 7"), "backend_throttled", False),
    "500": (refusal(500), "backend_error", False),
    "503": (refusal(503), "backend_overloaded", False),
    "401": (refusal(401), "backend_misconfigured", False),
    "404": (refusal(404), "backend_misconfigured", False),
    "drop": (b"", "backend_broke", True),
}
PLAIN_FAILURES = FAILURES | {
    "bad JSON": (b"HTTP/1.1 200 OK\r\n" + JSON + b"Content-Length: 3\r\n\r\n{]}", "backend_bad_answer", True)
}
STREAM_FAILURES = FAILURES | {"no frame": (EVENT_STREAM, "backend_broke", True)}


@dataclass(frozen=True)
class Pair:
    """A model whose first backend is told what to answer, and whose second is the simulator."""

    first: Recorded
    caller: Caller
    second: str


@pytest.fixture
def pair(simulator: Simulator, product: Product, backend_port: int) -> Iterator[Pair]:
    with recorded_backend(backend_port) as first:
        caller = make_caller(first.base_url, first_byte_timeout_s=1)
        yield Pair(first, caller, add_second(caller, simulator, product))


def add_second(caller: Caller, simulator: Simulator, product: Product) -> str:
    second = make_backend(simulator.base_url)
    Route.objects.create(model=caller.backend.catalogue_models.get(), backend=second, priority=2)
    product.wait_for_configuration()
    return second.name


def check_second_served(record: UsageRecord, pair: Pair, reason: str, *, may_cost: bool) -> None:
    assert (record.status, record.attempts, record.backend) == ("completed", 2, pair.second)
    assert record.failed_attempts is not None
    (failed,) = record.failed_attempts
    assert (failed["backend"], failed["reason"]) == (pair.caller.backend.name, reason)
    assert bool(failed["input_tokens"]) == bool(failed["cost_nanousd"]) == may_cost
    assert record.estimated == may_cost
    # Both backends have the factory's price; the failed call can only have read the prompt, which we count alike.
    prompts = (record.input_tokens - failed["input_tokens"]) * 150 + failed["input_tokens"] * 150
    assert record.cost_nanousd == prompts + record.output_tokens * 600
    assert len(pair.first.bodies) == 1


@pytest.mark.parametrize("route", [CHAT, EMBEDDINGS], ids=["chat", "embeddings"])
@pytest.mark.parametrize("failure", PLAIN_FAILURES)
def test_a_plain_call_goes_to_the_second_backend(
    pair: Pair, product: Product, route: Asked, failure: str
) -> None:
    pair.first.answer, reason, may_cost = PLAIN_FAILURES[failure]
    answer = route.ask(product, pair.caller)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-gateway-backend"] == pair.second
    assert answer.headers["x-gateway-attempts"] == f'2; failed="{pair.caller.backend.name}={reason}"'
    check_second_served(wait_for_record(answer.headers["x-request-id"]), pair, reason, may_cost=may_cost)


@pytest.mark.parametrize("failure", STREAM_FAILURES)
def test_a_stream_goes_to_the_second_backend(pair: Pair, product: Product, failure: str) -> None:
    pair.first.answer, reason, may_cost = STREAM_FAILURES[failure]
    answer = CHAT.ask(product, pair.caller, stream=True, stream_options={"include_usage": True})
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.headers["x-gateway-attempts"] == f'2; failed="{pair.caller.backend.name}={reason}"'
    check_second_served(wait_for_record(answer.headers["x-request-id"]), pair, reason, may_cost=may_cost)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_backend_that_is_silent_is_followed_by_the_second(
    pair: Pair, product: Product, stream: bool
) -> None:
    pair.first.dripping = (
        b"HTTP/1.1 200 OK\r\nX-Slow: yes"  # for three seconds no answer; its time limits are one
    )
    type(pair.caller.backend).objects.filter(pk=pair.caller.backend.pk).update(total_timeout_s=1)
    product.wait_for_configuration()
    answer = CHAT.ask(product, pair.caller, stream=stream)
    assert answer.status_code == 200
    record = wait_for_record(answer.headers["x-request-id"])
    check_second_served(record, pair, "backend_timeout", may_cost=True)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_one_backend_finds_invalid_is_not_asked_of_another(
    pair: Pair, product: Product, status: int
) -> None:
    pair.first.answer = refusal(status)
    answer = CHAT.ask(product, pair.caller)
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (status, "backend_rejected")
    record = wait_for_record(answer.headers["x-request-id"])
    assert (record.attempts, record.failed_attempts) == (1, None)


def test_a_stream_that_broke_after_its_first_byte_is_not_asked_for_again(
    pair: Pair, product: Product
) -> None:
    pair.first.answer = EVENT_STREAM + b'data: {"choices": [{"index": 0, "delta": {"content": "Hel"}}]}\n\n'
    answer = CHAT.ask(product, pair.caller, stream=True)
    assert (answer.status_code, "[DONE]" in answer.text) == (200, False)
    assert "backend_error" in answer.text
    assert wait_for_record(answer.headers["x-request-id"]).attempts == 1


def test_a_backend_that_cannot_be_reached_is_asked_once_more_where_it_is_the_only_one(
    product: Product, backend_port: int
) -> None:
    caller = make_caller(f"http://127.0.0.1:{backend_port}/v1", product)  # nobody listens there
    answer = CHAT.ask(product, caller)
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (502, "backend_unreachable")
    record = wait_for_record(answer.headers["x-request-id"])
    assert (record.attempts, record.cost_nanousd) == (2, 0)


def test_where_all_fail_the_last_failure_is_told(simulator: Simulator, product: Product, pair: Pair) -> None:
    pair.first.answer = refusal(500)
    before = scrape(product).sum("gateway_backend_errors_total", backend=pair.caller.backend.name)
    answer = CHAT.ask(product, pair.caller, simulator={"status": 503, "retry_after": 3})
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (503, "backend_overloaded")
    assert answer.headers["retry-after"] == "3"
    record = wait_for_record(answer.headers["x-request-id"])
    assert (record.status, record.attempts, record.cost_nanousd) == ("failed", 2, 0)
    assert scrape(product).sum("gateway_backend_errors_total", backend=pair.caller.backend.name) == before + 1


@pytest.mark.parametrize(("prompts", "served"), [(0.5, False), (3, True)])
def test_what_a_failed_call_may_have_cost_is_held_before_another_is_made(
    pair: Pair, product: Product, prompts: float, served: bool
) -> None:
    """A hard budget that pays one call and half the prompt of another, or more than its whole prompt."""
    content = [{"role": "user", "content": "How many words does this have? " * 50}]
    fields: dict[str, Any] = {"max_tokens": 10, "simulator": {"output_tokens": 10}, "messages": content}
    pair.first.answer = refusal(500)
    first = wait_for_record(CHAT.ask(product, pair.caller, **fields).headers["x-request-id"])
    amount = 2 * first.cost_nanousd + round(prompts * first.input_cost_nanousd)
    make_budget(team=pair.caller.team, amount=amount)
    product.wait_for_configuration()
    pair.first.answer = b""
    answer = CHAT.ask(product, pair.caller, **fields)
    assert (answer.status_code == 200) is served, answer.text
    record = wait_for_record(answer.headers["x-request-id"])
    assert record.attempts == 1 + served
    assert first.cost_nanousd + record.cost_nanousd <= amount


def test_a_redirect_is_never_followed(product: Product, simulator: Simulator, backend_port: int) -> None:
    """Not even to an address that may be called: it gets neither the prompt nor the credential."""
    with recorded_backend(backend_port) as elsewhere:
        elsewhere.answer_json(b"{}")
        caller = make_caller(simulator.base_url, product, longest_trip_s=0)
        for stream in (False, True):
            fault = {"redirect": f"{elsewhere.base_url}/chat/completions"}
            answer = CHAT.ask(product, caller, stream=stream, simulator=fault)
            assert (answer.status_code, answer.headers["x-gateway-reason"]) == (502, "backend_error")
        assert elsewhere.bodies == []
