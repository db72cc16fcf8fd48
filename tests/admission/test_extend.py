"""A reservation that grows, under every fate of its commands: what is counted as held is what is held, always."""

import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from billing.admission.account import Account, Again, Standing, held
from billing.admission.adoption import drive
from billing.admission.commands import Command
from billing.admission.holds import Amounts, Ask, EndFrame, Hold, read_hold
from billing.admission.refusals import RefusalKind, Refused
from billing.admission.rules import Budget, Dimensions, Limit, Owner, Rate, RuleBook, Scope, Unit
from billing.admission.windows import Period
from tests.admission.desk import NEVER, Desk

TEAM = Owner(Scope.TEAM, 5, "search")
MONEY = Budget(1, TEAM, Unit.MONEY, Period.MONTH, 10_000)
TOKENS = Budget(2, TEAM, Unit.TOKENS, Period.DAY, 5_000)
MORE = Amounts(100, 40)
MakeDesk = Callable[..., Desk]


class Spooled:
    """The ends of calls, as a spool tells them."""

    def __init__(self) -> None:
        self.frames: list[EndFrame] = []

    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> Iterable[EndFrame]:
        return [frame for frame in self.frames if frame.seq > seq]


class Worker:
    """An account on a desk. Each command is sent, lost before it arrives, or carried out without a reply."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.spool = Spooled()
        self.account = Account(desk.book, desk.commands, str(uuid.uuid4()), self.spool)
        self.renew()

    def renew(self) -> None:
        assert drive(self.desk.link, self.account.renew(self.desk.time_ms())) is Standing.OPEN

    def new_epoch(self) -> None:
        """The counters are made anew out of nothing, and hear what this worker holds and has ended."""
        self.desk.epoch += 1
        self.desk.open_epoch()
        self.desk.book = RuleBook(
            self.desk.department_id, self.desk.epoch, ZoneInfo("UTC"), self.desk.book.rules
        )
        self.account.book = self.desk.book
        self.renew()

    def send(self, command: Command) -> Any:
        (reply,) = self.desk.link.exchange([command])
        return reply

    def admit(self, amounts: Amounts = MORE) -> Hold:
        ask = Ask(str(uuid.uuid4()), self.desk.call, amounts)
        now_ms = self.desk.time_ms()
        plan = self.account.plan(ask, now_ms)
        self.account.admitted(ask, plan, self.send(self.account.admit(ask, plan, now_ms, NEVER)), NEVER)
        return self.account.holds[ask.rid]

    def command(self, hold: Hold, to: Amounts) -> Command:
        return self.account.extend(hold, to, self.desk.time_ms())

    def extend(self, hold: Hold, to: Amounts) -> bool | Refused | Again:
        return self.account.extended(hold, to, self.send(self.command(hold, to)))

    def end(self, hold: Hold) -> None:
        frame = EndFrame(
            len(self.spool.frames) + 1, hold.ask.rid, hold.admitted_ms, hold.ask.call, Amounts(1, 1)
        )
        self.spool.frames.append(frame)
        self.account.end(frame)
        assert drive(self.desk.link, self.account.settle()) is Standing.OPEN
        assert not self.account.pending

    def stored(self) -> Amounts:
        """What the store's holds come to."""
        *_, flat = self.desk.run("holds")
        total = Amounts()
        for rid, packed in zip(flat[::2], flat[1::2], strict=True):
            total += read_hold(rid, packed).amounts
        return total

    def reserved(self) -> Amounts:
        """What its counters say is held."""
        return Amounts(self.desk.counter(0)[2], self.desk.counter(1)[2])


@pytest.fixture
def worker(make_desk: MakeDesk) -> Worker:
    return Worker(make_desk(MONEY, TOKENS))


def test_what_is_extended_is_declared_in_a_new_epoch(worker: Worker) -> None:
    hold = worker.admit()
    assert worker.extend(hold, hold.amounts + MORE) is True
    worker.new_epoch()
    assert worker.reserved() == worker.stored() == held(worker.account) == MORE + MORE
    assert worker.extend(hold, hold.amounts + MORE) is True
    assert worker.reserved() == MORE + MORE + MORE


def test_a_command_whose_reply_was_lost_is_sent_again(worker: Worker) -> None:
    hold = worker.admit()
    to = hold.amounts + MORE
    worker.send(worker.command(hold, to))
    assert worker.extend(hold, to) is True
    assert worker.reserved() == worker.stored() == held(worker.account) == to


def test_a_command_of_before_a_new_epoch_does_nothing_in_it(worker: Worker) -> None:
    hold = worker.admit()
    late = worker.command(hold, hold.amounts + MORE)
    worker.new_epoch()
    worker.send(late)
    assert worker.reserved() == worker.stored() == MORE
    assert worker.extend(hold, hold.amounts + MORE) is True


@pytest.mark.parametrize("is_carried_out", [False, True])
def test_a_call_that_went_on_uncounted_holds_all_of_it_at_the_next_step(
    worker: Worker, is_carried_out: bool
) -> None:
    """The store was away for a step, and nobody knows whether it took it."""
    hold = worker.admit()
    if is_carried_out:
        worker.send(worker.command(hold, hold.amounts + MORE))
    worker.account.extend_uncounted(hold, hold.amounts + MORE)
    to = hold.amounts + MORE
    outcome = worker.extend(hold, to)
    assert outcome is (True if is_carried_out else Again.HOLD)
    if outcome is Again.HOLD:
        assert worker.extend(hold, to) is True
    assert worker.reserved() == worker.stored() == held(worker.account) == to


