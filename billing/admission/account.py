"""One department as one worker sees it: which epoch it speaks in, which calls are open, which ends are not booked.

No I/O: it makes commands and judges replies. Where several round trips are needed it is a generator that yields
commands and is sent their replies, so that an event loop and a test drive the same code.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from itertools import islice

import msgspec

from billing.admission.commands import DECLARING, READY, Command, Commands, Marker, read_marker
from billing.admission.holds import Amounts, Ask, EndFrame, Frames, FramesGone, Hold, HoldOwner, in_pieces
from billing.admission.links import Reply, StoreLost, StoreRefused
from billing.admission.refusals import AWAY_STORE, Figures, Refused, refuse_budget, refuse_rate
from billing.admission.rules import Budget, Plan, RuleBook

_DONE, _NOTHING, _KNOWN = 1, 0, 2
_LATE, _OTHER_EPOCH, _LOST_COUNTER, _OTHER_WINDOW, _HARD, _HELD, _RATE, _GAP = range(-1, -9, -1)
_BATCH = 64
LIMIT_MS = 250

Steps = Generator[list[Command], list[Reply], "Standing"]


class Standing(Enum):
    """Where a worker stands with a department's counters."""

    OPEN = auto()  # it may admit
    DECLARED = auto()  # it has declared; others have not, yet
    BEHIND = auto()  # the store speaks of a later epoch: read the rules again
    REBUILDING = auto()  # somebody makes the counters anew
    LOST = auto()  # somebody must


class Again(Enum):
    """Why an admission is to be tried again."""

    EPOCH = auto()  # once the account is open again
    WINDOW = auto()  # at once: the store's clock is in another window


