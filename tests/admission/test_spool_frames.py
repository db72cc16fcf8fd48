"""Spools read again: by number and department, and never without saying that something is missing."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from billing.admission.holds import Amounts, EndFrame, FramesGone
from billing.admission.rules import Dimensions
from billing.admission.spool_frames import SpoolFrames
from billing.ids import uuid7
from tests.admission.spools import WrittenSpool

OURS: dict[str, Any] = {"department_id": 7, "team_id": 5, "model": "large"}


def after(spool: WrittenSpool, seq: int, department_id: int = 7, **options: Any) -> list[EndFrame]:
    def concerns(call: Dimensions) -> bool:
        return call.department_id == department_id

    return list(SpoolFrames(spool.folder, spool.id, **options).after(seq, concerns))


def numbers(spool: WrittenSpool, seq: int, department_id: int = 7, **options: Any) -> list[int]:
    return [frame.seq for frame in after(spool, seq, department_id, **options)]


def test_an_end_says_who_when_and_how_much(tmp_path: Path) -> None:
    spool, request_id = WrittenSpool(tmp_path), uuid7()
    admitted = datetime(2026, 9, 30, 23, 59, 59, 1_000, tzinfo=UTC)
    spool.begin(request_id=request_id, **OURS)
    spool.end(
        request_id=request_id,
        admitted_at=admitted,
        application_id=3,
        api_key_id=2,
        end_user="ann",
        input_tokens=30,
        output_tokens=12,
        cost_nanousd=2**60,
        **OURS,
    )
    spool.write()
    call = Dimensions(7, 5, 3, 2, "ann", "large")
    (end,) = after(spool, 0, keeps_copies=False)
    assert end == EndFrame(2, str(request_id), 1_790_812_799_001, call, Amounts(2**60, 42))
    (kept,) = after(spool, 0)
    assert b'"cost_nanousd":1152921504606846976' in kept.record


def test_other_departments_first_frames_and_what_was_never_admitted_do_no_harm(tmp_path: Path) -> None:
    spool = WrittenSpool(tmp_path)
    spool.begin(**OURS)
    spool.end(department_id=8, team_id=6)
    spool.end(status="refused")  # without a key there is no department
    spool.end(status="refused", requests=500, **OURS)
    spool.end(status="refused", **OURS)
    spool.end(cost_nanousd=4, **OURS)
    spool.write()
    assert [(frame.seq, frame.true.money) for frame in after(spool, 0)] == [(5, 0), (6, 4)]
    assert numbers(spool, 0, 8) == [2]
    assert numbers(spool, 5) == [6]
    assert numbers(spool, 6) == numbers(spool, 99) == []


@pytest.fixture
def long_spool(tmp_path: Path) -> WrittenSpool:
    """Some segments; every third frame is a first one."""
    spool = WrittenSpool(tmp_path)
    for number in range(1, 400):
        (spool.begin if number % 3 == 0 else spool.end)(**OURS)
    spool.write()
    assert len(spool.segments()) > 4
    return spool


def test_every_number_can_be_begun_at_over_all_segments(long_spool: WrittenSpool) -> None:
    frames = SpoolFrames(long_spool.folder, long_spool.id)
    every = [number for number in range(1, 400) if number % 3]
    for seq in (0, 1, 2, 50, 75, 76, 399, 300, 150, 398, 0):
        assert [frame.seq for frame in frames.after(seq, lambda call: call.department_id == 7)] == [
            n for n in every if n > seq
        ]


def first_of(path: Path) -> int:
    import struct

    return int(struct.unpack("<IIQ", path.read_bytes()[:16])[2])


def test_frames_of_removed_segments_are_missed_and_only_they(long_spool: WrittenSpool) -> None:
    paths = long_spool.segments()
    begins = [first_of(path) for path in paths]
    paths[0].unlink()
    for seq in (0, begins[1] - 2):
        with pytest.raises(FramesGone):
            after(long_spool, seq)
    assert numbers(long_spool, begins[1] - 1)[0] in (begins[1], begins[1] + 1)
    paths[2].unlink()  # the one before it stays, as of a call that is open
    for seq in (begins[1], begins[2] - 1, begins[3] - 2):
        with pytest.raises(FramesGone):
            after(long_spool, seq)
    assert numbers(long_spool, begins[3] - 1)


def test_who_is_known_to_be_silent_misses_nothing(long_spool: WrittenSpool) -> None:
    long_spool.segments()[0].unlink()
    ends = {(7, 5): 398, (9, 5): 20}
    assert numbers(long_spool, 20, 9, last_ends=ends) == numbers(long_spool, 0, 10, last_ends=ends) == []
    with pytest.raises(FramesGone):
        numbers(long_spool, 19, 9, last_ends=ends)


def test_a_spool_without_any_file_can_tell_nothing(tmp_path: Path) -> None:
    with pytest.raises(FramesGone):
        after(WrittenSpool(tmp_path), 0)


def test_an_empty_last_segment_says_nothing_of_those_removed_before_it(long_spool: WrittenSpool) -> None:
    paths = long_spool.segments()
    paths[-1].write_bytes(b"")
    assert numbers(long_spool, 0)
    paths[-2].unlink()
    for seq in (first_of(paths[-3]), 399):
        with pytest.raises(FramesGone):
            after(long_spool, seq)


def test_a_new_spool_has_nothing_to_tell(tmp_path: Path) -> None:
    spool = WrittenSpool(tmp_path)
    spool.write()
    assert numbers(spool, 0) == []
    (path,) = spool.segments()
    path.rename(path.with_name(path.name.replace("-000000", "-000001")))
    with pytest.raises(FramesGone):
        after(spool, 0)
