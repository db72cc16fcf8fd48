"""Three workers whose calls wait at one limit: teams get their shares, whatever their load and their workers."""

import asyncio
import itertools
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing

import pytest

from billing.admission.account import Admitted
from billing.admission.admissions import Admissions
from billing.admission.commands import Commands
from billing.admission.holds import Amounts, Ask, EndFrame, Patience
from billing.admission.ledger_view import LedgerView
from billing.admission.links import DirectLink
from billing.admission.queue import Stay, StayEnd
from billing.admission.rebuild import Rebuilder
from billing.admission.refusals import Refused
from billing.admission.rules import Dimensions, RuleBook
from billing.admission.scripts import load_scripts
from billing.ids import uuid7
from billing.rule_models import Limit
from routing.configuration import DatabaseThreads
from teams.models import Team
from tests.factories import make_team, unique
from tests.processes import wait_for

WAITS = Patience(wait_ms=60_000, weight=4, places=200)
WORKERS = 3


class _NoFrames:
    """The epoch never changes here: nothing is sent again."""

    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> Iterable[EndFrame]:
        return []


class Worker:
    """The admissions of one worker, and what its calls do."""

    def __init__(self, book: RuleBook, threads: DatabaseThreads) -> None:
        commands = Commands(load_scripts())
        self._numbers = itertools.count(1)
        self._book = book
        self.admissions = Admissions(
            url=os.environ["REDIS_URL"],
            commands=commands,
            spool=str(uuid.uuid4()),
            frames=_NoFrames(),
            longest_call_ms=60_000,
            most_waiting=1_000,
            run_in_thread=threads.run,
            make_rebuilder=lambda link: Rebuilder(link, commands, LedgerView()),
        )

    async def start(self) -> None:
        await self.admissions.start({self._book.department_id: self._book})

    async def call(self, team_id: int, seconds: float, patience: Patience = WAITS) -> Stay:
        """One call that takes so long once it is let in."""
        ask = Ask(
            str(uuid7()), Dimensions(self._book.department_id, team_id, None, None, "", "large"), Amounts()
        )
        stay = Stay()
        outcome = await self.admissions.admit(
            ask, may_go_uncounted=False, patience=Patience(weight=patience.weight)
        )
        if isinstance(outcome, Refused):
            outcome = await self.admissions.wait(ask, outcome, patience, stay, may_go_uncounted=False)
        else:
            stay.close(StayEnd.ADMITTED)
        if isinstance(outcome, Admitted):
            await asyncio.sleep(seconds)
            frame = EndFrame(next(self._numbers), ask.rid, outcome.admitted_ms, ask.call, Amounts())
            self.admissions.end(frame)
        return stay


class House:
    """A department of two teams with one limit, and three workers."""

    def __init__(self, kind: str, amount: int) -> None:
        first = make_team()
        self.teams = first, Team.objects.create(department=first.department, slug=unique("team"), name="B")
        Limit.objects.create(department=first.department, kind=kind, amount=amount)
        number = first.department_id
        with closing(DirectLink(os.environ["REDIS_URL"], load_scripts())) as link:
            rebuilder = Rebuilder(link, Commands(load_scripts()), LedgerView())
            assert rebuilder.rebuild(number, lost_in=rebuilder.read_marker(number).n)
            wait_for(lambda: rebuilder.open_if_declared(number), "counters that are open")
        self.book = LedgerView().book_of(number)
        self.workers: list[Worker] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        threads = DatabaseThreads(1)
        self.workers = [Worker(self.book, threads) for _ in range(WORKERS)]
        try:
            for worker in self.workers:
                await worker.start()
            yield
        finally:
            for worker in self.workers:
                await worker.admissions.close()
            await asyncio.to_thread(threads.close)

    async def serve(
        self,
        clients: tuple[tuple[int, ...], tuple[int, ...]],
        *,
        seconds: float,
        call_s: float = 0.02,
        patience: tuple[Patience, Patience] = (WAITS, WAITS),
    ) -> Counter[int]:
        """So many clients of each team in each worker call again and again; how many calls of each were served in
        the time, once all clients were there."""
        served: Counter[int] = Counter()
        began = time.monotonic() + 0.5

        async def client(worker: Worker, team: int) -> None:
            while True:
                stay = await worker.call(self.teams[team].pk, call_s, patience[team])
                assert stay.end is StayEnd.ADMITTED
                served[team] += time.monotonic() > began

        tasks = [
            asyncio.create_task(client(worker, team))
            for team in (0, 1)
            for worker, count in zip(self.workers, clients[team], strict=True)
            for _ in range(count)
        ]
        done, _ = await asyncio.wait(tasks, timeout=seconds + 0.5, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        return served


@pytest.mark.slow  # a ratio guard: beside other load a small team's clients come too late to their turns
@pytest.mark.parametrize(
    "clients",
    [((34, 33, 33), (4, 3, 3)), ((100, 0, 0), (0, 5, 5)), ((0, 50, 50), (10, 0, 0))],
    ids=["spread", "many on one worker", "few on one worker"],
)
def test_equal_teams_share_equally_whatever_their_load_and_their_workers(
    clients: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    house = House("concurrency", 4)

    async def run() -> Counter[int]:
        async with house.open():
            return await house.serve(clients, seconds=6)

    served = asyncio.run(run())
    total = served.total()
    print(served)
    assert total > 200
    assert abs(served[0] / total - 0.5) < 0.025
