"""Connections that wait for their next exchange, by origin."""

import asyncio
import time
from collections import defaultdict, deque

from outbound.connection import USUAL_REST, Connection, Origin, Rest
from outbound.dial import Dialer

_SWEEP_S = 1.0


class Pool:
    """Hands out the connection that rested least, or a new one. How many rest, and how long, is the backend's to say;
    of those in use there is no bound here."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._idle: dict[Origin, deque[Connection]] = defaultdict(deque)
        self._sweeper: asyncio.TimerHandle | None = None

    async def acquire(self, origin: Origin, connect_timeout_s: float, rest: Rest = USUAL_REST) -> Connection:
        """A connection for one exchange; must be given back or closed, and may `rest` then. Raises Unreachable."""
        idle, freshest = self._idle[origin], time.monotonic() - rest.seconds
        while idle:
            connection = idle.pop()
            if connection.is_open and connection.idle_since > freshest:
                connection.may_rest = rest
                return connection
            connection.close()
        connection = await self._dialer.open(origin, connect_timeout_s)
        connection.may_rest = rest
        return connection

    def give_back(self, connection: Connection) -> None:
        """The owner is done: keep the connection if it may carry another exchange, else close it."""
        if not connection.is_reusable:
            connection.close()
            return
        connection.rest(time.monotonic())
        idle, most = self._idle[connection.origin], connection.may_rest.most
        idle.append(connection)
        if most is not None and len(idle) > most:
            idle.popleft().close()
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
        now = time.monotonic()
        for origin, idle in list(self._idle.items()):
            rested = {c for c in idle if not c.is_open or c.idle_since + c.may_rest.seconds <= now}
            for connection in rested:
                connection.close()
            if len(rested) == len(idle):
                del self._idle[origin]
            elif rested:
                self._idle[origin] = deque(c for c in idle if c not in rested)
        is_empty = not self._idle
        self._sweeper = None if is_empty else asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
