"""A worker's gauges and the lag of its event loop, published twice a second."""

import asyncio
import time
from typing import TYPE_CHECKING

from routing import metric_names as names

if TYPE_CHECKING:
    from routing.gateway import Gateway

_EVERY_S = 0.5


class Vitals:
    """What is true of a worker now, for its metrics."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._hits = self._misses = 0  # as published; the key ring only raises its own

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
        metrics.set(names.OPEN_STREAMS, metrics.open_streams)
        metrics.set(names.CACHED_KEYS, keys.size)
        metrics.set(names.CONFIGURATION, configuration.snapshot.version)
        metrics.set(names.CONFIGURATION_CHECKED, round(configuration.checked_at * 1000))
        metrics.add(names.KEY_HITS, keys.hits - self._hits)
        metrics.add(names.KEY_MISSES, keys.misses - self._misses)
        self._hits, self._misses = keys.hits, keys.misses
