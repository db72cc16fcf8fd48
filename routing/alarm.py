"""A time limit that is moved far more often than it is reached."""

import asyncio
import time

_NEVER = float("inf")


class Alarm:
    """Cancels the task that set it when its time comes, unless it was set anew before.

    Setting it costs an assignment: one timer of the event loop runs along and looks, when it fires, whether
    the time has moved meanwhile. (asyncio.timeout makes and cancels a timer each time: 100 us more for a
    stream of 21 reads.) Times are seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._at = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._has_rung = False

    def set(self, at: float) -> None:
        """Ring at `at`, and not before."""
        self._at = at
        if self._timer is None or at < self._timer_at:
            self._start_timer()

    def rest(self) -> None:
        """Do not ring until it is set again."""
        self._at = _NEVER

    def was_heard(self) -> bool:
        """Whether the CancelledError just caught came from here, and from nobody else; forgets the ring."""
        if not self._has_rung or self._task is None:
            return False
        self._has_rung = False
        return self._task.uncancel() == 0

    def close(self) -> None:
        """Never ring again."""
        self._at = _NEVER
        if self._timer is not None:
            self._timer.cancel()

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._at
        self._timer = self._loop.call_later(max(0.0, self._at - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._at == _NEVER:
            return
        if time.monotonic() < self._at - 0.001:
            self._start_timer()
        elif self._task is not None:
            self._has_rung = True
            self._task.cancel()
