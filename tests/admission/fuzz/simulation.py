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
from tests.admission.fuzz.faults import FAULTS, Faults
from tests.admission.fuzz.invariants import check
from tests.admission.fuzz.store import Fault, Store
from tests.admission.fuzz.worker import Call, Stage, State
from tests.admission.fuzz.world import World

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


class Simulation(Faults):
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
