"""The form of an API key and its digest.

`sk-gw_` + 43 base62 characters (256 bits of randomness) + 6 base62 characters of CRC-32 over all before.
The checksum refuses typing errors and random guesses before any look-up, and lets secret scanners be sure.
"""

import hashlib
import hmac
import secrets
import zlib
from dataclasses import dataclass, field

from django.core.exceptions import ImproperlyConfigured

PREFIX = "sk-gw_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH = 43  # 62**43 > 2**256
_CHECKSUM_LENGTH = 6  # 62**6 > 2**32
KEY_LENGTH = len(PREFIX) + _RANDOM_LENGTH + _CHECKSUM_LENGTH


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(start: str) -> str:
    return _base62(zlib.crc32(start.encode()), _CHECKSUM_LENGTH)


def generate_key() -> str:
    """A new key from the system's random source."""
    return key_from_number(secrets.randbelow(62**_RANDOM_LENGTH))


def key_from_number(number: int) -> str:
    """The key that spells `number`, which must be secret, uniform and of at least 256 bits."""
    start = PREFIX + _base62(number, _RANDOM_LENGTH)
    return start + _checksum(start)


def is_well_formed(key: str) -> bool:
    """Whether prefix, length, alphabet and checksum are right. Says nothing about the key being known."""
    if len(key) != KEY_LENGTH or not key.isascii() or not key.startswith(PREFIX):
        return False
    return hmac.compare_digest(_checksum(key[:-_CHECKSUM_LENGTH]), key[-_CHECKSUM_LENGTH:])


def hint_of(key: str) -> str:
    """What may be shown of a key: its prefix and last four characters."""
    return f"{PREFIX}...{key[-4:]}"


@dataclass(frozen=True, slots=True)
class Peppers:
    """The secret HMAC keys of digests, by version. They live outside the database."""

    by_version: dict[int, bytes] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Peppers":
        """Read `1:<hex>,2:<hex>`; each at least 32 bytes. Raises ImproperlyConfigured."""
        try:
            pairs = (item.split(":") for item in text.split(","))
            peppers = {int(version): bytes.fromhex(value) for version, value in pairs}
        except ValueError:
            raise ImproperlyConfigured("GATEWAY_KEY_PEPPERS must look like 1:<hex>,2:<hex>.") from None
        if any(len(pepper) < 32 or not 0 < version < 32768 for version, pepper in peppers.items()):
            raise ImproperlyConfigured(
                "Each of GATEWAY_KEY_PEPPERS needs a version from 1 and at least 64 hex digits."
            )
        return cls(peppers)

    @property
    def current(self) -> int:
        """The version new keys use."""
        return max(self.by_version)

    def digest(self, key: str, version: int) -> bytes:
        """HMAC-SHA-256 of `key` under the pepper of `version`: 32 bytes."""
        return hmac.digest(self.by_version[version], key.encode(), hashlib.sha256)

    def digests(self, key: str) -> list[bytes]:
        """The digests under every version, newest first: what a stored key may be found by."""
        return [self.digest(key, version) for version in sorted(self.by_version, reverse=True)]
