"""Appends rows to the ledger, each once, whoever sends it and however often.

A row is never changed. What is learnt later about an abandoned call becomes a correction; anything else under a
request id that is taken is a collision, which the caller must keep and tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection

from billing.models import CorrectionReason, Status

# The base holds what entries of the release before do not have.
_INSERT = """
    INSERT INTO billing_usagerecord
    SELECT * FROM json_populate_recordset(
        json_populate_record(NULL::billing_usagerecord, '{"requests": 1}'), %s)
    ON CONFLICT (request_id) DO NOTHING RETURNING request_id, seq
"""
_COPIED = "admitted_at, department_id, team_id, application_id, api_key_id, end_user, is_other_user, model"
_DELTAS = (
    *("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"),
    *("input_cost_nanousd", "cached_input_cost_nanousd", "cache_write_cost_nanousd", "output_cost_nanousd"),
    "cost_nanousd",
)
# A statement of its own: the one above does not see the rows that stopped it, if they were committed meanwhile.
_CORRECT = f"""
    INSERT INTO billing_usagecorrection (request_id, spool, seq, reason, status, {_COPIED}, {", ".join(_DELTAS)})
    SELECT n.request_id, n.spool, n.seq, %s, n.status,
           {", ".join(f"r.{column.strip()}" for column in _COPIED.split(","))},
           {", ".join(f"n.{column} - r.{column}" for column in _DELTAS)}
    FROM json_populate_recordset(NULL::billing_usagerecord, %s) n
        JOIN billing_usagerecord r ON r.request_id = n.request_id
    WHERE r.status = %s AND n.status <> %s
    ON CONFLICT (request_id) DO NOTHING RETURNING request_id, seq
"""  # noqa: S608 - constants of this module
_FIND = """
    SELECT r.request_id, r.spool, r.seq, c.spool, c.seq
    FROM billing_usagerecord r LEFT JOIN billing_usagecorrection c ON c.request_id = r.request_id
    WHERE r.request_id = ANY(%s)
"""


class Head(msgspec.Struct, frozen=True):
    """What says which row an entry is, and whose."""

    request_id: UUID
    status: str
    spool: UUID
    seq: int
    department_id: int | None = None
    team_id: int | None = None

    @property
    def owner(self) -> tuple[int, int] | None:
        """Department and team, of a known caller's."""
        if self.department_id is None or self.team_id is None:
            return None
        return self.department_id, self.team_id

    @property
    def place(self) -> tuple[UUID, int]:
        """Identifies it among the entries of one batch."""
        return self.request_id, self.seq


_decoder = msgspec.json.Decoder(Head)


def read_head(body: bytes) -> Head:
    """The head of an entry as the ledger's columns in JSON."""
    return _decoder.decode(body)


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch; entries that were there already are in none. `collisions` are places in the batch."""

    inserted: frozenset[UUID]
    corrected: frozenset[UUID] = frozenset()
    collisions: tuple[int, ...] = ()


def append_entries(bodies: Sequence[bytes]) -> Appended:
    """Insert entries, or correct the estimates of calls that were taken for abandoned.

    Belongs into a transaction. Raises DataError or IntegrityError when one of them is impossible.
    """
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [_join(bodies)])
        inserted = cursor.fetchall()
        if len(inserted) == len(bodies):
            return Appended(frozenset(row[0] for row in inserted))
        return _settle_conflicts(cursor, bodies, set(inserted))


def _settle_conflicts(cursor: Any, bodies: Sequence[bytes], inserted: set[tuple[UUID, int]]) -> Appended:
    left = [
        (place, body, head)
        for place, body in enumerate(bodies)
        if (head := read_head(body)).place not in inserted
    ]
    abandoned = Status.ABANDONED.value
    cursor.execute(
        _CORRECT,
        [
            CorrectionReason.ABANDONED_CALL_ENDED.value,
            _join([body for _, body, _ in left]),
            *(abandoned, abandoned),
        ],
    )
    corrected = set(cursor.fetchall())
    left = [item for item in left if item[2].place not in corrected]
    cursor.execute(_FIND, [[head.request_id for _, _, head in left]])
    there = {row[0]: _There(*row[1:]) for row in cursor.fetchall()}
    return Appended(
        inserted=frozenset(request_id for request_id, _ in inserted),
        corrected=frozenset(request_id for request_id, _ in corrected),
        collisions=tuple(place for place, _, head in left if not there[head.request_id].tells(head)),
    )


@dataclass(frozen=True, slots=True)
class _There:
    """Which frames told the row that is there, and its correction."""

    spool: UUID
    seq: int
    corrected_by_spool: UUID | None
    corrected_by_seq: int | None

    def tells(self, head: Head) -> bool:
        """Whether `head` is that very frame, or only an estimate of the same worker's call."""
        frame = head.spool, head.seq
        if frame in ((self.spool, self.seq), (self.corrected_by_spool, self.corrected_by_seq)):
            return True
        return head.status == Status.ABANDONED and head.spool == self.spool


def _join(bodies: Sequence[bytes]) -> str:
    return (b"[" + b",".join(bodies) + b"]").decode()
