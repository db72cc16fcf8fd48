"""The spool: where a worker appends usage records so that they survive its death, until they are shipped.

A spool is a series of segment files `<id>-<n>.spool` of one process life. A frame is
`length, crc32 of the rest, sequence number, body`; sequence numbers rise by one from 1 and never repeat.
Segments are reserved on disk before they are used, so a full disk refuses new calls instead of tearing the
record of an admitted one. `<id>.lock` is locked while the owner lives; the kernel frees it on `kill -9`.
"""

import contextlib
import fcntl
import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

HEADER = struct.Struct("<IIQ")  # body length in bytes, crc32 of sequence number and body, sequence number
_SEQ = struct.Struct("<Q")
_SEGMENT = re.compile(r"\A([0-9a-f-]{36})-(\d{6})\.spool\Z")
MAX_FRAME_BYTES = 4096
FRAMES_PER_CALL = 2  # one when the call begins, one when it has ended
SEGMENT_BYTES = 64 * 1024**2
_FIRST_READ_BYTES = 64 * 1024


class SpoolFull(Exception):
    """There is no room to promise the record of one more call."""


def _size(path: Path) -> int:
    """In bytes; 0 for a segment that the shipper removed in this moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def segment_name(spool: UUID, number: int) -> str:
    """The file name of a segment; names sort in the order of writing."""
    return f"{spool}-{number:06d}.spool"


def segments_of(directory: Path) -> dict[UUID, list[Path]]:
    """The segments of every spool in `directory`, in the order of writing."""
    found: dict[UUID, list[Path]] = defaultdict(list)
    for path in sorted(directory.glob("*.spool")):
        if match := _SEGMENT.match(path.name):
            found[UUID(match[1])].append(path)
    return found


def used_bytes(directory: Path) -> int:
    """What all segments in `directory` take, reserved space included."""
    return sum(map(_size, directory.glob("*.spool")))


class Spool:
    """The writing side; one per worker process, used from its event loop only."""

    def __init__(
        self, spool_id: UUID, directory: Path, *, max_bytes: int, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Reserve the first segment. Raises SpoolFull or OSError when the place cannot be used."""
        self.id = spool_id
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._segment = 0
        self._offset = 0
        self.open_calls = 0  # admitted, neither recorded nor released yet
        self._is_dirty = False
        self._is_closed = False
        self._finished: list[int] = []  # files of full segments, not yet forced to disk
        self.last_seq = 0
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(directory / f"{spool_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(self._lock, read_boot_id(), 0)
        self._file = self._reserve_segment(0)

    def admit(self) -> None:
        """Promise room for the frames of one more call. Raises SpoolFull; every success needs one `append`
        or `release`."""
        needed = (self.open_calls + 1) * FRAMES_PER_CALL * MAX_FRAME_BYTES
        if self._segment_bytes - self._offset < needed:
            self._rotate(needed)
        self.open_calls += 1

    def has_room(self) -> bool:
        """Whether one more call could be admitted now."""
        try:
            self.admit()
        except SpoolFull:
            return False
        self.release()
        return True

    def release(self) -> None:
        """Take back a promise whose call needs no record."""
        self.open_calls -= 1

    def append(self, body: bytes) -> int:
        """Write an admitted call's last frame; returns its sequence number. Raises OSError, never half-done."""
        self.open_calls -= 1  # the promise is kept or broken, but never held for ever
        return self._write(body)

    def append_open(self, body: bytes) -> int:
        """Write an admitted call's first frame, once at most; its last one is still promised. Raises OSError."""
        return self._write(body)

    def append_again(self, body: bytes) -> int:
        """Write the first frame of an admitted call anew, which then holds instead of the former. Takes no room that
        was promised: raises SpoolFull instead, or OSError."""
        needed = self.open_calls * FRAMES_PER_CALL * MAX_FRAME_BYTES + MAX_FRAME_BYTES
        if self._segment_bytes - self._offset < needed:
            self._rotate(needed)
        return self._write(body)

    def _write(self, body: bytes) -> int:
        if len(body) + HEADER.size > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {len(body)} bytes is too large")
        if self._is_closed:
            raise ValueError("the spool is closed")
        seq = self.last_seq + 1
        crc = zlib.crc32(body, zlib.crc32(_SEQ.pack(seq)))
        frame = HEADER.pack(len(body), crc, seq) + body
        written = os.pwrite(self._file, frame, self._offset)
        if written != len(frame):  # cannot happen on reserved space; the next append writes over it
            raise OSError(f"short write of {written} of {len(frame)} bytes to the spool")
        self._offset += written
        self.last_seq = seq
        self._is_dirty = True
        return seq

    def take_unsynced(self) -> list[int]:
        """Files that hold what was appended since the last call: for `sync_files`, in a thread."""
        files, self._finished = self._finished, []
        if self._is_dirty:
            self._is_dirty = False
            files.append(os.dup(self._file))
        return files

    def close(self) -> None:
        """Cut the reserved tail and free the lock: the shipper may then finish and remove this spool."""
        self._is_closed = True
        os.ftruncate(self._file, self._offset)
        self._finished.append(self._file)
        sync_files(self._finished)
        os.close(self._lock)

    def _rotate(self, needed: int) -> None:
        if needed > self._segment_bytes:
            raise SpoolFull(f"{self.open_calls} open calls are all this worker can record")
        if used_bytes(self._directory) + self._segment_bytes > self._max_bytes:
            raise SpoolFull("the spool reached its bound; is the ledger database away?")
        try:
            successor = self._reserve_segment(self._segment + 1)
        except OSError as error:
            raise SpoolFull(f"no disk space for the spool: {error.strerror}") from error
        finished, self._file = self._file, successor
        with contextlib.suppress(OSError):  # only tidier: readers stop at the reserved zeros
            os.ftruncate(finished, self._offset)
        self._finished.append(finished)
        self._segment += 1
        self._offset = 0

    def _reserve_segment(self, number: int) -> int:
        path = self._directory / segment_name(self.id, number)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, self._segment_bytes)
            else:  # macOS: not reserved, but the same file
                os.ftruncate(file, self._segment_bytes)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        return file


