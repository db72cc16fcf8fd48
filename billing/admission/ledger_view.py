"""What the ledger says about a department at one moment: sums by counter, how far each spool is shipped, and which
records were written in place of a silent worker."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from billing.admission.books import read_book
from billing.admission.holds import Amounts, EndFrame
from billing.admission.rules import Dimensions, RuleBook
from billing.admission.windows import Period, Window, window_at
from billing.ids import smallest_id_at

KEPT = timedelta(days=8)  # for so long a silent worker, or its disk, may come back
_CLOCKS_DIFFER = timedelta(hours=1)  # between the moment in a request's id and that of its admission
_LOCKS = 0x61646D << 40  # ours among the database's advisory locks


@dataclass(frozen=True, slots=True)
class LedgerTables:
    """Where the ledger is. `lines`: a query of request_id, spool, seq, admitted_at, the dimensions, money and
    tokens; several lines may tell of one request, and their sum is what it cost. `spools`: a query of id, seq and
    updated_at."""

    lines: str
    spools: str


LEDGER = LedgerTables(
    lines="""
        SELECT request_id, spool, seq, admitted_at, department_id, team_id, application_id, api_key_id, end_user,
               model, coalesce(is_other_user, false) AS is_other_user,
               cost_nanousd AS money, input_tokens + output_tokens AS tokens
        FROM billing_usagerecord
        UNION ALL
        SELECT request_id, spool, seq, admitted_at, department_id, team_id, application_id, api_key_id, end_user,
               model, coalesce(is_other_user, false), cost_nanousd, input_tokens + output_tokens
        FROM billing_usagecorrection
    """,
    spools="SELECT id, shipped_seq AS seq, updated_at FROM billing_spool",
)


@dataclass(frozen=True, slots=True)
class Counted:
    """What one counter comes to, and when its window ends (seconds)."""

    amount: int
    end: int


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """One moment of the ledger. `counters` by name; those that come to nothing are left out.

    `watermarks`: the last number of each spool that is in it. `counted`: what it holds of calls whose own frame is
    not in it yet, by request id.
    """

    book: RuleBook
    counters: Mapping[str, Counted]
    watermarks: Mapping[str, int]
    counted: Mapping[str, Amounts]


class LedgerView:
    """Reads the ledger in PostgreSQL; what it raises when that is away is Django's."""

    def __init__(self, tables: LedgerTables = LEDGER, book_of: Callable[[int], RuleBook] = read_book) -> None:
        self._tables = tables
        self.book_of = book_of

    def raise_epoch(self, department_id: int, above: int) -> int:
        """A new epoch for the department, whose number was never used and is larger than `above`."""
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT setval('billing_departmentepoch_n_seq', %s)"
                " FROM billing_departmentepoch_n_seq WHERE last_value <= %s",
                [above + 1, above],
            )
            cursor.execute("SELECT billing_raise_epoch(%s)", [department_id])
            cursor.execute("SELECT n FROM billing_departmentepoch WHERE department_id = %s", [department_id])
            return int(cursor.fetchone()[0])

    def read(self, department_id: int, at_ms: int) -> LedgerSnapshot:
        """The ledger as of now, for counters of an epoch that begins at `at_ms` of the store's time.

        Raises UnknownDepartment.
        """
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            book = self.book_of(department_id)
            return LedgerSnapshot(
                book=book,
                counters=self.sum_counters(cursor, book, at_ms // 1000, "true", []),
                watermarks=self.read_watermarks(cursor),
                counted=self.read_counted(cursor, book),
            )

    def sum_counters(
        self, cursor: Any, book: RuleBook, at_s: int, condition: str, values: list[Any]
    ) -> dict[str, Counted]:
        """What the lines that meet `condition` come to, by counter, in the windows of `at_s` and those after."""
        edges = _edges(book, at_s)
        if not edges:
            return {}
        moments = [datetime.fromtimestamp(edge, UTC) for edge in edges]
        by_user = any(rule.end_user for rule in book.rules)
        cursor.execute(
            f"""
            SELECT l.department_id, l.team_id, l.application_id, l.api_key_id,
                   {"l.end_user, l.model, l.is_other_user" if by_user else "'', l.model, false"},
                   width_bucket(l.admitted_at, %s::timestamptz[]), sum(l.money), sum(l.tokens)
            FROM ({self._tables.lines}) l
            WHERE l.request_id >= %s AND l.admitted_at >= %s AND l.admitted_at < %s
                AND (l.department_id = %s OR l.team_id = ANY(%s)) AND ({condition})
            GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
            """,  # noqa: S608 - the pieces are constants of this module and of its callers
            [
                *(moments, smallest_id_at(moments[0] - _CLOCKS_DIFFER), moments[0], moments[-1]),
                *(book.department_id, sorted(book.team_ids), *values),
            ],
        )
        sums: dict[str, int] = defaultdict(int)
        ends: dict[str, int] = {}
        for *call, piece, money, tokens in cursor.fetchall():
            amounts = Amounts(int(money), int(tokens))
            add_up(book, Dimensions(*call), edges[piece - 1], amounts, sums, ends)
        return {
            name: Counted(amount, ends[name]) for name, amount in sums.items() if amount and ends[name] > at_s
        }

    def read_watermarks(self, cursor: Any, age: timedelta | None = KEPT) -> dict[str, int]:
        """The last number in the ledger of each spool that was shipped within `age`, as others tell nothing any
        more; of every spool for None."""
        cursor.execute(
            f"SELECT w.id, w.seq FROM ({self._tables.spools}) w"  # noqa: S608
            " WHERE %s::interval IS NULL OR w.updated_at > now() - %s::interval",
            [age, age],
        )
        return {str(spool): int(seq) for spool, seq in cursor.fetchall()}

    def read_counted(self, cursor: Any, book: RuleBook) -> dict[str, Amounts]:
        """What the ledger holds of calls that the janitor recorded and whose own frame it does not hold; those of
        a team count where it is now, too."""
        cursor.execute(
            f"""
            SELECT l.request_id, sum(l.money), sum(l.tokens)
            FROM billing_sweptcall s JOIN ({self._tables.lines}) l USING (request_id)
                LEFT JOIN ({self._tables.spools}) w ON w.id = l.spool
            WHERE s.at > now() - %s AND (s.department_id = %s OR l.team_id = ANY(%s))
            GROUP BY 1 HAVING bool_and(l.seq = 0 OR l.seq > coalesce(w.seq, 0))
            """,  # noqa: S608
            [KEPT, book.department_id, sorted(book.team_ids)],
        )
        return {str(rid): Amounts(int(money), int(tokens)) for rid, money, tokens in cursor.fetchall()}

    def read_lines(self, cursor: Any, rids: Iterable[UUID]) -> list["Line"]:
        """All lines of some requests."""
        cursor.execute(
            f"""
            SELECT l.request_id, l.spool, l.seq, l.admitted_at, l.department_id, l.team_id, l.application_id,
                   l.api_key_id, l.end_user, l.model, l.is_other_user, l.money, l.tokens
            FROM ({self._tables.lines}) l WHERE l.request_id = ANY(%s)
            """,  # noqa: S608
            [list(rids)],
        )
        return [
            Line(str(rid), str(spool), seq, int(at.timestamp()), Dimensions(*call), Amounts(money, tokens))
            for rid, spool, seq, at, *call, money, tokens in cursor.fetchall()
        ]

    def read_ends(self, spool: UUID, rids: Iterable[UUID]) -> list[EndFrame]:
        """The ends of the calls `rids` as far as `spool` has told them, in the order of their numbers."""
        with connection.cursor() as cursor:
            lines = self.read_lines(cursor, rids)
        told = [line for line in lines if line.spool == str(spool) and line.seq > 0]
        return [
            EndFrame(line.seq, line.rid, line.admitted_s * 1000, line.call, line.amounts)
            for line in sorted(told, key=lambda line: line.seq)
        ]


@dataclass(frozen=True, slots=True)
class Line:
    """A record of the ledger, or a correction of one."""

    rid: str
    spool: str
    seq: int
    admitted_s: int
    call: Dimensions
    amounts: Amounts


def add_up(
    book: RuleBook,
    call: Dimensions,
    moment_s: int,
    amounts: Amounts,
    sums: dict[str, int],
    ends: dict[str, int],
) -> None:
    """Add what a call cost to every counter of `book` that it counts in."""
    for name, unit, end in book.counters(call, moment_s):
        sums[name] += amounts.of(unit)
        ends[name] = end


def _edges(book: RuleBook, at_s: int) -> list[int]:
    """Where windows begin or end, from the first that is open at `at_s` to the end of the last that follows one.

    Between two edges no window changes. The windows that follow are there because clocks differ.
    """
    edges: set[int] = set()
    for period in book.periods():
        window = _window(book, period, at_s)
        edges |= {window.start, window.end, _window(book, period, window.end).end}
    return sorted(edges)


def _window(book: RuleBook, period: Period, moment_s: int) -> Window:
    return window_at(period, book.zone, moment_s)


@contextmanager
def department_lock(department_id: int) -> Iterator[bool]:
    """Whether this process alone rebuilds or sweeps the department's counters until the end of the block.

    The lock belongs to the session, because records are committed while it is held.
    """
    number = _LOCKS + department_id
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [number])
        (is_mine,) = cursor.fetchone()
    try:
        yield is_mine
    finally:
        if is_mine:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [number])
