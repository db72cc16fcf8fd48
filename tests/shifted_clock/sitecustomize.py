"""Python reads this first in a process whose PYTHONPATH names the folder: its clock, and the store's as the scripts
read it, go ahead by GATEWAY_TEST_CLOCK_AHEAD_MS. So a test can stand before any edge of the calendar."""

import os
import time
from pathlib import Path

_AHEAD_MS = int(os.environ["GATEWAY_TEST_CLOCK_AHEAD_MS"])
_CLOCK = "return time[1] * 1000 + "
_read_text, _time, _time_ns = Path.read_text, time.time, time.time_ns


def _read_shifted(self: Path, *arguments: str | None, **options: str | None) -> str:
    text = _read_text(self, *arguments, **options)
    if self.name != "prelude.lua":
        return text
    assert text.count(_CLOCK) == 1, "the scripts read their clock in another way"
    return text.replace(_CLOCK, f"{_CLOCK}{_AHEAD_MS} + ")


Path.read_text = _read_shifted  # type: ignore[method-assign]
time.time = lambda: _time() + _AHEAD_MS / 1000
time.time_ns = lambda: _time_ns() + _AHEAD_MS * 1_000_000
