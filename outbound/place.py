"""Where an address leads, as the wire spells it."""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from outbound.connection import Origin

_PORTS = {"https": 443, "http": 80}


class Place(NamedTuple):
    """`host` is for the Host header; `path` is quoted, and empty or begins with a slash."""

    origin: Origin
    host: str
    path: str


@lru_cache(maxsize=1024)
def place_of(address: str) -> Place:
    """Of an address that was checked."""
    url = urlsplit(address)
    host = url.hostname or ""
    name = host if host.isascii() else host.encode("idna").decode()
    port = url.port or _PORTS[url.scheme]
    shown = f"[{name}]" if ":" in name else name
    if port != _PORTS[url.scheme]:
        shown = f"{shown}:{port}"
    return Place(Origin(url.scheme, name, port), shown, quote(url.path, safe="/%:@!$&'()*+,;=~-._"))
