"""Typed readers of the environment that fail loudly: a wrong or missing setting stops the start."""

import os
import re
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured


def text(name: str, default: str | None = None) -> str:
    """The value of `name`, or of the file that `name_FILE` points to; `default` when neither is set."""
    value, path = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if value is not None and path is not None:
        raise ImproperlyConfigured(f"Set {name} or {name}_FILE, not both.")
    if path is not None:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE cannot be read: {error.strerror}") from error
    if value is not None:
        return value
    if default is None:
        raise ImproperlyConfigured(
            f"{name} is not set. `make run` prepares a complete environment; see docs/reference/settings.md."
        )
    return default


def integer(name: str, default: int, *, least: int = 0) -> int:
    """A whole number of at least `least`."""
    raw = text(name, str(default))
    try:
        value = int(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {raw!r}.") from None
    if value < least:
        raise ImproperlyConfigured(f"{name} must be at least {least}, not {value}.")
    return value


def flag(name: str, *, default: bool) -> bool:
    """`1`, `true`, `yes`, `on` or `0`, `false`, `no`, `off`."""
    raw = text(name, "1" if default else "0").lower()
    if raw in {"1", "true", "yes", "on"}:
        return True
    if raw in {"0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name} must be true or false, not {raw!r}.")


def items(name: str, default: str = "") -> tuple[str, ...]:
    """A comma-separated list; empty items are dropped."""
    return tuple(item.strip() for item in text(name, default).split(",") if item.strip())


def choice(name: str, default: str, options: tuple[str, ...]) -> str:
    """One of `options`, in any case."""
    value = text(name, default).upper()
    if value not in options:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(options)}, not {value!r}.")
    return value


def database(name: str, url: str) -> dict[str, Any]:
    """The settings of the database at `url`, the value of `name`, which no message repeats: it may hold a password."""
    try:
        return {**dj_database_url.parse(url, conn_max_age=0)}
    except ValueError:
        raise ImproperlyConfigured(
            f"{name} is not a database URL: postgresql://role:password@host/name."
        ) from None


def rate(name: str, default: str) -> tuple[int, int]:
    """So many in a time, such as `10/10m`: the number, and the time in seconds (s, m, h or d)."""
    raw = text(name, default)
    found = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,4})?([smhd])", raw)
    if found is None:
        raise ImproperlyConfigured(f"{name} must be a number and a time, such as 10/10m, not {raw!r}.")
    count, units, unit = found.groups()
    return int(count), int(units or 1) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
