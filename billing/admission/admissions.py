"""The admissions of one worker: asks the store for every call that a rule applies to, and books every end.

This is the event loop's side of `Account`: it owns the connections, the accounts of all departments that have
rules, and the tasks that keep them current. What is asked in one turn of the loop goes out in one write, the ends
of calls before the beginnings of others.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from billing.admission.account import Account, Admitted, AdmittedKind, Again, Standing, Steps
from billing.admission.clock import Clock
from billing.admission.commands import LEASES, Command, Commands, marker_key, read_marker
from billing.admission.connections import Connections
from billing.admission.holds import AT_ONCE, Amounts, Ask, EndFrame, Frames, Hold, Patience
from billing.admission.links import DirectLink, Reply, StoreLost, StoreRefused
from billing.admission.queue import Line, Stay, StayEnd, wait_in_line
from billing.admission.rebuild import BEAT_MS, LEASE_MS, Rebuilder, RebuildFailed
from billing.admission.refusals import AWAY_REBUILDING, AWAY_STORE, Refused
from billing.admission.rules import Plan, RuleBook
from billing.admission.wire import Taker

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
RunInThread = Callable[[Callable[[], Result]], Awaitable[Result]]

_TRIES = 4  # a window that ends, an epoch that ends, and a user who is one too many, in one admission
_OPEN_S = 4.0  # how long a call waits for counters that are being made anew: longer than that usually takes
_BACK_SOON_S = 0.25  # a connection that just broke may be back in a moment
_RENEW_S = 0.05
_LOOK_AT = 50  # idle departments in each beat
_RENEW_AT_ONCE = 4
_HOUSEKEEPING_S = 0.1
_MOST_UNDER_WAY = 128  # commands that wait for a reply at a time: a busy store takes some 50 ms for so many
_AFTER_DEADLINE_MS = 60_000  # a hold outlives the longest call by so much


class _Desk:
    """One department: its account, and what waits for it."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.key = marker_key(account.department_id)  # whose server has all of the department's counters
        self.under_way = 0  # commands whose replies are not here
        self.opened = asyncio.Event()
        self.closed_at = time.monotonic()  # since when it is not open, if it is not
        self.renewal: asyncio.Task[None] | None = None
        self.line = Line()
        self._said = ""

    def say(self, what: str, error: Exception) -> None:
        """Log why the counters are closed: once, however often that is tried again."""
        if repr(error) != self._said:
            self._said = repr(error)
            number = self.account.department_id
            logger.error("The counters of department %d %s: %r", number, what, error)

    def open(self) -> None:
        """The counters can be used again."""
        self._said = ""
        self.opened.set()


class _Question:
    """One admission on its way. Once made, it is answered for even if nobody waits any more."""

    _plan: Plan
    _now_ms: int
    _deadline_ms: int

    def __init__(self, owner: "Admissions", desk: _Desk, ask: Ask, patience: Patience) -> None:
        self._owner = owner
        self._desk = desk
        self._ask = ask
        self._patience = patience
        self.outcome: asyncio.Future[Admitted | Refused | Again] = asyncio.get_running_loop().create_future()

    def make(self) -> Command:
        """The command, to be sent now: its time limit has begun."""
        account = self._desk.account
        self._now_ms, self._deadline_ms = self._owner.clock.now_ms(), self._owner.deadline_ms()
        self._plan = account.plan(self._ask, self._now_ms)
        return account.admit(self._ask, self._plan, self._now_ms, self._deadline_ms, self._patience)

    def take(self, reply: Reply | StoreLost) -> None:
        account = self._desk.account
        self._owner.answered(self._desk)
        was_open = self._ask.rid in account.holds
        if isinstance(reply, StoreLost):
            if reply.was_sent:
                account.admission_lost(self._ask, self._now_ms)
            else:
                account.admission_unsent(self._ask)
            outcome: Admitted | Refused | Again = replace(AWAY_STORE, may_be_held=reply.was_sent)
        else:
            outcome = account.admitted(self._ask, self._plan, reply, self._deadline_ms)
            if not isinstance(reply, StoreRefused):
                self._owner.clock.learn(reply[1], is_trusted=outcome is Again.WINDOW)
        if not self.outcome.done():
            self.outcome.set_result(outcome)
        elif not was_open:  # the caller has left: the end of the call is recorded, or will be in this moment
            account.holds.pop(self._ask.rid, None)
        if account.standing is not Standing.OPEN:
            self._owner.renew(self._desk)


