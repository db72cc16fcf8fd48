"""Brings spooled usage records to the ledger: in batches, each exactly once, whatever dies on the way.

The watermark of a spool (the last sequence number in the ledger) moves in the transaction of its rows, so a
batch is either wholly shipped or sent again, and a row sent again changes nothing.
"""

import logging
import re
import socket
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import msgspec
from django.db import DataError, IntegrityError, connection, transaction

from billing.models import QuarantinedFrame
from billing.spool import Frame, has_unread_bytes, is_owner_alive, read_frames

logger = logging.getLogger(__name__)

BATCH_FRAMES = 1000
_SEGMENT = re.compile(r"\A([0-9a-f-]{36})-(\d{6})\.spool\Z")

_INSERT = """
    INSERT INTO billing_usagerecord
    SELECT * FROM json_populate_recordset(NULL::billing_usagerecord, %s)
    ON CONFLICT (request_id) DO NOTHING RETURNING request_id
"""
_ADVANCE = """
    INSERT INTO billing_spool (id, host, shipped_seq, updated_at) VALUES (%s, %s, %s, now())
    ON CONFLICT (id) DO UPDATE SET shipped_seq = EXCLUDED.shipped_seq, updated_at = now()
    WHERE billing_spool.shipped_seq < EXCLUDED.shipped_seq
"""


class _Identity(msgspec.Struct):
    request_id: UUID


@dataclass(slots=True)
class _Position:
    """Where reading of one spool stands."""

    shipped_seq: int
    offsets: dict[Path, int] = field(default_factory=lambda: defaultdict(int))


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
        rows = 0
        for path in segments:
            rows += self._ship_segment(spool, path, position)
            # A segment with a successor is complete, and the last one is when its owner is gone.
            if path is not segments[-1] or ended:
                _retire(path, position.offsets.pop(path, 0))
        if ended:
            (self._directory / f"{spool}.lock").unlink(missing_ok=True)
            del self._positions[spool]
        return rows

    def _ship_segment(self, spool: UUID, path: Path, position: _Position) -> int:
        rows = 0
        while frames := read_frames(path, position.offsets[path], limit=self._batch_frames):
            fresh = [frame for frame in frames if frame.seq > position.shipped_seq]
            if fresh:
                ship_frames(spool, self._host, fresh)
                position.shipped_seq = fresh[-1].seq
                rows += len(fresh)
            position.offsets[path] = frames[-1].end
        return rows


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
                _check_conflicts(spool, [frame for frame in frames if _request_id(frame) not in inserted])
            cursor.execute(_ADVANCE, [spool, host, frames[-1].seq])
    except (DataError, IntegrityError) as error:
        if len(frames) == 1:
            _quarantine(spool, host, frames[0], str(error))
            return
        middle = len(frames) // 2
        ship_frames(spool, host, frames[:middle])
        ship_frames(spool, host, frames[middle:])


def _request_id(frame: Frame) -> UUID:
    return msgspec.json.decode(frame.body, type=_Identity).request_id


def _check_conflicts(spool: UUID, frames: list[Frame]) -> None:
    """A row that is there already under the same spool and number is a replay; under others it is an alarm."""
    for frame in frames:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT spool, seq FROM billing_usagerecord WHERE request_id = %s", [_request_id(frame)]
            )
            if cursor.fetchone() != (spool, frame.seq):
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
