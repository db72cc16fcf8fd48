"""Active checks: backends that ask for it are looked at by one worker of all, and what is found counts like a call."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from outbound.breaker import Outcome
from routing.health.board import Board, End
from routing.health.news import BackendNews
from routing.providers.base import is_backends_fault
from routing.snapshot import Snapshot, Target
from teams.errors import GatewayError

logger = logging.getLogger(__name__)

_TURN_S = 0.5
_WITHIN_S = 5.0
Check = Callable[[Target, float], Awaitable[None]]


class BackendChecks:
    """One worker's. `check` asks a backend, and raises GatewayError when it is not well."""

    def __init__(
        self, board: Board, news: BackendNews, check: Check, snapshot: Callable[[], Snapshot]
    ) -> None:
        self._board = board
        self._news = news
        self._check = check
        self._snapshot = snapshot
        self._due: dict[int, float] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                await asyncio.sleep(_TURN_S)
                self._begin_due()
        finally:
            for task in self._under_way:
                task.cancel()

    def _begin_due(self) -> None:
        now = time.monotonic()
        targets = {t.backend_id: t for model in self._snapshot().models.values() for t in model.targets}
        for target in targets.values():
            if target.check_every_s and self._due.setdefault(target.backend_id, now) <= now:
                self._due[target.backend_id] = now + target.check_every_s
                task = asyncio.create_task(self._look_at(target))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _look_at(self, target: Target) -> None:
        """Unless another worker does. Of a backend that is left alone only the probe that is due, as of its calls."""
        if not await self._news.may_check(target.backend_id, target.check_every_s * 0.9):
            return
        is_probe = False
        if not self._board.share(target):
            if not self._board.is_probe_due(target) or not await self._board.begin_probe(target):
                return
            is_probe = True
        attempt = self._board.begin(target, is_probe=is_probe)
        end = End()
        try:
            await self._check(target, min(_WITHIN_S, target.total_timeout_s))
            end = End(Outcome(200))
        except GatewayError as error:
            if is_backends_fault(error):
                end = End(Outcome(error.backend_status, error.back_in_s), reason=error.reason)
            logger.warning("A check found a backend unwell: %s", error, extra={"backend": target.name})
        finally:
            attempt.end(end)
