"""Watches what a worker depends on, in the background, so that asking for its health costs and waits nothing."""

import asyncio
import contextlib
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor

import redis.asyncio
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from redis.exceptions import RedisError

from billing.admission.commands import plain
from billing.admission.links import StoreLost
from gateway_site import faults
from gateway_site.faults import CounterFacts, DatabaseFacts, Fault, HostFacts, Memory, StoreFacts
from gateway_site.probes import DatabaseProbe, probe_host, probe_store, read_memory
from routing.gateway import Gateway

logger = logging.getLogger(__name__)

MONITOR = "gateway.monitor"  # under this name the ASGI scope of a page holds the worker's monitor
_EVERY_S = 2.0
_MEMORY = plain("INFO", "memory", key=b"")
_TOLD = {"store_evicts", "store_filling"}
_ANSWER_S = 1.5  # what takes longer counts as away


class Monitor:
    """The latest facts about one worker's dependencies; None where one is away or was not asked yet."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.database: DatabaseFacts | None = None
        self.store: StoreFacts | None = None
        self.host: HostFacts | None = None
        self._counter_memory: list[Memory] = []  # of the servers of the counters, where those are others
        self._probe = DatabaseProbe()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="monitor")
        self._is_database_away = False
        self._asking: Future[DatabaseFacts] | None = None
        self._celery_seen = time.monotonic()
        self._told: frozenset[str] = frozenset()
        self._store = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look once, then keep looking."""
        await self.look()
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop looking; a query that hangs is not waited for."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._thread.submit(connection.close)
        self._thread.shutdown(wait=False)
        await self._store.aclose()

    def faults(self) -> list[Fault]:
        """What is not well now, as far as is known; never waits."""
        gateway = self.gateway
        snapshot = gateway.configuration.snapshot
        found = faults.spool_faults(has_room=gateway.ledger.spool.has_room())
        found += faults.configuration_faults(
            snapshot.left_out,
            is_current=gateway.configuration.is_current,
            are_keys_current=gateway.key_watch.is_current,
        )
        found += self._store_faults()
        if self.host is not None:
            found += faults.host_faults(self.host, time.time())
        if self.database is not None:
            found += faults.database_faults(self.database, time.time())
        if gateway.admissions.has_departments:
            found += faults.counter_faults(self.counters())
        return found

    def _store_faults(self) -> list[Fault]:
        if self.store is None:
            return [faults.STORE_AWAY, *faults.memory_faults(self._counter_memory)]
        return faults.store_faults(self.store, self._counter_memory)

    def counters(self) -> CounterFacts:
        """How this worker stands with the counters of limits and budgets now."""
        admissions = self.gateway.admissions
        return CounterFacts(
            is_connected=admissions.is_connected,
            closed_departments=len(admissions.closed_departments),
            closed_s=admissions.closed_s,
            unbooked_ends=admissions.pending,
        )

    async def look(self) -> None:
        """Ask everything at once; takes at most 1.5 s."""
        await asyncio.gather(self._look_at_database(), self._look_at_stores(), self._look_at_host())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.look()
            except Exception:
                logger.exception("The health of this worker could not be looked at.")

    async def _look_at_database(self) -> None:
        """By a thread of its own: one that hangs keeps no key from being looked up."""
        if self._asking is None or self._asking.done():
            self._asking = self._thread.submit(self._ask_database)
        try:
            async with asyncio.timeout(_ANSWER_S):
                self.database = await asyncio.shield(asyncio.wrap_future(self._asking))
        except (DatabaseError, InterfaceError, TimeoutError) as error:
            if not self._is_database_away:
                logger.warning("PostgreSQL cannot be asked for its health: %r", error)
            self.database, self._is_database_away = None, True
        else:
            self._is_database_away = False

    def _ask_database(self) -> DatabaseFacts:
        try:
            return self._probe.ask()
        except (DatabaseError, InterfaceError):
            connection.close()  # the next question gets a new one
            raise

    async def _look_at_stores(self) -> None:
        if self.gateway.options.counters_url != self.gateway.options.redis_url:
            with contextlib.suppress(StoreLost):  # what was known of them last stands
                self._counter_memory = [
                    read_memory(info) for info in await self.gateway.admissions.ask_each_server(_MEMORY)
                ]
        await self._look_at_store()
        self._tell_of_memory(self._store_faults())

    async def _look_at_store(self) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await probe_store(self._store)
        except (RedisError, OSError, TimeoutError):
            self.store = None
            self._celery_seen = time.monotonic()  # nothing is known of it
            return
        if answer.has_sign:
            self._celery_seen = time.monotonic()
        self.store = StoreFacts(
            answer.eviction_policy,
            time.monotonic() - self._celery_seen,
            answer.waiting_tasks,
            answer.used_bytes,
            answer.max_bytes,
        )

    def _tell_of_memory(self, found: list[Fault]) -> None:
        """Log, once, that the store may lose or refuse counters."""
        now = {fault.code: fault for fault in found if fault.code in _TOLD}
        for code in now.keys() - self._told:
            logger.warning("%s %s", now[code].message, now[code].detail)
        self._told = frozenset(now)

    async def _look_at_host(self) -> None:
        self.host = await asyncio.to_thread(probe_host, self.gateway.options.spool_dir)
