"""The store of the counters is paused, stopped or emptied under a running gateway."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from billing.admission.commands import Commands
from billing.admission.ledger_view import LedgerView
from billing.admission.links import DirectLink
from billing.admission.scripts import load_scripts
from billing.admission.verify import NotComparable, verify_department
from billing.models import UsageRecord
from billing.rule_models import Budget, Limit
from gateway_site.embedded import EmbeddedValkey
from teams.models import CountersAway, Reserve, Team
from tests.factories import Caller, make_caller, wait_for_record
from tests.metrics import scrape
from tests.processes import Processes, Product, Simulator, wait_for
from tests.routes import CHAT

pytestmark = pytest.mark.slow  # each hurts a store and waits for what follows


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A store of its own, that may be hurt."""
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    valkey.start()
    yield valkey
    valkey.stop()


@pytest.fixture(scope="module")
def product(
    processes: Processes, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Product:
    """A gateway on that store."""
    spool = tmp_path_factory.mktemp("spool")
    return processes.start_product(REDIS_URL=valkey.url(), GATEWAY_SPOOL_DIR=str(spool))


def make_spender(simulator: Simulator, product: Product, **fields: Any) -> Caller:
    caller = make_caller(simulator.base_url)
    Team.objects.filter(pk=caller.team.pk).update(**fields)
    Budget.objects.create(team=caller.team, unit="money", period="year", amount=10**9)
    product.wait_for_configuration()
    wait_for(lambda: CHAT.ask(product, caller).status_code == 200, "counters that are open")
    return caller


def wait_until_counted(valkey: EmbeddedValkey, caller: Caller) -> None:
    """Until the counters are the ledger."""
    link = DirectLink(valkey.url(), load_scripts())

    def is_equal() -> bool:
        try:
            department = caller.team.department_id
            return not verify_department(link, Commands(load_scripts()), LedgerView(), department)
        except NotComparable:
            return False

    wait_for(is_equal, "counters that are the ledger")
    link.close()


def queue_length(store: "redis.Redis", caller: Caller) -> int:
    keys = list(store.scan_iter(f"{{d{caller.team.department_id}}}:*:q:*"))
    return max([int(store.zcard(key)) for key in keys], default=0)


class Paused:
    """The store does not answer, for as long as the block lasts."""

    def __init__(self, valkey: EmbeddedValkey) -> None:
        assert valkey._process is not None
        self._pid = valkey._process.pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGCONT)


def test_a_paused_store_refuses_within_its_time_limit_and_holds_nothing(
    product: Product, simulator: Simulator, valkey: EmbeddedValkey
) -> None:
    caller = make_spender(simulator, product)
    before = scrape(product).sum("gateway_admissions_total", outcome="away")
    answers: list[httpx.Response] = []
    with Paused(valkey):
        for _ in range(5):
            started = time.monotonic()
            answers.append(CHAT.ask(product, caller))
            assert time.monotonic() - started < 1.0
        degraded = httpx.get(f"{product.url}/readyz")
        assert degraded.status_code == 200, "other calls go on"
        assert "counters_away" in degraded.text
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["x-gateway-reason"] for answer in answers} == {"counters_unavailable"}
    wait_for(lambda: CHAT.ask(product, caller).status_code == 200, "a call that is admitted again", 5)
    wait_until_counted(valkey, caller)
    assert "counters_away" not in httpx.get(f"{product.url}/readyz").text
    assert scrape(product).sum("gateway_admissions_total", outcome="away") >= before + 5
    assert scrape(product).sum("gateway_counters_lost_connections_total") >= 1
    store = redis.Redis.from_url(valkey.url())
    department = caller.team.department_id
    epoch = int(store.hget(f"{{d{department}}}:e", "n"))  # type: ignore[arg-type]
    wait_for(lambda: store.hlen(f"{{d{department}}}:{epoch}:r") == 0, "no hold that is left")
    store.close()


