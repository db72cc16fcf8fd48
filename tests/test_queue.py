"""Calls that wait for room instead of being refused, through the real server."""

import asyncio
import json
import os
import socket
import threading
import time
from collections import Counter
from typing import Any

import httpx
import pytest
import redis

from billing.models import UsageRecord
from billing.rule_models import Budget, Limit
from routing.models import Route
from teams.models import Team
from teams.services import revoke_key
from tests.factories import Caller, make_backend, make_caller, unique, wait_for_record
from tests.metrics import scrape
from tests.processes import Processes, Product, Simulator, wait_for
from tests.routes import CHAT

AT_A_TIME = 5
BURST = 20
USD = 1_000_000_000


def make_waiting(simulator: Simulator, product: Product, *, at_a_time: int = 1, **fields: Any) -> Caller:
    """A caller whose team may have so many calls under way, with these fields of the team."""
    caller = make_caller(simulator.base_url)
    Team.objects.filter(pk=caller.team.pk).update(**fields)
    Limit.objects.create(team=caller.team, kind="concurrency", amount=at_a_time)
    product.wait_for_configuration()
    wait_for(lambda: CHAT.ask(product, caller).status_code == 200, "counters that are open")
    return caller


async def burst(
    product: Product, caller: Caller, count: int, *, stream: bool = False, **fields: Any
) -> list[httpx.Response]:
    """So many calls at once."""
    headers = {"Authorization": f"Bearer {caller.secret}"}
    body = {
        "model": caller.model,
        **CHAT.content,
        "stream": stream,
        "simulator": {"first_byte_s": 0.1},
    } | fields
    async with httpx.AsyncClient(timeout=30) as client:
        url = CHAT.url(product, caller.model)
        return await asyncio.gather(*[client.post(url, headers=headers, json=body) for _ in range(count)])


class Slow:
    """A call that is under way as long as the block lasts, or `seconds`."""

    def __init__(self, product: Product, simulator: Simulator, caller: Caller, seconds: float) -> None:
        self._simulator = simulator
        self._thread = threading.Thread(
            target=lambda: CHAT.ask(product, caller, simulator={"first_byte_s": seconds})
        )

    def __enter__(self) -> None:
        before = self._simulator.open_calls()
        self._thread.start()
        wait_for(lambda: self._simulator.open_calls() > before, "the slow call")

    def __exit__(self, *_: object) -> None:
        self._thread.join()


class Waiter:
    """A call on a connection of its own, so that its caller can leave."""

    def __init__(self, product: Product, caller: Caller, *, stream: bool = False, **fields: Any) -> None:
        self.marker = unique("waiter")
        content = json.dumps({"model": caller.model, "stream": stream, **CHAT.content} | fields).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {caller.secret}\r\n"
            f"X-Client-Request-Id: {self.marker}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        url = httpx.URL(product.url)
        self._connection = socket.create_connection((url.host, url.port or 0))
        self._connection.sendall(head.encode() + content)

    def leave(self) -> None:
        self._connection.close()

    def record(self) -> UsageRecord:
        mine = UsageRecord.objects.filter(client_request_id=self.marker)
        record = wait_for(mine.first, "the row")
        assert isinstance(record, UsageRecord)
        return record


class Queue:
    """What the store says of a department's queues."""

    def __init__(self, caller: Caller) -> None:
        self._tag = f"{{d{caller.team.department_id}}}"

    def length(self) -> int:
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as store:
            return sum(int(store.zcard(key)) for key in store.scan_iter(f"{self._tag}:*:q:*"))

    def holds(self) -> int:
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as store:
            return sum(int(store.hlen(key)) for key in store.scan_iter(f"{self._tag}:*:r"))

    def wait_for(self, length: int) -> None:
        wait_for(lambda: self.length() == length, f"a queue of {length}", 5)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streams"])
