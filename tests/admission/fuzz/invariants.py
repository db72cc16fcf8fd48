"""What must hold when all faults are over and everything had time to heal."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

from django.db import connection

from billing.admission.commands import READY
from billing.admission.holds import Amounts
from billing.admission.verify import NotComparable, verify_department
from tests.admission.fuzz.tables import TABLES
from tests.admission.fuzz.worker import Call, Stage, State, Worker
from tests.admission.fuzz.world import World


def check(world: World) -> None:
    """All of them; raises AssertionError."""
    _check_calls(world)
    _check_nothing_was_missed(world)
    for department in world.departments:
        found = verify_department(world.channel, world.commands, world.view, department)
        assert found == [], f"verify finds {found}"
        _check_counters(world, department)
        _check_nothing_is_held(world, department)


def check_meanwhile(world: World) -> None:
    """What must hold at any moment, between two steps."""
    for department in world.departments:
        marker = world.rebuilder.read_marker(department)
        if marker.state != READY or not marker.is_of_this_run:
            continue
        if (department, marker.n) not in world.let_in:
            _check_holds(world, department, marker.n)
        if not world.deletions:
            with suppress(NotComparable):
                found = verify_department(world.channel, world.commands, world.view, department)
                assert found == [], f"verify finds {found}"


def _check_holds(world: World, department: int, epoch: int) -> None:
    """Open counters hold the open calls of every worker that lives."""
    held = {rid.decode() for rid in world.store.raw("HKEYS", f"{{d{department}}}:{epoch}:r")}
    for worker in world.living():
        if worker.was_quiet:
            continue
        for call in worker.open_calls():
            if call.dims.department_id == department:
                assert call.rid in held, f"{call} is open and not held"


def _check_nothing_was_missed(world: World) -> None:
    """Nobody misses a counter that nobody took away."""
    if not world.deletions:
        missed = [
            account for worker in world.workers for account in worker.accounts.values() if account.lost_in
        ]
        assert not missed, "a counter was believed to be lost"


def _check_calls(world: World) -> None:
    """One row for each call that was served, at its true cost unless nobody could know it."""
    totals = world.ledger.read_totals()
    assert totals.keys() <= world.calls.keys(), "a record of a call that never was"
    corrected = _corrected()
    workers = {worker.spool: worker for worker in world.workers}
    for call in world.calls.values():
        worker = workers[call.spool]
        total = totals.get(call.rid)
        if call.may_be_missing and total is None:
            continue
        assert total in _possible(call, worker), f"{call} is {total} in the ledger"
        if not worker.was_quiet and worker.state is State.ALIVE:
            assert call.rid not in corrected, f"{call} was swept though its worker lived"


def _possible(call: Call, worker: Worker) -> tuple[Amounts | None, ...]:
    if call.stage is Stage.REFUSED:
        return (None,)
    if call.stage is Stage.ASKED:  # its worker died: nobody called the backend, but nobody knows
        return (None, call.most)
    if worker.state is State.LOST:
        return (call.most, call.true) if call.is_served else (None, Amounts(), call.most)
    if call.stage is Stage.CANCELLED:
        return (Amounts(),)
    return (call.true,) if call.stage is Stage.ENDED else (call.most,)


def _corrected() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT request_id FROM fuzz_correction")
        return {str(rid) for (rid,) in cursor.fetchall()}


def _stored(world: World, department: int) -> Iterator[tuple[str, int, int]]:
    """Name, used and reserved of every counter of the present epoch, windows that are over included. But one that
    was deleted after its window is missed by nobody."""
    marker = world.rebuilder.read_marker(department)
    prefix = f"{{d{department}}}:{marker.n}:"
    for key in world.store.raw("KEYS", prefix + "c:*"):
        name = key.decode().removeprefix(prefix)
        b, u, r = world.store.raw("HMGET", key, "b", "u", "r")
        ends = world.store.raw("ZSCORE", prefix + "w", name)
        if not world.deletions or (ends is not None and int(ends) * 1000 > world.now_ms):
            yield name, int(b or 0) + int(u or 0), int(r or 0)


def _check_counters(world: World, department: int) -> None:
    """b + u is what the ledger says, for every window that was not over when the epoch began."""
    book = world.book_of(department)
    began_s = world.rebuilder.read_marker(department).began_ms / 1000
    expected: dict[str, int] = defaultdict(int)
    over: set[str] = set()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT request_id FROM ({TABLES.lines}) l")  # noqa: S608
        for line in world.view.read_lines(cursor, [rid for (rid,) in cursor.fetchall()]):
            for name, unit, end in book.counters(line.call, line.admitted_s):
                expected[name] += line.amounts.of(unit)
                if end <= began_s:
                    over.add(name)
    for name, used, _ in _stored(world, department):
        if name in expected and name not in over:
            assert used == expected[name], f"{name} has {used} of {expected[name]}"


def _check_nothing_is_held(world: World, department: int) -> None:
    """No call is open, so nothing is reserved."""
    marker = world.rebuilder.read_marker(department)
    prefix = f"{{d{department}}}:{marker.n}:"
    held = world.store.raw("HGETALL", prefix + "r")
    assert held == [], f"held still: {held}"
    for name, _, reserved in _stored(world, department):
        assert reserved == 0, f"{name} has {reserved} reserved"
    assert world.store.raw("KEYS", prefix + "k:*") == []
