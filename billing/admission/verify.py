"""Proves that a department's counters are the ledger, cut where each spool is booked, and its open holds."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection, transaction

from billing.admission.commands import Commands, marker_key
from billing.admission.holds import Amounts
from billing.admission.ledger_view import KEPT, LedgerView, Line, add_up
from billing.admission.links import Exchange, StoreLost, StoreRefused
from billing.admission.rules import EVERY_USER, Budget, RuleBook, user_part

_DONE = 1
_COUNTER = re.compile(r"c:([dtak]:\d+)(:u[0-9a-f]{24}|:o\d+)?(:m.*)?:(\w+):(\w+):-?\d+", re.DOTALL)
_ANY_USER = ":*"


class NotComparable(Exception):
    """The counters are being made anew, or the ledger does not hold yet what the counters do: wait."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A counter that is not what it should be: `used` and `reserved` are in the store, `ledger` is what was
    used by the ledger, `held` what the open holds come to."""

    name: str
    used: int
    reserved: int
    ledger: int
    held: int


@dataclass(frozen=True, slots=True)
class StoredCounters:
    """All counters of a department at one moment, with all that says which records they hold."""

    time_ms: int
    epoch: int
    began_ms: int
    counters: dict[str, tuple[int, int]]  # used, reserved
    booked: dict[str, int]  # last number by spool
    counted: dict[str, Amounts]
    holds: dict[str, dict[str, int]]  # what each holds, by counter


def verify_department(
    link: Exchange, commands: Commands, ledger: LedgerView, department_id: int
) -> list[Difference]:
    """The counters that differ; traffic may go on. Raises NotComparable, StoreLost and UnknownDepartment."""
    stored = read_counters(link, commands, department_id)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        book = ledger.book_of(department_id)
        if book.epoch != stored.epoch:
            raise NotComparable("the rules have changed")
        expected = _sum_ledger(cursor, ledger, book, stored)
    return _compare(book, stored, expected)


def read_counters(link: Exchange, commands: Commands, department_id: int) -> StoredCounters:
    """The counters of the windows that are not over. Raises NotComparable and StoreLost."""
    (reply,) = link.exchange([commands.call("counters", marker_key(department_id))])
    if isinstance(reply, StoreRefused):
        raise StoreLost(str(reply), was_sent=False)
    if reply[0] != _DONE:
        raise NotComparable("the counters are not open")
    _, time_ms, epoch, began, counters, booked, counted, holds = reply
    return StoredCounters(
        time_ms=time_ms,
        epoch=int(epoch),
        began_ms=int(began),
        counters={
            name.decode(): (int(b or 0) + int(u), int(r))
            for name, b, u, r in zip(
                counters[::5], counters[2::5], counters[3::5], counters[4::5], strict=True
            )
        },
        booked={spool.decode(): int(seq) for spool, seq in _pairs(booked)},
        counted={rid.decode(): Amounts(*map(int, amounts.split())) for rid, amounts in _pairs(counted)},
        holds={rid.decode(): _read_held(stored, time_ms) for rid, stored in _pairs(holds)},
    )


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _read_held(stored: bytes, time_ms: int) -> dict[str, int]:
    """What a hold takes from each counter whose window is not over. See scripts/prelude.lua for its form."""
    head, _, packed = stored.partition(b"\n")
    form, _admitted, money, tokens, _ = head.split(b" ", 4)
    if form != b"1":
        raise NotComparable(f"a hold has the unknown form {form!r}")
    amounts = {"m": int(money), "t": int(tokens)}
    entries = msgspec.msgpack.decode(packed)
    return {
        name: amounts[kind.lower()]
        for kind, name, end in zip(entries[::4], entries[1::4], entries[3::4], strict=True)
        if kind.lower() in amounts and end * 1000 > time_ms
    }


def _sum_ledger(cursor: Any, ledger: LedgerView, book: RuleBook, stored: StoredCounters) -> Mapping[str, int]:
    """What the counters should have in them by the ledger. Raises NotComparable while it lags behind them."""
    cut = _read_cut(cursor, ledger, stored)
    at_s = stored.time_ms // 1000
    condition = "l.seq <= coalesce((%s::jsonb ->> l.spool::text)::bigint, 0)"
    found = ledger.sum_counters(cursor, book, at_s, condition, [json.dumps(cut)])
    sums, ends = defaultdict(int), {}
    for name, counter in found.items():
        sums[name], ends[name] = counter.amount, counter.end
    calls = {}
    apart = map(UUID, {*stored.counted, *stored.holds})
    for line in ledger.read_lines(cursor, apart):
        calls[line.rid] = line
        if _is_summed_wrongly(line, stored, cut):
            less = Amounts(-line.amounts.money, -line.amounts.tokens)
            add_up(book, line.call, line.admitted_s, less, sums, ends)
    for rid, amounts in stored.counted.items():
        if (told := calls.get(rid)) is not None:
            add_up(book, told.call, told.admitted_s, amounts, sums, ends)
    return {name: amount for name, amount in sums.items() if ends[name] > at_s}


def _read_cut(cursor: Any, ledger: LedgerView, stored: StoredCounters) -> dict[str, int]:
    """Up to which number the counters hold the records of each spool.

    A spool that was silent for so long, when the epoch began, that no number of it was written into it is in
    there as a whole: its records were summed.
    """
    age = timedelta(milliseconds=stored.time_ms - stored.began_ms) + KEPT
    shipped = ledger.read_watermarks(cursor, None)
    late = [spool for spool, seq in stored.booked.items() if shipped.get(spool, 0) < seq]
    if late:
        raise NotComparable(f"{len(late)} spools are not shipped as far as they are booked")
    fresh = ledger.read_watermarks(cursor, age)
    return {spool: seq for spool, seq in shipped.items() if spool not in fresh} | stored.booked


def _is_summed_wrongly(line: Line, stored: StoredCounters, cut: Mapping[str, int]) -> bool:
    """Whether the sum holds this line, but the counters do not: the janitor's record (number 0) of a call that
    is not swept yet; or any record of a swept one, of which they hold what it came to then."""
    if line.rid in stored.holds:
        return line.seq == 0
    return line.seq <= cut.get(line.spool, 0)


def _compare(book: RuleBook, stored: StoredCounters, expected: Mapping[str, int]) -> list[Difference]:
    held: dict[str, int] = defaultdict(int)
    for amounts in stored.holds.values():
        for name, amount in amounts.items():
            held[name] += amount
    shapes = set(_shapes(book))
    differences = []
    for name in sorted({*stored.counters, *expected, *held}):
        used, reserved = stored.counters.get(name, (0, 0))
        # Who deletes a rule leaves its counters behind, which nobody reads.
        ledger = expected.get(name, 0) if _is_of(name, shapes) else used
        if (used, reserved) != (ledger, held[name]):
            differences.append(Difference(name, used, reserved, ledger, held[name]))
    return differences


_Shape = tuple[str, str, str, str, str]  # owner, end user, model, unit, period


def _shapes(book: RuleBook) -> Iterable[_Shape]:
    """What the names of each budget's counters have in common."""
    for rule in book.rules:
        if isinstance(rule, Budget):
            owner, model = f"{rule.owner.scope}:{rule.owner.id}", f":m{rule.model}" if rule.model else ""
            yield owner, _user_of(rule.end_user), model, rule.unit, rule.period


def _user_of(end_user: str) -> str:
    if end_user == EVERY_USER:
        return _ANY_USER
    return f":{user_part(end_user)}" if end_user else ""


def _is_of(name: str, shapes: set[_Shape]) -> bool:
    match = _COUNTER.fullmatch(name)
    if match is None:
        return True
    owner, user, model, unit, period = match.groups(default="")
    users = (user, _ANY_USER) if user else ("",)
    return any((owner, one, model, unit, period) in shapes for one in users)
