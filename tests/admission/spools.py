"""Spools that another process wrote, so that a test may find their owner dead, or keep it alive."""

import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings

from billing.ledger import OPEN_MARK
from tests.entries import entry

_WRITER = """
import sys, uuid; from pathlib import Path; from billing.spool import Spool
spool = Spool(uuid.UUID(sys.argv[1]), Path(sys.argv[2]), max_bytes=10**8, segment_bytes=65536)
for line in sys.stdin:
    body = bytes.fromhex(line.strip())
    if body.startswith(b"R"):
        spool.admit(); spool.append_open(body)
    else:
        spool.open_calls or spool.admit(); spool.append(body)
print("done", flush=True)
sys.stdin.close(); __import__("os").kill(__import__("os").getpid(), 9)
"""


class WrittenSpool:
    """Collects frames, numbers them, and has them written by a process that then dies as by kill -9."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = uuid.uuid4()
        self.bodies: list[bytes] = []

    @property
    def last_seq(self) -> int:
        return len(self.bodies)

    def begin(self, **fields: Any) -> int:
        """The first frame of a call."""
        return self._add(OPEN_MARK, **{"status": "abandoned", "http_status": 0, **fields})

    def end(self, **fields: Any) -> int:
        """The last frame of a call."""
        return self._add(b"", **fields)

    def _add(self, mark: bytes, **fields: Any) -> int:
        seq = len(self.bodies) + 1
        cost = fields.get("cost_nanousd", 0)
        made = entry(spool=self.id, seq=seq, **{"output_cost_nanousd": cost, **fields})
        self.bodies.append(mark + msgspec.json.encode(made))
        return seq

    def write(self) -> None:
        """Write all and die."""
        command = [sys.executable, "-c", _WRITER, str(self.id), str(self.folder)]
        lines = "\n".join(self._lines()).encode()
        done = subprocess.run(command, input=lines, capture_output=True, cwd=settings.BASE_DIR, check=False)
        assert done.stdout == b"done\n", done.stderr

    def segments(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.id}-*.spool"))

    def _lines(self) -> Iterable[str]:
        return (body.hex() for body in self.bodies)
