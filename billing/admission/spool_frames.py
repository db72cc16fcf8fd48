"""The ends of calls as the segment files of one spool still tell them."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec

from billing.admission.holds import Amounts, EndFrame, FramesGone
from billing.admission.rules import Dimensions
from billing.ledger import OPEN_MARK, LedgerEntry
from billing.spool import HEADER, Frame, read_frames, segments_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_READ_FRAMES = 1000
_MARK_EVERY = 1000
_BUFFER_BYTES = 1024**2


class _Owner(msgspec.Struct, frozen=True):
    """Whose entry it is, and whether it stands for many refusals."""

    department_id: int | None
    team_id: int | None
    requests: int = 1


_owner_decoder = msgspec.json.Decoder(_Owner)
_entry_decoder = msgspec.json.Decoder(LedgerEntry)


def to_end_frame(entry: LedgerEntry, record: bytes) -> EndFrame:
    """The end of a call of a known caller; `record` is the entry as it is written, or empty."""
    assert entry.department_id is not None and entry.team_id is not None  # noqa: S101, PT018 - a caller has both
    return EndFrame(
        seq=entry.seq,
        rid=str(entry.request_id),
        admitted_ms=(entry.admitted_at - _EPOCH) // _MILLISECOND,
        call=Dimensions(
            entry.department_id,
            entry.team_id,
            entry.application_id,
            entry.api_key_id,
            entry.end_user,
            entry.model,
            entry.is_other_user,
        ),
        true=Amounts(entry.cost_nanousd, entry.input_tokens + entry.output_tokens),
        record=record,
    )


class SpoolFrames:
    """Reads a spool again from any number on; blocking.

    `last_ends`: the number of the last end of each department and team, where that is known: so who was silent
    since long ago is not taken for somebody whose frames are gone. `keeps_copies`: whether booking is to leave the
    record in the store until it is shipped.
    """

    def __init__(
        self,
        directory: Path,
        spool: UUID,
        *,
        last_ends: Mapping[tuple[int, int], int] | None = None,
        keeps_copies: bool = True,
    ) -> None:
        self._directory = directory
        self._spool = spool
        self._last_ends = last_ends
        self._keeps_copies = keeps_copies
        self._marks: dict[Path, list[tuple[int, int]]] = {}  # number of a frame and the offset behind it

    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> Iterator[EndFrame]:
        """See Frames. Raises FramesGone, also in the middle, and OSError.

        Of what was never admitted, rows that stand for many refusals are left out; others are ends of no cost.
        """
        if self._last_ends is not None and not any(
            last > seq and concerns(_call_of(*owner)) for owner, last in self._last_ends.items()
        ):
            return
        for frame in self._frames_after(seq):
            if frame.body.startswith(OPEN_MARK):
                continue
            owner = _owner_decoder.decode(frame.body)
            if owner.department_id is None or owner.team_id is None or owner.requests != 1:
                continue
            if concerns(_call_of(owner.department_id, owner.team_id)):
                record = frame.body if self._keeps_copies else b""
                yield to_end_frame(_entry_decoder.decode(frame.body), record)

    def _frames_after(self, seq: int) -> Iterator[Frame]:
        """All frames above `seq`. Numbers rise by one, so what is missing is seen."""
        segments = segments_of(self._directory).get(self._spool, [])
        self._marks = {path: marks for path, marks in self._marks.items() if path in segments}
        expected = seq + 1
        try:
            firsts = [_first_seq(path) for path in segments]
            for place in _places(firsts, expected):
                offset = self._find(segments[place], seq)
                while frames := read_frames(segments[place], offset, limit=_READ_FRAMES):
                    for frame in frames:
                        if frame.seq != expected:
                            raise FramesGone(f"frame {expected} of spool {self._spool} is gone")
                        expected += 1
                        yield frame
                    offset = frames[-1].end
        except FileNotFoundError as error:
            raise FramesGone(f"a segment of spool {self._spool} was removed") from error
        if not _is_end_known(segments, firsts):
            raise FramesGone(f"the last frames of spool {self._spool} are gone")

    def _find(self, path: Path, seq: int) -> int:
        """Where the first frame above `seq` begins, or the end of what is written."""
        marks = self._marks.setdefault(path, [(0, 0)])
        _, offset = marks[max(0, bisect_right(marks, seq, key=lambda mark: mark[0]) - 1)]
        passed = 0
        with path.open("rb", buffering=_BUFFER_BYTES) as file:
            file.seek(offset)
            while len(header := file.read(HEADER.size)) == HEADER.size:
                length, _, number = HEADER.unpack(header)
                if length == 0 or number > seq:
                    break
                file.seek(length, 1)
                offset += HEADER.size + length
                passed += 1
                if passed % _MARK_EVERY == 0 and number > marks[-1][0]:
                    marks.append((number, offset))
        return offset


def _call_of(department_id: int, team_id: int) -> Dimensions:
    return Dimensions(department_id, team_id, None, None, "", "")


def _first_seq(path: Path) -> int:
    """The number of a segment's first frame; 0 when it has none yet."""
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return 0
    length, _, number = HEADER.unpack(header)
    return int(number) if length else 0


def _places(firsts: list[int], expected: int) -> range:
    """Which segments may hold the frames from number `expected` on, by what they begin with."""
    begun = [place for place, first in enumerate(firsts) if 0 < first <= expected]
    return range(begun[-1] if begun else 0, len(firsts))


def _is_end_known(segments: list[Path], firsts: list[int]) -> bool:
    """Whether nothing is missing behind the last segment that has frames."""
    place = max((place for place, first in enumerate(firsts) if first), default=0)
    numbers = [int(path.stem[-6:]) for path in segments[place:]]
    begin = numbers[0] if any(firsts) else 0
    return bool(numbers) and numbers == list(range(begin, begin + len(numbers)))