def test_a_command_after_the_end_of_its_call_holds_nothing(worker: Worker) -> None:
    hold = worker.admit()
    late = worker.command(hold, hold.amounts + MORE)
    worker.end(hold)
    worker.send(late)
    assert worker.reserved() == worker.stored() == Amounts()


def test_a_command_before_the_end_is_given_back_with_the_rest(worker: Worker) -> None:
    """Its reply was lost, so the worker knows nothing of it."""
    hold = worker.admit()
    worker.send(worker.command(hold, hold.amounts + MORE))
    worker.end(hold)
    assert worker.reserved() == worker.stored() == Amounts()


def test_a_refusal_names_its_budget_also_when_rules_have_come_since(make_desk: MakeDesk) -> None:
    worker = Worker(make_desk(MONEY, TOKENS))
    hold = worker.admit()
    other = worker.admit(Amounts(9_000, 0))
    limit = Limit(9, Owner(Scope.DEPARTMENT, worker.desk.department_id, "all"), Rate.REQUESTS, 10)
    worker.account.book = RuleBook(
        worker.desk.department_id, worker.desk.epoch, ZoneInfo("UTC"), (limit, MONEY, TOKENS)
    )
    refused = worker.extend(hold, hold.amounts + Amounts(1_000, 0))
    assert isinstance(refused, Refused)
    assert (refused.kind, refused.rule, refused.reserved) == (RefusalKind.HELD, MONEY, 9_100)
    refused = worker.extend(hold, hold.amounts + Amounts(9_901, 0))
    assert isinstance(refused, Refused)
    assert (refused.kind, refused.rule) == (RefusalKind.HARD, MONEY)
    assert worker.reserved() == worker.stored() == hold.amounts + other.amounts


def test_a_call_that_the_store_does_not_hold_is_extended_only_by_choice(worker: Worker) -> None:
    hold = worker.admit()
    worker.desk.sweep(hold.ask.rid, 50)
    refused = worker.extend(hold, hold.amounts + MORE)
    assert isinstance(refused, Refused)
    assert refused.is_away


def test_a_counter_that_is_gone_grants_nothing(worker: Worker) -> None:
    hold = worker.admit()
    worker.desk.raw("DEL", worker.desk.key(worker.desk.plan().names[0]))
    assert worker.extend(hold, hold.amounts + MORE) is Again.EPOCH
    assert worker.account.standing is Standing.LOST
    assert worker.account.lost_in == worker.desk.epoch


class Storm:
    """Random steps of several calls, with commands of unknown fate that may arrive at any later time."""

    def __init__(self, worker: Worker, chance: random.Random) -> None:
        self.worker = worker
        self.chance = chance
        self.late: list[Command] = []
        self.seen: dict[str, int] = defaultdict(int)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._step()
            assert self.worker.reserved() == self.worker.stored()
        for hold in self._open():
            self._extend(hold, hold.amounts + MORE)
            self._extend(hold, hold.amounts + MORE)
        for command in self.late:
            self.worker.send(command)
        assert self.worker.reserved() == self.worker.stored()
        for hold in self._open():
            self.worker.end(hold)
        assert self.worker.reserved() == self.worker.stored() == Amounts()

    def _open(self) -> list[Hold]:
        return list(self.worker.account.holds.values())

    def _step(self) -> None:
        step = self.chance.choice(
            ["admit", "extend", "extend", "extend", "lost", "lost", "late", "uncounted", "epoch", "end"]
        )
        self.seen[step] += 1
        if step == "admit" or not self._open():
            if len(self._open()) < 5:
                self.worker.admit()
            return
        hold = self.chance.choice(self._open())
        to = hold.amounts + Amounts(self.chance.randint(0, 300), self.chance.randint(1, 90))
        if step == "extend":
            self._extend(hold, to)
        elif step == "lost":
            command = self.worker.command(hold, to)
            self.late += [command] * self.chance.randint(0, 2)
            if self.chance.random() < 0.5:
                self.worker.send(command)
            self._after_unknown(hold, to)
        elif step == "late" and self.late:
            self.worker.send(self.late.pop(self.chance.randrange(len(self.late))))
        elif step == "uncounted":
            self.worker.account.extend_uncounted(hold, to)
        elif step == "epoch":
            self.worker.new_epoch()
        elif step == "end":
            self.worker.end(hold)

    def _after_unknown(self, hold: Hold, to: Amounts) -> None:
        """The worker asks again, goes on uncounted, or leaves it."""
        how = self.chance.randrange(3)
        if how == 0:
            self._extend(hold, to)
        elif how == 1:
            self.worker.account.extend_uncounted(hold, to)

    def _extend(self, hold: Hold, to: Amounts) -> None:
        """As Admissions.extend does."""
        for _ in range(4):
            outcome = self.worker.extend(hold, to)
            self.seen[str(outcome)[:12]] += 1
            if outcome is True:
                (found,) = [amounts for rid, amounts in self._amounts() if rid == hold.ask.rid]
                assert found == hold.amounts == to
            if not isinstance(outcome, Again):
                return
        raise AssertionError("the worker and the store do not come to agree")

    def _amounts(self) -> list[tuple[str, Amounts]]:
        *_, flat = self.worker.desk.run("holds")
        return [
            (rid.decode(), read_hold(rid, packed).amounts)
            for rid, packed in zip(flat[::2], flat[1::2], strict=True)
        ]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_becomes_of_commands_what_is_counted_is_what_is_held(worker: Worker, seed: int) -> None:
    storm = Storm(worker, random.Random(seed))
    storm.run(120)
    assert {"True", "Again.HOLD"} <= set(storm.seen)
