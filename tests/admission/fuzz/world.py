"""All processes of an installation around one store and one ledger, on one clock."""

from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from billing.admission.account import LIMIT_MS, Account
from billing.admission.commands import DECLARING, Commands, copies_key, marker_key
from billing.admission.holds import Amounts
from billing.admission.janitor import Janitor
from billing.admission.ledger_view import LedgerView
from billing.admission.links import StoreLost
from billing.admission.rebuild import BEAT_MS, LEASE_MS, Rebuilder, RebuildFailed
from billing.admission.rules import Budget, Plan, RuleBook
from billing.admission.scripts import Scripts
from tests.admission.fuzz.store import Channel, Store
from tests.admission.fuzz.tables import TABLES, Crash, Ledger, Record
from tests.admission.fuzz.tenants import Tenants
from tests.admission.fuzz.worker import MOST_SKEW_MS, Call, Stage, State, Worker

RESCUE_MS = LEASE_MS + 5_000  # after a worker's death its disk is given up


class View(LedgerView):
    """A ledger's view by the rules of `tenants`."""

    def __init__(self, tenants: Tenants) -> None:
        super().__init__(TABLES, tenants.book_of)
        self._tenants = tenants

    def raise_epoch(self, department_id: int, above: int) -> int:
        n = super().raise_epoch(department_id, above)
        self._tenants.forget()
        return n


class ViewWithoutCounted(View):
    """Ablation: what was counted of swept calls is forgotten with the epoch."""

    def read_counted(self, cursor: Any, book: RuleBook) -> dict[str, Amounts]:
        return {}


class HastyRebuilder(Rebuilder):
    """Ablation: calls are let in before the workers have sent their frames again."""

    def open_if_declared(self, department_id: int) -> bool:
        marker = self.read_marker(department_id)
        if marker.is_whole and marker.state == DECLARING:
            self._do(self._commands.call("ready", marker_key(department_id), marker.nonce))
        return marker.is_whole


