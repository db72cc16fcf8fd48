"""Addresses of PostgreSQL and of Redis or Valkey, as far as they can be judged without connecting.

Only `check --deploy` connects; what it looks at then, every worker looks at all the time (gateway_site/monitor.py).
"""

import contextlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from billing.admission.commands import plain
from billing.admission.links import DirectLink, StoreLost
from billing.admission.scripts import Scripts
from gateway_site.faults import GOOD_POLICY, Memory, is_filling
from gateway_site.probes import read_memory

_ANSWER_S = 1.0
_STORES = ("REDIS_URL", "GATEWAY_COUNTERS_URL")


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
    found: list[CheckMessage] = []
    for variable in _STORES:
        try:
            problem = _redis_problem(getattr(settings, variable))
        except ValueError:
            problem = "is not a URL"
        if problem:
            found.append(Error(f"{variable} {problem}.", id="gateway_site.E007"))
    return found


@register(deploy=True)
def check_store_memory(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W013 and W014: a store that drops counters, or takes none. One that is away is not judged."""
    urls = {getattr(settings, variable): variable for variable in reversed(_STORES)}
    return [found for url, variable in urls.items() for found in _judge_memory(variable, url)]


def _judge_memory(variable: str, url: str) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    memories = _read_memories(url)
    if bad := [memory.eviction_policy for memory in memories if memory.eviction_policy != GOOD_POLICY]:
        message = (
            f"The store of {variable} may drop keys when its memory is full: maxmemory-policy is {bad[0]}."
        )
        found.append(Warning(message, hint="Set it to noeviction.", id="gateway_site.W013"))
    if full := [memory for memory in memories if is_filling(memory.used_bytes, memory.max_bytes)]:
        message = (
            f"The store of {variable} uses {full[0].used_bytes} of {full[0].max_bytes} bytes of its memory."
        )
        hint = "Give it more: when it is full, calls under hard budgets are refused."
        found.append(Warning(message, hint=hint, id="gateway_site.W014"))
    return found


def _read_memories(url: str) -> list[Memory]:
    """Of each server, or nothing when one does not answer or does not tell."""
    try:
        with contextlib.closing(DirectLink(url, Scripts({}), limit_s=_ANSWER_S)) as link:
            replies = link.ask_each(plain("INFO", "memory", key=b""))
    except (redis.RedisError, StoreLost, OSError, ValueError):
        return []
    return [read_memory(reply) for reply in replies if isinstance(reply, bytes)]


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
