"""What one worker needs to serve, built once at start and passed in; tests build their own."""

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from billing.admission.admissions import Admissions
from billing.admission.commands import Commands
from billing.admission.ledger_view import LedgerView
from billing.admission.rebuild import Rebuilder
from billing.admission.scripts import load_scripts
from billing.admission.spool_frames import SpoolFrames, to_end_frame
from billing.estimate import Estimator
from billing.ledger import Ledger, LedgerEntry
from billing.models import Status
from billing.refusals import RefusalBundles
from billing.spool import Spool, SpoolFull, sync_files
from billing.tokens import TokenCounter, load_counter
from billing.usage import Usage
from guards.external.asking import Externals
from guards.runner import Runner
from guards.schema import Schemas
from outbound.dial import Dialer
from outbound.pool import Pool
from routing.choice import Chooser
from routing.client_address import TrustedProxies
from routing.configuration import Configuration, DatabaseThreads
from routing.endpoints.bounds import Bounds
from routing.headers import Shown
from routing.health.board import Board
from routing.health.checks import BackendChecks
from routing.health.events import BackendEvents
from routing.health.news import BackendNews
from routing.idempotency_store import IdempotencyStore
from routing.key_watch import KeyWatch
from routing.metrics import Metrics
from routing.providers.apis import API
from routing.providers.base import Provider
from routing.providers.entra import EntraTokens
from routing.providers.http import HttpProvider
from routing.trace import Trace
from routing.vitals import Vitals
from teams.errors import database_unavailable, ledger_unavailable
from teams.key_holder import KeyHolder, KeyOwner, find_key_holder
from teams.key_rules import parse_network
from teams.key_uses import KeyUses, Uses, write_key_uses
from teams.keyring import KeyRing
from teams.keys import Peppers

logger = logging.getLogger(__name__)