def test_a_team_may_choose_to_be_counted_afterwards(
    product: Product, simulator: Simulator, valkey: EmbeddedValkey
) -> None:
    caller = make_spender(simulator, product, counters_away=CountersAway.ALLOW)
    before = scrape(product).sum("gateway_admissions_total", outcome="uncounted")
    with Paused(valkey):
        answers = [CHAT.ask(product, caller) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert scrape(product).sum("gateway_admissions_total", outcome="uncounted") == before + 3
    for answer in answers:
        assert wait_for_record(answer.headers["x-request-id"]).status == "completed"
    wait_until_counted(valkey, caller)


class Stream:
    """An answer of 900 words in a little more than four seconds, which outgrows what is typical after half a second."""

    def __init__(self, product: Product, caller: Caller) -> None:
        self.words = 0
        self.is_done = False
        self.error = ""
        self.request_id = ""
        self._thread = threading.Thread(target=self._read, args=(product, caller))
        self._thread.start()
        wait_for(lambda: self.words > 10, "a stream under way")

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _read(self, product: Product, caller: Caller) -> None:
        slow = {"output_tokens": 900, "frames_per_write": 2, "between_chunks_s": 0.01}
        body = {"model": caller.model, **CHAT.content, "stream": True, "simulator": slow, "max_tokens": 4_000}
        headers = {"Authorization": f"Bearer {caller.secret}"}
        url = CHAT.url(product, caller.model)
        with httpx.stream("POST", url, headers=headers, json=body, timeout=20) as answer:
            self.request_id = answer.headers["x-request-id"]
            for line in answer.iter_lines():
                self.words += '"content":"' in line and '"content":""' not in line
                self.is_done = self.is_done or line == "data: [DONE]"
                if '"error"' in line:
                    self.error = json.loads(line.removeprefix("data: "))["error"]["code"]


def test_a_stream_whose_reserve_cannot_grow_ends_when_it_is_used(
    product: Product, simulator: Simulator, valkey: EmbeddedValkey
) -> None:
    caller = make_spender(simulator, product, reserve=Reserve.TYPICAL)
    stream = Stream(product, caller)
    with Paused(valkey):
        stream.join()
    assert (stream.is_done, stream.error) == (False, "server_is_overloaded")
    row = wait_for_record(stream.request_id)
    assert (row.status, row.reason) == ("failed", "counters_unavailable")
    assert 0 < stream.words <= row.output_tokens < 500
    wait_until_counted(valkey, caller)


def test_a_stream_of_a_team_that_is_counted_afterwards_goes_on(
    product: Product, simulator: Simulator, valkey: EmbeddedValkey
) -> None:
    caller = make_spender(simulator, product, reserve=Reserve.TYPICAL, counters_away=CountersAway.ALLOW)
    stream = Stream(product, caller)
    with Paused(valkey):
        time.sleep(1.5)  # what is to be shown is that nothing happens
    stream.join()
    assert (stream.words, stream.is_done) == (900, True)
    wait_until_counted(valkey, caller)


@pytest.mark.parametrize("hurt", ["flush", "restart", "lost counter"])
def test_a_stream_grows_on_in_counters_that_were_made_anew(
    product: Product, simulator: Simulator, valkey: EmbeddedValkey, hurt: str
) -> None:
    caller = make_spender(simulator, product, reserve=Reserve.TYPICAL)
    stream = Stream(product, caller)
    damage(valkey, caller, hurt)
    stream.join()
    assert (stream.words, stream.is_done, stream.error) == (900, True, "")
    assert wait_for_record(stream.request_id).output_tokens == 900
    wait_until_counted(valkey, caller)


def damage(valkey: EmbeddedValkey, caller: Caller, hurt: str) -> None:
    """Take counters away."""
    with redis.Redis.from_url(valkey.url()) as store:
        if hurt == "flush":
            store.flushall()
        elif hurt == "restart":
            valkey.stop()
            valkey.start()
        else:
            for key in store.scan_iter(f"{{d{caller.team.department_id}}}:*:c:*"):
                store.delete(key)


def test_a_soft_budget_stops_nobody_while_the_store_is_away(
    product: Product, simulator: Simulator, valkey: EmbeddedValkey
) -> None:
    caller = make_spender(simulator, product)
    Budget.objects.filter(team=caller.team).update(is_hard=False)
    product.wait_for_configuration()
    with Paused(valkey):
        assert CHAT.ask(product, caller).status_code == 200
    wait_until_counted(valkey, caller)


@pytest.mark.parametrize("hurt", ["flush", "restart", "lost counter"])
def test_counters_that_are_lost_are_made_anew_from_the_ledger(
    product: Product, simulator: Simulator, valkey: EmbeddedValkey, hurt: str
) -> None:
    caller = make_spender(simulator, product)
    rebuilds = scrape(product).sum("gateway_counters_rebuilds_total")
    held = threading.Thread(target=lambda: CHAT.ask(product, caller, simulator={"first_byte_s": 1.0}))
    held.start()
    wait_for(lambda: simulator.open_calls() > 0, "a call under way")
    damage(valkey, caller, hurt)
    started = time.monotonic()
    wait_for(lambda: CHAT.ask(product, caller).status_code == 200, "a call that is admitted again", 8)
    assert time.monotonic() - started < 5
    held.join()
    wait_until_counted(valkey, caller)
    assert scrape(product).sum("gateway_counters_rebuilds_total") > rebuilds
    spent = UsageRecord.objects.filter(team_id=caller.team.pk, attempts=1).count()
    assert spent >= 3


@pytest.mark.parametrize("hurt", ["flush", "restart", "pause"])
def test_who_waits_goes_on_waiting_whatever_becomes_of_the_store(
    product: Product, simulator: Simulator, valkey: EmbeddedValkey, hurt: str
) -> None:
    caller = make_spender(simulator, product, max_queue_s=30)
    Limit.objects.create(team=caller.team, kind="concurrency", amount=1)
    product.wait_for_configuration()
    CHAT.ask(product, caller)
    answers: list[httpx.Response] = []
    held = threading.Thread(target=lambda: CHAT.ask(product, caller, simulator={"first_byte_s": 4.0}))
    waiters = [threading.Thread(target=lambda: answers.append(CHAT.ask(product, caller))) for _ in range(3)]
    with redis.Redis.from_url(valkey.url()) as store:
        held.start()
        wait_for(lambda: simulator.open_calls() > 0, "a call under way")
        for waiter in waiters:
            waiter.start()
        wait_for(lambda: queue_length(store, caller) == 3, "three that wait")
        if hurt == "flush":
            store.flushall()
        elif hurt == "restart":
            valkey.stop()
            valkey.start()
        else:
            with Paused(valkey):
                time.sleep(1.5)  # longer than any time limit of a store call
        wait_for(lambda: queue_length(store, caller) == 3 or not held.is_alive(), "three that wait again")
        for thread in (held, *waiters):
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert all(float(answer.headers["x-gateway-queue-wait-ms"]) > 1_000 for answer in answers)
    wait_until_counted(valkey, caller)


def test_a_worker_starts_without_the_store(
    processes: Processes, simulator: Simulator, tmp_path: Path
) -> None:
    """Calls to which no rule applies need no counters."""
    lonely = processes.start_product(
        with_shipper=False, REDIS_URL="redis://127.0.0.1:1/0", GATEWAY_SPOOL_DIR=str(tmp_path)
    )
    free = make_caller(simulator.base_url, lonely)
    assert CHAT.ask(lonely, free).status_code == 200
    Budget.objects.create(team=free.team, unit="money", period="year", amount=10**9)
    lonely.wait_for_configuration()
    assert CHAT.ask(lonely, free).status_code == 503
