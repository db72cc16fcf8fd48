"""Ends the holds of workers that are silent: first a record in the ledger, then the counters.

A worker that comes back afterwards tells the truth, which the ledger takes as a correction and the counters as a
difference; so sweeping too early is never wrong, only early.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from billing.admission.commands import Commands, marker_key
from billing.admission.holds import Amounts, StoredHold, in_pieces, read_hold
from billing.admission.ledger_view import department_lock
from billing.admission.links import Exchange, StoreLost, StoreRefused
from billing.admission.rebuild import Rebuilder

YOUNG_MS = 20_000  # an epoch whose workers may not have beaten or declared yet
SILENT_MS = 5_000  # after a lease has lapsed
_DONE = 1
_PIECE = 100


class AbandonedCalls(Protocol):
    """Where calls without a worker are recorded."""

    def record(self, department_id: int, holds: Sequence[StoredHold]) -> Mapping[str, Amounts]:
        """Commit a record at its estimate for each call that has none, and return what the ledger holds of each,
        corrections included, by request id."""


class Janitor:
    """Sweeps over a link of its own. Blocking: not for an event loop."""

    def __init__(
        self, link: Exchange, commands: Commands, rebuilder: Rebuilder, ledger: AbandonedCalls
    ) -> None:
        self._link = link
        self._commands = commands
        self._rebuilder = rebuilder
        self._ledger = ledger

    def sweep(self, department_id: int) -> int:
        """End the holds of silent workers, and those past their deadline; says how many.

        Nothing is swept while the counters are being made anew or are young, while the list of living workers is
        not complete, or while PostgreSQL is away: then Django's errors are raised. Raises StoreLost.
        """
        with department_lock(department_id) as is_mine:
            return self._sweep(department_id) if is_mine else 0

    def _sweep(self, department_id: int) -> int:
        key = marker_key(department_id)
        (reply,) = self._link.exchange([self._commands.call("holds", key)])
        if isinstance(reply, StoreRefused):
            raise StoreLost(str(reply), was_sent=False)
        if reply[0] != _DONE:
            return 0
        _, time_ms, epoch, began, flat = reply
        leases = self._rebuilder.read_leases(SILENT_MS)
        if time_ms - int(began) < YOUNG_MS or not leases.are_complete:
            return 0
        holds = [read_hold(rid, stored) for rid, stored in zip(flat[::2], flat[1::2], strict=True)]
        silent = [
            hold
            for hold in holds
            if hold.owner.spool not in leases.workers or hold.owner.deadline_ms < time_ms
        ]
        return sum(self._end(department_id, epoch, piece) for piece in in_pieces(silent, _PIECE))

    def _end(self, department_id: int, epoch: bytes, holds: Sequence[StoredHold]) -> int:
        recorded = self._ledger.record(department_id, holds)
        commands = [
            self._commands.call(
                "sweep", marker_key(department_id), hold.rid, has.money, has.tokens, YOUNG_MS, epoch
            )
            for hold in holds
            for has in [recorded[hold.rid]]
        ]
        replies = self._link.exchange(commands)
        return sum(not isinstance(reply, StoreRefused) and reply[0] == _DONE for reply in replies)
