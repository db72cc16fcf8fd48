"""Addresses of PostgreSQL and of Redis or Valkey, as far as they can be judged without connecting.

Only `check --deploy` connects; what it looks at then, every worker looks at all the time (gateway_site/monitor.py).
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from gateway_site.faults import GOOD_POLICY, is_filling

_ANSWER_S = 1.0


@register
def check_database_urls(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E006: the product needs PostgreSQL, and a database and a role named in each URL."""
    names = {"default": "DATABASE_URL", "owner": "DATABASE_OWNER_URL"}
    found: list[CheckMessage] = []
    for alias, variable in names.items():
        database = settings.DATABASES[alias]
        if database["ENGINE"] != "django.db.backends.postgresql":
            found.append(Error(f"{variable} must be a postgresql:// URL.", id="gateway_site.E006"))
        elif not database["NAME"] or not database["USER"]:
            found.append(Error(f"{variable} must name a role and a database.", id="gateway_site.E006"))
    return found


@register
def check_database_roles(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W001: a runtime role that owns the schema could disarm what protects the ledger."""
    if settings.DATABASES["default"]["USER"] == settings.DATABASES["owner"]["USER"]:
        message = "DATABASE_URL names the role that owns the schema."
        hint = "Give the runtime a role of its own and name the owner in DATABASE_OWNER_URL."
        return [Warning(message, hint=hint, id="gateway_site.W001")]
    return []


@register
def check_same_database(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W003: migrations of another database than the one that serves. (A pooler may rename it.)"""
    default, owner = settings.DATABASES["default"], settings.DATABASES["owner"]
    if default["NAME"] != owner["NAME"]:
        message = "DATABASE_URL and DATABASE_OWNER_URL name different databases."
        return [Warning(message, id="gateway_site.W003")]
    return []


@register
def check_redis_url(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E007: a URL of another form would fail in Celery, or lead to another database number."""
    try:
        problem = _redis_problem(settings.REDIS_URL)
    except ValueError:
        problem = "is not a URL"
    return [Error(f"REDIS_URL {problem}.", id="gateway_site.E007")] if problem else []


@register(deploy=True)
def check_store_memory(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W013 and W014: a store that drops counters, or takes none. One that is away is not judged."""
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S
        ) as store:
            memory: dict[str, Any] = store.info("memory")
    except (redis.RedisError, OSError, ValueError):
        return []
    found: list[CheckMessage] = []
    policy = memory.get("maxmemory_policy", GOOD_POLICY)
    if policy != GOOD_POLICY:
        message = (
            f"The store of REDIS_URL may drop keys when its memory is full: maxmemory-policy is {policy}."
        )
        found.append(Warning(message, hint="Set it to noeviction.", id="gateway_site.W013"))
    used_bytes, max_bytes = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
    if is_filling(used_bytes, max_bytes):
        message = f"The store of REDIS_URL uses {used_bytes} of {max_bytes} bytes of its memory."
        hint = "Give it more: when it is full, calls under hard budgets are refused."
        found.append(Warning(message, hint=hint, id="gateway_site.W014"))
    return found


def _redis_problem(url: str) -> str:
    """What is wrong with `url`, or nothing. Raises ValueError for what is no URL at all. Never shows it."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        number = parse_qs(parts.query).get("db", ["0"])[0]
        if parts.hostname or not parts.path.startswith("/"):
            return "needs the socket's path: unix:///run/valkey.sock?db=0"
    elif parts.scheme in {"redis", "rediss"}:
        number = parts.path.lstrip("/") or "0"
        if not parts.hostname or parts.port == 0:
            return "needs a host: redis://host:6379/0"
    else:
        return "must begin with redis://, rediss:// or unix://"
    return "" if number.isdecimal() else "names a database that is no number"
