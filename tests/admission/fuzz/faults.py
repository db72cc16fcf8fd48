"""What goes wrong; each method is one step."""

from contextlib import suppress

from billing.admission.links import StoreLost
from tests.admission.fuzz.store import Fault
from tests.admission.fuzz.worker import MOST_SKEW_MS, State
from tests.admission.fuzz.works import Works

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


class Faults(Works):
    """See the module."""

    def step(self) -> None:
        """Something, and time passes."""
        raise NotImplementedError

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
