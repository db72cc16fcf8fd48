"""Brings spooled usage records to the ledger: in batches, each exactly once, whatever dies on the way.

The watermark of a spool (the last sequence number in the ledger) moves in the transaction of its rows, so a
batch is either wholly shipped or sent again, and a row sent again changes nothing.
"""

import logging
import re
import socket
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import msgspec
from django.db import DataError, IntegrityError, connection, transaction

from billing.ledger import OPEN_MARK
from billing.models import QuarantinedFrame, Status
from billing.spool import Frame, has_unread_bytes, is_owner_alive, read_frames

logger = logging.getLogger(__name__)

BATCH_FRAMES = 1000
_SEGMENT = re.compile(r"\A([0-9a-f-]{36})-(\d{6})\.spool\Z")

# The base holds what entries of the release before do not have.
_INSERT = """
    INSERT INTO billing_usagerecord
    SELECT * FROM json_populate_recordset(
        json_populate_record(NULL::billing_usagerecord, '{"requests": 1}'), %s)
    ON CONFLICT (request_id) DO NOTHING RETURNING request_id
"""
_ADVANCE = """
    INSERT INTO billing_spool (id, host, shipped_seq, updated_at) VALUES (%s, %s, %s, now())
    ON CONFLICT (id) DO UPDATE SET shipped_seq = EXCLUDED.shipped_seq, updated_at = now()
    WHERE billing_spool.shipped_seq < EXCLUDED.shipped_seq
"""


class _Identity(msgspec.Struct):
    request_id: UUID
    status: str


@dataclass(slots=True)
class _Position:
    """Where reading of one spool stands. `open_calls`: those that began, by request id, and where that is told."""

    shipped_seq: int
    offsets: dict[Path, int] = field(default_factory=lambda: defaultdict(int))
    open_calls: dict[UUID, tuple[Path, Frame]] = field(default_factory=dict)

    def note(self, path: Path, frame: Frame) -> bool:
        """Follow one frame; whether it is an entry of the ledger."""
        if not frame.body.startswith(OPEN_MARK):
            self.open_calls.pop(_identify(frame).request_id, None)
            return True
        begun = replace(frame, body=frame.body.removeprefix(OPEN_MARK))
        self.open_calls[_identify(begun).request_id] = path, begun
        return False


class Shipper:
    """Ships every spool of one directory; one process per host runs it."""

    def __init__(self, directory: Path, *, batch_frames: int = BATCH_FRAMES) -> None:
        self._directory = directory
        self._batch_frames = batch_frames
        self._positions: dict[UUID, _Position] = {}
        self._host = socket.gethostname()[:200]

    def ship_all(self) -> int:
        """Ship what is there now; returns the number of rows. Raises OperationalError while PostgreSQL is away."""
        return sum(self._ship_spool(spool, segments) for spool, segments in sorted(self._spools().items()))

    def _spools(self) -> dict[UUID, list[Path]]:
        found: dict[UUID, list[Path]] = defaultdict(list)
        for path in sorted(self._directory.glob("*.spool")):
            if match := _SEGMENT.match(path.name):
                found[UUID(match[1])].append(path)
        return found

    def _ship_spool(self, spool: UUID, segments: list[Path]) -> int:
        position = self._positions.get(spool)
        if position is None:
            position = self._positions[spool] = _Position(read_watermark(spool))
        ended = not is_owner_alive(self._directory, spool)  # asked before reading, so nothing can follow
        rows = sum(self._ship_segment(spool, path, position) for path in segments)
        if ended:
            rows += self._ship_abandoned(spool, position)
        self._retire_segments(segments, position, ended=ended)
        if ended:
            (self._directory / f"{spool}.lock").unlink(missing_ok=True)
            del self._positions[spool]
        return rows

    def _ship_segment(self, spool: UUID, path: Path, position: _Position) -> int:
        rows = 0
        while frames := read_frames(path, position.offsets[path], limit=self._batch_frames):
            entries = [frame for frame in frames if position.note(path, frame)]
            if fresh := [frame for frame in entries if frame.seq > position.shipped_seq]:
                ship_frames(spool, self._host, fresh)
                position.shipped_seq = fresh[-1].seq
                rows += len(fresh)
            position.offsets[path] = frames[-1].end
        return rows

    def _ship_abandoned(self, spool: UUID, position: _Position) -> int:
        """The calls that a dead worker left open stand as it said they should."""
        frames = sorted((frame for _, frame in position.open_calls.values()), key=lambda frame: frame.seq)
        for start in range(0, len(frames), self._batch_frames):
            ship_frames(spool, self._host, frames[start : start + self._batch_frames])
        position.open_calls.clear()
        if frames:
            logger.warning(
                "%d calls were abandoned by a worker that died.", len(frames), extra={"spool": str(spool)}
            )
        return len(frames)

    def _retire_segments(self, segments: list[Path], position: _Position, *, ended: bool) -> None:
        """Remove what holds nothing any more, the first segment first.

        A segment with a successor is complete, and the last one is when its owner is gone. One that tells of
        an open call stays: a new shipper could not know of it otherwise.
        """
        needed = {path for path, _ in position.open_calls.values()}
        for path in segments if ended else segments[:-1]:
            if path not in needed:
                _retire(path, position.offsets.pop(path, 0))


