"""Request ids: UUIDv7 (RFC 9562), whose first 48 bits are milliseconds since 1970 in UTC."""

import os
import time
import uuid
from datetime import datetime

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_CLEAR = ~((0xF << 76) | (0b11 << 62))


def uuid7() -> uuid.UUID:
    """A new id; its order follows the clock, its other 74 bits are random."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return uuid.UUID(int=value & _CLEAR | _VERSION_7 | _VARIANT)


def smallest_id_at(moment: datetime) -> uuid.UUID:
    """Where requests admitted from `moment` on begin among the ledger's ids, which are UUIDv7."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)
