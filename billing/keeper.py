"""The shipper's second thread: whatever needs the store, so that shipping never waits for it.

It books what dead workers left, removes copies of shipped records, and ends the holds of silent workers.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

from django.db import DataError, IntegrityError, InterfaceError, InternalError, OperationalError, connection

from billing.admission.abandoned import AbandonedRecords
from billing.admission.adoption import Adoption
from billing.admission.books import list_ruled_departments
from billing.admission.commands import Commands
from billing.admission.copies import Copies, Weight
from billing.admission.janitor import SILENT_MS, Janitor
from billing.admission.ledger_view import LedgerView
from billing.admission.links import Exchange, StoreLost
from billing.admission.rebuild import Leases, Rebuilder, RebuildFailed
from billing.ledger_rows import Head
from billing.rule_models import DepartmentEpoch
from billing.shipper import DeadSpool
from billing.shipper_status import KeeperStatus

logger = logging.getLogger(__name__)

TURN_S = 1.0
LOOK_EVERY_S = 60.0  # at every hold and every copy, though no worker fell silent
WATCH_S = 40.0  # after one did: its holds may be too young to end, or the counters new
_WATCH_EVERY_S = 5.0
_WEIGH_EVERY_S = 10.0
_MOST_SHIPPED = 1000  # batches whose copies wait to be removed; the rest is found by looking
AWAY = (OperationalError, InterfaceError, InternalError)


class _Outage:
    """Says once that something is away, and once that it is back."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_on = False

    def begins(self, error: Exception) -> None:
        if not self._is_on:
            lines = str(error).splitlines() or [type(error).__name__]
            logger.error("%s is away; calls of silent workers wait: %s", self._what, lines[0])
        self._is_on = True

    def ends(self) -> None:
        if self._is_on:
            logger.info("%s is back.", self._what)
        self._is_on = False


