"""The ledger's side, in tables of the simulation's own: what a shipper, an adopter and a janitor write.

This is the seam: the statements follow those of the real shipper, on fewer columns.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from django.db import connection, transaction

from billing.admission.holds import Amounts, EndFrame, StoredHold
from billing.admission.ledger_view import LedgerTables
from billing.admission.rules import Dimensions

_DIMENSIONS = "department_id, team_id, application_id, api_key_id, end_user, model, is_other_user"
TABLES = LedgerTables(
    lines=f"""
        SELECT request_id, spool, seq, admitted_at, {_DIMENSIONS}, money, tokens FROM fuzz_row
        UNION ALL
        SELECT request_id, c.spool, c.seq, admitted_at, {_DIMENSIONS}, c.money, c.tokens
        FROM fuzz_correction c JOIN fuzz_row USING (request_id)
    """,  # noqa: S608
    spools="SELECT id, seq, updated_at FROM fuzz_spool",
)
_SCHEMA = """
    DROP TABLE IF EXISTS fuzz_row, fuzz_correction, fuzz_spool;
    CREATE UNLOGGED TABLE fuzz_row (
        request_id uuid PRIMARY KEY, spool uuid NOT NULL, seq bigint NOT NULL, admitted_at timestamptz NOT NULL,
        department_id bigint, team_id bigint, application_id bigint, api_key_id bigint,
        end_user text NOT NULL, model text NOT NULL, is_other_user boolean NOT NULL,
        money bigint NOT NULL, tokens bigint NOT NULL, is_abandoned boolean NOT NULL
    );
    CREATE UNLOGGED TABLE fuzz_correction (
        request_id uuid PRIMARY KEY, spool uuid NOT NULL, seq bigint NOT NULL,
        money bigint NOT NULL, tokens bigint NOT NULL
    );
    CREATE UNLOGGED TABLE fuzz_spool (
        id uuid PRIMARY KEY, seq bigint NOT NULL, updated_at timestamptz NOT NULL DEFAULT now()
    );
    GRANT ALL ON fuzz_row, fuzz_correction, fuzz_spool TO gateway_app;
"""
_ADVANCE = """
    INSERT INTO fuzz_spool (id, seq) VALUES (%s, %s)
    ON CONFLICT (id) DO UPDATE SET seq = EXCLUDED.seq, updated_at = now() WHERE fuzz_spool.seq < EXCLUDED.seq
"""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A row as its spool carries it."""

    spool: str
    seq: int
    rid: str
    admitted_ms: int
    call: Dimensions
    money: int
    tokens: int
    is_abandoned: bool


def record_of(spool: str, end: EndFrame, *, is_abandoned: bool) -> Record:
    """The row of a call that ended."""
    return Record(
        spool, end.seq, end.rid, end.admitted_ms, end.call, end.true.money, end.true.tokens, is_abandoned
    )


class Crash(Exception):
    """The process that writes dies before it commits."""


def make_tables() -> None:
    """Once per database."""
    with psycopg.connect(os.environ["DATABASE_OWNER_URL"], autocommit=True) as owner:
        owner.execute(_SCHEMA)


@dataclass(slots=True)
class Ledger:
    """Writes rows; rules of the protocol can be switched off by name."""

    off: frozenset[str] = frozenset()

    def clear(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE fuzz_row, fuzz_correction, fuzz_spool; DELETE FROM billing_sweptcall")

    def read_watermark(self, spool: str) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT seq FROM fuzz_spool WHERE id = %s", [spool])
            found = cursor.fetchone()
        return found[0] if found else 0

    def ship(self, spool: str, records: Sequence[Record], seq: int, *, crashes: bool = False) -> None:
        """Rows and the watermark `seq`, in one transaction. Raises Crash instead of committing."""
        if "watermark-with-rows" in self.off:
            with connection.cursor() as cursor:
                self._insert(cursor, records)
                if crashes:
                    raise Crash
                cursor.execute(_ADVANCE, [spool, seq])
            return
        with transaction.atomic(), connection.cursor() as cursor:
            self._insert(cursor, records)
            cursor.execute(_ADVANCE, [spool, seq])
            if crashes:
                raise Crash

    def rescue(self, records: Sequence[Record]) -> None:
        """Rows out of the store, of a spool that is gone: remembered as told by others."""
        with transaction.atomic(), connection.cursor() as cursor:
            self._insert(cursor, records)
            for record in records:
                self._remember(cursor, record.rid, record.call.department_id)

    def record(self, department_id: int, holds: Sequence[StoredHold]) -> Mapping[str, Amounts]:
        """See AbandonedCalls."""
        records = [
            Record(
                h.owner.spool, 0, h.rid, h.admitted_ms, h.owner.call, h.amounts.money, h.amounts.tokens, True
            )
            for h in holds
        ]
        if "record-before-sweep" in self.off:
            return {hold.rid: hold.amounts for hold in holds}
        with transaction.atomic(), connection.cursor() as cursor:
            for rid in _insert_new(cursor, records):
                self._remember(cursor, rid, department_id)
        return self.read_totals(hold.rid for hold in holds)

    def read_totals(self, rids: Iterable[str] | None = None) -> dict[str, Amounts]:
        """What the ledger holds by request, corrections included."""
        ids = None if rids is None else [UUID(rid) for rid in rids]
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT request_id, sum(money), sum(tokens) FROM ({TABLES.lines}) l"  # noqa: S608
                " WHERE %s::uuid[] IS NULL OR request_id = ANY(%s) GROUP BY 1",
                [ids, ids],
            )
            return {str(rid): Amounts(int(money), int(tokens)) for rid, money, tokens in cursor.fetchall()}

    def _remember(self, cursor: Any, rid: str, department_id: int) -> None:
        cursor.execute(
            "INSERT INTO billing_sweptcall (request_id, department_id, at) VALUES (%s, %s, now())"
            " ON CONFLICT DO NOTHING",
            [rid, department_id],
        )

    def _insert(self, cursor: Any, records: Sequence[Record]) -> None:
        new = _insert_new(cursor, records)
        if "second-statement" in self.off:
            return
        for record in records:
            if record.rid not in new:
                self._correct(cursor, record)

    def _correct(self, cursor: Any, record: Record) -> None:
        cursor.execute(
            "SELECT spool, seq, is_abandoned, money, tokens FROM fuzz_row WHERE request_id = %s", [record.rid]
        )
        spool, seq, is_abandoned, money, tokens = cursor.fetchone()
        if (str(spool), seq) == (record.spool, record.seq):
            return
        assert is_abandoned, f"two records tell of {record.rid}"
        cursor.execute(
            "INSERT INTO fuzz_correction VALUES (%s, %s, %s, %s, %s) ON CONFLICT (request_id) DO NOTHING",
            [record.rid, record.spool, record.seq, record.money - money, record.tokens - tokens],
        )


def _insert_new(cursor: Any, records: Sequence[Record]) -> set[str]:
    if not records:
        return set()
    values = []
    for r in records:
        at = datetime.fromtimestamp(r.admitted_ms / 1000, UTC)
        values += [
            r.rid,
            r.spool,
            r.seq,
            at,
            *msgspec.structs.astuple(r.call),
            r.money,
            r.tokens,
            r.is_abandoned,
        ]
    row = "(" + ", ".join(["%s"] * 14) + ")"
    cursor.execute(
        f"INSERT INTO fuzz_row VALUES {', '.join([row] * len(records))}"  # noqa: S608
        " ON CONFLICT (request_id) DO NOTHING RETURNING request_id",
        values,
    )
    return {str(rid) for (rid,) in cursor.fetchall()}
