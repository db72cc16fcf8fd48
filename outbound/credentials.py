"""Backend credentials at rest: encrypted under a dedicated key list and bound to the backend's host."""

import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

# What a reference may name: other variables and files hold secrets that are no backend's business.
_ENVIRONMENT_PREFIX = "GATEWAY_CREDENTIAL_"
_OPENS_WITH_NONE = "The stored credential opens with none of GATEWAY_FIELD_KEYS."
_ENVIRONMENT = re.compile(rf"\Aenv:{_ENVIRONMENT_PREFIX}[A-Za-z0-9_]+\Z")


class CredentialError(Exception):
    """The credential cannot be read; the message names neither the secret nor its ciphertext."""


def check_reference(reference: str) -> None:
    """Accept an empty string, `env:GATEWAY_CREDENTIAL_...`, or `file:` and a path in GATEWAY_CREDENTIALS_DIR.

    Raises CredentialError otherwise, so that whoever may edit backends can send no other secret to theirs.
    """
    if not reference or _ENVIRONMENT.match(reference):
        return
    kind, _, place = reference.partition(":")
    folder: Path = settings.GATEWAY_CREDENTIALS_DIR
    if kind != "file" or "\0" in place or not Path(place).is_absolute():
        raise CredentialError(
            f"Write env:{_ENVIRONMENT_PREFIX}NAME or file:/path/in/GATEWAY_CREDENTIALS_DIR."
        )
    if folder.resolve() not in Path(place).resolve().parents:
        raise CredentialError("A file: reference must lie in GATEWAY_CREDENTIALS_DIR.")


def encrypt_credential(secret: str, base_url: str) -> bytes:
    """Encrypt `secret` for the host of `base_url`; it opens for no other host."""
    payload = json.dumps({"host": _host(base_url), "secret": secret}).encode()
    return field_cipher().encrypt(payload)


def decrypt_credential(encrypted: bytes, base_url: str) -> str:
    """The secret stored for the host of `base_url`. Raises CredentialError."""
    try:
        payload = json.loads(field_cipher().decrypt(encrypted))
    except InvalidToken:
        raise CredentialError(_OPENS_WITH_NONE) from None
    if payload["host"] != _host(base_url):
        raise CredentialError("The stored credential belongs to another host; enter it again.")
    return str(payload["secret"])


def needs_rotation(encrypted: bytes) -> bool:
    """Whether `encrypted` was made with another key than the first of GATEWAY_FIELD_KEYS."""
    try:
        _field_keys()[0].decrypt(encrypted)
    except InvalidToken:
        return True
    return False


def rotate_credential(encrypted: bytes) -> bytes:
    """The same credential under the first of GATEWAY_FIELD_KEYS. Raises CredentialError when none opens it."""
    try:
        return field_cipher().rotate(encrypted)
    except InvalidToken:
        raise CredentialError(_OPENS_WITH_NONE) from None


def resolve_credential(reference: str, encrypted: bytes | None, base_url: str) -> str | None:
    """The credential to send to `base_url`, or None when the backend has none. Raises CredentialError."""
    secret = decrypt_credential(encrypted, base_url) if encrypted is not None else _referenced(reference)
    if secret is not None and not (secret and secret.isascii() and secret.isprintable()):
        raise CredentialError("The credential is empty or not printable ASCII.")
    return secret


def _referenced(reference: str) -> str | None:
    if not reference:
        return None
    check_reference(reference)
    kind, _, place = reference.partition(":")
    try:
        return os.environ[place] if kind == "env" else Path(place).read_text(encoding="utf-8").strip()
    except (KeyError, OSError, UnicodeDecodeError):
        raise CredentialError(f"The credential reference {kind}:... cannot be read.") from None


def _host(base_url: str) -> str:
    return urlsplit(base_url).netloc.lower()


def field_cipher() -> MultiFernet:
    """What encrypts fields at rest under GATEWAY_FIELD_KEYS. Raises CredentialError when there is no usable key."""
    return MultiFernet(_field_keys())


def _field_keys() -> list[Fernet]:
    try:
        keys = [Fernet(key) for key in settings.GATEWAY_FIELD_KEYS]
    except ValueError:
        keys = []
    if not keys:
        raise CredentialError("GATEWAY_FIELD_KEYS holds no usable key.")
    return keys
