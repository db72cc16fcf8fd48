"""Copies of records in the store, which live until the ledger holds them: so a lost disk loses no booked record."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import connection

from billing.admission.abandoned import record_copy
from billing.admission.commands import copies_key, plain
from billing.admission.holds import in_pieces
from billing.admission.links import Exchange, Reply, StoreLost, StoreRefused
from billing.admission.rebuild import Leases
from billing.ledger_rows import Head, read_head

logger = logging.getLogger(__name__)

_PIECE = 500
_SAMPLES = "20"  # of a hash, whose size is reckoned by them
# An abandoned call's row is not its record: the truth is still to come.
_TOLD = """
    SELECT r.request_id FROM billing_usagerecord r
    WHERE r.request_id = ANY(%s) AND (r.status <> 'abandoned'
        OR EXISTS (SELECT 1 FROM billing_usagecorrection c WHERE c.request_id = r.request_id))
"""


@dataclass(frozen=True, slots=True)
class Weight:
    """How many copies there are, and about how much of the store's memory they take."""

    copies: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Copy:
    head: Head
    body: bytes


class Copies:
    """Over a link of its own. Blocking: not for an event loop."""

    def __init__(self, link: Exchange) -> None:
        self._link = link

    def forget(self, heads: Iterable[Head]) -> None:
        """Remove the copies of records that are in the ledger, where there are any. Raises StoreLost."""
        by_department: dict[int, list[UUID]] = defaultdict(list)
        for head in heads:
            if head.department_id is not None:
                by_department[head.department_id].append(head.request_id)
        for department_id, ids in by_department.items():
            self._remove(department_id, ids)

    def tidy(self, department_ids: Sequence[int], leases: Leases) -> int:
        """Remove copies of records that are in the ledger, and bring those of silent workers there first.

        Says how many were brought. Raises StoreLost, and Django's errors while PostgreSQL is away.
        """
        brought = 0
        for number in self._count(department_ids):
            try:
                brought += self._tidy(number, leases)
            except ValueError:  # a copy of another release; other departments go on
                logger.exception("Copies of records cannot be read.", extra={"department": number})
        return brought

    def weigh(self, department_ids: Sequence[int]) -> Weight:
        """All copies of these departments together. Raises StoreLost."""
        counts = self._count(department_ids)
        size = 0
        for piece in in_pieces(list(counts), _PIECE):
            keys = [copies_key(number) for number in piece]
            asked = [plain("MEMORY", "USAGE", key, "SAMPLES", _SAMPLES, key=key) for key in keys]
            size += sum(reply for reply in self._link.exchange(asked) if isinstance(reply, int))
        return Weight(sum(counts.values()), size)

    def _count(self, department_ids: Sequence[int]) -> dict[int, int]:
        """By department, where there are any."""
        found: dict[int, int] = {}
        for piece in in_pieces(department_ids, _PIECE):
            counts = self._link.exchange([plain("HLEN", copies_key(number)) for number in piece])
            pairs = zip(piece, counts, strict=True)
            found |= {number: count for number, count in pairs if isinstance(count, int) and count}
        return found

    def _tidy(self, department_id: int, leases: Leases) -> int:
        brought, cursor = 0, b"0"
        while True:
            cursor, flat = self._ask("HSCAN", copies_key(department_id), cursor, "COUNT", str(_PIECE))
            copies = [_Copy(read_head(body), body) for body in flat[1::2]]
            told = _read_told([copy.head.request_id for copy in copies])
            lost = [copy for copy in copies if copy.head.request_id not in told and _is_silent(copy, leases)]
            for copy in lost:
                record_copy(copy.body)
            self._remove(department_id, [*told, *(copy.head.request_id for copy in lost)])
            brought += len(lost)
            if cursor == b"0":
                return brought

    def _remove(self, department_id: int, ids: Sequence[UUID]) -> None:
        for piece in in_pieces(ids, _PIECE):
            self._ask("HDEL", copies_key(department_id), *map(str, piece))

    def _ask(self, *parts: bytes | str) -> Reply:
        (reply,) = self._link.exchange([plain(*parts)])
        if isinstance(reply, StoreRefused):
            raise StoreLost(str(reply), was_sent=False)
        return reply


def _is_silent(copy: _Copy, leases: Leases) -> bool:
    return leases.are_complete and str(copy.head.spool) not in leases.workers


def _read_told(ids: Sequence[UUID]) -> set[UUID]:
    with connection.cursor() as cursor:
        cursor.execute(_TOLD, [list(ids)])
        return {row[0] for row in cursor.fetchall()}
