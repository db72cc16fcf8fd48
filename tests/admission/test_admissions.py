"""A worker's admissions on a real store and database: rules that come and go, and a store that refuses to write."""

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from django.db import OperationalError

from billing.admission.account import Admitted
from billing.admission.admissions import Admissions
from billing.admission.commands import Command, Commands, plain
from billing.admission.holds import Amounts, Ask, EndFrame
from billing.admission.ledger_view import LedgerView
from billing.admission.links import DirectLink
from billing.admission.rebuild import Rebuilder
from billing.admission.rules import Dimensions, RuleBook
from billing.admission.scripts import load_scripts
from billing.ids import uuid7
from billing.rule_models import Budget
from gateway_site.embedded import EmbeddedValkey
from routing.configuration import DatabaseThreads
from teams.models import Team
from tests.factories import make_team


class _NoFrames:
    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> Iterable[EndFrame]:
        return []


class Worker:
    """Admissions for one team, on threads of the database of its own."""

    def __init__(self, url: str) -> None:
        self.team: Team = make_team()
        self.department_id = self.team.department_id
        self.commands = Commands(load_scripts())
        self.threads = DatabaseThreads(1)
        self.url = url
        self.seq = 0

    def make(self) -> Admissions:
        return Admissions(
            url=self.url,
            commands=self.commands,
            spool=str(uuid.uuid4()),
            frames=_NoFrames(),
            longest_call_ms=60_000,
            most_waiting=100,
            run_in_thread=self.threads.run,
            make_rebuilder=lambda link: Rebuilder(link, self.commands, LedgerView()),
        )

    async def book(self) -> RuleBook:
        return await self.threads.run(lambda: LedgerView().book_of(self.department_id))

    async def change(self, edit: Callable[[], Any]) -> None:
        await self.threads.run(edit)

    def budget(self) -> Budget:
        return Budget.objects.create(team=self.team, unit="money", period="month", amount=10**12)

    def ask(self, money: int) -> Ask:
        call = Dimensions(self.department_id, self.team.pk, None, None, "", "large")
        return Ask(str(uuid7()), call, Amounts(money, 5))

    async def admit(self, admissions: Admissions, money: int) -> tuple[Ask, Admitted]:
        """Waits for counters that are being made anew, as long as a caller may have to."""
        ask = self.ask(money)
        for _ in range(5):
            outcome = await admissions.admit(ask, may_go_uncounted=False)
            if isinstance(outcome, Admitted):
                return ask, outcome
            admissions.take_books({self.department_id: await self.book()})  # as a worker that watches would
        raise AssertionError(outcome)

    def end_of(self, ask: Ask, admitted: Admitted) -> EndFrame:
        self.seq += 1
        return EndFrame(self.seq, ask.rid, admitted.admitted_ms, ask.call, Amounts(1, 1))


def run(url: str, play: Callable[[Worker], Awaitable[None]]) -> None:
    worker = Worker(url)
    try:
        asyncio.run(play(worker))  # type: ignore[arg-type]
    finally:
        worker.threads.close()


