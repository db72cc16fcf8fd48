"""System checks with stable ids: a setting that could be wrong is found at start, not at the first call."""

from collections.abc import Sequence
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from teams.key_rules import parse_network
from teams.keys import Peppers


@register
def check_key_peppers(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E001: without peppers no key can be checked."""
    try:
        Peppers.parse(settings.GATEWAY_KEY_PEPPERS)
    except ImproperlyConfigured as error:
        return [Error(str(error), id="gateway_site.E001")]
    return []


@register
def check_field_keys(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E002: without Fernet keys no backend credential can be stored or read."""
    try:
        for key in settings.GATEWAY_FIELD_KEYS:
            Fernet(key)
    except ValueError:
        return [Error("GATEWAY_FIELD_KEYS holds something that is no Fernet key.", id="gateway_site.E002")]
    if not settings.GATEWAY_FIELD_KEYS:
        hint = "Generate one: python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
        return [Error("GATEWAY_FIELD_KEYS is empty.", hint=hint, id="gateway_site.E002")]
    return []


@register
def check_private_backends(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E003: an entry without a port would allow nothing, silently."""
    wrong = [entry for entry in settings.GATEWAY_PRIVATE_BACKENDS if not entry.rpartition(":")[2].isdecimal()]
    if wrong:
        return [Error(f"GATEWAY_PRIVATE_BACKENDS needs host:port, not {wrong[0]!r}.", id="gateway_site.E003")]
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


@register
def check_database_roles(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.W001: a runtime role that owns the schema could disarm what protects the ledger."""
    if settings.DATABASES["default"]["USER"] == settings.DATABASES["owner"]["USER"]:
        message = "DATABASE_URL names the role that owns the schema."
        hint = "Give the runtime a role of its own and name the owner in DATABASE_OWNER_URL."
        return [Warning(message, hint=hint, id="gateway_site.W001")]
    return []
