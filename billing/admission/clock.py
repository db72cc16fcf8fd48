"""The store's time as a worker knows it, which alone decides on windows and on what comes too late."""

import time
from collections.abc import Callable

_MOST_DELAY_MS = (
    1_000  # a reply that says less than that below what we thought was read late; below that, the clock moved
)
_FADE = 0.01  # ms that an old reply loses in each ms, so that a clock that runs slower is followed


class Clock:
    """Told by the times in replies. One that waited to be read, as all do in a busy worker, tells a time that is past:
    so of late replies the one that waited least holds."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._learnt_at_ms = 0.0
        self._is_guess = True
        self._offset_ms = time.time() * 1000 - monotonic_s() * 1000

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self._monotonic_s() * 1000 + self._offset_ms)

    def learn(self, store_ms: int, *, is_trusted: bool = False) -> None:
        """The store said this time, some moments ago. `is_trusted`: whatever we thought, it is to be taken."""
        now_ms = self._monotonic_s() * 1000
        told, thought = store_ms - now_ms, self._offset_ms - _FADE * (now_ms - self._learnt_at_ms)
        is_late = not self._is_guess and 0 < thought - told < _MOST_DELAY_MS
        self._offset_ms = thought if is_late and not is_trusted else told
        self._learnt_at_ms, self._is_guess = now_ms, False
