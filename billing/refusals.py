"""Refusals that come in floods: the first of a minute have rows of their own, the rest share one.

A caller who is refused thousands of times a second would fill spool and ledger otherwise, and stop everybody.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from billing.ids import uuid7
from billing.ledger import LedgerEntry

_MINUTE_S = 60
Kind = tuple[int | None, str, str, int]  # API key, reason, operation, minute since 1970


@dataclass(slots=True)
class _Seen:
    rows: int = 0
    shared: LedgerEntry | None = None


class RefusalBundles:
    """Counts refusals per key, reason, operation and minute; `most_rows` of each are told one by one."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._seen: dict[Kind, _Seen] = {}

    def take(self, entry: LedgerEntry) -> bool:
        """Whether `entry` is to be a row of its own; if not, it is counted here."""
        minute = int(entry.admitted_at.timestamp()) // _MINUTE_S
        kind = entry.api_key_id, entry.reason, entry.operation, minute
        seen = self._seen.setdefault(kind, _Seen())
        if seen.rows < self._most_rows:
            seen.rows += 1
            return True
        if seen.shared is None:
            seen.shared = _shared_row(entry)
        else:
            seen.shared.requests += 1
            seen.shared.ended_at = entry.ended_at
        return False

    def drain(self, before: datetime) -> list[LedgerEntry]:
        """The shared rows of the minutes that are over at `before`; they are forgotten here."""
        minute = int(before.timestamp()) // _MINUTE_S
        over = [kind for kind in self._seen if kind[-1] < minute]
        drained = (self._seen.pop(kind).shared for kind in over)
        return [entry for entry in drained if entry is not None]

    def drain_all(self) -> list[LedgerEntry]:
        """Every shared row, at the end of this worker's life."""
        return self.drain(datetime.max.replace(tzinfo=UTC))


def _shared_row(entry: LedgerEntry) -> LedgerEntry:
    """A row that stands for `entry` and those to follow: without what may differ between them."""
    return msgspec.structs.replace(
        entry,
        request_id=uuid7(),
        application_id=None,
        application="",
        end_user="",
        client_request_id="",
        model="",
        streamed=False,
    )
