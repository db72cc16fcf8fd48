"""Names, proxies and transport."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from teams.key_rules import parse_network

_LOCAL = {"localhost", "127.0.0.1", "[::1]", "testserver"}


@register
def check_allowed_hosts(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E009: entries that match no host ever; W012: one that matches all."""
    hosts = settings.ALLOWED_HOSTS
    if not hosts:
        return [Error("GATEWAY_ALLOWED_HOSTS is empty: no page could be opened.", id="gateway_site.E009")]
    found: list[CheckMessage] = [
        Error(
            f"GATEWAY_ALLOWED_HOSTS takes host names, without scheme, port or path: {host!r}.",
            id="gateway_site.E009",
        )
        for host in hosts
        if "/" in host or (":" in host and not host.startswith("["))
    ]
    if "*" in hosts:
        message = "GATEWAY_ALLOWED_HOSTS allows every name, so links can be made to lead elsewhere."
        found.append(Warning(message, id="gateway_site.W012"))
    return found


@register
def check_transport(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W011: sign-in over plain http under a public name."""
    if settings.GATEWAY_HTTPS or settings.DEBUG or set(settings.ALLOWED_HOSTS) <= _LOCAL:
        return []
    hint = "Put a TLS proxy in front and set GATEWAY_HTTPS=1."
    message = (
        "GATEWAY_HTTPS is off, and GATEWAY_ALLOWED_HOSTS names more than this machine: passwords go in clear."
    )
    return [Warning(message, hint=hint, id="gateway_site.W011")]


@register
def check_debug(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E011: debug pages show settings and code to whoever can cause an error."""
    if settings.DEBUG and (settings.GATEWAY_HTTPS or not set(settings.ALLOWED_HOSTS) <= _LOCAL):
        message = "GATEWAY_DEBUG is on while others than this machine are served."
        return [Error(message, id="gateway_site.E011")]
    return []


@register
def check_trusted_proxies(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E010, W010: a wrong entry trusts nobody or everybody, and IP ranges of keys rest on it."""
    found: list[CheckMessage] = []
    for entry in settings.GATEWAY_TRUSTED_PROXIES:
        try:
            network = parse_network(entry)
        except ValueError as error:
            found.append(Error(f"GATEWAY_TRUSTED_PROXIES: {error}", id="gateway_site.E010"))
            continue
        if network.prefixlen == 0:
            message = f"GATEWAY_TRUSTED_PROXIES holds {network}: every caller can claim any address."
            found.append(Warning(message, hint="Name the proxies' own networks.", id="gateway_site.W010"))
    return found