class _Extension:
    """More for one open call, on its way. What the store did is remembered even if nobody waits any more."""

    def __init__(self, owner: "Admissions", desk: _Desk, hold: Hold, to: Amounts) -> None:
        self._owner = owner
        self._desk = desk
        self._hold = hold
        self._to = to
        self.outcome: asyncio.Future[bool | Refused | Again] = asyncio.get_running_loop().create_future()

    def make(self) -> Command:
        """The command, to be sent now: its time limit has begun."""
        return self._desk.account.extend(self._hold, self._to, self._owner.clock.now_ms())

    def take(self, reply: Reply | StoreLost) -> None:
        account = self._desk.account
        self._owner.answered(self._desk)
        outcome: bool | Refused | Again = AWAY_STORE
        if not isinstance(reply, StoreLost):
            outcome = account.extended(self._hold, self._to, reply)
            if not isinstance(reply, StoreRefused):
                self._owner.clock.learn(reply[1])
        if not self.outcome.done():
            self.outcome.set_result(outcome)
        if account.standing is not Standing.OPEN:
            self._owner.renew(self._desk)


class Admissions:
    """See the module. One per worker, used from its event loop only."""

    def __init__(
        self,
        *,
        url: str,
        commands: Commands,
        spool: str,
        frames: Frames,
        longest_call_ms: int,
        most_waiting: int,
        run_in_thread: RunInThread[Any],
        make_rebuilder: Callable[[DirectLink], Rebuilder],
        on_answered: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`on_answered` is told the seconds of each exchange with the store."""
        self._commands = commands
        self._spool = spool
        self._frames = frames
        self._longest_call_ms = longest_call_ms
        self._most_waiting = most_waiting
        self._run_in_thread = run_in_thread
        self._make_rebuilder = make_rebuilder
        self._connections = Connections(
            url,
            commands.scripts,
            on_opened=self._settle_all,
            greeting=lambda: [commands.beat(spool, LEASE_MS)],
            on_answered=on_answered,
        )
        self._holds: dict[str, Hold] = {}
        self._desks: dict[int, _Desk] = {}
        self._of_team: dict[int, _Desk] = {}  # where each team is now
        self._questions: deque[tuple[_Desk, _Question | _Extension]] = deque()
        self._under_way = 0  # commands of all desks whose replies are not here
        self._leaves: list[Command] = []
        self._ended: set[_Desk] = set()
        self._is_flush_due = False
        self._tasks: list[asyncio.Task[None]] = []
        self.clock = Clock()
        self.waiting = 0  # calls that stand in queues
        self.rebuilds = 0  # by this worker

    # --- life ------------------------------------------------------------------------------------

    async def start(self, books: Mapping[int, RuleBook]) -> None:
        """Begin to connect, with these rules. A store that is away delays nothing but calls with hard budgets."""
        self._connections.start()
        self.take_books(books)
        self._tasks = [asyncio.create_task(chore()) for chore in (self._beat, self._keep_house)]

    async def close(self) -> None:
        """Book what is pending, if the store is there, and disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while any(desk.account.pending and self._is_near(desk) for desk in self._desks.values()):
                    self._ended.update(self._desks.values())
                    self._flush()
                    await asyncio.sleep(0.01)
        renewals = [desk.renewal for desk in self._desks.values() if desk.renewal is not None]
        for task in (*self._tasks, *renewals):
            task.cancel()
        await asyncio.gather(*self._tasks, *renewals, return_exceptions=True)
        with contextlib.suppress(StoreLost):
            await self._connections.exchange(
                [self._commands.beat(self._spool, 0)]
            )  # nobody is to wait for us
        await self._connections.close()

    def take_books(self, books: Mapping[int, RuleBook]) -> None:
        """The rules as they stand from now on. A book of a later epoch is spoken for once it is open."""
        for department_id in self._desks.keys() - books.keys():
            gone = self._desks.pop(department_id)
            if gone.renewal is not None:
                gone.renewal.cancel()
        for department_id, book in books.items():
            desk = self._desks.get(department_id)
            if desk is None:
                account = Account(book, self._commands, self._spool, self._frames, holds=self._holds)
                desk = self._desks[department_id] = _Desk(account)
                self.renew(desk)
            elif desk.account.book is not book:
                desk.account.learn(book)
                if desk.account.standing is Standing.LOST:
                    self.renew(desk)
        self._of_team = {team: desk for desk in self._desks.values() for team in desk.account.book.team_ids}

    @property
    def is_connected(self) -> bool:
        """Whether the store can be asked now: every server of it."""
        return self._connections.are_all_open

    @property
    def lost_connections(self) -> int:
        """How many connections to the store broke."""
        return self._connections.lost

    async def ask_each_server(self, command: Command) -> list[Reply]:
        """What every server of the store answers; errors are left out. Raises StoreLost when one is away."""
        replies = await self._connections.ask_each(command)
        return [reply for reply in replies if not isinstance(reply, StoreRefused)]

    @property
    def pending(self) -> int:
        """Ends of calls that are not booked yet."""
        return sum(len(desk.account.pending) for desk in self._desks.values())

    @property
    def closed_departments(self) -> list[int]:
        """Departments whose counters cannot be used now."""
        return [number for number, desk in self._desks.items() if desk.account.standing is not Standing.OPEN]

    @property
    def closed_s(self) -> float:
        """For how long the counters of one of those cannot be used: of the longest; 0 when all can."""
        closed = self.closed_departments
        return time.monotonic() - min(self._desks[number].closed_at for number in closed) if closed else 0.0

    @property
    def has_departments(self) -> bool:
        """Whether anything is counted for anybody."""
        return bool(self._desks)

    # --- one call --------------------------------------------------------------------------------

    async def admit(
        self, ask: Ask, *, may_go_uncounted: bool, patience: Patience = AT_ONCE
    ) -> Admitted | Refused:
        """Hold `ask` in every counter that applies, or say why not; a refusal holds nothing, unless it says that
        it may. While the counters cannot be asked, a call under a hard budget is refused unless `may_go_uncounted`;
        any other is let in. Such calls are counted afterwards.

        Whatever comes of it, also when the waiting task is cancelled: if there is an end of the call, it must be
        told to `end`.
        """
        outcome = await self._ask(ask, patience)
        return self._or_uncounted(ask, outcome, may_go_uncounted=may_go_uncounted)

    async def _ask(self, ask: Ask, patience: Patience) -> Admitted | Refused:
        desk = self._desks.get(ask.call.department_id)
        if desk is None or not desk.account.plan(ask, self.clock.now_ms()).rules:
            return Admitted(ask.rid, self.clock.now_ms(), kind=AdmittedKind.FREE)
        outcome: Admitted | Refused | Again = Again.EPOCH
        for _ in range(_TRIES):
            if desk.account.standing is not Standing.OPEN and not await self._is_opened(desk):
                outcome = AWAY_REBUILDING if self._is_near(desk) else AWAY_STORE
            else:
                outcome = await self._question(desk, ask, patience)
            if outcome is Again.USER:
                ask = msgspec.structs.replace(ask, call=msgspec.structs.replace(ask.call, is_other_user=True))
            elif not isinstance(outcome, Again):
                break
        return AWAY_REBUILDING if isinstance(outcome, Again) else outcome

    def _or_uncounted(
        self, ask: Ask, outcome: Admitted | Refused, *, may_go_uncounted: bool
    ) -> Admitted | Refused:
        if isinstance(outcome, Admitted) or not outcome.is_away:
            return outcome
        desk = self._desks.get(ask.call.department_id)
        if desk is None:
            return Admitted(ask.rid, self.clock.now_ms(), kind=AdmittedKind.FREE)
        if desk.account.plan(ask, self.clock.now_ms()).is_hard and not may_go_uncounted:
            return outcome
        return desk.account.admit_uncounted(ask, self.clock.now_ms(), self.deadline_ms())

    async def extend(
        self, department_id: int, rid: str, more: Amounts, *, may_go_uncounted: bool
    ) -> bool | Refused:
        """Hold `more` for an open call: True when it is held, False when no hard budget counts the call, so that
        there is nothing to ask for; else why not, and then it holds what it held.

        The command may be sent again, also when its fate is unknown. While the counters cannot be asked, a call goes
        on only if it `may_go_uncounted`; what it takes is held as soon as they can.
        """
        desk = self._desks.get(department_id)
        hold = desk.account.holds.get(rid) if desk is not None else None
        if desk is None or hold is None or not desk.account.plan_of(hold).is_hard:
            return False
        to = hold.amounts + more
        outcome: bool | Refused | Again = Again.EPOCH
        for _ in range(_TRIES):
            if desk.account.standing is not Standing.OPEN and not await self._is_opened(desk):
                outcome = AWAY_REBUILDING if self._is_near(desk) else AWAY_STORE
                break
            outcome = await self._ask_extension(desk, hold, to)
            if outcome is True or (isinstance(outcome, Refused) and not outcome.is_away):
                return outcome
        if may_go_uncounted:
            desk.account.extend_uncounted(hold, to)
            return True
        return AWAY_REBUILDING if isinstance(outcome, Again) else outcome

    async def wait(
        self, ask: Ask, refused: Refused, patience: Patience, stay: Stay, *, may_go_uncounted: bool
    ) -> Admitted | Refused:
        """Wait for room, as long as `patience` lasts, for a call that was `refused` for now; `stay` tells of it.
        Who stops waiting, also by being cancelled, gives up its place. While the counters cannot be asked nobody
        goes on, lest all who wait do so at once; who has waited long enough is treated as a newcomer. For the rest
        see `admit`."""
        desk = self._desks.get(ask.call.department_id)
        if desk is None or self.waiting >= self._most_waiting:
            stay.close(StayEnd.FULL)
            return refused
        self.waiting += 1
        try:
            outcome = await wait_in_line(desk.line, lambda: self._ask(ask, patience), refused, patience, stay)
            return self._or_uncounted(ask, outcome, may_go_uncounted=may_go_uncounted)
        finally:
            self.waiting -= 1
            if stay.end in (StayEnd.LEFT, StayEnd.TIMED_OUT):
                self._leaves.append(desk.account.leave(ask, self.clock.now_ms(), patience))
                self._schedule()

    def end(self, frame: EndFrame) -> None:
        """A call has ended and `frame` is in the spool; it is booked in the next turn of the loop."""
        was_held = self._holds.pop(frame.rid, None) is not None
        desk, other = self._desks.get(frame.call.department_id), self._of_team.get(frame.call.team_id)
        for each in (desk,) if other is desk else (desk, other):  # a team that has moved counts on both sides
            if each is not None and (was_held or each.account.applies(frame)):
                each.account.end(frame)
                self._ended.add(each)
                self._schedule()

    def forget(self, rid: str) -> None:
        """A call has ended that nothing counts any more."""
        self._holds.pop(rid, None)

    def has_rules(self, department_id: int, team_id: int) -> bool:
        """Whether anything counts the calls of a team, which were the department's when they were admitted."""
        return department_id in self._desks or team_id in self._of_team

    def deadline_ms(self) -> int:
        """Until when a call that is admitted now may hold anything."""
        return self.clock.now_ms() + self._longest_call_ms + _AFTER_DEADLINE_MS

    async def _question(self, desk: _Desk, ask: Ask, patience: Patience) -> Admitted | Refused | Again:
        if not self._is_near(desk) and not await self._is_near_soon(desk):
            return AWAY_STORE
        question = _Question(self, desk, ask, patience)
        self._questions.append((desk, question))
        self._schedule()
        return await question.outcome

    async def _ask_extension(self, desk: _Desk, hold: Hold, to: Amounts) -> bool | Refused | Again:
        if not self._is_near(desk) and not await self._is_near_soon(desk):
            return AWAY_STORE
        extension = _Extension(self, desk, hold, to)
        self._questions.append((desk, extension))
        self._schedule()
        return await extension.outcome

    def _is_near(self, desk: _Desk) -> bool:
        """Whether the server that has the department's counters can be asked."""
        return self._connections.is_open(desk.key)

    async def _is_near_soon(self, desk: _Desk) -> bool:
        return await _within(self._connections.opened(desk.key), _BACK_SOON_S)

    async def _is_opened(self, desk: _Desk) -> bool:
        if not self._is_near(desk) and not await self._is_near_soon(desk):
            return False
        return await _within(desk.opened.wait(), _OPEN_S)

    # --- one turn of the loop --------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send what has gathered. Ends go first: what they give back is there for those who come.

        Of a crowd only so many are on their way at a time, and the others wait here: were all sent at once, the
        store would answer the last of them too late.
        """
        self._is_flush_due = False
        batch: list[tuple[Command, Taker]] = [(command, _ignore) for command in self._leaves]
        self._leaves = []  # their lease sees to what is lost
        while self._ended and self._under_way < _MOST_UNDER_WAY:
            desk = self._ended.pop()
            if desk.renewal is None:
                frames, commands = desk.account.next_settles()
                self._sent(desk, len(frames))
                batch += [
                    (command, _Settled(self, desk, frame).take)
                    for frame, command in zip(frames, commands, strict=True)
                ]
        while self._questions and self._under_way < _MOST_UNDER_WAY:
            desk, question = self._questions.popleft()
            if question.outcome.done():  # its caller has left, and nothing was asked of the store
                continue
            if desk.account.standing is not Standing.OPEN:
                question.outcome.set_result(Again.EPOCH)
                continue
            batch.append((question.make(), question.take))
            self._sent(desk, 1)
        if batch:
            self._connections.send(batch)

    def _sent(self, desk: _Desk, commands: int) -> None:
        desk.under_way += commands
        self._under_way += commands

    def answered(self, desk: _Desk) -> None:
        """A command was answered, or its reply will not come: there is room for another."""
        desk.under_way -= 1
        self._under_way -= 1
        if self._questions or self._ended:
            self._schedule()

    def settled(self, desk: _Desk, frame: EndFrame, reply: Reply | StoreLost) -> None:
        """What became of one settlement."""
        self.answered(desk)
        account = desk.account
        account.take_settle(frame, reply)
        desk.line.wake()
        if account.standing not in (Standing.OPEN, Standing.DECLARED):
            self.renew(desk)
        elif account.pending and isinstance(reply, list) and reply[0] >= 0:
            # What was not booked is tried again by and by (_keep_house).
            self._ended.add(desk)
            self._schedule()

    # --- what goes on meanwhile ------------------------------------------------------------------

    def renew(self, desk: _Desk) -> None:
        """Bring the department's account back to where it may admit, unless that is under way."""
        if self._desks.get(desk.account.department_id) is not desk:  # its rules are gone
            return
        if desk.opened.is_set():
            desk.opened.clear()
            desk.closed_at = time.monotonic()
        if desk.renewal is None:
            desk.renewal = asyncio.create_task(self._renew(desk))

    async def _renew(self, desk: _Desk) -> None:
        try:
            await self._renew_until_open(desk)
        finally:
            desk.renewal = None
        if desk.account.standing is Standing.OPEN:
            desk.open()
            self._ended.add(desk)
            self._schedule()

    async def _renew_until_open(self, desk: _Desk) -> None:
        account = desk.account
        while True:
            await self._connections.opened(desk.key)
            while desk.under_way:  # noqa: ASYNC110 - every command is answered or given up within its time limit
                await asyncio.sleep(0.002)
            try:
                standing = await self._drive(account.renew(self.clock.now_ms()))
                if standing is Standing.OPEN:
                    return
                if standing is Standing.LOST:
                    await self._run_in_thread(lambda: self._rebuild(account))
                elif standing is Standing.DECLARED:
                    await self._run_in_thread(lambda: self._open(account))
            except (StoreLost, RebuildFailed) as error:
                desk.say("are not open yet", error)
            except Exception as error:  # noqa: BLE001 - the edge of a task, which must not end before it is done
                desk.say("cannot be made anew", error)
                await asyncio.sleep(_RENEW_S * 4)
            await asyncio.sleep(_RENEW_S)

    async def _drive(self, steps: Steps) -> Standing:
        """Send what the account asks for until it is done. Raises StoreLost."""
        try:
            commands = next(steps)
            while True:
                replies = await self._connections.exchange(commands)
                commands = steps.send(replies)
        except StopIteration as done:
            standing: Standing = done.value
            return standing
        finally:
            steps.close()

    def _rebuild(self, account: Account) -> None:
        """Runs in a thread."""
        with contextlib.closing(DirectLink(self._connections.url, self._commands.scripts)) as link:
            rebuilder = self._make_rebuilder(link)
            rebuilder.rebuild(account.department_id, lost_in=account.lost_in)
            self.rebuilds += rebuilder.rebuilt
            rebuilder.open_if_declared(account.department_id)

    def _open(self, account: Account) -> None:
        """Runs in a thread."""
        with contextlib.closing(DirectLink(self._connections.url, self._commands.scripts)) as link:
            self._make_rebuilder(link).open_if_declared(account.department_id)

    def _settle_all(self) -> None:
        """Ends may have waited for a server that can be asked now."""
        self._ended.update(self._desks.values())
        self._schedule()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_MS / 1000)
            try:
                if self._connections.is_open(LEASES):
                    await self._extend_lease()
                await self._look_around()
            except Exception:  # a worker that does not beat is taken for dead
                logger.exception("A worker could not look after its counters.")

    async def _extend_lease(self) -> None:
        with contextlib.suppress(StoreLost):
            (reply,) = await self._connections.exchange([self._commands.beat(self._spool, LEASE_MS)])
            if not isinstance(reply, StoreRefused):
                self.clock.learn(reply[1])

    async def _look_around(self) -> None:
        """See whether counters that nobody has asked for lately are still there, some in each beat, in turn.

        Few are made anew at a time, so that those that callers wait for come first.
        """
        for number, desk in list(self._desks.items())[:_LOOK_AT]:
            if self._desks.pop(number, None) is not desk:  # its rules are gone
                continue
            self._desks[number] = desk  # the last in the next round
            if (
                desk.renewal is not None
                or desk.account.standing is not Standing.OPEN
                or not self._is_near(desk)
            ):
                continue
            try:
                (reply,) = await self._connections.exchange([self._commands.status(number, self._spool)])
            except StoreLost:
                continue
            if self._renewing >= _RENEW_AT_ONCE:
                return
            if not isinstance(reply, StoreRefused) and not desk.account.is_open_at(read_marker(reply)):
                desk.account.standing = Standing.LOST
                self.renew(desk)

    @property
    def _renewing(self) -> int:
        return sum(desk.renewal is not None for desk in self._desks.values())

    async def _keep_house(self) -> None:
        """Settlements that had to wait are tried again."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            waiting = [desk for desk in self._desks.values() if desk.account.pending and self._is_near(desk)]
            if waiting:
                self._ended.update(waiting)
                self._schedule()


class _Settled:
    """Takes the reply to one settlement."""

    __slots__ = ("_desk", "_frame", "_owner")

    def __init__(self, owner: Admissions, desk: _Desk, frame: EndFrame) -> None:
        self._owner = owner
        self._desk = desk
        self._frame = frame

    def take(self, reply: Reply | StoreLost) -> None:
        self._owner.settled(self._desk, self._frame, reply)


def _ignore(reply: Reply | StoreLost) -> None:
    """For a command whose fate does not matter."""


async def _within(event: Awaitable[object], limit_s: float) -> bool:
    """Whether `event` comes within the time."""
    try:
        async with asyncio.timeout(limit_s):
            await event
    except TimeoutError:
        return False
    return True
