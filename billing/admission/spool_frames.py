"""What a spool tells the counters: the ends of calls, out of its entries of the ledger."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import msgspec

from billing.admission.holds import Amounts, EndFrame
from billing.admission.rules import Dimensions
from billing.ledger import OPEN_MARK, LedgerEntry
from billing.spool import read_frames, segments_of

_PIECE = 1000


class FramesGone(Exception):
    """Frames that were asked for are shipped and removed."""


class SpoolFrames:
    """Reads the segment files of one spool."""

    def __init__(self, directory: Path, spool: UUID) -> None:
        self._directory = directory
        self._spool = spool

    def after(self, seq: int, department_id: int) -> Iterator[EndFrame]:
        """See Frames. Raises FramesGone."""
        expected: int | None = None
        for path in segments_of(self._directory).get(self._spool, []):
            offset = 0
            while frames := read_frames(path, offset, limit=_PIECE):
                offset = frames[-1].end
                if expected is None and frames[0].seq > seq + 1:
                    raise FramesGone(f"frames {seq + 1} to {frames[0].seq - 1} of the spool are gone")
                expected = frames[-1].seq
                for frame in frames:
                    if frame.seq > seq and not frame.body.startswith(OPEN_MARK):
                        entry = msgspec.json.decode(frame.body, type=LedgerEntry)
                        if entry.department_id == department_id:
                            yield to_end_frame(entry, frame.body)


def to_end_frame(entry: LedgerEntry, record: bytes) -> EndFrame:
    """The end of a call of a known caller; `record` is the entry as it is written."""
    assert entry.department_id is not None and entry.team_id is not None  # noqa: S101, PT018 - a caller has both
    return EndFrame(
        seq=entry.seq,
        rid=str(entry.request_id),
        admitted_ms=int(entry.admitted_at.timestamp() * 1000),
        call=Dimensions(
            entry.department_id,
            entry.team_id,
            entry.application_id,
            entry.api_key_id,
            entry.end_user,
            entry.model,
        ),
        true=Amounts(entry.cost_nanousd, entry.input_tokens + entry.output_tokens),
        record=record,
    )
