"""What the shipper of a host says of itself, in a small file beside the spools, readable while PostgreSQL is away."""

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

import msgspec

from billing.ledger import OPEN_MARK
from billing.spool import read_frames, segments_of

STATUS_FILE = "shipper.json"
LOCK_FILE = "shipper.lock"
_AT_LEAST_EVERY_S = 5.0
_AT_MOST_EVERY_S = 1.0
_SCAN_FRAMES = 1000


class KeeperStatus(msgspec.Struct, frozen=True):
    """What the shipper's second thread says. `turn_at`: when it last did all that was due, in seconds since 1970.
    `waiting_spools`: of dead workers, not in the counters yet. `copies`: of records, in the store, as last counted.
    The rest counts over restarts: holds that were ended for silent workers, records that came from copies, and
    departments whose counters this thread made anew."""

    turn_at: float | None = None
    waiting_spools: int = 0
    copies: int = 0
    copies_bytes: int = 0
    ended_holds: int = 0
    brought_records: int = 0
    rebuilds: int = 0


class ShipperStatus(msgspec.Struct, frozen=True):
    """Times are seconds since 1970. `shipped_rows` counts over restarts. `backlog_records` wait while PostgreSQL
    is away; `oldest_at` is when the oldest of them was admitted."""

    last_success_at: float | None = None
    shipped_rows: int = 0
    backlog_records: int = 0
    oldest_at: float | None = None
    keeper: KeeperStatus = KeeperStatus()


def read_shipper_status(directory: Path) -> ShipperStatus:
    """The last word of the shipper of `directory`; an empty one when there is none that can be read."""
    try:
        return msgspec.json.decode((directory / STATUS_FILE).read_bytes(), type=ShipperStatus)
    except (OSError, msgspec.MsgspecError):
        return ShipperStatus()


def is_shipper_alive(directory: Path) -> bool:
    """Whether a process other than this one holds the shipper's lock."""
    try:
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


class ShipperReport:
    """Keeps the file current, without writing it in every round."""

    def __init__(self, directory: Path, keeper: Callable[[], KeeperStatus] = KeeperStatus) -> None:
        """`keeper` is asked for its status whenever the file is written."""
        self._directory = directory
        self._keeper = keeper
        self._backlog = _Backlog(directory)
        self._status = read_shipper_status(directory)
        self._written_at = 0.0

    def succeeded(self, rows: int) -> None:
        """A round was shipped, of `rows` rows. Raises OSError when the file cannot be written."""
        status = ShipperStatus(time.time(), self._status.shipped_rows + rows)
        is_news = rows > 0 or self._status.backlog_records > 0
        self._status = status
        self._write(_AT_MOST_EVERY_S if is_news else _AT_LEAST_EVERY_S)

    def failed(self, shipped: dict[UUID, int]) -> None:
        """PostgreSQL is away; `shipped` are the last sequence numbers known to be in the ledger."""
        records, oldest_at = self._backlog.measure(shipped)
        self._status = msgspec.structs.replace(self._status, backlog_records=records, oldest_at=oldest_at)
        self._write(_AT_MOST_EVERY_S)

    def close(self) -> None:
        """Write what is not written yet."""
        self._write(0.0)

    def _write(self, every_s: float) -> None:
        if 0 <= time.monotonic() - self._written_at < every_s:
            return
        fresh = self._directory / f"{STATUS_FILE}.new"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(msgspec.structs.replace(self._status, keeper=self._keeper())))
        fresh.replace(self._directory / STATUS_FILE)
        self._written_at = time.monotonic()


class _Admitted(msgspec.Struct):
    admitted_at: datetime


@dataclass(slots=True)
class _Segment:
    """How far a segment was looked through, and the first waiting record's time."""

    offset: int = 0
    waiting: int = 0
    oldest_at: float | None = None


@dataclass(slots=True)
class _Backlog:
    """Counts waiting frames; each is looked at once in an outage, however often it is asked."""

    directory: Path
    segments: dict[Path, _Segment] = field(default_factory=dict)
    shipped: dict[UUID, int] = field(default_factory=dict)

    def measure(self, shipped: dict[UUID, int]) -> tuple[int, float | None]:
        """How many records wait, and when the oldest was admitted. A spool that is not in `shipped` waits whole."""
        if shipped != self.shipped:
            self.segments, self.shipped = {}, dict(shipped)
        found = [
            self._look(path, shipped.get(spool, 0))
            for spool, paths in segments_of(self.directory).items()
            for path in paths
        ]
        oldest = [segment.oldest_at for segment in found if segment.oldest_at is not None]
        return sum(segment.waiting for segment in found), min(oldest, default=None)

    def _look(self, path: Path, shipped_seq: int) -> _Segment:
        segment = self.segments.setdefault(path, _Segment())
        while frames := read_frames(path, segment.offset, limit=_SCAN_FRAMES):
            waiting = [
                frame for frame in frames if frame.seq > shipped_seq and not frame.body.startswith(OPEN_MARK)
            ]
            if waiting and segment.oldest_at is None:
                first = msgspec.json.decode(waiting[0].body, type=_Admitted)
                segment.oldest_at = first.admitted_at.timestamp()
            segment.waiting += len(waiting)
            segment.offset = frames[-1].end
        return segment