def test_a_burst_waits_and_all_of_it_succeeds(product: Product, simulator: Simulator, stream: bool) -> None:
    caller = make_waiting(simulator, product, at_a_time=AT_A_TIME, max_queue_s=20)
    answers = asyncio.run(burst(product, caller, BURST, stream=stream))
    assert {answer.status_code for answer in answers} == {200}
    waited = [answer for answer in answers if "x-gateway-queue-wait-ms" in answer.headers]
    assert len(waited) >= BURST - AT_A_TIME
    assert all(0 < float(answer.headers["x-gateway-queue-wait-ms"]) < 10_000 for answer in waited)
    places = [int(answer.headers["x-gateway-queue-position"]) for answer in waited]
    assert len(set(places)) > AT_A_TIME
    assert all(float(answer.headers["x-gateway-overhead-ms"]) < 1_000 for answer in answers)
    assert Queue(caller).length() == 0


def test_without_waiting_what_is_too_much_is_refused(product: Product, simulator: Simulator) -> None:
    caller = make_waiting(simulator, product, at_a_time=AT_A_TIME)
    ended = Counter(
        answer.status_code
        for answer in asyncio.run(burst(product, caller, BURST, simulator={"first_byte_s": 1.0}))
    )
    assert ended == {200: AT_A_TIME, 429: BURST - AT_A_TIME}


def test_a_wait_ends_when_its_time_is_over(product: Product, simulator: Simulator) -> None:
    caller = make_waiting(simulator, product, max_queue_s=1)
    with Slow(product, simulator, caller, 2.5):
        started = time.monotonic()
        answer = CHAT.ask(product, caller)
        assert 0.9 < time.monotonic() - started < 1.6
        Queue(caller).wait_for(0)
    assert answer.status_code == 429
    assert answer.headers["x-gateway-reason"] == "rate_limited"
    assert "There was no room within 1 s of waiting." in answer.text
    assert 900 < float(answer.headers["x-gateway-queue-wait-ms"]) < 1_500
    assert answer.headers["retry-after"] == "1"
    row = wait_for_record(answer.headers["x-request-id"])
    assert (row.status, row.reason, row.attempts) == ("refused", "rate_limited", 0)


def test_a_rate_that_recovers_too_late_is_not_waited_for(product: Product, simulator: Simulator) -> None:
    caller = make_waiting(simulator, product, max_queue_s=5)
    Limit.objects.filter(team=caller.team).update(kind="rpm", amount=6)
    product.wait_for_configuration()
    statuses = [CHAT.ask(product, caller).status_code for _ in range(6)]
    assert statuses == [200] * 6
    started = time.monotonic()
    answer = CHAT.ask(product, caller)
    assert answer.status_code == 429
    assert time.monotonic() - started < 1
    assert 5_000 < float(answer.headers["retry-after-ms"]) <= 10_000


def test_requests_per_minute_are_waited_for(product: Product, simulator: Simulator) -> None:
    caller = make_waiting(simulator, product, max_queue_s=10)
    Limit.objects.filter(team=caller.team).update(kind="rpm", amount=120)
    product.wait_for_configuration()
    answers = asyncio.run(burst(product, caller, 124))
    assert Counter(answer.status_code for answer in answers) == {200: 124}
    waited = [float(answer.headers.get("x-gateway-queue-wait-ms", 0)) for answer in answers]
    assert sum(1 for wait in waited if wait) >= 3