def sync_files(files: list[int]) -> None:
    """Force `files` to disk, against power loss, and close them; blocks for milliseconds. Raises OSError."""
    for file in files:
        try:
            os.fdatasync(file)
        finally:
            os.close(file)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as read back; `end` is the offset behind it in its segment."""

    seq: int
    body: bytes
    end: int


def read_frames(path: Path, offset: int, *, limit: int) -> list[Frame]:
    """Up to `limit` whole frames of a segment from `offset`; stops at the first that is torn or not yet written."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(_FIRST_READ_BYTES)
        if data[-1:] != b"\0":  # not yet in the reserved zeros: there may be more
            data += file.read(
                limit * 1024
            )  # frames are about 900 bytes; what does not fit is read the next time
    return list(_parse(data, offset, limit))


def _parse(data: bytes, offset: int, limit: int) -> Iterator[Frame]:
    position = 0
    while limit and position + HEADER.size <= len(data):
        length, crc, seq = HEADER.unpack_from(data, position)
        end = position + HEADER.size + length
        body = data[position + HEADER.size : end]
        if length == 0 or len(body) != length or zlib.crc32(body, zlib.crc32(_SEQ.pack(seq))) != crc:
            return
        yield Frame(seq, body, offset + end)
        position = end
        limit -= 1


def has_unread_bytes(path: Path, offset: int) -> bool:
    """Whether anything but reserved zeros follows `offset`: a torn frame, or frames behind a damaged one."""
    with path.open("rb") as file:
        file.seek(offset)
        return any(piece.strip(b"\0") for piece in iter(lambda: file.read(1024**2), b""))


def read_boot_id() -> bytes:
    """Names this start of the machine; empty where that is not told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""


def is_whole(directory: Path, spool: UUID) -> bool:
    """Whether every frame that the owner appended can be read: the machine has not been started anew since, and
    nothing is damaged. Segments that were removed are not asked for."""
    try:
        written = (directory / f"{spool}.lock").read_bytes()
    except FileNotFoundError:
        return False
    if not written or written != read_boot_id():
        return False
    return not any(has_unread_bytes(path, _end_of(path)) for path in segments_of(directory).get(spool, []))


def _end_of(path: Path) -> int:
    """The offset behind the last whole frame."""
    offset = 0
    while frames := read_frames(path, offset, limit=1000):
        offset = frames[-1].end
    return offset


def is_owner_alive(directory: Path, spool: UUID) -> bool:
    """Whether another process holds the spool's lock. Never ask about a spool of this very process: POSIX
    locks do not stop their owner, and closing the file here would free it."""
    try:
        lock = os.open(directory / f"{spool}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
