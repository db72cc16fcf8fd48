"""A plain call with an `Idempotency-Key` is made once, whoever sends it again, and whatever dies meanwhile."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from django.conf import settings

from billing.models import UsageRecord
from gateway_site.embedded import EmbeddedValkey
from routing.call import Call, Client
from routing.idempotency_store import Answer, IdempotencyStore, Place
from teams.errors import GatewayError
from tests.factories import Caller, make_caller, unique, wait_for_record
from tests.processes import Processes, Product, Simulator, wait_for
from tests.recorded import Recorded, recorded_backend
from tests.routes import CHAT, EVERY_FORM, ROUTES, Route

ANSWER = b'{"choices":[{"message":{"content":"yes"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}'


@pytest.fixture(scope="module")
def caller(product: Product, simulator: Simulator) -> Caller:
    return make_caller(simulator.base_url, product)


def ask(
    product: Product, caller: Caller, key: str, *, route: Route = CHAT, marker: str = "", **fields: Any
) -> httpx.Response:
    headers = {"Idempotency-Key": key} | ({"X-Client-Request-Id": marker} if marker else {})
    return route.ask(product, caller, headers=headers, **fields)


def is_replay(response: httpx.Response) -> bool:
    return bool(response.headers.get("x-gateway-idempotent-replay") == "true")


def reason(response: httpx.Response) -> tuple[int, str | None]:
    return response.status_code, response.headers.get("x-gateway-reason")


def test_twenty_at_once_make_one_call(product: Product, simulator: Simulator, caller: Caller) -> None:
    key, slowly = unique("key"), {"first_byte_s": 1}
    with ThreadPoolExecutor(20) as pool:
        tries = [
            pool.submit(ask, product, caller, key, marker=key, simulator=slowly, seed=1) for _ in range(20)
        ]
        answers = [each.result() for each in tries]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    (first,) = [answer for answer in answers if not is_replay(answer)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert sum(len(simulator.served(request_id, wait=0)) for request_id in ids) == 1
    wait_for(lambda: UsageRecord.objects.filter(client_request_id=key).count() == 20, "twenty rows")
    (paid,) = UsageRecord.objects.filter(client_request_id=key, cost_nanousd__gt=0)
    assert str(paid.request_id) == first.headers["x-request-id"]


@pytest.mark.parametrize("route", EVERY_FORM, ids=lambda route: route.name)
def test_a_finished_call_is_told_again_and_costs_nothing(
    product: Product, caller: Caller, route: Route
) -> None:
    key = unique("key")
    first, again = (ask(product, caller, key, route=route) for _ in range(2))
    assert not is_replay(first)
    assert is_replay(again)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-gateway-replayed-request-id"] == first.headers["x-request-id"]
    assert "x-gateway-attempts" not in again.headers
    row = wait_for_record(again.headers["x-request-id"])
    assert (row.status, row.http_status, row.reason) == ("completed", 200, "idempotent_replay")
    assert (row.attempts, row.cost_nanousd, row.input_tokens) == (0, 0, 0)
    assert (row.team_id, row.model) == (caller.team.pk, caller.model)


def test_another_body_or_path_is_refused(product: Product, caller: Caller) -> None:
    key = unique("key")
    assert ask(product, caller, key).status_code == 200
    assert reason(ask(product, caller, key, seed=2)) == (422, "idempotency_key_reused")
    assert reason(ask(product, caller, key, route=ROUTES[1])) == (422, "idempotency_key_reused")
    assert ask(product, caller, key + "2", seed=2).status_code == 200


def test_the_same_key_of_another_team_is_another_key(
    product: Product, simulator: Simulator, caller: Caller
) -> None:
    key, other = unique("key"), make_caller(simulator.base_url, product)
    first = ask(product, caller, key)
    theirs = ask(product, other, key, model=other.model)
    assert (first.status_code, theirs.status_code, is_replay(theirs)) == (200, 200, False)


def test_who_may_not_use_the_model_any_more_is_told_nothing(product: Product, caller: Caller) -> None:
    key = unique("key")
    assert ask(product, caller, key).status_code == 200
    wrong = httpx.post(
        CHAT.url(product, caller.model),
        headers={"Authorization": "Bearer wrong", "Idempotency-Key": key},
        json={"model": caller.model, **CHAT.content},
    )
    assert wrong.status_code == 401


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb"])
def test_what_is_no_key_is_refused(product: Product, caller: Caller, key: str) -> None:
    assert reason(ask(product, caller, key)) == (400, "idempotency_key_invalid")


def test_a_stream_cannot_promise_it(product: Product, caller: Caller) -> None:
    assert reason(ask(product, caller, unique("key"), stream=True)) == (400, "idempotency_streamed")


def test_a_definite_refusal_is_told_again(product: Product, caller: Caller) -> None:
    key, fault = unique("key"), {"status": 400}
    first, again = (ask(product, caller, key, simulator=fault) for _ in range(2))
    assert reason(first) == reason(again) == (400, "backend_rejected")
    assert (is_replay(first), is_replay(again)) == (False, True)
    assert again.json() == first.json()
    row = wait_for_record(again.headers["x-request-id"])
    assert (row.status, row.http_status, row.reason, row.attempts) == ("refused", 400, "idempotent_replay", 0)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_failure_that_may_pass_frees_the_key(product: Product, backend_port: int, status: int) -> None:
    key = unique("key")
    with recorded_backend(backend_port) as backend:
        caller = make_caller(backend.base_url, product)
        backend.answer = b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\n{}" % status
        assert ask(product, caller, key).status_code >= 429
        backend.answer_json(ANSWER)
        again = ask(product, caller, key)
    assert (again.status_code, is_replay(again), len(backend.bodies)) == (200, False, 2)


def answers_of(backend: Recorded, product: Product, body: bytes) -> tuple[httpx.Response, httpx.Response]:
    key, caller = unique("key"), make_caller(backend.base_url, product)
    backend.answer_json(body)
    return ask(product, caller, key), ask(product, caller, key)


@pytest.mark.slow
def test_a_large_answer_is_packed_and_one_too_large_is_not_told_again(
    processes: Processes, backend_port: int
) -> None:
    own = processes.start_product(GATEWAY_MAX_ANSWER_BYTES=str(4 * 1024**2))
    with recorded_backend(backend_port) as backend:
        first, again = answers_of(backend, own, ANSWER[:-1] + b',"more":"%s"}' % (b"x" * 900_000))
        assert (is_replay(again), again.content) == (True, first.content)
        first, again = answers_of(backend, own, ANSWER[:-1] + b',"more":"%s"}' % (b"x" * 1_100_000))
    assert first.status_code == 200
    assert reason(again) == (409, "idempotency_answer_gone")
    assert again.headers["x-should-retry"] == "false"
    assert len(backend.bodies) == 2


def stored(team_id: int) -> dict[bytes, bytes]:
    with redis.Redis.from_url(settings.REDIS_URL) as store:
        keys = [key for key in store.scan_iter(f"idem:{{{team_id}}}:*") if b":kept:" not in key]
        assert all(0 < store.pttl(key) <= 24 * 3600 * 1000 for key in keys)
        return {key: store.get(key) for key in keys}


def test_the_store_can_read_neither_key_nor_question_nor_answer(
    product: Product, simulator: Simulator
) -> None:
    caller, key = make_caller(simulator.base_url, product), unique("readable-key")
    answer = ask(product, caller, key, simulator={"text": "a readable answer"})
    assert "a readable answer" in answer.text
    ((name, value),) = stored(caller.team.pk).items()
    assert key.encode() not in name
    assert b"readable" not in value
    assert answer.headers["x-request-id"].encode() not in value


def test_an_answer_that_was_moved_or_spoilt_is_not_told(product: Product, simulator: Simulator) -> None:
    caller, key, other = make_caller(simulator.base_url, product), unique("key"), unique("key")
    ask(product, caller, key)
    ((mine, value),) = stored(caller.team.pk).items()
    ask(product, caller, other)
    (others,) = stored(caller.team.pk).keys() - {mine}
    with redis.Redis.from_url(settings.REDIS_URL) as store:
        for wrong in (stored(caller.team.pk)[others], value[:-1] + b"!"):
            store.set(mine, wrong, ex=60)
            assert reason(ask(product, caller, key)) == (409, "idempotency_answer_gone")


def test_a_team_that_has_kept_too_much_keeps_no_more(product: Product, simulator: Simulator) -> None:
    caller, key = make_caller(simulator.base_url, product), unique("key")
    ask(product, caller, unique("key"))
    with redis.Redis.from_url(settings.REDIS_URL) as store:
        (counter,) = store.scan_iter(f"idem:{{{caller.team.pk}}}:kept:*")
        assert 100 < int(store.get(counter) or 0) < 10_000
        store.set(counter, 64 * 1024**2, ex=60)
    assert ask(product, caller, key).status_code == 200
    assert reason(ask(product, caller, key)) == (409, "idempotency_answer_gone")


def test_a_call_whose_caller_left_is_finished_and_told_to_who_comes_again(
    product: Product, caller: Caller
) -> None:
    key, content = unique("key"), {"model": caller.model, **CHAT.content, "simulator": {"first_byte_s": 1}}
    headers = {"Authorization": f"Bearer {caller.secret}", "Idempotency-Key": key}
    body = json.dumps(content).encode()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(CHAT.url(product, caller.model), headers=headers, content=body, timeout=0.5)
    again = httpx.post(CHAT.url(product, caller.model), headers=headers, content=body, timeout=20)
    assert (again.status_code, is_replay(again)) == (200, True)


@pytest.mark.slow  # the mark lapses after fifteen seconds
def test_the_mark_of_a_killed_worker_lapses(
    processes: Processes, product: Product, backend_port: int
) -> None:
    own = processes.start_product(with_shipper=False)
    with recorded_backend(backend_port) as backend:
        caller, key = make_caller(backend.base_url, own), unique("key")
        product.wait_for_configuration()
        backend.answer_json(ANSWER)
        whole, backend.answer, backend.dripping = (
            backend.answer,
            b"",
            b"H" * 30,
        )  # for three seconds no answer
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, own, caller, key)
            wait_for(lambda: backend.bodies, "the call to be under way")
            os.kill(own.web.pid, signal.SIGKILL)
            assert isinstance(first.exception(), httpx.TransportError)
        backend.answer, backend.dripping = whole, b""
        again = CHAT.ask(product, caller, headers={"Idempotency-Key": key})
        assert (again.status_code, is_replay(again), len(backend.bodies)) == (200, False, 2)


@pytest.fixture
def valkey() -> Iterator[EmbeddedValkey]:
    """A server of its own, to be stopped."""
    folder = Path(tempfile.mkdtemp(prefix="gw-idem-"))
    server = EmbeddedValkey(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_without_the_store_nothing_is_promised(
    processes: Processes, simulator: Simulator, valkey: EmbeddedValkey
) -> None:
    own = processes.start_product(REDIS_URL=valkey.url())
    caller, key = make_caller(simulator.base_url, own), unique("key")
    first = ask(own, caller, key)
    with ThreadPoolExecutor(1) as pool:
        open_before = simulator.open_calls()
        slow = pool.submit(ask, own, caller, key + "slow", simulator={"first_byte_s": 2})
        wait_for(lambda: simulator.open_calls() > open_before, "the call to be under way")
        valkey.stop()
        refused = ask(own, caller, key)
        assert reason(refused) == (503, "idempotency_unavailable")
        assert refused.headers["retry-after"] == "1"
        assert refused.elapsed.total_seconds() < 1
        assert simulator.served(refused.headers["x-request-id"], wait=0) == []
        assert CHAT.ask(own, caller).status_code == 200
        assert slow.result().status_code == 200, "what was begun is answered"
    valkey.start()
    assert is_replay(again := ask(own, caller, key))
    assert again.content == first.content


def held_at(place: Place) -> bytes | None:
    with redis.Redis.from_url(settings.REDIS_URL) as store:
        held: bytes | None = store.get(place.name)
        return held


async def test_a_worker_renews_its_mark_and_minds_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routing.idempotency_store._LEASE_S", 0.3)
    call = Call("POST", "/v1/x", {}, b"{}", Client(never))
    mine, others = (Place.of(-1, "a key of this test", call) for _ in range(2))
    assert (mine.name, mine.digest) == (others.name, others.digest)
    store = IdempotencyStore(settings.REDIS_URL)
    try:
        assert await store.take(mine) is None
        renewing = asyncio.create_task(store.keep_renewing(mine))
        await asyncio.sleep(0.6)
        waiting = asyncio.create_task(store.take(others))
        await asyncio.sleep(0.6)
        assert not waiting.done(), "the mark has outlived its lease"
        await store.end(others, None)  # not its to end
        assert held_at(mine) == mine.mark
        renewing.cancel()
        assert await waiting is None, "it lapses with its worker"
        await store.end(mine, Answer(200, b"late", "", "id"))
        assert held_at(mine) == others.mark
        await store.end(others, Answer(200, b"true", "", "id"))
        answer = await store.take(mine)
        assert answer is not None
        assert answer.body == b"true"
    finally:
        await store.close()
        with redis.Redis.from_url(settings.REDIS_URL) as plain:
            plain.delete(mine.name, mine.kept_bytes_name)


async def test_who_waits_too_long_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routing.idempotency_store._WAIT_S", 0.2)
    monkeypatch.setattr("routing.idempotency_store._LEASE_S", 1.0)
    call = Call("POST", "/v1/x", {}, b"{}", Client(never))
    store = IdempotencyStore(settings.REDIS_URL)
    try:
        first = Place.of(-1, "another key of this test", call)
        assert await store.take(first) is None
        with pytest.raises(GatewayError) as refused:
            await store.take(Place.of(-1, "another key of this test", call))
        assert (refused.value.status, refused.value.headers) == (409, {"retry-after": "5"})
        await store.end(first, None)
    finally:
        await store.close()


async def never() -> dict[str, Any]:
    raise AssertionError("nobody asks whether the caller is there")