class AdmittedKind(StrEnum):
    """COUNTED: held in every counter that applies. UNCOUNTED: let in while the counters could not be asked, and
    counted afterwards. FREE: no rule applies."""

    COUNTED = "admitted"
    UNCOUNTED = "uncounted"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Level:
    """What one rule leaves: `left` in its unit; `reset_ms` until it is whole again."""

    limit: int
    left: int
    reset_ms: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call is let in. `admitted_ms` is the store's time, which decides on windows, hours and months. The levels are
    the tightest of their kind, where there is one."""

    rid: str
    admitted_ms: int
    requests: Level | None = None
    tokens: Level | None = None
    money: Level | None = None
    token_budget: Level | None = None
    kind: AdmittedKind = AdmittedKind.COUNTED


class Account:
    """See the module. `frames` is the worker's spool, `spool` its id, by which the worker is known too."""

    def __init__(self, book: RuleBook, commands: Commands, spool: str, frames: Frames) -> None:
        self.book = book
        self.department_id = book.department_id
        self.standing = Standing.LOST
        self.lost_in = 0  # the epoch in which a counter, or a frame, was found missing
        self.holds: dict[str, Hold] = {}
        self.pending: deque[EndFrame] = deque()  # in the order of their numbers
        self._commands = commands
        self._spool = spool
        self._frames = frames
        self._booked = 0  # the last number known to be booked in this epoch
        self._sent = 0  # how many of the pending frames are on their way, in order, from the first
        self.is_halted = (
            False  # one of those was not booked: all are to be sent again, once their replies are here
        )
        self._has_gap = False  # the store asks for a frame that is not pending any more
        self._epoch = 0  # in which it has declared
        self._not_before: dict[str, int] = {}  # until when a lost command may still hold a call

    # --- admission -------------------------------------------------------------------------------

    def plan(self, ask: Ask, now_ms: int) -> Plan:
        """By which rules `ask` is judged."""
        return self.book.plan(ask.call, now_ms // 1000)

    def admit(self, ask: Ask, plan: Plan, now_ms: int, deadline_ms: int) -> Command:
        """The command that holds `ask`, if it arrives within the time limit."""
        owner = msgspec.json.encode(HoldOwner(self._spool, deadline_ms, ask.call))
        return self._commands.admit(self._epoch, ask, plan, owner, now_ms + LIMIT_MS)

    def admitted(self, ask: Ask, plan: Plan, reply: Reply, deadline_ms: int) -> Admitted | Refused | Again:
        """What the reply means; a call that is held is open from now on."""
        if isinstance(reply, StoreRefused) or reply[0] == _LATE:
            return AWAY_STORE
        code, now_ms = reply[0], reply[1]
        if code in (_DONE, _KNOWN):
            owner = msgspec.json.encode(HoldOwner(self._spool, deadline_ms, ask.call))
            self.holds[ask.rid] = Hold(ask, now_ms, ask.most, owner)
            return _read_levels(ask, plan, reply) if code == _DONE else Admitted(ask.rid, now_ms)
        if code == _OTHER_WINDOW:
            return Again.WINDOW
        if code in (_OTHER_EPOCH, _LOST_COUNTER):
            if code == _LOST_COUNTER:
                self.lost_in = self._epoch
            self.standing = Standing.LOST
            return Again.EPOCH
        return _read_refusal(ask, plan, reply)

    def admit_uncounted(self, ask: Ask, now_ms: int, deadline_ms: int) -> Admitted:
        """Let a call in that the store was not asked for: it is declared, or booked at its end, as soon as it can."""
        owner = msgspec.json.encode(HoldOwner(self._spool, deadline_ms, ask.call))
        self.holds[ask.rid] = Hold(ask, now_ms, ask.most, owner)
        return Admitted(ask.rid, now_ms, kind=AdmittedKind.UNCOUNTED)

    def admission_lost(self, ask: Ask, now_ms: int) -> None:
        """The store may hold `ask` or not, until its time limit is over: its end must be booked after that."""
        self._not_before[ask.rid] = now_ms + LIMIT_MS

    # --- the end of a call -----------------------------------------------------------------------

    def applies(self, frame: EndFrame) -> bool:
        """Whether a rule counts the call that ended."""
        return bool(self.book.plan(frame.call, frame.admitted_ms // 1000).rules)

    def end(self, frame: EndFrame) -> None:
        """A call has ended, and its frame is in the spool."""
        self.holds.pop(frame.rid, None)
        if frame.seq > (self.pending[-1].seq if self.pending else self._booked):
            self.pending.append(frame)

    def next_settles(self) -> tuple[list[EndFrame], list[Command]]:
        """Pending frames that are not on their way yet, in order, and the commands that book them; at most 64.

        The reply to each must be given to `take_settle`, in order, also when there is none.
        """
        if self.is_halted or self.standing not in (Standing.OPEN, Standing.DECLARED):
            return [], []
        frames = list(islice(self.pending, self._sent, self._sent + _BATCH))
        last = self.pending[self._sent - 1].seq if self._sent else self._booked
        self._sent += len(frames)
        before = [last, *(frame.seq for frame in frames)]
        return frames, [self._settle(last, frame) for last, frame in zip(before, frames, strict=False)]

    def take_settle(self, frame: EndFrame, reply: Reply | StoreLost) -> None:
        """What became of one command of `next_settles`. A frame that was not booked stops those after it."""
        self._sent -= 1
        if isinstance(reply, StoreLost | StoreRefused):
            self.is_halted = True
            if isinstance(reply, StoreRefused):
                self._refused(reply)
        elif reply[0] in (_DONE, _NOTHING):
            self._booked = max(self._booked, frame.seq)
            self._not_before.pop(frame.rid, None)
            if self.pending and self.pending[0].seq == frame.seq:
                self.pending.popleft()
        else:
            if not self.is_halted and reply[0] in (_OTHER_EPOCH, _GAP):
                self.standing = Standing.LOST
                self._has_gap = reply[0] == _GAP
            self.is_halted = True
        if not self._sent:
            self.is_halted = False

    def settle(self) -> Steps:
        """Book the pending frames, in order, as far as the store lets."""
        while True:
            frames, commands = self.next_settles()
            if not frames:
                return self.standing
            for frame, reply in zip(frames, (yield commands), strict=True):
                self.take_settle(frame, reply)
            if self.pending and self.pending[0] is frames[0]:
                return self.standing

    def _settle(self, before: int, frame: EndFrame) -> Command:
        plan = self.book.plan(frame.call, frame.admitted_ms // 1000)
        not_before = self._not_before.get(frame.rid, 0)
        return self._commands.settle(
            self._epoch, self.department_id, self._spool, before, frame, plan, not_before
        )

    def _refused(self, error: StoreRefused) -> None:
        """A counter that cannot be written is made anew; a store that is not well is waited for."""
        if str(error).startswith(("WRONGTYPE", "ERR")) or "script" in str(error):
            self.lost_in, self.standing = self._epoch, Standing.LOST

    # --- a new epoch -----------------------------------------------------------------------------

    def renew(self, now_ms: int) -> Steps:
        """Find out where the store stands; in a new epoch declare the open calls and send again what the ledger
        did not hold. No admission or settlement may be under way meanwhile."""
        self.standing = Standing.LOST
        (reply,) = yield [self._commands.status(self.department_id, self._spool)]
        if isinstance(reply, StoreRefused):
            return self.standing
        marker = read_marker(reply)
        if marker.n == self.lost_in or not self._may_speak(marker):
            return self.standing
        if self._epoch != marker.n:
            yield from self._declare(marker.n, now_ms)
            self._has_gap = True
        if self._has_gap:
            try:
                self._read_pending(marker.booked)
            except FramesGone:  # this epoch cannot be completed; one made of the ledger as it is now can
                self.lost_in = marker.n
                return self.standing
            self._epoch = marker.n
        self.standing = Standing.DECLARED
        yield from self.settle()
        if self.pending or self.standing is not Standing.DECLARED:
            return self.standing
        if self._spool not in marker.acknowledged:
            (reply,) = yield [self._commands.acknowledge(self._epoch, self.department_id, self._spool)]
            if isinstance(reply, StoreRefused) or reply[0] != _DONE:
                self.standing = Standing.LOST
        if marker.state == READY and self.standing is Standing.DECLARED:
            self.standing = Standing.OPEN
        return self.standing

    def _read_pending(self, booked: int) -> None:
        """All frames that this epoch does not hold. Raises FramesGone, and then nothing is changed."""
        self.pending = deque(self._frames.after(booked, self.department_id))
        self._booked, self._has_gap = booked, False

    def _may_speak(self, marker: Marker) -> bool:
        if marker.n > self.book.epoch:
            self.standing = Standing.BEHIND
        elif marker.n == self.book.epoch and marker.is_of_this_run and marker.state not in (DECLARING, READY):
            self.standing = Standing.REBUILDING
        return marker.n == self.book.epoch and marker.is_whole

    def _declare(self, epoch: int, now_ms: int) -> Generator[list[Command], list[Reply], None]:
        """Raises StoreLost when not all could be declared; those that were change nothing the next time."""
        for holds in in_pieces(list(self.holds.values()), _BATCH):
            for hold in holds:  # until its reply is here, none of these is known not to come later
                self._not_before[hold.ask.rid] = now_ms + LIMIT_MS
            replies = yield [self._declaration(epoch, hold, now_ms) for hold in holds]
            for hold, reply in zip(holds, replies, strict=True):
                if isinstance(reply, StoreRefused) or reply[0] not in (_DONE, _KNOWN, _NOTHING):
                    raise StoreLost("an open call could not be declared", was_sent=True)
                self._not_before.pop(hold.ask.rid, None)

    def _declaration(self, epoch: int, hold: Hold, now_ms: int) -> Command:
        plan = self.book.plan(hold.ask.call, hold.admitted_ms // 1000)
        return self._commands.declare(epoch, self.department_id, hold, plan, now_ms + LIMIT_MS)


def _read_levels(ask: Ask, plan: Plan, reply: list[int]) -> Admitted:
    _, now_ms, *found = reply
    requests, tokens = _level(plan, *found[0:3]), _level(plan, *found[3:6])
    return Admitted(
        ask.rid,
        now_ms,
        requests,
        tokens,
        money=_level(plan, *found[6:8]),
        token_budget=_level(plan, *found[8:10]),
    )


def _level(plan: Plan, index: int, left: int, reset_ms: int = 0) -> Level | None:
    return Level(plan.rules[index].amount, max(0, left), reset_ms) if index >= 0 else None


def _read_refusal(ask: Ask, plan: Plan, reply: list[int]) -> Refused:
    code, now_ms, index, counted, used, reserved, wait_ms = reply
    rule = plan.rules[index]
    taken = int(counted) + int(used)
    if isinstance(rule, Budget):
        figures = Figures(taken, int(reserved), ask.most.of(rule.unit))
        end_ms = plan.ends[index] * 1000
        return refuse_budget(rule, is_hard=code == _HARD, now_ms=now_ms, end_ms=end_ms, figures=figures)
    asked = ask.rate_tokens if rule.rate == "tpm" else 1
    return refuse_rate(rule, now_ms=now_ms, wait_ms=wait_ms, figures=Figures(taken, int(reserved), asked))


def held(account: Account) -> Amounts:
    """What a worker's open calls hold."""
    total = Amounts()
    for hold in account.holds.values():
        total += hold.amounts
    return total
