"""Connections that wait for their next exchange, by origin."""

import asyncio
import time
from collections import defaultdict, deque

from routing.upstream.connection import Connection, Origin
from routing.upstream.dial import Dialer

# Below the 5 s after which uvicorn-based servers, vLLM among them, close: a request that meets the closing of its
# connection fails, and might have cost.
_IDLE_S = 4.0
_SWEEP_S = 1.0


class Pool:
    """Hands out the connection that rested least, or a new one; there is no upper bound of its own."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._idle: dict[Origin, deque[Connection]] = defaultdict(deque)
        self._sweeper: asyncio.TimerHandle | None = None

    async def acquire(self, origin: Origin, connect_timeout_s: float) -> Connection:
        """A connection for one exchange; must be given back or closed. Raises Unreachable."""
        idle, freshest = self._idle[origin], time.monotonic() - _IDLE_S
        while idle:
            connection = idle.pop()
            if connection.is_open and connection.idle_since > freshest:
                return connection
            connection.close()
        return await self._dialer.open(origin, connect_timeout_s)

    def give_back(self, connection: Connection) -> None:
        """The owner is done: keep the connection if it may carry another exchange, else close it."""
        if not connection.is_reusable:
            connection.close()
            return
        connection.rest(time.monotonic())
        self._idle[connection.origin].append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def close(self) -> None:
        """Close what rests; what is in use is its owner's to close."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in (c for idle in self._idle.values() for c in idle):
            connection.close()
        self._idle.clear()

    def _sweep(self) -> None:
        oldest = time.monotonic() - _IDLE_S
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0].idle_since <= oldest or not idle[0].is_open):
                idle.popleft().close()
            if not idle:
                del self._idle[origin]
        is_empty = not self._idle
        self._sweeper = None if is_empty else asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
