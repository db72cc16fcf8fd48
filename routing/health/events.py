"""Trips and returns of backends as events, log lines and counts: of a backend that flaps, one in a while."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from django.db import DatabaseError, InterfaceError

from audit.services import record_event
from outbound.breaker import State
from routing.health.board import Change
from routing.metrics import Metrics
from routing.models import Backend

logger = logging.getLogger(__name__)

_EVERY_S = 60.0  # of one backend; the counters have them all
ACTOR = "gateway"


class BackendEvents:
    """Takes note of what this worker decided."""

    def __init__(self, metrics: Metrics, run: Callable[[Callable[[], None]], Awaitable[Any]]) -> None:
        """`run` runs a function on a thread that may use the database."""
        self._metrics = metrics
        self._run = run
        self._told_at: dict[tuple[int, State], float] = {}

    async def take(self, change: Change) -> None:
        """Count it, and tell people unless they were told lately."""
        health, is_trip = change.health, change.state is State.OPEN
        self._metrics.count_change(health.name, is_trip=is_trip)
        place, now = (health.backend_id, change.state), time.monotonic()
        if now - self._told_at.get(place, float("-inf")) < _EVERY_S:
            return
        self._told_at[place] = now
        extra = {"backend": health.name, "reason": change.reason}
        if is_trip:
            logger.error("A backend is left alone for %.1f s.", change.wait_s, extra=extra)
        else:
            logger.warning("A backend is back.", extra={"backend": health.name})
        try:
            await self._run(lambda: _record(change))
        except (DatabaseError, InterfaceError) as error:
            logger.warning("No event tells of a backend: %r", error, extra={"backend": health.name})


def _record(change: Change) -> None:
    """Runs in a thread."""
    backend = Backend.objects.filter(pk=change.health.backend_id).first()
    if backend is None:  # removed meanwhile
        return
    if change.state is State.OPEN:
        after = {"reason": change.reason, "wait_s": round(change.wait_s, 1), "trips": change.trips}
        record_event(ACTOR, "backend.trip", backend, after=after)
    else:
        record_event(ACTOR, "backend.return", backend)
