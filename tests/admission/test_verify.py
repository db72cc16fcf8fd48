"""Counters against the ledger, on a real store and the real ledger, while calls are open."""

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from billing.admission.account import Account, Admitted, Standing, Steps
from billing.admission.books import read_book
from billing.admission.commands import Commands, pack
from billing.admission.holds import Amounts, Ask, EndFrame
from billing.admission.ledger_view import KEPT, LedgerView
from billing.admission.links import ServerLink
from billing.admission.rebuild import Rebuilder
from billing.admission.rules import Dimensions
from billing.admission.scripts import load_scripts
from billing.admission.verify import Difference, NotComparable, verify_department
from billing.ids import uuid7
from billing.models import Spool
from billing.rule_models import Budget, SweptCall
from billing.shipper import ship_frames
from teams.models import Team
from tests.admission.desk import NEVER
from tests.entries import frame
from tests.factories import make_team

JANITOR = uuid.UUID(int=0)


@dataclass
class Shop:
    """One worker with a spool in memory, a department with a budget, and the real ledger."""

    team: Team = field(default_factory=make_team)
    spool: uuid.UUID = field(default_factory=uuid.uuid4)
    frames: list[EndFrame] = field(default_factory=list)
    shipped: int = 0

    def __post_init__(self) -> None:
        Budget.objects.create(team=self.team, unit="money", period="month", amount=10**18)
        Budget.objects.create(department=self.team.department, unit="tokens", period="day", amount=10**18)
        Budget.objects.create(team=self.team, unit="money", period="year", amount=10**18, end_user="*")
        self.department_id = self.team.department_id
        self.link = ServerLink(os.environ["REDIS_URL"], load_scripts())
        self.commands = Commands(load_scripts())
        self.ledger = LedgerView()
        self.rebuilder = Rebuilder(self.link, self.commands, self.ledger)
        self.call = Dimensions(self.department_id, self.team.pk, None, None, "ann", "large")
        self.open_epoch()

    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> list[EndFrame]:
        return [frame for frame in self.frames if frame.seq > seq and concerns(frame.call)]

    def open_epoch(self) -> None:
        self.rebuilder.rebuild(self.department_id)
        self.account = Account(read_book(self.department_id), self.commands, str(self.spool), self)
        marker = self.rebuilder.read_marker(self.department_id)
        self.drive(self.account.renew(marker.time_ms))
        (reply,) = self.link.exchange(
            [self.commands.call("ready", b"{d%d}:e" % self.department_id, marker.nonce)]
        )
        assert reply[0] == 1
        assert self.drive(self.account.renew(marker.time_ms)) is Standing.OPEN

    def drive(self, steps: Steps) -> Standing:
        try:
            commands = next(steps)
            while True:
                commands = steps.send(self.link.exchange(commands))
        except StopIteration as end:
            standing: Standing = end.value
            return standing

    def admit(self, money: int, tokens: int = 10) -> Ask:
        ask = Ask(str(uuid7()), self.call, Amounts(money, tokens))
        now_ms = self.rebuilder.read_marker(self.department_id).time_ms
        plan = self.account.plan(ask, now_ms)
        (reply,) = self.link.exchange([self.account.admit(ask, plan, now_ms, NEVER)])
        assert isinstance(self.account.admitted(ask, plan, reply, NEVER), Admitted)
        return ask

    def end(self, ask: Ask, money: int, tokens: int = 10) -> None:
        hold = self.account.holds[ask.rid]
        end = EndFrame(len(self.frames) + 1, ask.rid, hold.admitted_ms, self.call, Amounts(money, tokens))
        self.frames.append(end)
        self.account.end(end)

    def settle(self) -> None:
        self.drive(self.account.settle())

    def ship(self) -> None:
        fresh = [self.entry(end, end.seq, self.spool) for end in self.frames[self.shipped :]]
        ship_frames(self.spool, "host", fresh)
        self.shipped = len(self.frames)

    def entry(self, end: EndFrame, seq: int, spool: uuid.UUID, **fields: Any) -> Any:
        money, tokens = end.true.money, end.true.tokens
        return frame(
            seq,
            request_id=uuid.UUID(end.rid),
            spool=spool,
            admitted_at=datetime.fromtimestamp(end.admitted_ms / 1000, UTC),
            department_id=self.department_id,
            team_id=self.team.pk,
            end_user="ann",
            model="large",
            input_tokens=tokens,
            input_cost_nanousd=money,
            cost_nanousd=money,
            **fields,
        )

    def record_abandoned(self, ask: Ask) -> None:
        """What the janitor writes."""
        hold = self.account.holds[ask.rid]
        end = EndFrame(0, ask.rid, hold.admitted_ms, self.call, hold.amounts)
        ship_frames(JANITOR, "janitor", [self.entry(end, 0, self.spool, status="abandoned")])
        SweptCall.objects.create(request_id=ask.rid, department_id=self.department_id)

    def sweep(self, ask: Ask, money: int) -> None:
        key = b"{d%d}:e" % self.department_id
        epoch = self.account.book.epoch
        (reply,) = self.link.exchange([self.commands.call("sweep", key, ask.rid, money, 10, 0, epoch)])
        assert reply[0] == 1

    def verify(self) -> list[Difference]:
        return verify_department(self.link, self.commands, self.ledger, self.department_id)

    def raw(self, *words: str) -> Any:
        (reply,) = self.link.send(pack(*words), 1)
        return reply

    def key(self, name: str) -> str:
        return f"{{d{self.department_id}}}:{self.account.book.epoch}:{name}"


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    yield made
    for key in made.raw("KEYS", f"{{d{made.department_id}}}:*"):
        made.raw("DEL", key.decode())
    made.link.close()