_LOOK_UP_S = 5.0
_LAST_RECORDS_S = 15.0  # to count and record the requests that a shutdown cut off
_BUNDLES_S = 5.0
_SYNC_S = 0.1  # what a power loss can take of the spool
METRICS_FOLDER = "metrics"  # in the spool's: the workers of one host share both


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Places and bounds of one worker."""

    spool_dir: Path
    spool_max_bytes: int
    spool_segment_bytes: int
    max_body_bytes: int
    max_answer_bytes: int
    keepalive_s: float
    max_stream_s: float
    max_attempts: int
    retry_s: float
    guard_s: float
    entra_authority: str
    key_peppers: str
    private_backends: frozenset[str]
    bounds: Bounds
    shown: Shown
    refusal_rows: int
    queue_team: int
    queue_worker: int
    key_end_users: int
    configuration_poll_s: float
    redis_url: str = field(repr=False)
    counters_url: str = field(repr=False)
    trusted_proxies: TrustedProxies

    @classmethod
    def from_django(cls) -> "GatewaySettings":
        """As the environment says (gateway_site/settings.py)."""
        return cls(
            spool_dir=settings.GATEWAY_SPOOL_DIR,
            spool_max_bytes=settings.GATEWAY_SPOOL_MAX_BYTES,
            spool_segment_bytes=settings.GATEWAY_SPOOL_SEGMENT_BYTES,
            max_body_bytes=settings.GATEWAY_MAX_BODY_BYTES,
            max_answer_bytes=settings.GATEWAY_MAX_ANSWER_BYTES,
            keepalive_s=settings.GATEWAY_KEEPALIVE_S,
            max_stream_s=settings.GATEWAY_MAX_STREAM_S,
            max_attempts=settings.GATEWAY_MAX_ATTEMPTS,
            retry_s=settings.GATEWAY_RETRY_S,
            guard_s=settings.GATEWAY_GUARD_S,
            entra_authority=settings.GATEWAY_ENTRA_AUTHORITY,
            key_peppers=settings.GATEWAY_KEY_PEPPERS,
            private_backends=settings.GATEWAY_PRIVATE_BACKENDS,
            bounds=Bounds(
                messages=settings.GATEWAY_MAX_MESSAGES,
                tools=settings.GATEWAY_MAX_TOOLS,
                choices=settings.GATEWAY_MAX_CHOICES,
                inputs=settings.GATEWAY_MAX_INPUTS,
                tokens=settings.GATEWAY_MAX_TOKENS,
            ),
            refusal_rows=settings.GATEWAY_REFUSAL_ROWS,
            queue_team=settings.GATEWAY_QUEUE_TEAM,
            queue_worker=settings.GATEWAY_QUEUE_WORKER,
            key_end_users=settings.GATEWAY_KEY_END_USERS,
            configuration_poll_s=settings.GATEWAY_CONFIGURATION_POLL_MS / 1000,
            shown=Shown(backend=settings.GATEWAY_SHOW_BACKEND, cost=settings.GATEWAY_SHOW_COST),
            redis_url=settings.REDIS_URL,
            counters_url=settings.GATEWAY_COUNTERS_URL,
            trusted_proxies=TrustedProxies(tuple(map(parse_network, settings.GATEWAY_TRUSTED_PROXIES))),
        )


class Gateway:
    """One worker's configuration, keys, providers, token counter and ledger."""

    def __init__(self, options: GatewaySettings) -> None:
        self.options = options
        self._database = DatabaseThreads()
        self.configuration = Configuration(self._database, poll_s=options.configuration_poll_s)
        self.keys = KeyRing(Peppers.parse(options.key_peppers), self._look_up_key)
        self.key_watch = KeyWatch(self.keys, options.redis_url)
        self.key_uses = KeyUses(self._write_key_uses)
        self._finishing: set[asyncio.Task[None]] = set()
        self.refusals = RefusalBundles(options.refusal_rows)
        self.estimator = Estimator()
        self.idempotency = IdempotencyStore(options.redis_url)
        self.ledger: Ledger
        self.admissions: Admissions
        self.guards = Runner(options.guard_s)
        self.schemas = Schemas(options.guard_s)
        self.externals: Externals
        self._counters = DatabaseThreads(1)  # sums of a rebuild hold up no look-up of a key
        self.metrics: Metrics
        self.board = Board()
        self.chooser = Chooser(self.board)
        self.vitals = Vitals(self)
        self._backend_news: BackendNews
        self.counter: TokenCounter
        self._pool: Pool
        self._providers: dict[str, Provider]
        self._chores: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Load what serving needs. Raises DatabaseError, OSError or SpoolFull when the worker cannot serve."""
        options = self.options
        self.ledger = Ledger(
            Spool(
                uuid.uuid4(),
                options.spool_dir,
                max_bytes=options.spool_max_bytes,
                segment_bytes=options.spool_segment_bytes,
            )
        )
        self.metrics = Metrics(options.spool_dir / METRICS_FOLDER)
        events = BackendEvents(self.metrics, self._database.run)
        self._backend_news = BackendNews(self.board, options.redis_url, events.take)
        self.counter = await asyncio.to_thread(load_counter)
        self._pool = Pool(Dialer(options.private_backends))
        self.externals = Externals(self._pool, options.guard_s)
        tokens = EntraTokens(self._pool, options.entra_authority)
        self._providers = {
            name: HttpProvider(api, self._pool, tokens, max_answer_bytes=options.max_answer_bytes)
            for name, api in API.items()
        }
        await self.key_watch.start()
        await self.configuration.start()
        checks = BackendChecks(
            self.board,
            self._backend_news,
            lambda target, within_s: self.provider(target.provider).check(target, within_s),
            lambda: self.configuration.snapshot,
        )
        self.admissions = self._make_admissions()
        self.guards.take(self.configuration.snapshot.guards)
        self.configuration.on_change = self._take_configuration
        await self.admissions.start(self.configuration.snapshot.rule_books)
        chores = (
            self._sync_spool(),
            self.key_uses.run(),
            self._record_bundles(),
            self.vitals.run(),
            self._backend_news.run(),
            checks.run(),
        )
        self._chores = [asyncio.create_task(chore) for chore in chores]

    async def close(self) -> None:
        """Give everything back, once every admitted request is recorded or the time for that has passed."""
        ends = time.monotonic() + _LAST_RECORDS_S
        while self.ledger.spool.open_calls and time.monotonic() < ends:  # noqa: ASYNC110 - it knows no loop
            await asyncio.sleep(0.01)
        if self.ledger.spool.open_calls:
            logger.error("%d requests were not recorded before the end.", self.ledger.spool.open_calls)
        for chore in self._chores:
            chore.cancel()
        await asyncio.wait(self._chores)
        self._append_bundles(self.refusals.drain_all())
        await self.admissions.close()
        await self.key_uses.flush()
        await self.key_watch.close()
        await self.idempotency.close()
        await self._backend_news.close()
        await self.configuration.close()
        self._pool.close()
        await self.guards.close()
        await self.schemas.close()
        await asyncio.to_thread(self._database.close)
        await asyncio.to_thread(self._counters.close)
        self.metrics.close()
        self.ledger.spool.close()

    def _make_admissions(self) -> Admissions:
        commands = Commands(load_scripts(), most_users=self.options.key_end_users)
        spool = self.ledger.spool
        return Admissions(
            url=self.options.counters_url,
            commands=commands,
            spool=str(spool.id),
            frames=SpoolFrames(self.options.spool_dir, spool.id, last_ends=self.ledger.last_ends),
            longest_call_ms=round(self.options.max_stream_s * 1000),
            most_waiting=self.options.queue_worker,
            run_in_thread=self._counters.run,
            make_rebuilder=lambda link: Rebuilder(link, commands, LedgerView()),
            on_answered=self.metrics.observe_store_call,
        )

    def _take_configuration(self) -> None:
        self.guards.take(self.configuration.snapshot.guards)
        self.admissions.take_books(self.configuration.snapshot.rule_books)

    def provider(self, name: str) -> Provider:
        """The provider that speaks a backend's form."""
        return self._providers[name]

    def record(self, trace: Trace) -> None:
        """Append the request's one ledger entry. An entry that the spool cannot take is in the log instead."""
        entry = trace.to_entry()
        self._count(entry)
        is_told = trace.usage.input_tokens and not trace.usage.estimated
        if trace.estimate is not None and is_told and trace.served_model is None:
            self.estimator.learn(trace.model, trace.estimate, trace.usage)
        if trace.status is Status.REFUSED and not trace.is_held and not self.refusals.take(entry):
            self.ledger.spool.release()
            return
        self._append(entry)

    def _append(self, entry: LedgerEntry) -> None:
        try:
            body = self.ledger.append(entry)
        except (OSError, ValueError):
            logger.exception(
                "A usage record could not be spooled: %s", entry, extra={"request_id": str(entry.request_id)}
            )
            raise
        department_id, team_id = entry.department_id, entry.team_id
        if department_id is None or team_id is None:  # nobody's
            return
        if self.admissions.has_rules(department_id, team_id):
            self.admissions.end(to_end_frame(entry, body))
        else:
            self.admissions.forget(str(entry.request_id))

    def record_begin(self, trace: Trace, reserve: Usage) -> None:
        """Append, before the backend is called, how the request is to stand if this process dies meanwhile.

        Refuses with 503 when the spool cannot take it: what cannot be accounted for is not done.
        """
        try:
            self.ledger.append_open(trace.to_abandoned_entry(reserve, attempts=trace.attempts + 1))
        except (OSError, ValueError) as error:
            logger.error("A call cannot be noted: %s", error, extra={"request_id": trace.id})
            raise ledger_unavailable() from None

    def record_growth(self, trace: Trace, reserve: Usage, *, attempts: int) -> bool:
        """Append anew how a request that is under way is to stand if this process dies: it may come to more now.

        False where the spool cannot take it: then what was noted when it began stands, and its end has room.
        """
        entry = trace.to_abandoned_entry(reserve, attempts=attempts)
        try:
            self.ledger.append_grown(entry)
        except (SpoolFull, OSError, ValueError) as error:
            extra = {"request_id": trace.id}
            logger.warning("It cannot be noted that a call may come to more: %s", error, extra=extra)
            return False
        return True

    def count_unrecorded(self, trace: Trace) -> None:
        """Count a request that is no entry of the ledger."""
        self._count(trace.to_entry())

    def _count(self, entry: LedgerEntry) -> None:
        self.metrics.count(entry, self.configuration.snapshot.models)

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end even if the caller is cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        await asyncio.shield(task)

    async def _look_up_key(self, digests: list[bytes], owners: Mapping[int, KeyOwner]) -> KeyHolder | None:
        try:
            async with asyncio.timeout(_LOOK_UP_S):
                return await self._database.run(lambda: find_key_holder(digests, owners))
        except (DatabaseError, InterfaceError, TimeoutError):
            raise database_unavailable() from None

    async def _write_key_uses(self, uses: Uses) -> None:
        async with asyncio.timeout(_LOOK_UP_S):
            await self._database.run(lambda: write_key_uses(uses))

    async def _record_bundles(self) -> None:
        while True:
            await asyncio.sleep(_BUNDLES_S)
            self._append_bundles(self.refusals.drain(datetime.now(UTC)))

    def _append_bundles(self, entries: Iterable[LedgerEntry]) -> None:
        for entry in entries:
            try:
                self.ledger.spool.admit()
                self._append(entry)
            except (SpoolFull, OSError) as error:
                logger.error("%d refusals are in no row (%s): %s", entry.requests, entry.reason, error)

    async def _sync_spool(self) -> None:
        while True:
            await asyncio.sleep(_SYNC_S)
            if files := self.ledger.spool.take_unsynced():
                try:
                    await asyncio.to_thread(sync_files, files)
                except OSError as error:
                    logger.error("The spool cannot be forced to disk: %s", error)
