"""One worker's accounts on a real store: what it says twice, late, for another, or of a team that has moved."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import pytest

from billing.admission.account import LIMIT_MS, Account, Admitted, Standing, Steps
from billing.admission.commands import Command
from billing.admission.holds import Amounts, Ask, EndFrame, Hold
from billing.admission.links import StoreLost
from billing.admission.refusals import Refused
from billing.admission.rules import Budget, Dimensions, Owner, RuleBook, Scope, Unit
from billing.admission.windows import Period
from tests.admission.desk import NEVER, Desk

NOON_MS = 1_790_164_800_000
TEAM = 5
BUDGET = Budget(1, Owner(Scope.TEAM, TEAM), Unit.MONEY, Period.MONTH, 1000)


@dataclass
class Spool:
    """Frames in memory."""

    ends: list[EndFrame] = field(default_factory=list)

    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> Iterable[EndFrame]:
        return [end for end in self.ends if end.seq > seq and concerns(end.call)]


@dataclass
class Bureau:
    """A department on a clock, with a budget of its team, and an account of a worker."""

    desk: Desk
    spool: Spool
    account: Account

    def drive(self, steps: Steps, lose: Callable[[list[Command]], bool] = lambda _: False) -> Standing:
        """`lose`: whether a round trip is given up before it is sent. Raises StoreLost then."""
        try:
            commands = next(steps)
            while True:
                if lose(commands):
                    raise StoreLost("given up", was_sent=True)
                commands = steps.send(self.desk.link.exchange(commands))
        except StopIteration as end:
            standing: Standing = end.value
            return standing

    def admit(self, rid: str, money: int) -> None:
        ask = Ask(rid, self.desk.call, Amounts(money))
        plan = self.account.plan(ask, self.desk.time_ms())
        (reply,) = self.desk.link.exchange([self.account.admit(ask, plan, self.desk.time_ms(), NEVER)])
        assert isinstance(self.account.admitted(ask, plan, reply, NEVER), Admitted)

    def end(self, rid: str, money: int, seq: int = 1) -> None:
        end = EndFrame(seq, rid, self.desk.time_ms(), self.desk.call, Amounts(money))
        self.spool.ends.append(end)
        self.account.end(end)

    def new_epoch(self) -> None:
        """As a rebuild that finds nothing in the ledger."""
        self.desk.epoch += 1
        self.desk.open_epoch()
        self.account.learn(book(self.desk))


def book(desk: Desk, *, team: int = TEAM) -> RuleBook:
    return RuleBook(desk.department_id, desk.epoch, ZoneInfo("UTC"), (BUDGET,), frozenset({team}))


@pytest.fixture
def bureau() -> Iterator[Bureau]:
    desk = Desk(os.environ["REDIS_URL"], (BUDGET,), NOON_MS)
    desk.open_epoch()
    spool = Spool()
    made = Bureau(desk, spool, Account(book(desk), desk.commands, "w1", spool))
    assert made.drive(made.account.renew(NOON_MS)) is Standing.OPEN
    yield made
    desk.delete()


def test_a_declaration_that_was_given_up_holds_nothing_after_the_call_has_ended(bureau: Bureau) -> None:
    bureau.admit("r1", 300)
    bureau.new_epoch()
    given_up: list[Command] = []

    def lose(commands: list[Command]) -> bool:
        given_up.extend(command for command in commands if command.script == "declare")
        return bool(given_up)

    with pytest.raises(StoreLost):
        bureau.drive(bureau.account.renew(NOON_MS), lose)
    assert bureau.drive(bureau.account.renew(NOON_MS + 1)) is Standing.OPEN
    bureau.end("r1", 200)
    bureau.drive(bureau.account.settle())
    bureau.desk.link.exchange(given_up)
    bureau.desk.set_clock(NOON_MS + 2 * LIMIT_MS)
    bureau.drive(bureau.account.settle())
    assert bureau.desk.counter() == (0, 200, 0)


def test_a_clock_that_is_set_back_does_not_shorten_how_long_a_lost_admission_may_come(bureau: Bureau) -> None:
    ask = Ask("r1", bureau.desk.call, Amounts(300))
    plan = bureau.account.plan(ask, NOON_MS)
    given_up = bureau.account.admit(ask, plan, NOON_MS + 500, NEVER)  # its idea of the store's time is wrong
    bureau.account.admission_lost(ask, NOON_MS)  # and was mended meanwhile
    bureau.end("r1", 0)
    bureau.desk.set_clock(NOON_MS + LIMIT_MS + 1)
    bureau.drive(bureau.account.settle())
    bureau.desk.link.exchange([given_up])
    bureau.desk.set_clock(NOON_MS + 3 * LIMIT_MS + 1)
    bureau.drive(bureau.account.settle())
    assert bureau.desk.counter() == (0, 0, 0)
    assert not bureau.account.pending


def test_an_adopter_books_nothing_while_the_dead_may_still_be_heard(bureau: Bureau) -> None:
    bureau.end("r1", 200)
    adopter = Account(
        book(bureau.desk), bureau.desk.commands, "w1", bureau.spool, not_before_ms=NOON_MS + LIMIT_MS
    )
    bureau.drive(adopter.renew(NOON_MS))
    assert adopter.pending
    hold = Hold(Ask("r1", bureau.desk.call, Amounts()), NOON_MS, Amounts(300), bureau.desk.owner())
    late = bureau.desk.commands.declare(
        1, bureau.desk.department_id, hold, bureau.desk.plan(), NOON_MS + LIMIT_MS
    )
    bureau.desk.link.exchange([late])
    bureau.desk.set_clock(NOON_MS + LIMIT_MS + 1)
    assert bureau.drive(adopter.renew(NOON_MS)) is Standing.OPEN
    assert bureau.desk.counter() == (0, 200, 0)


def test_calls_of_a_team_that_has_moved_count_where_it_is_now(bureau: Bureau) -> None:
    bureau.admit("r1", 300)
    other = Desk(os.environ["REDIS_URL"], (BUDGET,), NOON_MS)
    other.open_epoch()
    other.call = bureau.desk.call
    there = Account(book(other), other.commands, "w1", bureau.spool, holds=bureau.account.holds)
    assert Bureau(other, bureau.spool, there).drive(there.renew(NOON_MS)) is Standing.OPEN
    assert other.counter() == (0, 0, 300)
    bureau.end("r1", 200)
    there.end(bureau.spool.ends[0])
    Bureau(other, bureau.spool, there).drive(there.settle())
    assert other.counter() == (0, 200, 0)
    other.delete()


def test_nothing_is_said_in_an_epoch_whose_rules_are_gone(bureau: Bureau) -> None:
    standings = []
    for epoch in (1, 2):
        bureau.desk.epoch = epoch
        bureau.account.learn(book(bureau.desk))
        standings.append(bureau.account.standing)
    assert standings == [Standing.OPEN, Standing.LOST]
    bureau.end("r1", 200)
    bureau.drive(bureau.account.settle())
    assert bureau.account.pending


def test_rules_that_change_while_calls_are_declared_do_not_open_the_epoch_before_them(bureau: Bureau) -> None:
    bureau.admit("r1", 300)
    bureau.new_epoch()
    desk, account = bureau.desk, bureau.account
    day = Budget(2, Owner(Scope.TEAM, TEAM), Unit.MONEY, Period.DAY, 100)
    later = RuleBook(desk.department_id, desk.epoch + 1, ZoneInfo("UTC"), (BUDGET, day), frozenset({TEAM}))

    def learn(commands: list[Command]) -> bool:
        if commands[0].script == "declare":
            account.learn(later)
        return False

    assert bureau.drive(account.renew(NOON_MS), learn) is Standing.LOST


def test_a_deleted_budget_that_refuses_more_is_no_error(bureau: Bureau) -> None:
    desk, account = bureau.desk, bureau.account
    day = Budget(2, Owner(Scope.TEAM, TEAM), Unit.MONEY, Period.DAY, 400)
    before = account.book
    account.learn(RuleBook(desk.department_id, desk.epoch, ZoneInfo("UTC"), (BUDGET, day), frozenset({TEAM})))
    bureau.admit("r1", 300)
    hold = account.holds["r1"]
    account.learn(before)  # the day's budget is deleted, which makes no new epoch
    (reply,) = desk.link.exchange([account.extend(hold, Amounts(600), desk.time_ms())])
    refused = account.extended(hold, Amounts(600), reply)
    assert isinstance(refused, Refused)
    assert refused.is_away