def test_counters_agree_while_calls_are_open_booked_and_shipped(shop: Shop) -> None:
    asks = [shop.admit(2**53 + 1 + number) for number in range(6)]
    assert shop.verify() == []
    for ask in asks[:4]:
        shop.end(ask, 2**53 - 1)
    shop.ship()
    assert shop.verify() == []  # shipped, not booked
    shop.settle()
    assert shop.verify() == []
    shop.end(asks[4], 7)
    shop.settle()
    with pytest.raises(NotComparable, match="1 spools"):
        shop.verify()  # booked, not shipped
    shop.ship()
    assert shop.verify() == []


def test_a_counter_that_is_wrong_is_told_with_its_figures(shop: Shop) -> None:
    ask, _ = shop.admit(100), shop.admit(40)
    shop.end(ask, 70)
    shop.settle()
    shop.ship()
    name = shop.account.plan(ask, shop.rebuilder.read_marker(shop.department_id).time_ms).names[1]
    key = shop.key(name)
    shop.raw("HINCRBY", key, "u", "1")
    assert shop.verify() == [Difference(name, 71, 40, 70, 40)]
    shop.raw("HINCRBY", key, "r", "-40")
    assert shop.verify() == [Difference(name, 71, 0, 70, 40)]
    shop.raw("DEL", key)
    assert shop.verify() == [Difference(name, 0, 0, 70, 40)]


def test_a_hold_or_a_watermark_that_is_lost_is_a_difference(shop: Shop) -> None:
    ask = shop.admit(100)
    shop.end(ask, 70)
    shop.admit(5)
    shop.settle()
    shop.ship()
    shop.raw("HDEL", shop.key("a"), str(shop.spool))
    assert {found.ledger for found in shop.verify()} == {0}
    shop.raw("HSET", shop.key("a"), str(shop.spool), "1")
    shop.raw("DEL", shop.key("r"))
    assert {(found.held, found.reserved) for found in shop.verify()} == {(0, 5), (0, 10)}


def test_a_swept_call_counts_as_swept_until_its_own_record_is_booked(shop: Shop) -> None:
    ask = shop.admit(100)
    shop.record_abandoned(ask)
    assert shop.verify() == []  # recorded, not swept
    shop.sweep(ask, 100)
    assert shop.verify() == []
    shop.rebuilder.rebuild(shop.department_id, lost_in=shop.account.book.epoch)
    shop.open_epoch()
    assert shop.verify() == []


def test_a_record_shipped_before_its_hold_was_swept_counts_once(shop: Shop) -> None:
    ask = shop.admit(100)
    shop.end(ask, 37)
    shop.ship()
    shop.sweep(ask, 37)
    assert shop.verify() == []
    shop.settle()
    assert shop.verify() == []


def test_spools_forgotten_before_the_epoch_are_in_it_as_a_whole(shop: Shop) -> None:
    shop.end(shop.admit(100), 70)
    shop.settle()
    shop.ship()
    long_ago = datetime.now(UTC) - KEPT - timedelta(minutes=1)
    Spool.objects.filter(pk=shop.spool).update(updated_at=long_ago)
    assert shop.verify() == []  # booked in this epoch, however long ago it was shipped
    shop.spool, shop.frames, shop.shipped = uuid.uuid4(), [], 0
    shop.rebuilder.rebuild(shop.department_id, lost_in=shop.account.book.epoch)
    shop.open_epoch()
    assert shop.verify() == []


def test_new_spools_count_only_as_far_as_they_are_booked(shop: Shop) -> None:
    first = shop.spool
    shop.spool = uuid.uuid4()
    end = EndFrame(1, str(uuid7()), int(datetime.now(UTC).timestamp() * 1000), shop.call, Amounts(50, 5))
    shop.frames.append(end)
    shop.ship()
    assert first != shop.spool
    assert shop.verify() == []


def test_counters_of_a_deleted_budget_are_not_compared(shop: Shop) -> None:
    shop.end(shop.admit(100), 70)
    shop.settle()
    Budget.objects.filter(team=shop.team, end_user="*").delete()
    assert read_book(shop.department_id).epoch == shop.account.book.epoch
    shop.ship()
    assert shop.verify() == []


def test_nothing_is_compared_while_counters_are_made_or_rules_have_changed(shop: Shop) -> None:
    Budget.objects.create(team=shop.team, unit="money", period="day", amount=5)
    with pytest.raises(NotComparable, match="rules have changed"):
        shop.verify()
    shop.rebuilder.rebuild(shop.department_id)
    with pytest.raises(NotComparable, match="not open"):
        shop.verify()


def test_an_epoch_above_all_that_the_database_knows_is_followed(shop: Shop) -> None:
    """A database that was set back must not make the store wait for numbers that it used."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_value FROM billing_departmentepoch_n_seq")
        (last,) = cursor.fetchone()
    assert shop.ledger.raise_epoch(shop.department_id, last + 1000) > last + 1000
