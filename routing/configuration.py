"""Keeps a worker's snapshot current: asks for the version twice a second and swaps the snapshot when it rose."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from django.db import DatabaseError, InterfaceError, connection

from routing.snapshot import Snapshot, load_snapshot, read_version

logger = logging.getLogger(__name__)

_CLOSE_S = 1.0
_REFRESH_S = 3.0  # a database that takes longer is away
POLL_S = 0.5  # unless settings say otherwise; a change acts within a second on every worker
Result = TypeVar("Result")


class DatabaseThreads:
    """Runs queries outside the event loop, on threads that keep their connections."""

    def __init__(self, count: int = 2) -> None:
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="database")

    async def run(self, query: Callable[[], Result]) -> Result:
        """The result of `query`. Raises DatabaseError or InterfaceError when PostgreSQL is away."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _with_live_connection, query)

    def close(self) -> None:
        """End the threads and their connections; a query that hangs is not waited for."""
        all_are_here = threading.Barrier(self._count)  # else one thread could do the work of two
        futures = [self._threads.submit(_close_connection, all_are_here) for _ in range(self._count)]
        wait(futures, timeout=2 * _CLOSE_S)
        self._threads.shutdown(wait=False)


def _close_connection(all_are_here: threading.Barrier) -> None:
    with contextlib.suppress(threading.BrokenBarrierError):
        all_are_here.wait(_CLOSE_S)
    connection.close()


def _with_live_connection(query: Callable[[], Result]) -> Result:
    """Once more on a new connection when the kept one turned out dead."""
    try:
        return query()
    except (DatabaseError, InterfaceError):
        connection.close()
        return query()


class Configuration:
    """The current snapshot, and whether it is known to be current."""

    def __init__(self, database: DatabaseThreads, *, poll_s: float = POLL_S) -> None:
        self._database = database
        self._poll_s = poll_s
        self._task: asyncio.Task[None] | None = None
        self.snapshot = Snapshot(version=0, models={})
        self.on_change: Callable[[], None] = lambda: None
        self.is_current = False
        self.checked_at = 0.0  # seconds since 1970; when it was last known to be current

    async def start(self) -> None:
        """Load the first snapshot and begin to watch. Raises DatabaseError when PostgreSQL is away."""
        self.snapshot = await self._database.run(load_snapshot)
        self.is_current, self.checked_at = True, time.time()
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def refresh(self) -> None:
        """Swap in a new snapshot if the version rose."""
        if await self._database.run(read_version) != self.snapshot.version:
            known = self.snapshot.rule_books
            self.snapshot = await self._database.run(lambda: load_snapshot(known))
            self.on_change()
            logger.info("Configuration version %d is in force.", self.snapshot.version)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                async with asyncio.timeout(_REFRESH_S):
                    await self.refresh()
            except (DatabaseError, InterfaceError, TimeoutError) as error:
                if self.is_current:
                    logger.error("The database is away; the last configuration stays in force: %r", error)
                self.is_current = False
            except Exception:
                logger.exception("The configuration could not be read; the last one stays in force.")
                self.is_current = False
            else:
                self.is_current, self.checked_at = True, time.time()
