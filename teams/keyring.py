"""Who a presented key belongs to: looked up by digest once, then known to this worker."""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from teams.keys import KEY_LENGTH, Peppers, is_well_formed
from teams.models import ApiKey

MOST_KEYS = 100_000  # about 60 MB; the oldest entries go first
MOST_REFUSED = 10_000


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A usable key and everyone above it, as plain values."""

    key_id: int
    hint: str
    team_id: int
    team: str
    department_id: int
    department: str
    application_id: int | None
    application: str
    expires_at: datetime | None


def find_key_holder(digests: list[bytes]) -> KeyHolder | None:
    """The holder of the key stored under one of `digests`; None when unknown, revoked or of an inactive team."""
    key = (
        ApiKey.objects.select_related("team__department", "application")
        .filter(digest__in=digests, revoked_at=None, team__is_active=True)
        .first()
    )
    if key is None:
        return None
    return KeyHolder(
        key_id=key.pk,
        hint=key.hint,
        team_id=key.team_id,
        team=key.team.slug,
        department_id=key.team.department_id,
        department=key.team.department.slug,
        application_id=key.application_id,
        application=key.application.slug if key.application else "",
        expires_at=key.expires_at,
    )


class KeyRing:
    """The keys this worker has met, valid for one version of the configuration.

    `look_up` asks the database, once for any number of requests that wait for the same key. Unknown keys are
    remembered too. A new version forgets everything, so a revoked key is refused as soon as the worker hears
    of the change.
    """

    def __init__(
        self, peppers: Peppers, look_up: Callable[[list[bytes]], Awaitable[KeyHolder | None]]
    ) -> None:
        self._peppers = peppers
        self._look_up = look_up
        # In memory keys go by a quick hash under a secret of this process; the stored digest costs more.
        self._secret = secrets.token_bytes(32)
        self._version = -1
        self._met = _Met()

    async def find(self, key: str, version: int) -> KeyHolder | None:
        """The holder of `key` under configuration `version`, or None. Malformed keys cost no look-up."""
        if len(key) != KEY_LENGTH or not key.isascii():
            return None
        if version != self._version:
            # Look-ups under way may answer by the old state: they end where nobody reads any more.
            self._version, self._met = version, _Met()
        met = self._met
        name = hashlib.blake2b(key.encode(), key=self._secret, digest_size=16).digest()
        try:
            return met.known[name]
        except KeyError:
            if name in met.refused or not is_well_formed(key):
                return None
        if (pending := met.pending.get(name)) is None:
            pending = met.pending[name] = asyncio.ensure_future(self._fetch(name, key, met))
        return await asyncio.shield(pending)  # one caller who leaves takes nothing from the others

    async def _fetch(self, name: bytes, key: str, met: "_Met") -> KeyHolder | None:
        try:
            holder = await self._look_up(self._peppers.digests(key))
        finally:
            del met.pending[name]
        if holder is None:
            met.refused[name] = None
            _drop_oldest(met.refused, MOST_REFUSED)
        else:
            met.known[name] = holder
            _drop_oldest(met.known, MOST_KEYS)
        return holder


@dataclass(slots=True)
class _Met:
    """What is known under one version. Refused keys are kept apart: guesses push out no key that is in use."""

    known: dict[bytes, KeyHolder] = field(default_factory=dict)
    refused: dict[bytes, None] = field(default_factory=dict)
    pending: "dict[bytes, asyncio.Future[KeyHolder | None]]" = field(default_factory=dict)


def _drop_oldest(entries: dict[bytes, Any], most: int) -> None:
    if len(entries) > most:
        del entries[next(iter(entries))]