def test_money_that_is_held_is_waited_for(product: Product, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url)
    Team.objects.filter(pk=caller.team.pk).update(max_queue_s=20)
    Budget.objects.create(team=caller.team, unit="tokens", period="day", amount=400)
    product.wait_for_configuration()
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    fields: Any = {"max_tokens": 150, "simulator": {"first_byte_s": 0.2, "usage": usage}}
    wait_for(lambda: CHAT.ask(product, caller, **fields).status_code == 200, "counters that are open")
    answers = asyncio.run(burst(product, caller, 8, **fields))
    assert {(answer.status_code, answer.headers.get("x-gateway-reason")) for answer in answers} == {
        (200, None)
    }
    assert sum("x-gateway-queue-wait-ms" in answer.headers for answer in answers) >= 6


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_who_leaves_gives_up_the_place(product: Product, simulator: Simulator, stream: bool) -> None:
    caller = make_waiting(simulator, product, max_queue_s=30)
    queue = Queue(caller)
    with Slow(product, simulator, caller, 2.0):
        leavers = [Waiter(product, caller, stream=stream) for _ in range(5)]
        queue.wait_for(5)
        for leaver in leavers:
            leaver.leave()
        started = time.monotonic()
        queue.wait_for(0)
        assert time.monotonic() - started < 1  # sooner than by its lease
    assert CHAT.ask(product, caller).status_code == 200
    for leaver in leavers:
        row = leaver.record()
        assert (row.status, row.http_status, row.attempts, row.cost_nanousd) == ("client_left", 499, 0, 0)


def test_a_plain_call_that_waited_is_finished_when_its_caller_leaves(
    product: Product, simulator: Simulator
) -> None:
    caller = make_waiting(simulator, product, max_queue_s=30)
    with Slow(product, simulator, caller, 0.5):
        waiter = Waiter(product, caller)
        Queue(caller).wait_for(1)
    wait_for(lambda: simulator.open_calls() > 0 or waiter_is_done(waiter), "its call")
    waiter.leave()
    assert waiter.record().status == "completed"


def test_who_leaves_a_stream_that_waited_ends_it(product: Product, simulator: Simulator) -> None:
    caller = make_waiting(simulator, product, max_queue_s=30)
    endless = {"output_tokens": 1_000, "between_chunks_s": 0.1}
    with Slow(product, simulator, caller, 0.5):
        waiter = Waiter(product, caller, stream=True, simulator=endless)
        Queue(caller).wait_for(1)
    wait_for(lambda: simulator.open_calls() > 0, "its call")
    waiter.leave()
    row = waiter.record()
    assert (row.status, row.attempts) == ("client_left", 1)


def test_a_bound_that_the_budget_refuses_after_the_wait_is_counted(
    product: Product, simulator: Simulator
) -> None:
    """A prompt of 3,000 bytes and some 400 tokens: there is room for its bound at first, then for its count only."""
    caller = make_waiting(simulator, product, max_queue_s=30)
    Budget.objects.create(team=caller.team, unit="tokens", period="day", amount=5_000)
    product.wait_for_configuration()
    usage = {"prompt_tokens": 3, "completion_tokens": 2_900, "total_tokens": 2_903}
    long: Any = {"messages": [{"role": "user", "content": "waiting " * 375}], "max_tokens": 10}
    answers: list[httpx.Response] = []
    slow: Any = {"max_tokens": 1_000, "simulator": {"first_byte_s": 1.0, "usage": usage}}
    first = threading.Thread(target=lambda: CHAT.ask(product, caller, **slow))
    first.start()
    wait_for(lambda: simulator.open_calls() > 0, "the slow call")
    second = threading.Thread(target=lambda: answers.append(CHAT.ask(product, caller, **long)))
    second.start()
    Queue(caller).wait_for(1)
    first.join()
    second.join()
    assert answers[0].status_code == 200, answers[0].text
    assert "x-gateway-queue-wait-ms" in answers[0].headers


def waiter_is_done(waiter: Waiter) -> bool:
    return UsageRecord.objects.filter(client_request_id=waiter.marker).exists()


def test_a_key_that_is_revoked_meanwhile_is_not_served(product: Product, simulator: Simulator) -> None:
    caller = make_waiting(simulator, product, max_queue_s=30)
    answers: list[httpx.Response] = []
    with Slow(product, simulator, caller, 2.5):
        waiting = threading.Thread(target=lambda: answers.append(CHAT.ask(product, caller)))
        waiting.start()
        Queue(caller).wait_for(1)
        revoke_key(caller.key, actor="tests")
    waiting.join()
    assert answers[0].status_code == 401
    assert answers[0].headers["x-gateway-reason"] == "key_invalid"
    wait_for(lambda: not Queue(caller).holds(), "no hold that is left")


