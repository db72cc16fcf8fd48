"""What processes do when nothing goes wrong; who does it, and when, is drawn."""

from random import Random

from billing.admission.account import Standing
from billing.admission.holds import Amounts
from billing.admission.windows import Period, window_at
from tests.admission.fuzz.invariants import check_meanwhile
from tests.admission.fuzz.worker import Call, State, Worker
from tests.admission.fuzz.world import RESCUE_MS, World


class Works:
    """Each method is one step. `faultiness`: how likely a shipper's step goes wrong."""

    rng: Random
    world: World
    faultiness: float

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
