"""One ledger row as the worker writes it: encoded once, shipped unparsed."""

import uuid
from collections.abc import Sequence
from datetime import datetime

import msgspec

from billing.spool import Spool

OPEN_MARK = (
    b"R"  # before the entry of a call that only began; every other frame is an entry, which begins with "{"
)


class FailedAttempt(msgspec.Struct, frozen=True):
    """A call to a backend after which another was made for the same request. Money in nano-dollars.
    `was_continued`: it had begun to answer, and the next went on where it broke off."""

    backend_id: int
    backend: str
    reason: str
    duration_ms: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int
    was_continued: bool = False


class LedgerEntry(msgspec.Struct):
    """The columns of UsageRecord, in the same names (a test holds the two together)."""

    request_id: uuid.UUID
    admitted_at: datetime
    ended_at: datetime
    operation: str
    streamed: bool
    status: str
    http_status: int
    reason: str
    department_id: int | None
    department: str
    team_id: int | None
    team: str
    application_id: int | None
    application: str
    api_key_id: int | None
    api_key_hint: str
    end_user: str
    client_request_id: str
    model: str
    backend_id: int | None
    backend: str
    price_entry_id: int | None
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool
    input_cost_nanousd: int
    cached_input_cost_nanousd: int
    cache_write_cost_nanousd: int
    output_cost_nanousd: int
    cost_nanousd: int
    attempts: int
    duration_ms: int
    first_byte_ms: int | None
    overhead_us: int | None
    requests: int = 1
    model_alias: str | None = None
    list_price_id: int | None = None
    failed_attempts: tuple[FailedAttempt, ...] | None = None
    guard_findings: Sequence[msgspec.Struct] | None = None
    is_other_user: bool = False
    served_model: str | None = None
    spool: uuid.UUID | None = None
    seq: int = 0


class Ledger:
    """Appends entries to the worker's spool; the shipper brings them to PostgreSQL."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.last_ends: dict[
            tuple[int, int], int
        ] = {}  # the number of the last entry of each department and team
        self._encoder = msgspec.json.Encoder()

    def append(self, entry: LedgerEntry) -> bytes:
        """Make `entry` durable against the death of this process: about 3 microseconds, no waiting.

        Returns it as it is written; its number is in it.
        """
        body = self._encode(entry)
        self.spool.append(body)
        if entry.department_id is not None and entry.team_id is not None:
            self.last_ends[entry.department_id, entry.team_id] = entry.seq
        return body

    def append_open(self, entry: LedgerEntry) -> None:
        """Make durable how a call that now begins is to stand if this process dies before `append`."""
        self.spool.append_open(OPEN_MARK + self._encode(entry))

    def append_grown(self, entry: LedgerEntry) -> None:
        """The same anew for a call that is under way, and now holds more. Raises SpoolFull where there is no room."""
        self.spool.append_again(OPEN_MARK + self._encode(entry))

    def _encode(self, entry: LedgerEntry) -> bytes:
        entry.spool = self.spool.id
        entry.seq = self.spool.last_seq + 1
        return self._encoder.encode(entry)


_UNSTORABLE = dict.fromkeys((*range(32), 127, *range(55296, 57344)), "�")


def clean_text(value: str, longest: int = 200) -> str:
    """Caller-set text as the ledger can hold it: control characters and lone surrogates replaced, cut to length."""
    return value[:longest].translate(_UNSTORABLE) if value else ""
