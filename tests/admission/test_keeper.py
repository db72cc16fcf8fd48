"""What dead and silent workers left is counted, in the ledger and in the store alike."""

import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from billing.admission.abandoned import REASON
from billing.admission.account import Standing
from billing.admission.adoption import Adoption
from billing.admission.links import DirectLink
from billing.admission.spool_frames import SpoolFrames
from billing.keeper import Keeper
from billing.ledger_rows import append_entries, read_head
from billing.models import QuarantinedFrame, UsageCorrection, UsageRecord
from billing.rule_models import SweptCall
from billing.shipper import Shipper
from tests.admission.office import Office, Worker
from tests.processes import Processes, wait_for


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def old_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds are swept however young the epoch is."""
    monkeypatch.setattr("billing.admission.janitor.YOUNG_MS", 0)


@pytest.fixture
def worker(office: Office, tmp_path: Path) -> Worker:
    made = Worker(office, tmp_path)
    made.open()
    return made


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows(*ids: uuid.UUID) -> list[tuple[str, int]]:
    found = UsageRecord.objects.in_bulk(ids)
    return [(found[one].status, found[one].cost_nanousd) for one in ids]


def test_what_a_killed_worker_left_is_booked_and_only_then_its_files_go(
    office: Office, worker: Worker, tmp_path: Path
) -> None:
    booked, ended, opened, other = (worker.admit() for _ in range(4))
    worker.end(booked, 10)
    worker.settle()
    worker.end(ended, 20)
    worker.die()
    assert office.counter() == (10, 300)
    keeper = office.keeper()
    shipper = Shipper(tmp_path, keeper)
    shipper.ship_all()
    assert rows(booked, ended, opened, other) == [
        ("completed", 10),
        ("completed", 20),
        ("abandoned", 100),
        ("abandoned", 100),
    ]
    assert files(tmp_path), "nothing is booked yet"
    keeper.turn()
    assert office.counter() == (230, 0)
    assert shipper.ship_all() == 0
    assert files(tmp_path) == []
    office.rebuild()
    assert office.counter() == (230, 0), "as the ledger says"


@pytest.mark.parametrize("same_boot", [True, False])
def test_a_call_that_was_let_in_and_never_begun_costs_nothing_unless_its_frame_may_be_lost(
    office: Office, worker: Worker, old_epochs: None, tmp_path: Path, *, same_boot: bool
) -> None:
    worker.admit(100)
    unbegun = worker.admit(70, begins=False)
    worker.die()
    if not same_boot:
        (tmp_path / f"{worker.spool.id}.lock").write_bytes(b"another start of this machine")
    keeper = office.keeper()
    keeper._look = lambda: None  # type: ignore[method-assign]
    shipper = Shipper(tmp_path, keeper)
    shipper.ship_all()
    keeper.turn()
    assert office.counter() == ((100, 0) if same_boot else (100, 70))
    office.keeper().turn()
    assert office.counter() == ((100, 0) if same_boot else (170, 0)), "the janitor must take it for made"
    assert UsageRecord.objects.filter(pk=unbegun).exists() is not same_boot


def test_a_shipper_that_dies_while_it_books_changes_nothing_the_second_time(
    office: Office, worker: Worker, tmp_path: Path
) -> None:
    ended = worker.admit()
    worker.admit()
    worker.end(ended, 20)
    worker.die()
    for _ in range(3):
        keeper = office.keeper()
        Shipper(tmp_path, keeper).ship_all()
        keeper.turn()
        assert office.counter() == (120, 0)
    assert not QuarantinedFrame.objects.filter(spool=worker.spool.id).exists()


def test_while_the_store_is_away_files_stay_and_it_is_said_once(
    office: Office, worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker.end(worker.admit(), 20)
    worker.die()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        keeper = Keeper(
            DirectLink(url, office.scripts),
            office.commands,
            make_adoption=partial(Adoption, caution_ms=-1_000),
        )
        shipper = Shipper(tmp_path, keeper)
        for _ in range(3):
            shipper.ship_all()
            keeper.turn()
        assert files(tmp_path)
        said = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert [record.getMessage().split(";")[0] for record in said] == ["The counter store is away"]
    keeper = office.keeper()
    shipper = Shipper(tmp_path, keeper)
    shipper.ship_all()
    keeper.turn()
    shipper.ship_all()
    assert files(tmp_path) == []
    assert office.counter() == (20, 0)


def test_when_room_is_short_a_dead_workers_files_go_and_the_ledger_counts(
    office: Office, worker: Worker, tmp_path: Path
) -> None:
    worker.end(worker.admit(), 20)
    worker.die()
    Shipper(tmp_path, office.keeper(), patience_s=0, max_bytes=1).ship_all()
    assert files(tmp_path) == []
    assert office.book().epoch > office.epoch(), "new counters are asked for"
    office.rebuild()
    assert office.counter() == (20, 0)


def fill(worker: Worker, count: int) -> int:
    """Ends without end; returns what they cost."""
    for _ in range(count):
        worker.end(worker.admit(), 3)
    return 3 * count


def test_a_worker_whose_frames_are_gone_asks_for_new_counters(
    office: Office, worker: Worker, tmp_path: Path
) -> None:
    cost = fill(worker, 100)
    worker.die()
    Shipper(tmp_path, office.keeper()).ship_all()
    worker.spool.segments()[0].unlink()
    again, epoch = Worker(office, tmp_path), office.epoch()
    again.account._spool = str(worker.spool.id)
    again.account._frames = SpoolFrames(tmp_path, worker.spool.id)
    assert again.renew() is Standing.LOST
    assert again.account.lost_in == epoch
    assert again.renew() is Standing.LOST, "that epoch cannot be completed"
    office.rebuild()
    again.account.book = office.book()
    assert again.renew() is Standing.OPEN
    assert office.counter() == (cost, 0)


def test_the_keeper_has_counters_made_anew_when_a_dead_workers_frames_are_gone(
    office: Office, worker: Worker, tmp_path: Path
) -> None:
    cost = fill(worker, 100)
    worker.die()
    Shipper(tmp_path, office.keeper()).ship_all()
    worker.spool.segments()[0].unlink()
    epoch, keeper = office.epoch(), office.keeper()
    shipper = Shipper(tmp_path, keeper)
    for _ in range(3):
        shipper.ship_all()
        keeper.turn()
    assert office.epoch() > epoch
    assert office.counter() == (cost, 0)
    assert files(tmp_path) == []


def test_a_department_without_rules_or_that_is_gone_holds_nothing_up(tmp_path: Path) -> None:
    office = Office()
    worker = Worker(office, tmp_path)
    worker.open()
    worker.end(worker.admit(), 20)
    office.team.budgets.all().delete()
    worker.spool.end(department_id=2**40, team_id=1)
    worker.die()
    keeper = office.keeper()
    shipper = Shipper(tmp_path, keeper)
    shipper.ship_all()
    keeper.turn()
    shipper.ship_all()
    assert files(tmp_path) == []


@pytest.mark.slow
def test_the_shippers_process_has_a_keeper(
    office: Office, worker: Worker, tmp_path: Path, processes: Processes
) -> None:
    worker.end(worker.admit(), 20)
    worker.admit()
    worker.die()
    shipper, log = processes.start("shipper", "ship", environment={"GATEWAY_SPOOL_DIR": str(tmp_path)})
    wait_for(lambda: office.counter() == (120, 0), "what the dead worker left")
    wait_for(lambda: not list(tmp_path.glob("*.spool")), "its files to go")
    shipper.terminate()
    assert shipper.wait(20) == 0, log.read_text()


# --- silent workers ------------------------------------------------------------------------------


def test_a_silent_workers_call_is_ended_at_its_estimate_and_its_truth_corrects_that(
    office: Office, worker: Worker, old_epochs: None, tmp_path: Path
) -> None:
    request_id = worker.admit(100)
    office.keeper().turn()
    assert office.counter() == (100, 0)
    record = UsageRecord.objects.get(pk=request_id)
    assert (record.status, record.reason, record.spool, record.seq) == (
        "abandoned",
        REASON,
        worker.spool.id,
        0,
    )
    assert (record.team, record.department, record.output_tokens) == (
        office.team.slug,
        office.team.department.slug,
        10,
    )
    assert SweptCall.objects.get(pk=request_id).department_id == office.department_id
    office.rebuild()
    assert office.counter() == (100, 0)
    # It was only slow.
    worker.account.book = office.book()
    assert worker.renew() is Standing.OPEN, "its hold is not declared: it is counted"
    assert office.counter() == (100, 0)
    worker.end(request_id, 30)
    worker.settle()
    assert office.counter() == (30, 0)
    worker.die()
    Shipper(tmp_path, office.keeper()).ship_all()
    assert UsageCorrection.objects.get(pk=request_id).cost_nanousd == -70
    office.rebuild()
    assert office.counter() == (30, 0)


def test_a_call_whose_truth_is_in_the_ledger_is_ended_at_that(
    office: Office, worker: Worker, old_epochs: None, tmp_path: Path
) -> None:
    request_id = worker.admit(100)
    worker.end(request_id, 30)
    append_entries([worker.spool.bodies[-1]])  # its host shipped, and went away
    office.keeper().turn()
    assert office.counter() == (30, 0)
    assert rows(request_id) == [("completed", 30)]
    assert not SweptCall.objects.filter(pk=request_id).exists()


def test_living_workers_and_young_counters_are_left_alone(
    office: Office, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.admit(100)
    keeper = office.keeper()
    keeper.turn()
    assert office.counter() == (0, 100), "the epoch is young"
    monkeypatch.setattr("billing.admission.janitor.YOUNG_MS", 0)
    worker.beat()
    office.keeper().turn()
    assert office.counter() == (0, 100), "it lives"
    keeper.turn()
    assert office.counter() == (0, 100), "nothing lapsed: no look"
    office.ask("ZREM", "{g}:workers", str(worker.spool.id))
    keeper.turn()
    assert office.counter() == (100, 0), "it lapsed"


def test_a_hold_that_cannot_be_read_stops_no_other_department(
    office: Office, worker: Worker, old_epochs: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker.admit(100)
    later = Office()
    other = Worker(later, tmp_path)
    other.open()
    other.admit(50)
    office.ask("HSET", f"{{d{office.department_id}}}:{office.epoch()}:r", "strange", "9 of another release")
    keeper = office.keeper()
    for _ in range(3):
        keeper.turn()
        keeper._looked_at = float("-inf")
    assert later.counter() == (50, 0)
    assert office.counter() == (0, 100)
    said = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(said) == 1
    office.ask("HDEL", f"{{d{office.department_id}}}:{office.epoch()}:r", "strange")
    keeper.turn()
    assert office.counter() == (100, 0)


# --- copies --------------------------------------------------------------------------------------


@pytest.fixture
def booked(office: Office, worker: Worker) -> Iterator[Worker]:
    """A worker with one booked call, of which the store has a copy."""
    worker.beat()
    worker.end(worker.admit(), 20)
    worker.settle()
    assert office.copies() == 1
    yield worker
    office.ask("DEL", f"{{d{office.department_id}}}:s")


def test_a_copy_goes_when_its_record_is_shipped(office: Office, booked: Worker, tmp_path: Path) -> None:
    booked.die()
    keeper = office.keeper()
    Shipper(tmp_path, keeper).ship_all()
    keeper._forget_shipped()
    assert office.copies() == 0


def test_a_copy_that_stayed_behind_is_found(office: Office, booked: Worker, tmp_path: Path) -> None:
    keeper = office.keeper()
    keeper.turn()
    assert office.copies() == 1, "it is not in the ledger, and its worker lives"
    booked.die()
    Shipper(tmp_path).ship_all()
    office.keeper().turn()
    assert office.copies() == 0


def test_the_records_of_a_lost_disk_come_to_the_ledger_and_a_disk_that_returns_adds_nothing(
    office: Office, booked: Worker, old_epochs: None, tmp_path: Path
) -> None:
    head = read_head(booked.spool.bodies[-1])
    office.ask("ZREM", "{g}:workers", str(booked.spool.id))
    office.keeper().turn()
    assert office.copies() == 0
    record = UsageRecord.objects.get(pk=head.request_id)
    assert (record.spool, record.seq, record.cost_nanousd) == (booked.spool.id, 2, 20)
    office.rebuild()
    assert office.counter() == (20, 0)
    booked.die()  # its disk is found
    keeper = office.keeper()
    shipper = Shipper(tmp_path, keeper)
    shipper.ship_all()
    keeper.turn()
    shipper.ship_all()
    assert files(tmp_path) == []
    assert office.counter() == (20, 0)
    office.rebuild()
    assert office.counter() == (20, 0)
    assert not QuarantinedFrame.objects.filter(spool=booked.spool.id).exists()


def test_a_copy_is_the_truth_about_a_call_that_was_taken_for_abandoned(
    office: Office, worker: Worker, old_epochs: None
) -> None:
    request_id = worker.admit(100)
    office.keeper().turn()
    worker.end(request_id, 30)
    worker.settle()
    office.keeper().turn()
    assert office.copies() == 0
    assert UsageCorrection.objects.get(pk=request_id).cost_nanousd == -70
    assert office.counter() == (30, 0)
    office.rebuild()
    assert office.counter() == (30, 0)


# --- what it says of itself ----------------------------------------------------------------------


def test_it_says_what_it_has_done_and_counts_on_over_restarts(
    office: Office, worker: Worker, old_epochs: None, tmp_path: Path
) -> None:
    began = time.time()
    worker.admit(100)
    worker.end(worker.admit(), 20)
    worker.settle()
    keeper = office.keeper()
    keeper.forget([])
    keeper.turn()
    status = keeper.status()
    assert began <= (status.turn_at or 0) <= time.time()
    assert (status.ended_holds, status.brought_records, status.waiting_spools) == (1, 1, 0)
    worker.die()
    Shipper(tmp_path, keeper).ship_all()
    assert keeper.status().waiting_spools == 1
    heir = Keeper(DirectLink(os.environ["REDIS_URL"], office.scripts), office.commands, since=keeper.status())
    assert (heir.status().ended_holds, heir.status().brought_records) == (1, 1)
    assert heir.status().waiting_spools == 0, "it was told of none yet"


def test_it_weighs_copies_also_while_postgresql_is_away(
    office: Office, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.keeper._WEIGH_EVERY_S", 0)
    worker.beat()  # it lives: its copies stay
    keeper = office.keeper()
    keeper.turn()
    before = keeper.status()
    for _ in range(10):
        worker.end(worker.admit(), 20)
    worker.settle()
    monkeypatch.setattr("billing.keeper.DepartmentEpoch", None)
    keeper.turn()
    status = keeper.status()
    assert status.copies == before.copies + 10
    assert 10 * 200 < status.copies_bytes - before.copies_bytes < 10 * 2000


def test_a_turn_that_could_not_do_everything_is_none(office: Office) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        keeper = Keeper(DirectLink(url, office.scripts), office.commands)
        keeper.turn()
    assert keeper.status().turn_at is None
