"""The sign that Celery lives: a key in the store that lapses unless a task sets it anew every minute."""

import redis
from django.conf import settings

SIGN = "gateway:celery-lives"
SIGN_LASTS_S = 180
QUEUE = "celery"  # Celery's own name of its default queue: a list


def show_sign_of_life() -> None:
    """Set the sign. Raises RedisError when the store is away."""
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=5) as store:
        store.set(SIGN, 1, ex=SIGN_LASTS_S)