class Keeper:
    """The `Counters` of a shipper. `turn` does what is due; a thread calls it, or a test."""

    def __init__(
        self,
        link: Exchange,
        commands: Commands,
        *,
        since: KeeperStatus | None = None,
        make_adoption: Callable[..., Adoption] = Adoption,
    ) -> None:
        """Over a link of its own. `since`: the last word of its predecessor, on which it counts on."""
        ledger = LedgerView()
        self._rebuilder = Rebuilder(link, commands, ledger)
        self._adoption = make_adoption(link, commands, ledger, self._rebuilder)
        self._janitor = Janitor(link, commands, self._rebuilder, AbandonedRecords(ledger))
        self._copies = Copies(link)
        self._dead: dict[UUID, DeadSpool] = {}
        self._booked: set[UUID] = set()
        self._shipped: deque[Sequence[Head]] = deque(maxlen=_MOST_SHIPPED)
        self._wake = threading.Event()
        self._workers: frozenset[str] = frozenset()
        self._looked_at = self._watches_until = float("-inf")
        self._last_error = ""
        self._departments: list[int] | None = None  # as last read: PostgreSQL may be away
        self._weight, self._weighed_at = Weight(), float("-inf")
        self._since = since or KeeperStatus()
        self._turn_at = self._since.turn_at
        self._ended = self._brought = 0
        self._store, self._database = _Outage("The counter store"), _Outage("The ledger database")

    # --- called by the shipper -------------------------------------------------------------------

    def adopt(self, dead: DeadSpool) -> bool:
        """See Counters; the work is done in `turn`."""
        if not dead.owners:
            return True
        if dead.id in self._booked:
            self._booked.discard(dead.id)
            return True
        if dead.id not in self._dead:
            self._dead[dead.id] = dead
            self._wake.set()
        return False

    def give_up(self, dead: DeadSpool) -> None:
        """See Counters."""
        self._adoption.give_up(dead)
        self._dead.pop(dead.id, None)
        self._booked.discard(dead.id)
        logger.error("Counters are made anew: there is no room to keep what a worker left that died.")

    def forget(self, heads: Sequence[Head]) -> None:
        """See Counters."""
        self._shipped.append(heads)

    def status(self) -> KeeperStatus:
        """What is so now; asked from another thread."""
        since = self._since
        return KeeperStatus(
            turn_at=self._turn_at,
            waiting_spools=len(self._dead),
            copies=self._weight.copies,
            copies_bytes=self._weight.bytes,
            ended_holds=since.ended_holds + self._ended,
            brought_records=since.brought_records + self._brought,
            rebuilds=since.rebuilds + self._rebuilder.rebuilt,
        )

    # --- the thread ------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Take turns until `stop`, at most a second and a turn after it."""
        try:
            while not stop.is_set():
                self.turn()
                self._wake.wait(TURN_S)
                self._wake.clear()
        finally:
            connection.close()

    def turn(self) -> None:
        """Do what is due. What cannot be done is tried again in the next turn."""
        steps = (self._forget_shipped, self._book_dead, self._look, self._weigh)
        done = [self._try(step) for step in steps]  # one that fails keeps no other from its work
        if all(done):
            self._turn_at = time.time()

    def _try(self, step: Callable[[], None]) -> bool:
        """Whether it was done."""
        try:
            step()
            return True
        except AWAY as error:
            connection.close()
            self._database.begins(error)
        except (StoreLost, RebuildFailed) as error:
            self._store.begins(error)
        except Exception as error:  # noqa: BLE001 - the edge of this thread, which must go on
            self._say(repr(error))
        return False

    def _say(self, error: str) -> None:
        """Log what is being handled, once, however many turns it lasts."""
        if error != self._last_error:
            logger.exception("What silent workers left cannot be ended.")
        self._last_error = error

    def _forget_shipped(self) -> None:
        while self._shipped:
            self._copies.forget(self._shipped[0])
            self._shipped.popleft()

    def _book_dead(self) -> None:
        for dead in list(self._dead.values()):
            try:
                is_booked = self._adoption.book(dead)
            except (ValueError, DataError, IntegrityError) as error:  # of one worker; others go on
                self._say(f"{dead.id}: {error}")
                continue
            if is_booked:
                self._booked.add(dead.id)
                self._dead.pop(dead.id, None)

    def _look(self) -> None:
        """At the leases in each turn; at holds and copies after one lapsed, and now and then."""
        leases = self._rebuilder.read_leases(SILENT_MS)
        self._store.ends()
        now = time.monotonic()
        has_lapsed = bool(self._workers - leases.workers)
        self._workers = leases.workers
        if has_lapsed:
            self._watches_until = now + WATCH_S
        pause_s = _WATCH_EVERY_S if now < self._watches_until else LOOK_EVERY_S
        if has_lapsed or now - self._looked_at >= pause_s:
            self.look_at_everything(leases)
            self._looked_at = now

    def look_at_everything(self, leases: Leases) -> None:
        """Bring copies of silent workers to the ledger, then end their holds. Raises what its parts raise."""
        everywhere = self._read_departments()
        if brought := self._copies.tidy(everywhere, leases):
            self._brought += brought
            logger.warning("%d records of silent workers came to the ledger from their copies.", brought)
        for department_id in list_ruled_departments():
            try:
                swept = self._janitor.sweep(department_id)
            except (
                ValueError,
                DataError,
                IntegrityError,
            ) as error:  # a hold of another release; others go on
                self._say(f"{department_id}: {error}")
                continue
            if swept:
                self._ended += swept
                logger.warning(
                    "%d calls of silent workers were ended.", swept, extra={"department": department_id}
                )
        self._database.ends()

    def _read_departments(self) -> list[int]:
        self._departments = list(DepartmentEpoch.objects.order_by("pk").values_list("pk", flat=True))
        return self._departments

    def _weigh(self) -> None:
        """Copies pile up while PostgreSQL is away, so that the departments are those it named last."""
        now = time.monotonic()
        if now - self._weighed_at < _WEIGH_EVERY_S:
            return
        departments = self._read_departments() if self._departments is None else self._departments
        self._weight = self._copies.weigh(departments)
        self._weighed_at = now
