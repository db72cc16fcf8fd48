"""What workers tell each other of backends, over the store: who is left alone until when, and who probes.

While the store is away each worker goes by what it sees itself.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from outbound.breaker import State
from routing.health.board import Board, Change

logger = logging.getLogger(__name__)

STATES = "{g}:backends"  # hash: backend id -> "open until_ms trips" or "back since_ms", by the store's clock
_PROBE = "{g}:probe:%d"
_CHECK = "{g}:check:%d"
# The right to probe is given back by who has it. What was told to last longer holds.
_GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
_WRITE = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
local until_ms = known and string.match(known, '^open (%d+)')
if ARGV[3] == '' or not until_ms or tonumber(until_ms) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
if redis.call('GET', KEYS[2]) == ARGV[4] then redis.call('DEL', KEYS[2]) end
"""
LOADS = "{g}:loads"  # hash: worker -> when, and what it gives its backends
STALE_MS = 3_000  # a worker that told nothing for so long is gone
_LOOK_S = 0.4
_STORE_S = 0.25
_CONNECT_S = 1.0
_AWAY = (RedisError, OSError, TimeoutError)


class BackendNews:
    """Reads what others tell into a board, and tells what it decides."""

    def __init__(self, board: Board, redis_url: str, on_change: Callable[[Change], Awaitable[None]]) -> None:
        """`on_change` is told of what this worker decided, after the others."""
        self._board = board
        self._store: Any = redis.asyncio.Redis.from_url(
            redis_url,
            socket_timeout=_STORE_S,
            socket_connect_timeout=_CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._me = secrets.token_hex(8)
        self._give_back = self._store.register_script(_GIVE_BACK)
        self._write = self._store.register_script(_WRITE)
        self._ahead_ms = 0.0  # the store's clock against our monotonic one
        self._is_heard = True
        self._gone: list[str] = []  # workers that told nothing for long
        self._telling: set[asyncio.Task[None]] = set()
        self._on_change = on_change
        board.on_change = self.tell
        board.on_drop = self.drop
        board.may_probe = self._may_probe

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
                self._is_heard = True
            except _AWAY as error:
                if self._is_heard:
                    logger.warning("What others know of backends cannot be read: %r", error)
                self._is_heard = False
            except Exception:
                logger.exception("What others know of backends cannot be used.")
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Close the connections."""
        for task in self._telling:
            task.cancel()
        await self._store.aclose()

    async def look(self) -> None:
        """Take in what others tell."""
        told = self._tell_load()
        async with self._store.pipeline(transaction=False) as pipe:
            pipe.time().hgetall(STATES).hset(LOADS, self._me, told).pexpire(LOADS, STALE_MS)
            if self._gone:
                pipe.hdel(LOADS, *self._gone)
            (seconds, micros), states, *_, loads = await pipe.hgetall(LOADS).execute()
        self._ahead_ms = seconds * 1000 + micros / 1000 - time.monotonic() * 1000
        self._hear_loads(loads, seconds * 1000 + micros / 1000)
        for backend_id, text in states.items():
            kind, at_ms, *trips = text.split()
            breaker, at = self._board.hear_of(int(backend_id)).breaker, (float(at_ms) - self._ahead_ms) / 1000
            if kind == "open" and at > (now := time.monotonic()):
                breaker.hear_open(at, int(trips[0]), now)
            elif kind == "back":
                breaker.hear_return(at)

    def _tell_load(self) -> str:
        """When, by the store's clock, and what this worker gives its backends."""
        return json.dumps([time.monotonic() * 1000 + self._ahead_ms, self._board.tell_loads()])

    def _hear_loads(self, loads: Mapping[str, str], now_ms: float) -> None:
        others = []
        self._gone = []
        for worker, text in loads.items():
            at_ms, load = json.loads(text)
            if worker == self._me:
                continue
            if now_ms - at_ms >= STALE_MS:
                self._gone.append(worker)  # else the names of all workers there ever were would stay
            else:
                others.append({int(number): (calls, tokens) for number, (calls, tokens, _) in load.items()})
        self._board.hear_loads(others)

    def tell(self, change: Change) -> None:
        """Tell the others; nobody waits for that."""
        self._begin(self._tell(change))

    def drop(self, backend_id: int) -> None:
        """Give the right to probe back."""
        self._begin(self._drop(backend_id))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _drop(self, backend_id: int) -> None:
        with contextlib.suppress(*_AWAY):  # it lapses
            await self._give_back(keys=[_PROBE % backend_id], args=[self._me])

    async def _tell(self, change: Change) -> None:
        await self._tell_others(change)
        await self._on_change(change)

    async def _tell_others(self, change: Change) -> None:
        now_ms = time.monotonic() * 1000 + self._ahead_ms
        backend_id, breaker = change.health.backend_id, change.health.breaker
        try:
            if change.state is State.OPEN:
                text = f"open {now_ms + change.wait_s * 1000:.0f} {breaker.trips}"
            else:
                text = f"back {now_ms:.0f}"
            until = text.split()[1] if change.state is State.OPEN else ""
            keys, arguments = [STATES, _PROBE % backend_id], [str(backend_id), text, until, self._me]
            await self._write(keys=keys, args=arguments)
        except _AWAY as error:
            logger.warning("The state of a backend could not be told: %r", error)

    async def may_check(self, backend_id: int, every_s: float) -> bool:
        """Whether this worker makes the next check of a backend: one of all does."""
        try:
            lease = await self._store.set(_CHECK % backend_id, self._me, nx=True, px=round(every_s * 1000))
        except _AWAY:
            return True
        return bool(lease)

    async def _may_probe(self, backend_id: int, within_s: float) -> bool:
        try:
            lease = await self._store.set(_PROBE % backend_id, self._me, nx=True, px=round(within_s * 1000))
        except _AWAY:
            return True  # nobody can be asked: each worker probes by itself
        return bool(lease)
