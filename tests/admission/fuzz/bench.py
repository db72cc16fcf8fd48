"""Runs seeds on servers of their own, and says which one failed."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from billing.admission.scripts import Scripts
from teams.models import Department
from tests.admission.desk import scripts_on_a_clock
from tests.admission.fuzz.simulation import Simulation
from tests.admission.fuzz.store import Store
from tests.admission.fuzz.tables import make_tables
from tests.factories import unique

SCRIPTS = scripts_on_a_clock()


class Bench:
    """Runs one seed after the other on the same store and tables."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.store.start()
        make_tables()
        self.departments = tuple(
            Department.objects.create(slug=unique("fuzz"), name="Fuzz").pk for _ in range(2)
        )

    def run(
        self,
        seed: int,
        scripts: Scripts = SCRIPTS,
        off: frozenset[str] = frozenset(),
        faults: tuple[str, ...] | None = None,
    ) -> list[str]:
        """What happened. Raises AssertionError, with the seed and the last of that."""
        simulation = Simulation(seed, self.store, scripts, self.departments, off, faults)
        try:
            simulation.run()
        except AssertionError as error:
            last = "\n".join(simulation.world.log[-15:])
            raise AssertionError(f"seed {seed}: {error}\n{last}") from error
        totals = simulation.world.ledger.read_totals()
        return [*simulation.world.log, *sorted(f"{rid} {totals[rid]}" for rid in totals)]


@contextmanager
def open_bench() -> Iterator[Bench]:
    """A bench, and quiet: every run loses counters again and again."""
    logger = logging.getLogger("billing.admission")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="gw-fuzz-") as folder:
        made = Bench(Path(folder))
        try:
            yield made
        finally:
            made.store.stop()
            logger.setLevel(before)
