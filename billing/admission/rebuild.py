"""Makes the counters of a department anew out of the ledger, when they are lost or the rules count otherwise.

One process does it, under a lock of the database. Calls are admitted again when every living worker has declared
its open calls and sent again the frames that the ledger did not hold, or a grace has passed.
"""

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from billing.admission.commands import DECLARING, Command, Commands, Marker, marker_key, read_marker
from billing.admission.holds import in_pieces
from billing.admission.ledger_view import LedgerSnapshot, LedgerView, department_lock
from billing.admission.links import Exchange, StoreLost, StoreRefused

logger = logging.getLogger(__name__)

BEAT_MS = 2_000
LEASE_MS = 10_000
HEARD_MS = 2_500  # by then every living worker has beaten once
GRACE_MS = 3_000  # for workers that stay silent; what they hold may be spent twice until they speak
_PIECE = 300  # what is written at once
_DONE = 1


class RebuildFailed(Exception):
    """The counters were lost again meanwhile, or the rules changed: try again."""


@dataclass(frozen=True, slots=True)
class Leases:
    """Which workers live, and whether every one had time to say so since the list was begun."""

    time_ms: int
    workers: frozenset[str]
    are_complete: bool


class Rebuilder:
    """Rebuilds over a link of its own. Blocking: not for an event loop."""

    def __init__(self, link: Exchange, commands: Commands, ledger: LedgerView) -> None:
        self._link = link
        self._commands = commands
        self._ledger = ledger
        self.rebuilt = 0  # how many departments' counters were made anew here

    def rebuild(self, department_id: int, *, lost_in: int = 0) -> bool:
        """Make a new epoch if the present one does not hold; says whether it is whole now.

        `lost_in`: the epoch in which a counter was found missing. False: another process is at it. Raises
        RebuildFailed, StoreLost, UnknownDepartment, and Django's errors while PostgreSQL is away.
        """
        with department_lock(department_id) as is_mine:
            if not is_mine:
                return False
            marker = self.read_marker(department_id)
            wanted = self._ledger.book_of(department_id).epoch
            if not marker.is_whole or marker.n != wanted or marker.n == lost_in:
                self._rebuild(department_id, marker, wanted)
            return True

    def open_if_declared(self, department_id: int) -> bool:
        """Let calls in when all living workers have declared, or the grace is over; says whether it is open."""
        marker = self.read_marker(department_id)
        if not marker.is_whole:
            return False
        if marker.state != DECLARING:
            return True
        leases = self.read_leases()
        silent = leases.workers - marker.acknowledged
        waited_ms = marker.time_ms - marker.committed_ms
        if (silent or not leases.are_complete) and waited_ms < GRACE_MS:
            return False
        if silent:
            logger.error("Counters open without workers that are silent: %s", ", ".join(sorted(silent)))
        return self._do(self._commands.call("ready", marker_key(department_id), marker.nonce))

    def read_marker(self, department_id: int) -> Marker:
        """The marker as it stands."""
        return read_marker(self._ask(self._commands.status(department_id)))

    def read_leases(self, grace_ms: int = 0) -> Leases:
        """The workers that live, counting those whose lease lapsed less than `grace_ms` ago."""
        time_ms, since_ms, workers = self._ask(self._commands.living(grace_ms))
        are_complete = since_ms > 0 and time_ms - since_ms >= HEARD_MS
        return Leases(time_ms, frozenset(worker.decode() for worker in workers), are_complete)

    def _rebuild(self, department_id: int, marker: Marker, wanted: int) -> None:
        key, nonce = marker_key(department_id), secrets.token_hex(8)
        # An epoch that changed rules have asked for is new to this run of the store as long as its marker is older.
        is_new = 0 < marker.n < wanted and marker.is_of_this_run
        n = wanted if is_new else self._ledger.raise_epoch(department_id, marker.n)
        code, at_ms = self._ask(self._commands.call("begin", key, n, nonce))
        if code != _DONE:
            raise RebuildFailed("a later epoch was begun")
        snapshot = self._ledger.read(department_id, at_ms)
        if snapshot.book.epoch != n:
            raise RebuildFailed("the rules changed meanwhile")
        for command in self._writes(key, nonce, snapshot):
            self._must(command)
        counts = len(snapshot.counters), len(snapshot.watermarks), len(snapshot.counted)
        self._must(self._commands.call("commit", key, nonce, *counts))
        self.rebuilt += 1
        logger.warning("The counters of department %d were made anew, as epoch %d.", department_id, n)

    def _writes(self, key: bytes, nonce: str, snapshot: LedgerSnapshot) -> Iterable[Command]:
        kinds: list[tuple[str, Sequence[tuple[str | int, ...]]]] = [
            ("counters", [(name, found.amount, found.end) for name, found in snapshot.counters.items()]),
            ("watermarks", list(snapshot.watermarks.items())),
            ("counted", [(rid, f"{has.money} {has.tokens}") for rid, has in snapshot.counted.items()]),
        ]
        for kind, rows in kinds:
            for piece in in_pieces(rows, _PIECE):
                yield self._commands.call("write", key, nonce, kind, *(word for row in piece for word in row))

    def _must(self, command: Command) -> None:
        if not self._do(command):
            raise RebuildFailed(f"the counters were lost while they were made ({command.script})")

    def _do(self, command: Command) -> bool:
        return bool(self._ask(command)[0] == _DONE)

    def _ask(self, command: Command) -> Any:
        (reply,) = self._link.exchange([command])
        if isinstance(reply, StoreRefused):
            raise StoreLost(str(reply), was_sent=False)
        return reply
