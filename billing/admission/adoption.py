"""Books in the store what a dead worker left in its spool, in its name."""

import time
from collections.abc import Callable, Iterator
from itertools import chain
from uuid import UUID

from django.db import connection, transaction

from billing.admission.account import LIMIT_MS, Account, Standing, Steps
from billing.admission.books import UnknownDepartment
from billing.admission.commands import Commands, marker_key
from billing.admission.holds import EndFrame, Frames, in_pieces, read_hold
from billing.admission.ledger_view import LedgerView
from billing.admission.links import Exchange, StoreRefused
from billing.admission.rebuild import Rebuilder
from billing.admission.rules import Dimensions, RuleBook
from billing.admission.spool_frames import SpoolFrames
from billing.models import UsageRecord
from billing.shipper import DeadSpool
from teams.models import Team

_DONE = 1
_PIECE = 100
_CLOCKS_DIFFER_MS = 1_000
_TRIES = 3  # a department whose rules change, or whose counters are lost, meanwhile


def drive(link: Exchange, steps: Steps) -> Standing:
    """Run an account's steps over a link. Raises StoreLost."""
    try:
        commands = next(steps)
        while True:
            commands = steps.send(link.exchange(commands))
    except StopIteration as stop:
        standing: Standing = stop.value
        return standing


class Adoption:
    """Over a link of its own. Blocking: not for an event loop.

    `caution_ms`: for so long after a spool was first met, commands of its dead worker may still be carried out.
    """

    def __init__(
        self,
        link: Exchange,
        commands: Commands,
        ledger: LedgerView,
        rebuilder: Rebuilder,
        *,
        caution_ms: int = LIMIT_MS + _CLOCKS_DIFFER_MS,
    ) -> None:
        self._link = link
        self._commands = commands
        self._ledger = ledger
        self._rebuilder = rebuilder
        self._caution_ms = caution_ms
        self._not_before_ms: dict[UUID, int] = {}

    def book(self, dead: DeadSpool) -> bool:
        """Book every end that `dead` tells of, where rules count it; says whether that is done.

        Sent again it changes nothing. Raises StoreLost, RebuildFailed, and Django's errors.
        """
        frames = _DeadFrames(dead, self._ledger.read_ends(dead.id, dead.abandoned))
        done = [self._book(department_id, dead, frames) for department_id in _departments(dead)]
        if all(done):
            self._not_before_ms.pop(dead.id, None)
        return all(done)

    def give_up(self, dead: DeadSpool) -> None:
        """Have the counters made anew out of the ledger, which holds everything of `dead`."""
        self._not_before_ms.pop(dead.id, None)
        for department_id in _departments(dead):
            if self._read_rules(department_id) is not None:
                self._ledger.raise_epoch(department_id, above=0)

    def _book(self, department_id: int, dead: DeadSpool, frames: Frames) -> bool:
        for _ in range(_TRIES):
            book = self._read_rules(department_id)
            if book is None:
                return True
            now_ms = time.time_ns() // 1_000_000
            not_before_ms = self._not_before_ms.setdefault(dead.id, now_ms + self._caution_ms)
            account = Account(book, self._commands, str(dead.id), frames, not_before_ms=not_before_ms)
            standing = drive(self._link, account.renew(now_ms))
            if standing in (Standing.OPEN, Standing.DECLARED):
                self._rebuilder.open_if_declared(department_id)
                if not account.pending and dead.is_whole:
                    self._release_unbegun(department_id, dead)
                return not account.pending
            if standing is Standing.REBUILDING:
                return False
            if standing is Standing.LOST and not self._rebuilder.rebuild(
                department_id, lost_in=account.lost_in
            ):
                return False
        return False

    def _release_unbegun(self, department_id: int, dead: DeadSpool) -> None:
        """Calls that were let in, and of which the spool tells nothing, were never made: they hold nothing more.

        Where that cannot be done now, the janitor takes them for abandoned.
        """
        (reply,) = self._link.exchange([self._commands.call("holds", marker_key(department_id))])
        if isinstance(reply, StoreRefused) or reply[0] != _DONE:
            return
        _, _, epoch, _, flat = reply
        holds = [read_hold(rid, stored) for rid, stored in zip(flat[::2], flat[1::2], strict=True)]
        mine = {UUID(hold.rid) for hold in holds if hold.owner.spool == str(dead.id)} - {*dead.abandoned}
        recorded = UsageRecord.objects.filter(pk__in=mine).values_list("pk", flat=True)
        for piece in in_pieces(sorted(mine.difference(recorded)), _PIECE):
            key = marker_key(department_id)
            self._link.exchange(
                [self._commands.call("sweep", key, str(rid), 0, 0, 0, epoch) for rid in piece]
            )

    def _read_rules(self, department_id: int) -> RuleBook | None:
        """None where nothing is counted."""
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            try:
                book = self._ledger.book_of(department_id)
            except UnknownDepartment:
                return None
        return book if book.rules else None


class _DeadFrames:
    """The ends in the files, and behind them those of the calls that were left open, as they are in the ledger."""

    def __init__(self, dead: DeadSpool, abandoned: list[EndFrame]) -> None:
        self._ended = SpoolFrames(dead.directory, dead.id, last_ends=dead.last_ends, keeps_copies=False)
        self._abandoned = abandoned

    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> Iterator[EndFrame]:
        """See Frames."""
        left = (frame for frame in self._abandoned if frame.seq > seq and concerns(frame.call))
        return chain(self._ended.after(seq, concerns), left)


def _departments(dead: DeadSpool) -> list[int]:
    """Those whose calls it tells of, and those where their teams are now."""
    now = Team.objects.filter(pk__in={team for _, team in dead.owners}).values_list(
        "department_id", flat=True
    )
    return sorted({department for department, _ in dead.owners} | set(now))
