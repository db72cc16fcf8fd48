"""One process that serves calls: its spool, its accounts, and what befalls it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import Protocol

import msgspec

from billing.admission.account import Account, Admitted, Again, Standing, Steps
from billing.admission.commands import Commands
from billing.admission.holds import Amounts, Ask, EndFrame, Hold
from billing.admission.links import Exchange, StoreLost
from billing.admission.rebuild import LEASE_MS
from billing.admission.rules import Dimensions, Plan, RuleBook
from tests.admission.fuzz.store import Channel
from tests.admission.fuzz.tables import Record, record_of

NEVER_MS = 2**50
MOST_SKEW_MS = 900


class Stage(Enum):
    """Of a call, as the one who sees everything knows it."""

    ASKED = auto()  # nobody knows whether it is held
    REFUSED = auto()
    OPEN = auto()  # admitted, its first frame written: the backend is called
    ENDED = auto()  # its last frame is written
    CANCELLED = auto()  # nobody called the backend, and a frame says so


@dataclass(slots=True)
class Call:
    """One call and its truth. `losses`: how often the store had lost something when it was admitted."""

    rid: str
    dims: Dimensions
    most: Amounts
    true: Amounts
    spool: str
    losses: int
    stage: Stage = Stage.ASKED
    admitted_ms: int = 0
    may_be_missing: bool = False  # the store lost it and so did its disk

    @property
    def is_served(self) -> bool:
        return self.stage in (Stage.OPEN, Stage.ENDED)


@dataclass(frozen=True, slots=True)
class SpoolFrame:
    """`end` is missing while a call is only begun."""

    seq: int
    rid: str
    end: EndFrame | None
    record: Record | None


class State(Enum):
    """Of a worker."""

    ALIVE = auto()
    PAUSED = auto()
    DEAD = auto()  # its spool is there
    LOST = auto()  # its spool is not


class Surroundings(Protocol):
    """What a worker sees of the world."""

    rng: Random
    now_ms: int
    off: frozenset[str]
    calls: dict[str, Call]

    def book_of(self, department_id: int) -> RuleBook: ...

    def allow(self, call: Call, plan: Plan, account: Account) -> None: ...


class AccountWithoutDeclaring(Account):
    """Ablation: open calls are forgotten with their epoch."""

    def _declare(self, epoch: int, now_ms: int) -> Iterator[None]:  # type: ignore[override]
        return iter(())


def drive(steps: Steps, link: Exchange) -> Standing:
    """Carry out what an account wants. Raises StoreLost."""
    try:
        commands = next(steps)
        while True:
            commands = steps.send(link.exchange(commands))
    except StopIteration as end:
        standing: Standing = end.value
        return standing
    finally:
        steps.close()


@dataclass
class Worker:
    """See the module. `skew_ms`: how far its idea of the store's time is off."""

    world: Surroundings
    spool: str
    channel: Channel
    commands: Commands
    departments: tuple[int, ...]
    skew_ms: int = 0
    state: State = State.ALIVE
    died_ms: int = 0
    was_quiet: bool = False  # it was paused once: others may have taken it for dead
    is_adopted: bool = False
    beaten_ms: int = 0
    shipped: int = 0
    frames: list[SpoolFrame] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    accounts: dict[int, Account] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.make_accounts(not_before_ms=0)

    def make_accounts(self, *, not_before_ms: int) -> None:
        """New ones: a new process serves this spool."""
        kind = AccountWithoutDeclaring if "declare" in self.world.off else Account
        self.accounts = {
            department: kind(
                self.world.book_of(department),
                self.commands,
                self.spool,
                _Frames(self, department),
                holds=self.holds,
                not_before_ms=not_before_ms,
            )
            for department in self.departments
        }

    @property
    def now_ms(self) -> int:
        return self.world.now_ms + self.skew_ms

    # --- calls -------------------------------------------------------------------------------------

    def admit_if_open(self, calls: list[Call], *, dies: bool = False) -> None:
        """One batch of a department; else it looks whether it may admit again. `dies`: before it sees the replies.

        Raises StoreLost when it only looked.
        """
        account = self.accounts[calls[0].dims.department_id]
        if account.standing is Standing.OPEN:
            self._admit(account, calls, dies=dies)
        else:
            self.renew(account.department_id)

    def _admit(self, account: Account, calls: list[Call], *, dies: bool) -> None:
        now_ms = self.now_ms
        asks = [Ask(call.rid, call.dims, call.most, call.most.tokens) for call in calls]
        plans = [account.plan(ask, now_ms) for ask in asks]
        for call in calls:
            self.calls[call.rid] = call
            self.world.calls[call.rid] = call
        batch = [account.admit(ask, plan, now_ms, NEVER_MS) for ask, plan in zip(asks, plans, strict=True)]
        try:
            replies = self.channel.exchange(batch)
        except StoreLost:
            for ask, call in zip(asks, calls, strict=True):
                account.admission_lost(ask, now_ms)
                if not dies and "cancel" not in self.world.off:
                    self._cancel(call)
            return
        if dies:
            return
        others = []
        for call, ask, plan, reply in zip(calls, asks, plans, replies, strict=True):
            found = account.admitted(ask, plan, reply, NEVER_MS)
            if isinstance(found, Admitted):
                call.admitted_ms = found.admitted_ms
                self.world.allow(call, plan, account)
                call.stage = Stage.OPEN
                self._append(call, None)
            elif found is Again.WINDOW:
                call.stage = Stage.REFUSED  # its clock is wrong; the next call is another try
                self.skew_ms = 0
            elif found is Again.USER:
                call.dims = msgspec.structs.replace(call.dims, is_other_user=True)
                others.append(call)
            else:
                call.stage = Stage.REFUSED
        if others:
            self._admit(account, others, dies=False)

    def _cancel(self, call: Call) -> None:
        call.stage, call.admitted_ms = Stage.CANCELLED, self.now_ms
        self._append(call, Amounts())

    def finish(self, call: Call) -> None:
        """The backend has answered, and the last frame is written."""
        call.stage = Stage.ENDED
        self._append(call, call.true)

    def _append(self, call: Call, true: Amounts | None, *, is_abandoned: bool = False) -> None:
        seq = len(self.frames) + 1
        if true is None:
            self.frames.append(SpoolFrame(seq, call.rid, None, None))
            return
        end = EndFrame(seq, call.rid, call.admitted_ms, call.dims, true)
        record = record_of(self.spool, end, is_abandoned=is_abandoned)
        end = EndFrame(seq, call.rid, call.admitted_ms, call.dims, true, msgspec.json.encode(record))
        self.frames.append(SpoolFrame(seq, call.rid, end, record))
        for account in self.accounts.values():
            account.end(end)

    def open_calls(self) -> list[Call]:
        """Those that its frames say to be open."""
        ended = {frame.rid for frame in self.frames if frame.end is not None}
        return [self.calls[frame.rid] for frame in self.frames if frame.rid not in ended]

    # --- the store -----------------------------------------------------------------------------------

    def settle(self, department: int) -> None:
        account = self.accounts[department]
        drive(account.settle(), self.channel)
        self.sent[department] = account._booked

    def renew(self, department: int) -> Standing:
        """Catch up with the store, by the rules as they are now."""
        account = self.accounts[department]
        account.learn(self.world.book_of(department))
        standing = drive(account.renew(self.now_ms), self.channel)
        self.sent[department] = account._booked
        return standing

    def beat(self) -> None:
        """Raises StoreLost."""
        self.channel.exchange([self.commands.beat(self.spool, LEASE_MS)])
        self.beaten_ms = self.world.now_ms

    # --- its end -------------------------------------------------------------------------------------

    def die(self, *, with_disk: bool) -> None:
        self.state, self.died_ms = State.LOST if with_disk else State.DEAD, self.world.now_ms
        self.channel.close()

    def adopt(self, margin_ms: int) -> None:
        """Another process ends what this one left open, at the estimate, and books it."""
        self.is_adopted = True
        self.holds.clear()
        self.make_accounts(not_before_ms=self.now_ms + margin_ms)
        for call in self.open_calls():
            self._append(call, call.most, is_abandoned=True)


@dataclass(frozen=True, slots=True)
class _Frames:
    """See Frames."""

    worker: Worker
    department: int

    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> Iterator[EndFrame]:
        if "resend" in self.worker.world.off:  # ablation: what was sent once is not looked at again
            seq = max(seq, self.worker.sent.get(self.department, 0))
        for frame in self.worker.frames:
            if frame.seq > seq and frame.end is not None and concerns(frame.end.call):
                yield frame.end
