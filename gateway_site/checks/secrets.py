"""Secrets of the installation: there, long enough, and not one for two purposes."""

from collections.abc import Sequence
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from teams.keys import PREFIX, Peppers

_LEAST_KEY_CHARACTERS = 50  # as Django's own deployment check
_LEAST_DIFFERENT = 10
_LEAST_TOKEN_CHARACTERS = 32


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
def check_signing_key(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E004: who can guess the signing key can sign in as anybody."""
    key = settings.SECRET_KEY
    if len(key) >= _LEAST_KEY_CHARACTERS and len(set(key)) >= _LEAST_DIFFERENT:
        return []
    message = (
        f"GATEWAY_SECRET_KEY needs {_LEAST_KEY_CHARACTERS} characters, {_LEAST_DIFFERENT} of them different."
    )
    hint = "Generate one: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
    return [Error(message, hint=hint, id="gateway_site.E004")]


@register
def check_metrics_token(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """gateway_site.E005: a token that can be guessed, or that opens something else; W002: none, so no metrics."""
    token = settings.GATEWAY_METRICS_TOKEN
    if not token:
        hint = "Generate one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        return [
            Warning(
                "GATEWAY_METRICS_TOKEN is not set: /metrics answers 404.", hint=hint, id="gateway_site.W002"
            )
        ]
    if token.startswith(PREFIX) or token == settings.SECRET_KEY:
        return [Error("GATEWAY_METRICS_TOKEN must open nothing but metrics.", id="gateway_site.E005")]
    if len(token) < _LEAST_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
        message = (
            f"GATEWAY_METRICS_TOKEN needs {_LEAST_TOKEN_CHARACTERS} printable ASCII characters, no spaces."
        )
        return [Error(message, id="gateway_site.E005")]
    return []
