"""Brings spooled usage records to the ledger: in batches, each exactly once, whatever dies on the way.

The watermark of a spool (the last sequence number in the ledger) moves in the transaction of its rows, so a
batch is either wholly shipped or sent again, and a row sent again changes nothing.
"""

import logging
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from uuid import UUID

import msgspec
from django.db import DataError, IntegrityError, connection, transaction

from billing.ledger import OPEN_MARK, LedgerEntry
from billing.ledger_rows import Head, append_entries, read_head
from billing.models import QuarantinedFrame, UsageRecord
from billing.spool import (
    Frame,
    has_unread_bytes,
    is_owner_alive,
    is_whole,
    read_frames,
    segments_of,
    used_bytes,
)

logger = logging.getLogger(__name__)

BATCH_FRAMES = 1000
# When counters are made anew, a worker reads again in its spool what was not in the ledger at that moment. That takes
# a grace of three seconds, or as long as the worker or the store is silent: what comes later asks for new counters.
KEPT_S = 60.0
PATIENCE_S = 10.0  # to have a dead worker's records counted, when room is short

_ADVANCE = """
    INSERT INTO billing_spool (id, host, shipped_seq, updated_at) VALUES (%s, %s, %s, now())
    ON CONFLICT (id) DO UPDATE SET shipped_seq = EXCLUDED.shipped_seq, updated_at = now()
    WHERE billing_spool.shipped_seq < EXCLUDED.shipped_seq
"""


@dataclass(frozen=True, slots=True)
class DeadSpool:
    """A spool without an owner, of which every record is in the ledger.

    `owners`: the departments and teams whose calls it tells of. `last_ends`: the number of the last end of each,
    where it was followed from its first frame. `abandoned`: the calls that it left open. `is_whole`: whether
    a call of which it tells nothing was never made.
    """

    id: UUID
    directory: Path
    owners: frozenset[tuple[int, int]]
    last_ends: Mapping[tuple[int, int], int] | None
    abandoned: tuple[UUID, ...]
    is_whole: bool = False


class Counters(Protocol):
    """What is to be told to those who count, once records are in the ledger. None of it waits for the store."""

    def adopt(self, dead: DeadSpool) -> bool:
        """Whether all of a dead worker's records are counted; asked again until they are."""

    def give_up(self, dead: DeadSpool) -> None:
        """There is no room to wait for that any longer: have it counted out of the ledger."""

    def forget(self, heads: Sequence[Head]) -> None:
        """Records are in the ledger: copies of them are needed no more."""


class NoCounters:
    """Nobody counts."""

    def adopt(self, dead: DeadSpool) -> bool:
        """At once."""
        return True

    def give_up(self, dead: DeadSpool) -> None:
        """Nothing to do."""

    def forget(self, heads: Sequence[Head]) -> None:
        """Nothing to do."""


@dataclass(slots=True)
class _Position:
    """Where reading of one spool stands. `open_calls`: those that began, by request id, and where that is told."""

    shipped_seq: int
    offsets: dict[Path, int] = field(default_factory=lambda: defaultdict(int))
    open_calls: dict[UUID, tuple[Path, Frame]] = field(default_factory=dict)
    first_seq: int = 0  # of all frames that were read
    last_seq: int = 0
    last_ends: dict[tuple[int, int], int] = field(default_factory=dict)  # by department and team
    shipped_at: dict[Path, float] = field(default_factory=dict)  # segments that nothing will be added to
    abandoned: dict[UUID, tuple[int, int] | None] = field(default_factory=dict)  # and whose they are
    ended_at: float | None = None
    is_whole: bool | None = None  # not asked yet

    def note(self, path: Path, frame: Frame) -> Head | None:
        """Follow one frame; returns the head of an entry of the ledger."""
        self.first_seq = self.first_seq or frame.seq
        self.last_seq = frame.seq
        if frame.body.startswith(OPEN_MARK):
            begun = replace(frame, body=frame.body.removeprefix(OPEN_MARK))
            self.open_calls[read_head(begun.body).request_id] = path, begun
            return None
        head = read_head(frame.body)
        self.open_calls.pop(head.request_id, None)
        if head.owner is not None:
            self.last_ends[head.owner] = frame.seq
        return head


