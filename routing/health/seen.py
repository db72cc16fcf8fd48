"""What workers tell of backends, for people; read from the store, for pages only."""

import json
import time
from collections import defaultdict
from datetime import UTC, datetime
from functools import cache

import msgspec
import redis
from django.conf import settings
from redis.exceptions import RedisError

from routing.health.news import LOADS, STALE_MS, STATES

_ANSWER_S = 0.25
_FRESH_S = 0.5  # a page with many backends asks the store once


class Seen(msgspec.Struct, frozen=True):
    """One backend: until when workers leave it alone, if they do; calls under way of all workers; and the mean of
    what each tells of the time to the first byte, if any had an answer in the last minute."""

    left_alone_until: datetime | None = None
    under_way: int = 0
    first_byte_ms: float | None = None


NOT_SEEN = Seen()


@cache
def _store() -> "redis.Redis":
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, decode_responses=True
    )


def read_seen(backend_id: int) -> Seen:
    """What is known of it now; nothing while the store is away."""
    return _Reader.read().get(backend_id, NOT_SEEN)


class _Reader:
    _read_at = -_FRESH_S
    _seen: dict[int, Seen] = {}

    @classmethod
    def read(cls) -> dict[int, Seen]:
        if time.monotonic() - cls._read_at >= _FRESH_S:
            cls._seen, cls._read_at = _read_all(), time.monotonic()
        return cls._seen


def _read_all() -> dict[int, Seen]:
    """Of all backends that workers tell of."""
    try:
        with _store().pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(STATES)
            pipe.hgetall(LOADS)
            (seconds, micros), states, told = pipe.execute()
    except (RedisError, OSError):
        return {}
    now_ms = seconds * 1000 + micros / 1000
    under_way: dict[int, int] = defaultdict(int)
    first_bytes: dict[int, list[float]] = defaultdict(list)
    for at_ms, loads in map(json.loads, told.values()):
        if now_ms - at_ms < STALE_MS:
            for number, (calls, _, first_byte_s) in loads.items():
                under_way[int(number)] += calls
                if first_byte_s:
                    first_bytes[int(number)].append(first_byte_s)
    until = {int(number): left for number, text in states.items() if (left := _until(text, now_ms))}
    return {
        number: Seen(until.get(number), under_way.get(number, 0), _mean_ms(first_bytes.get(number, [])))
        for number in until.keys() | under_way.keys()
    }


def _until(text: str, now_ms: float) -> datetime | None:
    kind, at_ms, *_ = text.split()
    is_ahead = kind == "open" and float(at_ms) > now_ms
    return datetime.fromtimestamp(float(at_ms) / 1000, UTC) if is_ahead else None


def _mean_ms(seconds: list[float]) -> float | None:
    return 1000 * sum(seconds) / len(seconds) if seconds else None
