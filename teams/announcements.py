"""Tells workers at once that keys have changed. What has changed they read in the database (key_changes.py).

A lost or forged message does no harm: workers look twice a second by themselves.
"""

import logging

import redis
from django.conf import settings
from django.db import transaction
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

logger = logging.getLogger(__name__)

CHANNEL = "gateway:key-changes"
_PUBLISH_S = 0.5  # by then the workers have looked by themselves


def announce_key_change() -> None:
    """Wake the workers when the current transaction commits; once, however often it is called in it."""
    connection = transaction.get_connection()
    if not any(call is _publish for _, call, _ in connection.run_on_commit):
        transaction.on_commit(_publish)


def _publish() -> None:
    store = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=_PUBLISH_S,
        socket_connect_timeout=_PUBLISH_S,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        store.publish(CHANNEL, b"")
    except (RedisError, OSError) as error:
        logger.warning("A change of keys was not announced; workers find it by themselves: %r", error)
    finally:
        store.close()
