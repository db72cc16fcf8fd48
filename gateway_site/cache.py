"""The portal's cache, in which attempts are counted."""

import logging
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis import RedisError

logger = logging.getLogger(__name__)


class CounterCache(RedisCache):
    """Counts in Redis or Valkey for all processes; while that is away, each process counts for itself.

    So a limit neither ends with an outage of the counter store, nor shuts out everybody meanwhile.
    """

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._own = LocMemCache("counters", {})

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Set a key that is not there yet; says whether it did."""
        try:
            return super().add(key, value, timeout, version)
        except RedisError as error:
            _tell(error)
            return self._own.add(key, value, timeout, version)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """The new value of a counter. Raises ValueError when there is none."""
        try:
            return super().incr(key, delta, version)
        except RedisError as error:
            _tell(error)
            return self._own.incr(key, delta, version)


def _tell(error: RedisError) -> None:
    logger.warning("The counter store is away; this process counts for itself: %r", error)
