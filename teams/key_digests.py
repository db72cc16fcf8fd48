"""A key's digest as it may leave the database: with the version of its pepper, and a check of that pepper.

A digest cannot be turned back into a key, and nobody can use it without the pepper. With the same peppers another
database accepts the key, so keys can move without being known.
"""

import re
from dataclasses import dataclass

from django.conf import settings

from teams.keys import Peppers
from teams.models import ApiKey

_FORM = re.compile(r"\Av([1-9][0-9]{0,4})-([0-9a-f]{8}|unknown)-([0-9a-f]{64})\Z")
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StoredDigest:
    """`check` tells peppers of one version apart: eight hexadecimal digits, or `unknown`."""

    version: int
    check: str
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> "StoredDigest":
        """Read what `str` gives. Raises ValueError."""
        found = _FORM.match(text)
        if found is None:
            raise ValueError("digest: this is not a digest as an export writes it")
        return cls(int(found[1]), found[2], bytes.fromhex(found[3]))

    @classmethod
    def of(cls, key: ApiKey) -> "StoredDigest":
        """The digest of a stored key."""
        return cls(key.pepper_version, _check_of(_peppers(), key.pepper_version), bytes(key.digest))

    def __str__(self) -> str:
        return f"v{self.version}-{self.check}-{self.digest.hex()}"


def digest_secret(secret: str) -> StoredDigest:
    """The digest of a key under the pepper that new keys use."""
    peppers = _peppers()
    version = peppers.current
    return StoredDigest(version, _check_of(peppers, version), peppers.digest(secret, version))


def is_of_this_installation(digest: StoredDigest) -> bool:
    """Whether the pepper that made it is one of ours: otherwise its key could never be recognised."""
    return digest.check != _UNKNOWN and digest.check == _check_of(_peppers(), digest.version)


def _check_of(peppers: Peppers, version: int) -> str:
    """Says nothing about the pepper, for it is a digest of a text that is no key."""
    if version not in peppers.by_version:
        return _UNKNOWN
    return peppers.digest("check of this pepper", version).hex()[:8]


def _peppers() -> Peppers:
    return Peppers.parse(settings.GATEWAY_KEY_PEPPERS)