@pytest.mark.slow
def test_a_call_that_ends_while_no_rule_counts_it_holds_nothing_later() -> None:
    async def play(worker: Worker) -> None:
        admissions = worker.make()
        await worker.change(worker.budget)
        await admissions.start({worker.department_id: await worker.book()})
        ask, _ = await worker.admit(admissions, 500)
        admissions.take_books({})
        assert not admissions.has_rules(worker.department_id, worker.team.pk)
        admissions.forget(ask.rid)
        await worker.change(lambda: (Budget.objects.filter(team=worker.team).delete(), worker.budget()))
        admissions.take_books({worker.department_id: await worker.book()})
        await worker.admit(admissions, 7)
        epoch = (await worker.book()).epoch
        with closing(DirectLink(worker.url, load_scripts())) as link:
            (held,) = link.exchange([plain("HVALS", f"{{d{worker.department_id}}}:{epoch}:r")])
        assert [stored.split(b" ")[2] for stored in held] == [b"7"]
        await admissions.close()

    run(os.environ["REDIS_URL"], play)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A store that may be hurt."""
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    valkey.start()
    yield valkey
    valkey.stop()


@pytest.mark.slow
def test_a_crowd_is_admitted_to_the_last(valkey: EmbeddedValkey) -> None:
    """All ask at once; were all sent at once, the last would be answered too late."""

    async def play(worker: Worker) -> None:
        admissions = worker.make()
        await worker.change(worker.budget)
        await admissions.start({worker.department_id: await worker.book()})
        await worker.admit(admissions, 1)
        asks = [worker.ask(1) for _ in range(10_000)]
        outcomes = await asyncio.gather(*(admissions.admit(ask, may_go_uncounted=False) for ask in asks))
        assert all(isinstance(outcome, Admitted) for outcome in outcomes)
        assert admissions.lost_connections == 0
        await admissions.close()

    run(valkey.url(), play)


@pytest.mark.slow
def test_who_leaves_while_a_crowd_waits_holds_nothing(valkey: EmbeddedValkey) -> None:
    async def play(worker: Worker) -> None:
        admissions = worker.make()
        await worker.change(worker.budget)
        await admissions.start({worker.department_id: await worker.book()})
        await worker.admit(admissions, 1)
        tasks = [
            asyncio.create_task(admissions.admit(worker.ask(1), may_go_uncounted=False)) for _ in range(1_000)
        ]
        await asyncio.sleep(0)
        for task in tasks[500:]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(outcome, Admitted) for outcome in outcomes) == 500
        epoch = (await worker.book()).epoch
        with closing(DirectLink(worker.url, load_scripts())) as link:
            (held,) = link.exchange([plain("HLEN", f"{{d{worker.department_id}}}:{epoch}:r")])
        assert held == 501
        await admissions.close()

    run(valkey.url(), play)


@pytest.mark.slow  # five seconds each
@pytest.mark.parametrize("how", ["too few replicas", "demoted"])
def test_a_store_that_refuses_to_write_is_not_asked_in_a_loop(valkey: EmbeddedValkey, how: str) -> None:
    async def play(worker: Worker) -> None:
        admissions = worker.make()
        await worker.change(worker.budget)
        await admissions.start({worker.department_id: await worker.book()})
        calls = [await worker.admit(admissions, 500) for _ in range(20)]
        sent = 0
        send = admissions._connections.send

        def count(batch: Iterable[tuple[Command, Callable[[Any], None]]]) -> None:
            nonlocal sent
            commands = list(batch)
            sent += len(commands)
            send(commands)

        admissions._connections.send = count  # type: ignore[method-assign]
        with redis.Redis.from_url(worker.url) as store:
            if how == "demoted":
                store.execute_command("REPLICAOF", "127.0.0.1", "1")
            else:
                store.config_set("min-replicas-to-write", 1)
            for ask, admitted in calls:
                admissions.end(worker.end_of(ask, admitted))
            await asyncio.sleep(1.0)
            if how == "demoted":
                store.execute_command("REPLICAOF", "NO", "ONE")
            else:
                store.config_set("min-replicas-to-write", 0)
        assert sent < 20 * 20
        for _ in range(100):
            if not admissions.pending:
                break
            await asyncio.sleep(0.05)
        assert not admissions.pending
        await admissions.close()

    run(valkey.url(), play)


def test_why_counters_stay_closed_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def play(worker: Worker) -> None:
        async def away(query: Callable[[], Any]) -> Any:
            raise OperationalError("the database is away")

        await worker.change(worker.budget)
        book = await worker.book()
        admissions = worker.make()
        admissions._run_in_thread = away
        await admissions.start({worker.department_id: book})
        await asyncio.sleep(1.5)  # in which it is tried several times
        assert admissions.closed_departments == [worker.department_id]
        await admissions.close()

    run(os.environ["REDIS_URL"], play)
    said = [line for line in caplog.messages if "cannot be made anew" in line]
    assert len(said) == 1
    assert "the database is away" in said[0]
