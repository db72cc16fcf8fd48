"""A worker's gauges and the lag of its event loop, published twice a second."""

import asyncio
import time
from typing import TYPE_CHECKING

from billing.admission.admissions import Admissions
from routing import metric_names as names
from routing.metric_names import Metric

if TYPE_CHECKING:
    from routing.gateway import Gateway

_EVERY_S = 0.5


class Vitals:
    """What is true of a worker now, for its metrics."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._published: dict[str, int] = {}  # of figures that their owners only raise

    async def run(self) -> None:
        """Publish until cancelled. A loop that is busy wakes this late: that is the lag."""
        while True:
            due = time.monotonic() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            self._gateway.metrics.observe(names.LOOP_LAG, max(0, round((time.monotonic() - due) * 1_000_000)))
            self.publish()

    def publish(self) -> None:
        """Publish what is so now."""
        gateway = self._gateway
        metrics, keys, configuration = gateway.metrics, gateway.keys, gateway.configuration
        metrics.set(names.IN_FLIGHT, gateway.ledger.spool.open_calls)
        metrics.set(names.WAITING, gateway.admissions.waiting)
        away = (health for health in gateway.board.list_known() if health.breaker.is_away)
        metrics.set(names.BACKENDS_AWAY, sum(1 for _ in away))
        metrics.set(names.OPEN_STREAMS, metrics.open_streams)
        metrics.set(names.CACHED_KEYS, keys.size)
        metrics.set(names.CONFIGURATION, configuration.snapshot.version)
        metrics.set(names.CONFIGURATION_CHECKED, round(configuration.checked_at * 1000))
        self._raise(names.KEY_HITS, keys.hits)
        self._raise(names.KEY_MISSES, keys.misses)
        self._publish_admissions(gateway.admissions)

    def _publish_admissions(self, admissions: Admissions) -> None:
        metrics = self._gateway.metrics
        metrics.set(names.COUNTERS_CONNECTED, admissions.is_connected)
        metrics.set(names.CLOSED_DEPARTMENTS, len(admissions.closed_departments))
        metrics.set(names.UNBOOKED_ENDS, admissions.pending)
        self._raise(names.LOST_CONNECTIONS, admissions.lost_connections)
        self._raise(names.REBUILDS, admissions.rebuilds)

    def _raise(self, counter: Metric, total: int) -> None:
        """Add what came since the last time."""
        self._gateway.metrics.add(counter, total - self._published.get(counter.name, 0))
        self._published[counter.name] = total