def _retire(path: Path, end: int) -> None:
    """Remove a segment that is wholly shipped; keep one with an unreadable rest for a person to look at."""
    if has_unread_bytes(path, end):
        logger.error(
            "A spool segment has an unreadable rest behind byte %d; kept as .torn.",
            end,
            extra={"spool": path.name},
        )
        path.rename(path.with_suffix(".torn"))
    else:
        path.unlink()


def read_watermark(spool: UUID) -> int:
    """The last sequence number of `spool` that is in the ledger; 0 for an unknown spool."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT shipped_seq FROM billing_spool WHERE id = %s", [spool])
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def ship_frames(spool: UUID, host: str, frames: list[Frame]) -> None:
    """Insert `frames` and move the watermark in one transaction. A frame that the database cannot take is
    found by halving and kept in quarantine, so that one bad row never blocks the rest."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_INSERT, [(b"[" + b",".join(frame.body for frame in frames) + b"]").decode()])
            inserted = {row[0] for row in cursor.fetchall()}
            if len(inserted) < len(frames):
                _check_conflicts(
                    spool, [frame for frame in frames if _identify(frame).request_id not in inserted]
                )
            cursor.execute(_ADVANCE, [spool, host, frames[-1].seq])
    except (DataError, IntegrityError) as error:
        if len(frames) == 1:
            _quarantine(spool, host, frames[0], str(error))
            return
        middle = len(frames) // 2
        ship_frames(spool, host, frames[:middle])
        ship_frames(spool, host, frames[middle:])


def _identify(frame: Frame) -> _Identity:
    return msgspec.json.decode(frame.body, type=_Identity)


def _check_conflicts(spool: UUID, frames: list[Frame]) -> None:
    """A row that is there already under the same spool and number is a replay; under others it is an alarm.

    But a call whose true end is already told was not abandoned: a new shipper may believe so, when the frame
    that told the end lay in a segment that is gone.
    """
    for frame in frames:
        identity = _identify(frame)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT spool, seq FROM billing_usagerecord WHERE request_id = %s", [identity.request_id]
            )
            there = cursor.fetchone()
            is_replay = there == (spool, frame.seq)
            if not is_replay and not (identity.status == Status.ABANDONED and there[0] == spool):
                _keep(spool, frame, "another record with this request id exists")


def _quarantine(spool: UUID, host: str, frame: Frame, error: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        _keep(spool, frame, error)
        cursor.execute(_ADVANCE, [spool, host, frame.seq])


def _keep(spool: UUID, frame: Frame, error: str) -> None:
    logger.error("A usage record was quarantined: %s", error.splitlines()[0], extra={"spool": str(spool)})
    QuarantinedFrame.objects.get_or_create(
        spool=spool, seq=frame.seq, defaults={"body": frame.body, "error": error[:500]}
    )
