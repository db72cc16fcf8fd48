"""What workers tell of a backend, for people; read from the store, for pages only."""

from datetime import UTC, datetime
from functools import cache

import redis
from django.conf import settings
from redis.exceptions import RedisError

from routing.health.news import STATES

_ANSWER_S = 0.25


@cache
def _store() -> "redis.Redis":
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, decode_responses=True
    )


def read_left_alone_until(backend_id: int) -> datetime | None:
    """Until when workers leave a backend alone; None when they do not, or while the store is away."""
    try:
        (seconds, _), told = _store().time(), _store().hget(STATES, str(backend_id))
    except (RedisError, OSError):
        return None
    if not isinstance(told, str) or not told.startswith("open "):
        return None
    until_s = float(told.split()[1]) / 1000
    return datetime.fromtimestamp(until_s, UTC) if until_s > seconds else None
