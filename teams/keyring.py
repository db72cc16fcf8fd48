"""The keys a worker has met: looked up by digest once, then known until a change of them is announced."""

import asyncio
import hashlib
import secrets
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from teams.key_changes import KeyChanges
from teams.key_holder import KeyHolder, KeyOwner
from teams.keys import KEY_LENGTH, Peppers, is_well_formed

MOST_KEYS = 100_000  # about 40 MB, more with long rules; the oldest entries go first
MOST_UNKNOWN = 10_000

LookUp = Callable[[list[bytes], Mapping[int, KeyOwner]], Awaitable[KeyHolder | None]]
_Pending = dict[bytes, "asyncio.Future[KeyHolder | None]"]


class KeyRing:
    """Finds who holds a presented key, without asking the database twice.

    `look_up` asks it, once for any number of requests that wait for the same key. Keys that are not stored are
    remembered too, apart, so that guesses push out no key that is in use.
    """

    def __init__(self, peppers: Peppers, look_up: LookUp) -> None:
        self._peppers = peppers
        self._look_up = look_up
        # In memory keys go by a quick hash under a secret of this process; the stored digest costs more.
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, KeyHolder] = {}
        self._names: dict[int, bytes] = {}  # of the known keys, by the key's id
        self._unknown: dict[bytes, None] = {}
        self._owners: weakref.WeakValueDictionary[int, KeyOwner] = weakref.WeakValueDictionary()
        self._pending: _Pending = {}

    async def find(self, key: str) -> KeyHolder | None:
        """The holder of `key`, or None when it is not stored. Malformed keys cost no look-up."""
        if len(key) != KEY_LENGTH or not key.isascii():
            return None
        name = hashlib.blake2b(key.encode(), key=self._secret, digest_size=16).digest()
        holder = self._known.get(name)
        if holder is not None and holder.owner.is_current:
            return holder
        if name in self._unknown or not is_well_formed(key):
            return None
        if (pending := self._pending.get(name)) is None:
            task = asyncio.ensure_future(self._fetch(name, key, self._pending))
            pending = self._pending[name] = task
        return await asyncio.shield(pending)  # one caller who leaves takes nothing from the others

    def forget(self, changes: KeyChanges) -> None:
        """Look up again what has changed, and nothing else."""
        if not changes:
            return
        # Look-ups under way may answer by the old state: nobody finds them any more, and they are not kept.
        self._pending = {}
        self._unknown.clear()
        if changes.everything:
            self._known.clear()
            self._names.clear()
            self._owners.clear()
        for key_id in changes.keys:
            if (name := self._names.pop(key_id, None)) is not None:
                del self._known[name]
        for team_id in changes.teams:
            if (owner := self._owners.pop(team_id, None)) is not None:
                owner.is_current = False

    async def _fetch(self, name: bytes, key: str, pending: _Pending) -> KeyHolder | None:
        try:
            holder = await self._look_up(self._peppers.digests(key), self._owners)
        finally:
            del pending[name]
        if pending is self._pending:
            return self._keep(name, holder)
        return holder

    def _keep(self, name: bytes, holder: KeyHolder | None) -> KeyHolder | None:
        if holder is None:
            self._unknown[name] = None
            if len(self._unknown) > MOST_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]
            return None
        owner = self._owners.setdefault(holder.team_id, holder.owner)
        if owner is not holder.owner:  # read by two at once: all must refer to the one that `forget` reaches
            holder = replace(holder, owner=owner)
        self._known[name] = holder
        self._names[holder.key_id] = name
        if len(self._known) > MOST_KEYS:
            oldest = self._known.pop(next(iter(self._known)))
            self._names.pop(oldest.key_id, None)
        return holder