class Shipper:
    """Ships every spool of one directory; one process per host runs it."""

    def __init__(
        self,
        directory: Path,
        counters: Counters | None = None,
        *,
        batch_frames: int = BATCH_FRAMES,
        kept_s: float = KEPT_S,
        patience_s: float = PATIENCE_S,
        max_bytes: int = sys.maxsize,
    ) -> None:
        """Shipped segments are kept for `kept_s`, unless all take more than half of `max_bytes`; then dead
        workers' records are given up after `patience_s` too."""
        self._directory = directory
        self._counters: Counters = counters or NoCounters()
        self._batch_frames = batch_frames
        self._kept_s = kept_s
        self._patience_s = patience_s
        self._max_bytes = max_bytes
        self._positions: dict[UUID, _Position] = {}
        self._host = socket.gethostname()[:200]

    def ship_all(self) -> int:
        """Ship what is there now; returns the number of rows. Raises OperationalError while PostgreSQL is away."""
        spools = sorted(segments_of(self._directory).items())
        return sum(self._ship_spool(spool, segments) for spool, segments in spools)

    def watermarks(self) -> dict[UUID, int]:
        """The last sequence number known to be in the ledger, of each spool that was met."""
        return {spool: position.shipped_seq for spool, position in self._positions.items()}

    def _ship_spool(self, spool: UUID, segments: list[Path]) -> int:
        position = self._positions.get(spool)
        if position is None:
            position = self._positions[spool] = _Position(read_watermark(spool))
        ended = not is_owner_alive(self._directory, spool)  # asked before reading, so nothing can follow
        rows = sum(self._ship_segment(spool, path, position) for path in segments)
        if ended:
            rows += self._ship_abandoned(spool, position)
            if not self._is_counted(spool, position):
                return rows
        self._retire_segments(segments, position, ended=ended)
        if ended:
            (self._directory / f"{spool}.lock").unlink(missing_ok=True)
            del self._positions[spool]
        return rows

    def _ship_segment(self, spool: UUID, path: Path, position: _Position) -> int:
        rows = 0
        while frames := read_frames(path, position.offsets[path], limit=self._batch_frames):
            entries = [(frame, head) for frame in frames if (head := position.note(path, frame))]
            if fresh := [entry for entry in entries if entry[0].seq > position.shipped_seq]:
                ship_frames(spool, self._host, [frame for frame, _ in fresh])
                position.shipped_seq = fresh[-1][0].seq
                self._counters.forget([head for _, head in fresh])
                rows += len(fresh)
            position.offsets[path] = frames[-1].end
        return rows

    def _ship_abandoned(self, spool: UUID, position: _Position) -> int:
        """The calls that a dead worker left open stand as it said they should.

        They are numbered behind its last frame, in the order in which they began. Those that the ledger has
        already keep what they have: the numbers that this shipper's predecessor gave them before it died, an end
        that was told in a segment that is gone, or none, when the janitor was faster.
        """
        if not position.open_calls:
            return 0
        begun = sorted((frame for _, frame in position.open_calls.values()), key=lambda frame: frame.seq)
        ids = [read_head(frame.body).request_id for frame in begun]
        told = set(UsageRecord.objects.filter(pk__in=ids).values_list("pk", flat=True))
        first = max(position.last_seq, position.shipped_seq) + 1
        left = [frame for frame, request_id in zip(begun, ids, strict=True) if request_id not in told]
        frames = [_number(frame, seq) for seq, frame in enumerate(left, first)]
        for start in range(0, len(frames), self._batch_frames):
            batch = frames[start : start + self._batch_frames]
            ship_frames(spool, self._host, batch)
            position.shipped_seq = batch[-1].seq
        position.abandoned = {
            request_id: read_head(frame.body).owner for frame, request_id in zip(begun, ids, strict=True)
        }
        position.open_calls.clear()
        if frames:
            logger.warning(
                "%d calls were abandoned by a worker that died.", len(frames), extra={"spool": str(spool)}
            )
        return len(frames)

    def _is_counted(self, spool: UUID, position: _Position) -> bool:
        """Whether the files of a dead worker may go."""
        if position.is_whole is None:
            position.is_whole = is_whole(self._directory, spool)
        of_abandoned = {owner for owner in position.abandoned.values() if owner is not None}
        dead = DeadSpool(
            id=spool,
            directory=self._directory,
            owners=frozenset(position.last_ends) | of_abandoned,
            last_ends=dict(position.last_ends) if position.first_seq == 1 else None,
            abandoned=tuple(position.abandoned),
            is_whole=position.is_whole,
        )
        if self._counters.adopt(dead):
            return True
        if position.ended_at is None:
            position.ended_at = time.monotonic()
        if time.monotonic() - position.ended_at >= self._patience_s and self._is_tight():
            self._counters.give_up(dead)
            return True
        return False

    def _retire_segments(self, segments: list[Path], position: _Position, *, ended: bool) -> None:
        """Remove what holds nothing any more, the first segment first.

        A segment with a successor is complete, and the last one is when its owner is gone. One that tells of
        an open call stays: a new shipper could not know of it otherwise.
        """
        needed = {path for path, _ in position.open_calls.values()}
        now = time.monotonic()
        for path in segments if ended else segments[:-1]:
            kept_s = now - position.shipped_at.setdefault(path, now)
            if path not in needed and (ended or kept_s >= self._kept_s or self._is_tight()):
                _retire(path, position.offsets.pop(path, 0))
                del position.shipped_at[path]

    def _is_tight(self) -> bool:
        """Whether workers may soon lack room."""
        return used_bytes(self._directory) > self._max_bytes // 2


def _number(frame: Frame, seq: int) -> Frame:
    entry = msgspec.json.decode(frame.body, type=LedgerEntry)
    entry.seq = seq
    return replace(frame, seq=seq, body=msgspec.json.encode(entry))


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
    """Append `frames` to the ledger and move the watermark in one transaction. A frame that the database cannot
    take is found by halving and kept in quarantine, so that one bad row never blocks the rest."""
    try:
        with transaction.atomic():
            appended = append_entries([frame.body for frame in frames])
            for place in appended.collisions:
                _keep(spool, frames[place], "collision: another record with this request id exists")
            _advance(spool, host, frames[-1].seq)
    except (DataError, IntegrityError) as error:
        if len(frames) == 1:
            _quarantine(spool, host, frames[0], str(error))
            return
        middle = len(frames) // 2
        ship_frames(spool, host, frames[:middle])
        ship_frames(spool, host, frames[middle:])


def _advance(spool: UUID, host: str, seq: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_ADVANCE, [spool, host, seq])


def _quarantine(spool: UUID, host: str, frame: Frame, error: str) -> None:
    with transaction.atomic():
        _keep(spool, frame, error)
        _advance(spool, host, frame.seq)


def _keep(spool: UUID, frame: Frame, error: str) -> None:
    logger.error("A usage record was quarantined: %s", error.splitlines()[0], extra={"spool": str(spool)})
    QuarantinedFrame.objects.get_or_create(
        spool=spool, seq=frame.seq, defaults={"body": frame.body, "error": error[:500]}
    )
