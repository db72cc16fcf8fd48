"""When and from where keys were last used: noted in memory, written in batches, lost only with the worker."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from django.db import DatabaseError, InterfaceError, connection

from teams.key_rules import parse_address

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 5.0
_MOST_KEYS = 100_000  # noted at a time: what comes after waits for its next use
_MOST_AT_ONCE = 5_000

Uses = dict[int, tuple[datetime, str]]  # moment and address by the key's id

# Rows are taken in the order of their keys, so that workers who write at the same time wait but never block
# each other for good. Keys that are no more are left out.
_UPSERT = """
    INSERT INTO teams_apikeyuse AS use (key_id, last_used_at, last_used_ip)
    SELECT key.id, new.at, new.ip
        FROM unnest(%s::bigint[], %s::timestamptz[], %s::inet[]) AS new (id, at, ip)
        JOIN teams_apikey AS key USING (id)
        ORDER BY key.id
    ON CONFLICT (key_id) DO UPDATE SET
        last_used_at = GREATEST(use.last_used_at, excluded.last_used_at),
        last_used_ip = CASE
            WHEN excluded.last_used_at > use.last_used_at THEN excluded.last_used_ip ELSE use.last_used_ip
        END
"""


def write_key_uses(uses: Uses) -> None:
    """Store the uses; of two of the same key the later one stays, in whatever order they come."""
    items = list(uses.items())
    for start in range(0, len(items), _MOST_AT_ONCE):
        part = items[start : start + _MOST_AT_ONCE]
        addresses = [parse_address(address) for _, (_, address) in part]
        columns = (
            [key_id for key_id, _ in part],
            [at for _, (at, _) in part],
            [None if address is None else str(address) for address in addresses],
        )
        with connection.cursor() as cursor:
            cursor.execute(_UPSERT, columns)


class KeyUses:
    """One worker's notes, and the task that writes them."""

    def __init__(self, write: Callable[[Uses], Awaitable[None]]) -> None:
        self._write = write
        self._latest: Uses = {}
        self._is_failing = False

    def note(self, key_id: int, at: datetime, address: str) -> None:
        """Remember a use: no lock, no query, no waiting."""
        if len(self._latest) < _MOST_KEYS or key_id in self._latest:
            self._latest[key_id] = (at, address)

    async def flush(self) -> None:
        """Write what was noted; what could not be written is noted still, unless the key was used again."""
        uses, self._latest = self._latest, {}
        if not uses:
            return
        try:
            await self._write(uses)
        except (DatabaseError, InterfaceError, TimeoutError) as error:
            for key_id, use in uses.items():
                self._latest.setdefault(key_id, use)
            if not self._is_failing:
                logger.warning("The last uses of keys cannot be written now: %r", error)
            self._is_failing = True
        else:
            self._is_failing = False

    async def run(self) -> None:
        """Write every few seconds until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            try:
                await self.flush()
            except Exception:
                logger.exception("The last uses of keys were lost.")
