"""One worker's figures in a memory-mapped file: a figure is raised by an assignment, read by any process.

The file outlives `kill -9`: whoever starts next takes it over and counts on, so counters never go backwards and
there are never more files than workers ran at once. A lock tells whether its worker lives. Everything is a signed
64-bit integer in the machine's byte order: the file never leaves its host.
"""

import fcntl
import json
import mmap
import os
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path

FILE_BYTES = 8 * 1024**2
_RESERVED_BYTES = 256 * 1024  # for what is folded together once the rest is full
_SLOT_BYTES = 8
_MAGIC = int.from_bytes(b"gwmetr01", "little")
_HEADER = struct.Struct("=4q")  # magic, bytes in use, process id, start in nanoseconds since 1970
_USED, _PID, _STARTED = 1, 2, 3
_SCRATCH_SLOTS = 32  # takes what has no place at all
_FIRST_BLOCK_BYTES = _HEADER.size + _SCRATCH_SLOTS * _SLOT_BYTES
_BLOCK = struct.Struct("=2q")  # bytes of the key, number of values; then the padded key, then the values
_NAME = re.compile(r"\Aworker-(\d{1,4})\.metrics\Z")
_MOST_WORKERS = 1000

Key = tuple[str, ...]


class MetricsFull(Exception):
    """There is no room for another series."""


class MetricsFile:
    """The writing side; one per worker, used from its event loop only. `values[index] += 1` is all it takes."""

    scratch = _HEADER.size // _SLOT_BYTES

    def __init__(self, number: int, file: int) -> None:
        """Take over `file`, which is open and locked. Raises OSError when its space cannot be had."""
        self.number = number
        self._lock = file
        if os.fstat(file).st_size != FILE_BYTES or os.pread(file, 8, 0) != _MAGIC.to_bytes(8, "little"):
            os.ftruncate(file, 0)
        _reserve(file)  # a hole that a full disk cannot fill would end the process with SIGBUS
        self._map = mmap.mmap(file, FILE_BYTES)
        self.values = memoryview(self._map).cast("q")
        if self.values[0] != _MAGIC:
            self.values[_USED] = _FIRST_BLOCK_BYTES
            self.values[0] = _MAGIC
        self._places = {key: (start, slots) for key, start, slots in _walk(self._map[: self.values[_USED]])}
        self.values[_PID], self.values[_STARTED] = os.getpid(), time.time_ns()

    @classmethod
    def claim(cls, directory: Path) -> "MetricsFile":
        """The first file of `directory` that no living worker holds, made if there is none. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number in range(_MOST_WORKERS):
            file = os.open(directory / f"worker-{number}.metrics", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(number, file)
            except BlockingIOError:
                os.close(file)
        raise OSError(f"{_MOST_WORKERS} workers hold the metrics files of {directory}")

    def place(self, key: Key, slots: int = 1, *, may_use_reserve: bool = False) -> int:
        """The index of the first of the `slots` values under `key`, made with zeros if new. Raises MetricsFull."""
        known = self._places.get(key)
        if known is not None and known[1] == slots:
            return known[0]
        name = json.dumps(key, ensure_ascii=False).encode()
        name += b" " * (-len(name) % _SLOT_BYTES)
        used, limit = self.values[_USED], FILE_BYTES - (0 if may_use_reserve else _RESERVED_BYTES)
        first = used + _BLOCK.size + len(name)
        end = first + slots * _SLOT_BYTES
        if end > limit:
            raise MetricsFull
        self._map[used:first] = _BLOCK.pack(len(name), slots) + name
        self._map[first:end] = bytes(slots * _SLOT_BYTES)
        self.values[_USED] = end  # last: a reader sees whole blocks only
        self._places[key] = (first // _SLOT_BYTES, slots)
        return first // _SLOT_BYTES

    def close(self) -> None:
        """Let the next worker take the file. Late figures still find their place."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one file held: its worker, whether that lives, and the values under each key."""

    number: int
    pid: int
    started_at_ns: int
    is_alive: bool
    values: dict[Key, tuple[int, ...]]


def read_files(directory: Path) -> list[Reading]:
    """All workers' figures now; a file that is not ours, or not ready, is left out. Takes milliseconds."""
    found = ((match, path) for path in directory.glob("*.metrics") if (match := _NAME.match(path.name)))
    readings = (_read(int(match[1]), path) for match, path in found)
    return sorted((reading for reading in readings if reading), key=lambda reading: reading.number)


def _read(number: int, path: Path) -> Reading | None:
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return None
        magic, used, pid, started_at_ns = _HEADER.unpack(head)
        if magic != _MAGIC or not _FIRST_BLOCK_BYTES <= used <= FILE_BYTES:
            return None
        file.seek(0)
        data = file.read(used)
        values = memoryview(data).cast("q")
        series = {key: tuple(values[start : start + slots]) for key, start, slots in _walk(data)}
        return Reading(number, pid, started_at_ns, _is_locked(file.fileno()), series)


def _walk(data: bytes) -> list[tuple[Key, int, int]]:
    """The blocks in `data`: key, index of the first value, number of values. A later one replaces an earlier."""
    blocks, at = [], _FIRST_BLOCK_BYTES
    while at + _BLOCK.size <= len(data):
        key_bytes, slots = _BLOCK.unpack_from(data, at)
        first = at + _BLOCK.size + key_bytes
        at = first + slots * _SLOT_BYTES
        if not 0 < key_bytes <= len(data) or slots < 1 or at > len(data):
            break
        blocks.append((tuple(json.loads(data[first - key_bytes : first])), first // _SLOT_BYTES, slots))
    return blocks


def _is_locked(file: int) -> bool:
    """Whether a worker holds the file. Shared, so that two who look at once do not take each other for it."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _reserve(file: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, FILE_BYTES)
    else:  # macOS: not reserved, but the same file
        os.ftruncate(file, FILE_BYTES)
