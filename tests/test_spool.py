"""The spool: frames survive what kills their writer, and no bound is crossed silently."""

import os
import resource
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.spool import (
    FRAMES_PER_CALL,
    HEADER,
    MAX_FRAME_BYTES,
    Frame,
    Spool,
    SpoolFull,
    has_unread_bytes,
    is_owner_alive,
    read_frames,
    segment_name,
)

SEGMENT = 64 * 1024


def make_spool(folder: Path, *, segments: int = 4) -> Spool:
    return Spool(uuid.uuid4(), folder, max_bytes=segments * SEGMENT, segment_bytes=SEGMENT)


def append(spool: Spool, body: bytes) -> None:
    spool.admit()
    spool.append(body)


def read_all(spool: Spool, folder: Path) -> list[Frame]:
    frames: list[Frame] = []
    for path in sorted(folder.glob(f"{spool.id}-*.spool")):
        offset = 0
        while batch := read_frames(path, offset, limit=7):
            frames += batch
            offset = batch[-1].end
    return frames


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(bodies=st.lists(st.binary(min_size=1, max_size=3000), max_size=60))
def test_what_was_appended_is_read_back_in_order_over_segments(tmp_path: Path, bodies: list[bytes]) -> None:
    spool = make_spool(tmp_path)
    for body in bodies:
        append(spool, body)
    frames = read_all(spool, tmp_path)
    assert [frame.body for frame in frames] == bodies
    assert [frame.seq for frame in frames] == list(range(1, len(bodies) + 1))
    spool.close()


def test_a_frame_cut_anywhere_is_not_read_and_those_before_it_are(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    append(spool, b"first")
    append(spool, b"second, the last")
    spool.close()
    path = tmp_path / segment_name(spool.id, 0)
    whole = path.read_bytes()
    start = HEADER.size + len(b"first")
    for length in range(start, len(whole)):
        path.write_bytes(whole[:length])
        assert [frame.body for frame in read_frames(path, 0, limit=10)] == [b"first"]
        assert has_unread_bytes(path, start) == (length > start)
    for position in range(start, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        assert [frame.body for frame in read_frames(path, 0, limit=10)] == [b"first"]


def admit_until_full(spool: Spool) -> int:
    """How many calls were admitted before the spool refused."""
    for number in range(10_000):
        if not spool.has_room():
            return number
        spool.admit()
    raise AssertionError("this spool has no bound")


def test_a_full_spool_refuses_new_calls_and_still_records_the_admitted(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, segments=1)
    admitted = admit_until_full(spool)
    assert admitted == SEGMENT // (FRAMES_PER_CALL * MAX_FRAME_BYTES)
    with pytest.raises(SpoolFull):
        spool.admit()
    largest = b"x" * (MAX_FRAME_BYTES - HEADER.size)
    for _ in range(admitted):
        spool.append_open(largest)
    for _ in range(admitted):
        spool.append(largest)
    assert len(read_all(spool, tmp_path)) == FRAMES_PER_CALL * admitted
    spool.close()


def test_a_spool_that_is_not_shipped_stops_admission_at_its_bound(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, segments=3)
    appended = 0
    while spool.has_room():
        append(spool, b"x" * 1000)
        appended += 1
    with pytest.raises(SpoolFull, match="reached its bound"):
        spool.admit()
    assert len(read_all(spool, tmp_path)) == appended > 150
    for path in sorted(tmp_path.glob("*.spool"))[:-1]:
        path.unlink()  # shipped
    assert spool.has_room()
    spool.close()


def test_released_promises_make_room_again(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, segments=1)
    for _ in range(1000):
        spool.admit()
        spool.release()
    assert spool.has_room()
    spool.close()


def test_an_oversize_frame_is_refused_whole(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    spool.admit()
    with pytest.raises(ValueError, match="too large"):
        spool.append(b"x" * MAX_FRAME_BYTES)
    append(spool, b"next")
    assert [(frame.seq, frame.body) for frame in read_all(spool, tmp_path)] == [(1, b"next")]
    spool.close()


def test_no_disk_space_is_spool_full_before_anything_is_promised(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    for _ in range(14):
        append(spool, b"x" * 4000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SEGMENT - 1, before[1]))  # the next segment cannot be reserved
    try:
        spool.admit()
        with pytest.raises(SpoolFull, match="no disk space"):
            spool.admit()
        spool.append(b"the admitted one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert len(list(tmp_path.glob("*.spool"))) == 1
    assert read_all(spool, tmp_path)[-1].body == b"the admitted one"
    spool.close()


OWNER = """
import sys, uuid
from pathlib import Path
from billing.spool import Spool
spool = Spool(uuid.UUID(sys.argv[1]), Path(sys.argv[2]), max_bytes=10**6, segment_bytes=65536)
for number in range(3):
    spool.admit()
    spool.append(b"frame %d" % number)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_owner_leaves_its_frames_and_frees_its_lock(tmp_path: Path) -> None:
    spool_id = uuid.uuid4()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(spool_id), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        env={**os.environ},
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        assert is_owner_alive(tmp_path, spool_id)
        owner.kill()
    assert not is_owner_alive(tmp_path, spool_id)
    frames = read_frames(tmp_path / segment_name(spool_id, 0), 0, limit=10)
    assert [frame.body for frame in frames] == [b"frame 0", b"frame 1", b"frame 2"]
    assert not is_owner_alive(tmp_path, uuid.uuid4())
