"""Ledger entries and spool frames as tests need them: complete, and only what matters said."""

import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec

from billing.ids import uuid7
from billing.ledger import LedgerEntry
from billing.spool import Frame

NOW = datetime.now(UTC)
SPOOL = uuid.uuid4()


def entry(**fields: Any) -> LedgerEntry:
    empty: dict[str, Any] = {
        name: "" for name, kind in LedgerEntry.__annotations__.items() if kind in (str, "str")
    } | {name: 0 for name, kind in LedgerEntry.__annotations__.items() if kind in (int, "int")}
    nothing = {
        f"{what}_id": None
        for what in ("department", "team", "application", "api_key", "backend", "price_entry")
    }
    return LedgerEntry(
        **(
            empty
            | nothing
            | {
                "request_id": uuid7(),
                "admitted_at": NOW,
                "ended_at": NOW,
                "status": "completed",
                "http_status": 200,
                "requests": 1,
            }
            | {
                "streamed": False,
                "estimated": False,
                "first_byte_ms": None,
                "overhead_us": None,
                "spool": SPOOL,
            }
            | fields
        )
    )


def frame(seq: int, **fields: Any) -> Frame:
    return Frame(seq, msgspec.json.encode(entry(seq=seq, **fields)), end=0)
