"""Keeps a worker's known keys current: it looks for changes twice a second, and at once when one is announced."""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime

import redis.asyncio
from django.db import DatabaseError, InterfaceError
from redis.exceptions import RedisError

from routing.configuration import POLL_S, DatabaseThreads
from teams.announcements import CHANNEL
from teams.key_changes import KEPT, KeyChanges, read_key_changes
from teams.keyring import KeyRing

logger = logging.getLogger(__name__)

_LOOK_S = 3.0  # a database that takes longer is away
_LISTEN_AGAIN_S = 2.0
_HEARTBEAT_S = 10.0  # a dead connection is noticed by then


class KeyWatch:
    """Makes the ring forget what has changed. While PostgreSQL is away, known keys go on being served."""

    def __init__(self, keys: KeyRing, redis_url: str, *, poll_s: float = POLL_S) -> None:
        self._keys = keys
        self._redis_url = redis_url
        self._poll_s = poll_s
        # A thread of its own: look-ups of many unknown keys do not hold up the news.
        self._database = DatabaseThreads(1)
        self._position: str | None = None
        self._looked_at = datetime.now(UTC)
        self._is_announced = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.is_current = False

    async def start(self) -> None:
        """Begin to watch, from now on. Raises DatabaseError when PostgreSQL is away."""
        await self.look()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._listen())]

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.to_thread(self._database.close)

    async def look(self) -> None:
        """Forget what has changed since the last look; everything, if that was so long ago that the log may have
        been pruned."""
        now = datetime.now(UTC)
        since = self._position if abs(now - self._looked_at) < KEPT / 2 else None
        changes = await self._database.run(lambda: read_key_changes(since))
        if since is None:
            changes = KeyChanges(changes.position, everything=True)
        self._keys.forget(changes)
        self._position, self._looked_at, self.is_current = changes.position, now, True

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._is_announced.wait()
            self._is_announced.clear()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self.look()
            except (DatabaseError, InterfaceError, TimeoutError) as error:
                if self.is_current:
                    logger.error("The database is away; changes of keys are not heard of: %r", error)
                self.is_current = False
            except Exception:
                logger.exception("The changes of keys could not be read.")
                self.is_current = False

    async def _listen(self) -> None:
        is_heard = True
        while True:
            try:
                async with self._connect() as store, store.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    is_heard = True
                    while (
                        True
                    ):  # the answer to `subscribe` counts too: before it, something may have been missed
                        if await channel.get_message(timeout=_HEARTBEAT_S):
                            self._is_announced.set()
            except (RedisError, OSError, TimeoutError) as error:
                if is_heard:
                    logger.warning("Changes of keys are not announced, but found by looking: %r", error)
                is_heard = False
            except Exception:
                logger.exception("Announcements of key changes cannot be heard.")
            await asyncio.sleep(_LISTEN_AGAIN_S)

    def _connect(self) -> "redis.asyncio.Redis":
        return redis.asyncio.Redis.from_url(
            self._redis_url, socket_connect_timeout=_LOOK_S, health_check_interval=_HEARTBEAT_S
        )