@dataclass
class World:
    """See the package. `off`: the rules of the protocol that are switched off."""

    rng: Random
    store: Store
    scripts: Scripts
    departments: tuple[int, ...]
    now_ms: int
    off: frozenset[str] = frozenset()
    workers: list[Worker] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)
    losses: int = 0
    deletions: int = 0
    let_in: set[tuple[int, int]] = field(default_factory=set)  # epochs opened without silent workers
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.off)
        self.ledger.clear()
        self.store.begin_run(self.now_ms)
        self.tenants = Tenants(self.rng, self.departments)
        self.commands = Commands(self.scripts, most_users=1)
        self.channel = Channel(self.store, self.scripts)
        kind = ViewWithoutCounted if "restore-counted" in self.off else View
        self.view = kind(self.tenants)
        builder = HastyRebuilder if "ready-after-resend" in self.off else Rebuilder
        self.rebuilder = builder(self.channel, self.commands, self.view)
        self.janitor = Janitor(self.channel, self.commands, self.rebuilder, self.ledger)
        for _ in range(self.rng.randint(2, 3)):
            self.start_worker()

    def note(self, what: str) -> None:
        """One line of what happened, for whom looks into a failure."""
        self.log.append(f"{self.now_ms} {what}")

    def new_id(self) -> str:
        """A request's: its time first, as UUIDv7."""
        return str(UUID(int=(self.now_ms << 80) | (0x7 << 76) | (0b10 << 62) | self.rng.getrandbits(60)))

    def book_of(self, department_id: int) -> RuleBook:
        return self.tenants.book_of(department_id)

    # --- time and life --------------------------------------------------------------------------------

    def advance(self, by_ms: int) -> None:
        """The clock goes on; whoever lives has beaten in time."""
        self.now_ms += by_ms
        if self.store.is_paused:
            return
        self.store.set_clock(self.now_ms)
        self.beat_all()

    def beat_all(self) -> None:
        for worker in self.workers:
            if worker.state is State.ALIVE and self.now_ms - worker.beaten_ms >= BEAT_MS * 9 // 10:
                fault, worker.channel.fault = worker.channel.fault, None
                with suppress(StoreLost):
                    worker.beat()
                if worker.beaten_ms != self.now_ms:
                    worker.beat()  # its connection was to a server that is gone
                worker.channel.fault = fault

    def start_worker(self) -> None:
        spool = str(UUID(int=self.rng.getrandbits(122)))
        channel = Channel(self.store, self.scripts)
        skew = self.rng.choice([0, 0, self.rng.randint(-MOST_SKEW_MS, MOST_SKEW_MS)])
        self.workers.append(Worker(self, spool, channel, self.commands, self.departments, skew))
        if not self.store.is_paused:
            self.beat_all()

    def living(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state is State.ALIVE]

    def close(self) -> None:
        for channel in (self.channel, *(worker.channel for worker in self.workers)):
            channel.close()

    # --- what the store lost --------------------------------------------------------------------------

    def flush(self) -> None:
        self.losses += 1
        self.store.flush()

    def crash(self, *, forget: bool) -> None:
        self.losses += 1
        self.store.crash(forget=forget)

    def delete_counter(self) -> None:
        """Any one."""
        keys = sorted(self.store.raw("KEYS", "*:c:*"))
        if keys:
            self.deletions += 1
            self.store.raw("DEL", self.rng.choice(keys))

    # --- the shipper's work -----------------------------------------------------------------------------

    def ship(self, worker: Worker, *, crashes: bool = False, again: bool = False, most: int = 1000) -> None:
        """Frames after the watermark, or some before it once more; then their copies go."""
        if worker.state is State.LOST:
            return
        if not again and worker.shipped == len(worker.frames):
            return
        since = self.ledger.read_watermark(worker.spool)
        if again:
            since = self.rng.randint(0, since)
        frames = [frame for frame in worker.frames if frame.seq > since][:most]
        if not frames:
            return
        records = [frame.record for frame in frames if frame.record is not None]
        with suppress(Crash):
            self.ledger.ship(worker.spool, records, frames[-1].seq, crashes=crashes)
            worker.shipped = max(worker.shipped, frames[-1].seq)
            if not self.store.is_paused and self.rng.random() < 0.8:
                self.delete_copies(record.rid for record in records)

    def delete_copies(self, rids: Any) -> None:
        gone = list(rids)
        if gone:
            for department in self.departments:
                self.store.raw("HDEL", copies_key(department), *gone)

    def adopt(self, worker: Worker) -> None:
        margin_ms = 0 if "adopter-waits" in self.off else LIMIT_MS + MOST_SKEW_MS + 100
        worker.adopt(margin_ms)

    def holds_of(self, worker: Worker) -> bool:
        """Whether the store holds calls of it, which a new epoch would forget."""
        for department in self.departments:
            marker = self.rebuilder.read_marker(department)
            if any(
                worker.spool.encode() in hold
                for hold in self.store.raw("HVALS", f"{{d{department}}}:{marker.n}:r")
            ):
                return True
        return False

    def rescue(self, worker: Worker) -> None:
        """Its disk is gone for good: what the store has of it goes into the ledger."""
        worker.is_adopted = True
        records: list[Record] = []
        for department in self.departments:
            flat = self.store.raw("HVALS", copies_key(department))
            found = [msgspec.json.decode(copy, type=Record) for copy in flat]
            records += [record for record in found if record.spool == worker.spool]
        self.ledger.rescue(records)
        for call in worker.calls.values():
            call.may_be_missing = call.losses != self.losses

    # --- rebuild and sweep --------------------------------------------------------------------------------

    def rebuild(self, department: int, lost_in: int) -> None:
        """Raises StoreLost."""
        before = self.rebuilder.read_marker(department).n
        try:
            self.rebuilder.rebuild(department, lost_in=lost_in)
        except RebuildFailed:
            self.note("rebuild failed")
        if self.rebuilder.read_marker(department).n != before:
            self.losses += 1  # open calls of those who cannot declare them

    def open(self, department: int) -> bool:
        """Raises StoreLost."""
        marker = self.rebuilder.read_marker(department)
        silent = {w.spool for w in self.workers if w.state is State.ALIVE} - marker.acknowledged
        is_open = self.rebuilder.open_if_declared(department)
        if is_open and marker.state == DECLARING and silent and "ready-after-resend" not in self.off:
            self.let_in.add((department, marker.n))
            assert self.now_ms - marker.committed_ms >= 3_000, "opened without living workers, too early"
        return is_open

    # --- the budget, as the one who sees everything knows it -----------------------------------------------

    def allow(self, call: Call, plan: Plan, account: Account) -> None:
        """A call was let in: it must fit into every hard budget, by what is truly spent and open."""
        if (account.department_id, account._epoch) in self.let_in:
            return
        book = account.book
        rules = {
            name: rule
            for name, rule in zip(plan.names, plan.rules, strict=True)
            if isinstance(rule, Budget) and rule.is_hard
        }
        spent = dict.fromkeys(rules, 0)
        for other in self.calls.values():
            amounts = self._known(other)
            if amounts is None or other is call:
                continue
            for name, unit, _ in book.counters(other.dims, other.admitted_ms // 1000):
                if name in spent:
                    spent[name] += amounts.of(unit)
        for name, rule in rules.items():
            if self.tenants.has_moved and rule.owner.scope != "d":
                continue
            total = spent[name] + call.most.of(rule.unit)
            assert total <= rule.amount, f"{name} was overspent: {total} of {rule.amount}"

    def _known(self, call: Call) -> Amounts | None:
        """What surely is spent or held by it, if its worker can be asked."""
        worker = next(worker for worker in self.workers if worker.spool == call.spool)
        if not call.is_served or worker.state is not State.ALIVE:
            return None
        return call.most if call.stage is Stage.OPEN else call.true
