"""One department as one worker sees it: which epoch it speaks in, which calls are open, which ends are not booked.

No I/O: it makes commands and judges replies. Where several round trips are needed it is a generator that yields
commands and is sent their replies, so that an event loop and a test drive the same code.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import replace
from enum import Enum, StrEnum, auto
from itertools import islice
from typing import Any

import msgspec

from billing.admission.commands import DECLARING, READY, Command, Commands, Marker, read_marker
from billing.admission.holds import (
    AT_ONCE,
    Amounts,
    Ask,
    EndFrame,
    Frames,
    FramesGone,
    Hold,
    HoldOwner,
    Patience,
    in_pieces,
)
from billing.admission.links import Reply, StoreLost, StoreRefused
from billing.admission.refusals import AWAY_STORE, Figures, Refused, refuse_budget, refuse_rate
from billing.admission.rules import Budget, Dimensions, Plan, RuleBook

_DONE, _NOTHING, _KNOWN = 1, 0, 2
_LATE, _OTHER_EPOCH, _LOST_COUNTER, _OTHER_WINDOW, _HARD, _HELD, _RATE, _GAP, _CHANGED, _OTHER_USER = range(
    -1, -11, -1
)
_BATCH = 64
_NO_REPLY = StoreLost("no reply came", was_sent=True)
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
    """Why a question is to be put again."""

    EPOCH = auto()  # once the account is open again
    WINDOW = auto()  # at once: the store's clock is in another window
    USER = auto()  # at once, as one of the key's other end users: too many have counters of their own
    HOLD = auto()  # at once: the store held another amount than this worker knew of


class AdmittedKind(StrEnum):
    """COUNTED: held in every counter that applies. UNCOUNTED: let in while the counters could not be asked, and
    counted afterwards. FREE: no rule applies."""

    COUNTED = "admitted"
    UNCOUNTED = "uncounted"
    FREE = "free"


class Level(msgspec.Struct, frozen=True):
    """What one rule leaves: `left` in its unit; `reset_ms` until it is whole again."""

    limit: int
    left: int
    reset_ms: int = 0


class Admitted(msgspec.Struct, frozen=True):
    """A call is let in. `admitted_ms` is the store's time, which decides on windows, hours and months. The levels are
    the tightest of their kind, where there is one."""

    rid: str
    admitted_ms: int
    requests: Level | None = None
    tokens: Level | None = None
    money: Level | None = None
    token_budget: Level | None = None
    is_other_user: bool = False
    kind: AdmittedKind = AdmittedKind.COUNTED


class Account:
    """See the module. `frames` is the worker's spool, `spool` its id, by which the worker is known too.

    `holds` are the open calls of the worker, which its accounts share: after a team has moved, its open calls
    count in two departments. `not_before_ms`: until when commands of another process for this spool may still be
    carried out; who adopts a dead worker's spool gives it.
    """

    def __init__(
        self,
        book: RuleBook,
        commands: Commands,
        spool: str,
        frames: Frames,
        *,
        holds: dict[str, Hold] | None = None,
        not_before_ms: int = 0,
    ) -> None:
        self.book = book
        self.department_id = book.department_id
        self.standing = Standing.LOST
        self.lost_in = 0  # the epoch in which a counter, or a frame, was found missing
        self.holds: dict[str, Hold] = {} if holds is None else holds
        self.pending: deque[EndFrame] = deque()  # in the order of their numbers
        self._commands = commands
        self._spool = spool
        self._frames = frames
        self._booked = 0  # the last number known to be booked in this epoch
        self._sent = 0  # how many of the pending frames are on their way, in order, from the first
        self.is_halted = False  # one of them was not booked: all are sent again once their replies are here
        self._has_gap = False  # the store asks for a frame that is not pending any more
        self._epoch = 0  # in which it has declared
        self._not_before: dict[str, int] = {}  # until when a lost command may still hold a call
        self._nothing_before_ms = not_before_ms

    def learn(self, book: RuleBook) -> None:
        """Other rules are in force. When they make a new epoch, nothing is said in the old one any more."""
        if book.epoch != self.book.epoch:
            self.standing = Standing.LOST
        self.book = book

    def concerns(self, call: Dimensions) -> bool:
        """Whether a call counts here: it was the department's when it was admitted, or its team is now."""
        return call.department_id == self.department_id or call.team_id in self.book.team_ids

    # --- admission -------------------------------------------------------------------------------

    def plan(self, ask: Ask, now_ms: int) -> Plan:
        """By which rules `ask` is judged."""
        return self.book.plan(ask.call, now_ms // 1000)

    def admit(
        self, ask: Ask, plan: Plan, now_ms: int, deadline_ms: int, patience: Patience = AT_ONCE
    ) -> Command:
        """The command that holds `ask`, if it arrives within the time limit, or lets it stand in a queue. Its reply
        goes to `admitted`; without one, `admission_lost` must be told."""
        self._may_come(ask.rid, now_ms)
        owner = msgspec.json.encode(HoldOwner(self._spool, deadline_ms, ask.call))
        return self._commands.admit(self._epoch, ask, plan, owner, now_ms + LIMIT_MS, patience)

    def leave(self, ask: Ask, now_ms: int, patience: Patience) -> Command:
        """The command that gives up the places of `ask` in queues."""
        return self._commands.leave(self._epoch, ask, self.plan(ask, now_ms), patience)

    def admitted(self, ask: Ask, plan: Plan, reply: Reply, deadline_ms: int) -> Admitted | Refused | Again:
        """What the reply means; a call that is held is open from now on."""
        self._not_before.pop(ask.rid, None)
        if isinstance(reply, StoreRefused) or reply[0] == _LATE:
            return AWAY_STORE
        code, now_ms = reply[0], reply[1]
        if code in (_DONE, _KNOWN):
            owner = msgspec.json.encode(HoldOwner(self._spool, deadline_ms, ask.call))
            self.holds[ask.rid] = Hold(ask, now_ms, ask.most, owner)
            if code == _DONE:
                return _read_levels(ask, plan, reply)
            return Admitted(ask.rid, now_ms, is_other_user=ask.call.is_other_user)
        if code == _OTHER_WINDOW:
            return Again.WINDOW
        if code == _OTHER_USER:
            return Again.USER
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
        return Admitted(ask.rid, now_ms, is_other_user=ask.call.is_other_user, kind=AdmittedKind.UNCOUNTED)

    def admission_lost(self, ask: Ask, now_ms: int) -> None:
        """The store may hold `ask` or not, until its time limit is over: its end must be booked after that."""
        self._may_come(ask.rid, now_ms)

    def admission_unsent(self, ask: Ask) -> None:
        """The command was never sent."""
        self._not_before.pop(ask.rid, None)

    def _may_come(self, rid: str, now_ms: int) -> None:
        """A command that holds a call was sent; clocks are set back, so the latest of its limits counts."""
        self._not_before[rid] = max(self._not_before.get(rid, 0), now_ms + LIMIT_MS)

    # --- a reservation that grows ----------------------------------------------------------------

    def plan_of(self, hold: Hold) -> Plan:
        """By which rules an open call is counted."""
        return self.book.plan(hold.ask.call, hold.admitted_ms // 1000)

    def extend(self, hold: Hold, to: Amounts, now_ms: int) -> Command:
        """The command that brings `hold` to `to` in all. Sent twice it does so once; and one that comes after the
        end of its call finds no hold, so an outcome that nobody learns needs no care."""
        return self._commands.extend(self._epoch, hold, to - hold.amounts, now_ms + LIMIT_MS)

    def extended(self, hold: Hold, to: Amounts, reply: Reply) -> bool | Refused | Again:
        """What the reply means. What is held is remembered: it is what a new epoch must hear of."""
        if isinstance(reply, StoreRefused):
            self._refused(reply)
            return AWAY_STORE
        code, now_ms, *rest = reply
        if code in (_DONE, _KNOWN):
            hold.step, hold.amounts = hold.step + 1, to
            return True
        if code == _CHANGED:
            step, money, tokens = (int(figure) for figure in rest)
            hold.step, hold.amounts = step, Amounts(money, tokens)
            return Again.HOLD
        if code in (_OTHER_EPOCH, _LOST_COUNTER):
            if code == _LOST_COUNTER:
                self.lost_in = self._epoch
            self.standing = Standing.LOST
            return Again.EPOCH
        if code in (_HARD, _HELD):
            return _read_extend_refusal(to - hold.amounts, self.plan_of(hold), code, now_ms, rest)
        return AWAY_STORE  # too late, or a call that the store does not hold

    def extend_uncounted(self, hold: Hold, to: Amounts) -> None:
        """Let a call go on that the store cannot be asked for: it is declared, or extended later, by all of it."""
        hold.amounts = to

    # --- the end of a call -----------------------------------------------------------------------

    def applies(self, frame: EndFrame) -> bool:
        """Whether a rule counts the call that ended."""
        may_be_held = frame.rid in self._not_before
        return may_be_held or bool(self.book.plan(frame.call, frame.admitted_ms // 1000).rules)

    def end(self, frame: EndFrame) -> None:
        """A call has ended, and its frame is in the spool. Tell every account of the worker."""
        self.holds.pop(frame.rid, None)
        if not self.concerns(frame.call):
            return
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
            replies: list[Reply] = [_NO_REPLY] * len(frames)
            try:
                replies = yield commands
            finally:  # also when the connection is lost and nobody goes on with these steps
                for frame, reply in zip(frames, replies, strict=True):
                    self.take_settle(frame, reply)
            if self.pending and self.pending[0] is frames[0]:
                return self.standing

    def _settle(self, before: int, frame: EndFrame) -> Command:
        plan = self.book.plan(frame.call, frame.admitted_ms // 1000)
        not_before = max(self._nothing_before_ms, self._not_before.get(frame.rid, 0))
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
            if self.book.epoch != marker.n:  # the rules changed meanwhile
                return self.standing
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
        self.pending = deque(self._frames.after(booked, self.concerns))
        self._booked, self._has_gap = booked, False

    def is_open_at(self, marker: Marker) -> bool:
        """Whether the store still has the counters that this account is open for."""
        is_ours = marker.n == self._epoch == self.book.epoch
        return is_ours and marker.is_of_this_run and marker.state == READY

    def _may_speak(self, marker: Marker) -> bool:
        if marker.n > self.book.epoch:
            self.standing = Standing.BEHIND
        elif marker.n == self.book.epoch and marker.is_of_this_run and marker.state not in (DECLARING, READY):
            self.standing = Standing.REBUILDING
        return marker.n == self.book.epoch and marker.is_whole

    def _declare(self, epoch: int, now_ms: int) -> Generator[list[Command], list[Reply], None]:
        """Raises StoreLost when not all could be declared; those that were change nothing the next time."""
        mine = [hold for hold in self.holds.values() if self.concerns(hold.ask.call)]
        for holds in in_pieces(mine, _BATCH):
            before = {hold.ask.rid: self._not_before.get(hold.ask.rid, 0) for hold in holds}
            for hold in holds:  # until its reply is here, none of these is known not to come later
                self._may_come(hold.ask.rid, now_ms)
            replies = yield [self._declaration(epoch, hold, now_ms) for hold in holds]
            for hold, reply in zip(holds, replies, strict=True):
                if isinstance(reply, StoreRefused) or reply[0] not in (_DONE, _KNOWN, _NOTHING):
                    raise StoreLost("an open call could not be declared", was_sent=True)
                if before[hold.ask.rid]:  # one that was given up before may still come
                    self._not_before[hold.ask.rid] = before[hold.ask.rid]
                else:
                    del self._not_before[hold.ask.rid]

    def _declaration(self, epoch: int, hold: Hold, now_ms: int) -> Command:
        return self._commands.declare(epoch, self.department_id, hold, self.plan_of(hold), now_ms + LIMIT_MS)


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
        is_other_user=ask.call.is_other_user,
    )


def _level(plan: Plan, index: int, left: int, reset_ms: int = 0) -> Level | None:
    return Level(plan.rules[index].amount, max(0, left), reset_ms) if index >= 0 else None


def _read_refusal(ask: Ask, plan: Plan, reply: list[int]) -> Refused:
    code, now_ms, index, counted, used, reserved, wait_ms, place = reply
    rule = plan.rules[index]
    taken = int(counted) + int(used)
    if isinstance(rule, Budget):
        figures = Figures(taken, int(reserved), ask.most.of(rule.unit))
        end_ms = plan.ends[index] * 1000
        refused = refuse_budget(rule, is_hard=code == _HARD, now_ms=now_ms, end_ms=end_ms, figures=figures)
        return replace(refused, place=place)
    asked = ask.rate_tokens if rule.rate == "tpm" else 1
    figures = Figures(taken, int(reserved), asked)
    return replace(refuse_rate(rule, now_ms=now_ms, wait_ms=wait_ms, figures=figures), place=place)


def _read_extend_refusal(more: Amounts, plan: Plan, code: int, now_ms: int, rest: list[Any]) -> Refused:
    """The counter that refused is told by its name."""
    name, counted, used, reserved, _ = rest
    if name.decode() not in plan.names:  # its rule was deleted, which the store learns with the next epoch
        return AWAY_STORE
    index = plan.names.index(name.decode())
    rule = plan.rules[index]
    assert isinstance(rule, Budget)  # noqa: S101 - only budgets are asked
    figures = Figures(int(counted) + int(used), int(reserved), more.of(rule.unit))
    return refuse_budget(
        rule, is_hard=code == _HARD, now_ms=now_ms, end_ms=plan.ends[index] * 1000, figures=figures
    )


def held(account: Account) -> Amounts:
    """What a worker's open calls hold."""
    total = Amounts()
    for hold in account.holds.values():
        total += hold.amounts
    return total
