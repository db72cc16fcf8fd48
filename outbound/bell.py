"""Wakes the one task that waits on it: rung by whoever has news, or by the clock."""

import asyncio
import time

NEVER = float("inf")


class Bell:
    """News and a time limit for one waiting task. Times are seconds of the monotonic clock.

    A limit costs an assignment: one timer of the event loop runs along and looks, when it fires, whether the
    time has moved meanwhile. (asyncio.timeout makes and cancels a timer each time: 100 us more for a stream of
    21 reads.)
    """

    __slots__ = ("_has_rung", "_loop", "_timer", "_timer_at", "_until", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._until = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._has_rung = False

    def ring(self, *_: object) -> None:
        """There is news. Heard by the wait under way, or by the next one; fits as a callback."""
        self._has_rung = True
        self._wake()

    async def wait(self, until: float = NEVER) -> bool:
        """Whether it rang, now or since the last wait; False when `until` came first."""
        if not self._has_rung:
            self._until = until
            if until < self._timer_at:
                self._start_timer()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter, self._until = None, NEVER
        has_rung, self._has_rung = self._has_rung, False
        return has_rung

    def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, NEVER

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _start_timer(self) -> None:
        self.close()
        self._timer_at = self._until
        self._timer = self._loop.call_later(max(0.0, self._until - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer, self._timer_at = None, NEVER
        if self._until == NEVER:
            return
        if time.monotonic() < self._until - 0.001:
            self._start_timer()
        else:
            self._wake()