@pytest.fixture(scope="module")
def narrow(processes: Processes, product: Product) -> Product:
    """A worker in which three calls of a team may wait at a limit."""
    return processes.start_product(with_shipper=False, GATEWAY_QUEUE_TEAM="3")


def test_a_full_queue_refuses_at_once(narrow: Product, simulator: Simulator) -> None:
    caller = make_waiting(simulator, narrow, max_queue_s=30)
    with Slow(narrow, simulator, caller, 1.5):
        waiters = [Waiter(narrow, caller) for _ in range(3)]
        Queue(caller).wait_for(3)
        started = time.monotonic()
        answer = CHAT.ask(narrow, caller)
        assert time.monotonic() - started < 0.5
    assert answer.status_code == 429
    assert answer.headers["x-gateway-reason"] == "rate_limited"
    assert answer.headers["retry-after"] == "1"
    assert "As many calls wait as may." in answer.text
    for waiter in waiters:
        assert waiter.record().status == "completed"
        waiter.leave()


@pytest.mark.slow
def test_a_worker_bounds_what_waits_in_it(
    processes: Processes, product: Product, simulator: Simulator
) -> None:
    small = processes.start_product(with_shipper=False, GATEWAY_QUEUE_WORKER="2")
    caller = make_waiting(simulator, small, max_queue_s=30)
    answers = asyncio.run(burst(small, caller, 6, simulator={"first_byte_s": 0.3}))
    assert Counter(answer.status_code for answer in answers) == {200: 3, 429: 3}


def test_metrics_tell_who_waited(product: Product, simulator: Simulator) -> None:
    caller = make_waiting(simulator, product, max_queue_s=1)
    team = caller.team.slug
    with Slow(product, simulator, caller, 4.0):  # much longer than the second that the next but one waits
        waiter = Waiter(product, caller)
        Queue(caller).wait_for(1)
        assert scrape(product).sum("gateway_queue_waiting") >= 1
        waiter.leave()
        CHAT.ask(product, caller)
    asyncio.run(burst(product, caller, 2))
    now = scrape(product)
    ends = {
        end: now.sum("gateway_queue_wait_seconds_count", team=team, end=end)
        for end in ("left", "timed_out", "admitted")
    }
    assert ends == {"left": 1, "timed_out": 1, "admitted": 1}
    assert now.sum("gateway_queue_wait_seconds_sum", team=team, end="timed_out") > 0.9


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("pays", [True, False], ids=["paid", "not paid"])
def test_what_became_dearer_meanwhile_is_held_besides(
    product: Product, simulator: Simulator, pays: bool, stream: bool
) -> None:
    """The model's backend is replaced, while a call waits, by one that costs 1,000 times as much."""
    caller = make_waiting(simulator, product, max_queue_s=30)
    Budget.objects.create(
        team=caller.team, unit="money", period="day", amount=100 * USD if pays else USD // 100
    )
    product.wait_for_configuration()
    wait_for(lambda: CHAT.ask(product, caller, max_tokens=50).status_code == 200, "counters that are open")
    with Slow(product, simulator, caller, 2.5):
        waiter = Waiter(product, caller, stream=stream, max_tokens=50)
        Queue(caller).wait_for(1)
        dearer = make_backend(simulator.base_url, prices={"input": "150", "output": "600"})
        Route.objects.filter(model__name=caller.model).update(backend=dearer)
        product.wait_for_configuration()
    record = waiter.record()
    waiter.leave()
    if pays:
        assert (record.status, record.backend) == ("completed", dearer.name)
        assert record.cost_nanousd >= record.output_tokens * 600_000
    else:
        assert (record.status, record.reason, record.attempts) == ("refused", "budget_spent", 0)
    wait_for(lambda: not Queue(caller).holds(), "no hold that is left")
