"""Liveness and readiness of one worker, answered from its own state; what is degraded is named."""

import asyncio
import json

import redis.asyncio
from django.conf import settings
from redis.exceptions import RedisError

from routing.gateway import Gateway


async def livez(gateway: Gateway) -> tuple[int, bytes]:
    """200 as long as the event loop runs."""
    return 200, b'{"status":"ok"}'


async def readyz(gateway: Gateway) -> tuple[int, bytes]:
    """200 when this worker can serve; `degraded` names what is not well without stopping it."""
    degraded = list(gateway.configuration.snapshot.faults)
    if not gateway.configuration.is_current:
        degraded.append("database: away; known keys are served by the last configuration")
    if not gateway.key_watch.is_current:
        degraded.append("keys: changes are not heard of; known keys are served as they were")
    if not await _store_answers():
        degraded.append("store: Redis or Valkey does not answer")
    if not gateway.ledger.spool.has_room():
        degraded.append("spool: full; no calls are made")
    if torn := sum(1 for _ in gateway.options.spool_dir.glob("*.torn")):
        degraded.append(f"spool: {torn} segments with an unreadable rest are kept as .torn")
    ready = gateway.ledger.spool.has_room()
    body = {
        "status": "ok" if ready and not degraded else "degraded" if ready else "unavailable",
        "degraded": degraded,
        "configuration_version": gateway.configuration.snapshot.version,
    }
    return (200 if ready else 503), json.dumps(body).encode()


async def _store_answers() -> bool:
    store = redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)
    try:
        async with asyncio.timeout(1.5):
            return bool(await store.ping())
    except (RedisError, OSError, TimeoutError):
        return False
    finally:
        await store.aclose()
