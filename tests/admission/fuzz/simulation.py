"""Draws from a seed what happens, step by step, and lets everything heal in the end."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from random import Random

from billing.admission.account import Standing
from billing.admission.holds import Amounts
from billing.admission.links import StoreLost
from billing.admission.scripts import Scripts
from billing.admission.verify import NotComparable, verify_department
from billing.admission.windows import Period, window_at
from tests.admission.fuzz.invariants import check, check_meanwhile
from tests.admission.fuzz.store import Fault, Store
from tests.admission.fuzz.worker import MOST_SKEW_MS, Call, Stage, State, Worker
from tests.admission.fuzz.world import RESCUE_MS, World

# Shortly before clocks change, and before midnight, a month and a year end, somewhere among the zones.
MOMENTS = [
    "2026-03-29T01:00Z",
    "2026-10-25T01:00Z",
    "2026-04-04T15:00Z",
    "2026-10-03T15:30Z",
    "2026-08-31T18:30Z",
    "2026-08-31T22:00Z",
    "2026-09-01T00:00Z",
    "2026-12-31T23:00Z",
    "2027-01-01T00:00Z",
    "2026-06-15T12:00Z",
]
HEALING_MS = [400, 1_500, 400, 4_000, 400, 12_000, 1_500, 25_000, 400]  # what passes between two rounds
ROUNDS = 40
FAULTS = [
    *(
        "flush",
        "delete",
        "save",
        "crash",
        "pause_store",
        "pause",
        "kill",
        "kill_in_admit",
        "lose_disk",
        "edit",
    ),
    *(
        "interrupt",
        "late_rebuild",
        "skew",
        "overtake",
        "overtake_dead",
        "sleep",
        "zombie",
        "set_back",
        "half_shipped",
    ),
]


class Simulation:
    """One run. `off`: rules of the protocol, other than those of the scripts, that are switched off; `faults`:
    those that happen, if they are not drawn too."""

    def __init__(
        self,
        seed: int,
        store: Store,
        scripts: Scripts,
        departments: tuple[int, ...],
        off: frozenset[str] = frozenset(),
        faults: tuple[str, ...] | None = None,
    ) -> None:
        self.rng = Random(seed)
        moment = int(datetime.fromisoformat(self.rng.choice(MOMENTS)).timestamp() * 1000)
        self.world = World(self.rng, store, scripts, departments, moment - self.rng.randint(0, 90_000), off)
        self.faultiness = self.rng.choice([0.0, 0.05, 0.15, 0.3])
        works = [(40, self.call), (24, self.finish), (12, self.settle), (12, self.tend), (8, self.ship)]
        works += [
            (8, self.wait),
            (3, self.sweep),
            (8, self.look),
            (3, self.deliver),
            (2, self.adopt),
            (2, self.start),
        ]
        self.actions: list[tuple[float, Callable[[], None]]] = [
            (weight * self.rng.choice([0.3, 1, 1, 2]), work) for weight, work in works
        ]
        chosen = self.rng.sample(FAULTS, self.rng.randint(0, 5)) if faults is None else faults
        self.actions += [(self.rng.randint(1, 6), getattr(self, fault)) for fault in chosen]

    def run(self) -> None:
        """Raises AssertionError when an invariant does not hold."""
        try:
            for _ in range(self.rng.randint(40, 120)):
                self.step()
            self.heal()
            check(self.world)
        finally:
            self.world.close()

    def step(self) -> None:
        weights = [weight for weight, _ in self.actions]
        (_, action) = self.rng.choices(self.actions, weights)[0]
        self.world.note(action.__name__)
        channels = [worker.channel for worker in self.world.living()] + [self.world.channel]
        if action in (self.call, self.settle, self.tend, self.sweep) and self.rng.random() < self.faultiness:
            fault = self.rng.choice(list(Fault))
            for channel in channels:
                channel.fault = fault
        with suppress(StoreLost):
            action()
        for channel in channels:
            channel.fault = None
        self.world.advance(self.rng.choice([0, self.rng.randint(1, 200), self.rng.randint(1, 900)]))

    # --- what goes well -------------------------------------------------------------------------------

    def worker(self) -> Worker | None:
        living = self.world.living()
        return self.rng.choice(living) if living else None

    def draw_batch(self, worker: Worker) -> list[Call]:
        """Calls of one department that arrive at once."""
        first = self.world.tenants.draw_call()
        calls = []
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            while (dims := self.world.tenants.draw_call()).department_id != first.department_id:
                pass
            most = Amounts(self.rng.randint(0, 2 * self.world.tenants.scale), self.rng.randint(0, 200))
            part = self.rng.choice([0, 3, 7, 10])
            true = Amounts(most.money * part // 10, most.tokens * part // 10)
            calls.append(Call(self.world.new_id(), dims, most, true, worker.spool, self.world.losses))
        return calls

    def call(self) -> None:
        worker = self.worker()
        if worker is not None:
            worker.admit_if_open(self.draw_batch(worker))

    def finish(self) -> None:
        worker = self.worker()
        if worker is not None and (calls := worker.open_calls()):
            worker.finish(self.rng.choice(calls))

    def settle(self) -> None:
        for worker in self.world.workers:
            if worker.state is State.ALIVE or (worker.state is State.DEAD and worker.is_adopted):
                worker.settle(self.rng.choice(self.world.departments))

    def tend(self) -> None:
        """One department as a worker looks after it."""
        department = self.rng.choice(self.world.departments)
        worker = self.worker()
        if worker is not None:
            self.tend_account(worker, department)

    def tend_account(self, worker: Worker, department: int) -> None:
        account = worker.accounts[department]
        if account.standing is Standing.OPEN and account.book.epoch == self.world.book_of(department).epoch:
            account.learn(self.world.book_of(department))
            return
        if worker.renew(department) in (Standing.LOST, Standing.REBUILDING):
            self.world.rebuild(department, account.lost_in)
        if self.world.open(department):
            self.look()
        worker.renew(department)

    def ship(self) -> None:
        worker = self.rng.choice(self.world.workers)
        self.world.ship(
            worker,
            crashes=self.rng.random() < self.faultiness,
            again=self.rng.random() < self.faultiness,
            most=self.rng.choice([1, 3, 1000]),
        )

    def wait(self) -> None:
        kind = self.rng.random()
        if kind < 0.6:
            self.world.advance(self.rng.choice([300, 2_600, 3_100, 12_000]))
        elif kind < 0.8:
            self.world.advance(self.rng.choice([16_000, 25_000]))
        else:
            self.to_edge()

    def to_edge(self) -> None:
        """To shortly before or after the end of some window."""
        zone = self.rng.choice(list(self.world.tenants.zones.values()))
        period = self.rng.choice([Period.HOUR, Period.HOUR, Period.DAY, Period.MONTH])
        end_ms = window_at(period, zone, self.world.now_ms // 1000).end * 1000
        self.world.advance(max(0, end_ms + self.rng.randint(-1_500, 500) - self.world.now_ms))

    def sweep(self) -> None:
        self.world.janitor.sweep(self.rng.choice(self.world.departments))

    def look(self) -> None:
        """Whoever compares counters and ledger meanwhile finds them in agreement."""
        if not self.world.store.is_paused:
            check_meanwhile(self.world)

    def deliver(self) -> None:
        if not self.world.store.is_paused:
            self.world.store.deliver(self.rng.randint(0, 2))

    def adopt(self) -> None:
        for worker in self.world.workers:
            if worker.state is State.DEAD and not worker.is_adopted:
                self.world.adopt(worker)
            if worker.state is State.LOST and not worker.is_adopted and self.is_given_up(worker):
                self.rescue(worker)

    def is_given_up(self, worker: Worker) -> bool:
        return not self.world.store.is_paused and self.world.now_ms - worker.died_ms > RESCUE_MS

    def rescue(self, worker: Worker) -> None:
        """What it held goes into the ledger, then what the store had of it, and then all counts anew: its frames
        that were booked and not shipped are never going to be below a watermark."""
        for department in self.world.departments:
            self.world.janitor.sweep(department)
        if self.world.holds_of(worker):
            return
        self.world.rescue(worker)
        for department in self.world.departments:
            self.world.rebuild(department, self.world.rebuilder.read_marker(department).n)

    def start(self) -> None:
        if len(self.world.living()) < 3:
            self.world.start_worker()

    # --- what goes wrong --------------------------------------------------------------------------------

    def flush(self) -> None:
        if not self.world.store.is_paused:
            self.world.flush()

    def delete(self) -> None:
        if not self.world.store.is_paused:
            self.world.delete_counter()

    def save(self) -> None:
        self.world.store.save()
        if self.rng.random() < 0.7 and not self.world.store.is_paused:
            for _ in range(self.rng.randint(3, 15)):
                self.step()
            if not self.world.store.is_paused:
                self.world.crash(forget=False)

    def crash(self) -> None:
        if not self.world.store.is_paused:
            self.world.crash(forget=self.rng.random() < 0.5)

    def pause_store(self) -> None:
        """It answers nobody, and does later what it was told."""
        if self.world.store.is_paused:
            return
        self.world.store.is_paused = True
        for _ in range(self.rng.randint(1, 5)):
            with suppress(StoreLost):
                self.rng.choice([self.call, self.call, self.finish, self.tend, self.ship, self.kill])()
            self.world.advance(self.rng.choice([0, 50, 200, 2_000]))
        self.world.store.is_paused = False
        self.world.store.deliver(self.rng.choice([None, 2]))
        self.world.advance(0)

    def pause(self) -> None:
        paused = [worker for worker in self.world.workers if worker.state is State.PAUSED]
        if paused:
            self.rng.choice(paused).state = State.ALIVE
            self.world.advance(0)
        elif (worker := self.worker()) is not None:
            worker.state, worker.was_quiet = State.PAUSED, True

    def kill(self) -> None:
        if (worker := self.worker()) is not None:
            worker.die(with_disk=False)

    def lose_disk(self) -> None:
        if (worker := self.worker()) is not None:
            worker.die(with_disk=True)

    def kill_in_admit(self) -> None:
        """Before it sees the reply."""
        if (worker := self.worker()) is not None:
            worker.channel.fault = self.rng.choice([*Fault, None])
            worker.admit_if_open(self.draw_batch(worker), dies=True)
            worker.die(with_disk=self.rng.random() < 0.2)

    def edit(self) -> None:
        self.world.tenants.edit()

    def interrupt(self) -> None:
        """In the middle of what the rebuild or the janitor does next, something else happens."""
        what = self.rng.choice([self.flush, self.delete, self.ship, self.settle, self.nested])
        self.world.channel.interrupt_before(self.rng.randint(0, 8), what)

    def nested(self) -> None:
        """The lock of the database is lost: another process goes on, and rebuilds meanwhile."""
        for worker in self.world.workers:
            self.world.ship(worker)
        self.late_rebuild()

    def zombie(self) -> None:
        """A rebuild stands still before it writes, until another is done, and then goes on."""
        department = self.rng.choice(self.world.departments)

        def overtake() -> None:
            for worker in self.world.workers:
                self.world.ship(worker)
            self.world.rebuild(department, self.world.rebuilder.read_marker(department).n)
            for _ in range(2):
                self.world.advance(3_200)
                self.work_at(department)

        self.world.channel.interrupt_before(self.rng.choice([3, 3, 4]), overtake)
        self.world.rebuild(department, self.world.rebuilder.read_marker(department).n)

    def work_at(self, department: int) -> None:
        """Every worker looks after a department, and ends calls there."""
        for worker in self.world.living():
            with suppress(StoreLost):
                self.tend_account(worker, department)
                for call in worker.open_calls()[:2]:
                    worker.finish(call)
                worker.settle(department)

    def set_back(self) -> None:
        """The store comes back as it was some calls ago."""
        if self.world.store.is_paused:
            return
        self.world.store.save()
        for _ in range(5):
            self.call()
            self.finish()
            self.settle()
        self.world.crash(forget=False)
        for _ in range(8):
            self.call()

    def half_shipped(self) -> None:
        """A shipper dies before it commits, and all is counted anew before the next one."""
        for worker in self.world.workers:
            self.world.ship(worker, crashes=True)
        self.late_rebuild()

    def overtake(self) -> None:
        """A worker gives up an admission, which the store carries out after the worker has told its end."""
        worker = self.worker()
        if worker is None:
            return
        worker.channel.fault = Fault.LATER
        worker.admit_if_open(self.draw_batch(worker))
        worker.channel.fault = None
        self.world.advance(self.rng.choice([0, 100, 300]))
        for department in self.world.departments:
            worker.settle(department)
        self.world.advance(self.rng.choice([0, 100, 300]))
        self.deliver_all()

    def overtake_dead(self) -> None:
        """A worker declares its open calls and dies; it is adopted before the store has carried that out."""
        worker = self.worker()
        if worker is None:
            return
        department = self.rng.choice(self.world.departments)
        self.world.rebuild(department, self.world.rebuilder.read_marker(department).n)

        def delay() -> None:
            worker.channel.fault = Fault.LATER

        worker.channel.interrupt_before(1, delay)
        with suppress(StoreLost):
            worker.renew(department)
        worker.die(with_disk=False)
        self.world.adopt(worker)
        self.world.advance(self.rng.choice([0, 100]))
        with suppress(StoreLost):
            worker.renew(department)
        self.world.advance(self.rng.choice([0, 100]))
        self.deliver_all()

    def sleep(self) -> None:
        """A worker stands still so long that its calls are recorded without it; perhaps all counts anew, too."""
        worker = self.worker()
        if worker is None:
            return
        worker.state, worker.was_quiet = State.PAUSED, True
        self.world.advance(24_000)
        for department in self.world.departments:
            self.world.janitor.sweep(department)
            if self.rng.random() < 0.5:
                self.world.rebuild(department, self.world.rebuilder.read_marker(department).n)
        self.look()
        worker.state = State.ALIVE
        self.world.advance(0)

    def deliver_all(self) -> None:
        if not self.world.store.is_paused:
            self.world.store.deliver()

    def late_rebuild(self) -> None:
        department = self.rng.choice(self.world.departments)
        self.world.rebuild(department, self.world.rebuilder.read_marker(department).n)

    def skew(self) -> None:
        """A worker's clock is wrong, and a window is about to end."""
        if (worker := self.worker()) is not None:
            worker.skew_ms = self.rng.randint(-MOST_SKEW_MS, MOST_SKEW_MS)
            self.to_edge()
            worker.admit_if_open(self.draw_batch(worker))

    # --- in the end ---------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Faults are over; every process does its work until nothing is left to do."""
        world = self.world
        world.channel.calm()
        world.store.deliver(self.rng.randint(0, 3))
        world.advance(self.rng.choice([0, 300, 12_000, 30_000]))
        for worker in world.workers:
            worker.channel.calm()
            if worker.state is State.PAUSED:
                worker.state = State.ALIVE
        if not world.living():
            world.start_worker()
        world.advance(0)
        for worker in world.living():
            for call in worker.open_calls():
                worker.finish(call)
        self.until_quiet()
        self.probe()
        self.until_quiet()

    def until_quiet(self) -> None:
        world = self.world
        for worker in world.living():  # everybody looks: who does not call does not notice
            for department in world.departments:
                with suppress(StoreLost):
                    worker.renew(department)
        for number in range(ROUNDS):
            with suppress(StoreLost):
                self.adopt()
            for worker in world.workers:
                if worker.state is State.ALIVE or (worker.state is State.DEAD and worker.is_adopted):
                    for department in world.departments:
                        with suppress(StoreLost):
                            self.tend_account(worker, department)
                            worker.settle(department)
                world.ship(worker)
            with suppress(StoreLost):
                for department in world.departments:
                    world.janitor.sweep(department)
            world.advance(HEALING_MS[number % len(HEALING_MS)])
            if number == 2:
                world.store.deliver()
            if number >= len(HEALING_MS) and self.is_quiet():
                return
        raise AssertionError("it does not come to rest")

    def is_quiet(self) -> bool:
        world = self.world
        for worker in world.workers:
            if worker.state is State.LOST:
                if not worker.is_adopted:
                    return False
                continue
            if any(a.standing is not Standing.OPEN or a.pending for a in worker.accounts.values()):
                return False
        try:
            for department in world.departments:
                verify_department(world.channel, world.commands, world.view, department)
        except (NotComparable, StoreLost):
            return False
        return True

    def probe(self) -> None:
        """Everybody calls once for nothing: a counter that is gone is noticed by who needs it."""
        world = self.world
        seen = {call.dims for call in world.calls.values()}
        for dims in sorted(seen, key=repr):
            worker = world.living()[0]
            worker.skew_ms = 0
            call = Call(world.new_id(), dims, Amounts(), Amounts(), worker.spool, world.losses)
            worker.admit_if_open([call])
            if call.stage is Stage.OPEN:
                worker.finish(call)
