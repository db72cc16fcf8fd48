"""`manage.py ledger verify`: says where counters and ledger differ, and mends it when told."""

import io
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from billing.shipper import Shipper
from tests.admission.office import Office, Worker
from tests.factories import make_team


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def busy(office: Office, tmp_path: Path) -> Worker:
    """A worker with one booked call that is in the ledger, and one that is open."""
    worker = Worker(office, tmp_path)
    worker.open()
    worker.beat()
    worker.end(worker.admit(), 20)
    worker.settle()
    worker.admit(100)
    worker.spool.write()
    return worker


def ship(worker: Worker) -> None:
    """As from a living worker: what it left open stays open."""
    shipper = Shipper(worker.spool.folder)
    shipper._ship_abandoned = lambda *_: 0  # type: ignore[method-assign]
    shipper.ship_all()


def verify(office: Office, **options: Any) -> str:
    out = io.StringIO()
    options = {"department": office.team.department.slug, "wait": 0.5, "stdout": out, **options}
    try:
        call_command("ledger", "verify", **options)
    except CommandError as error:
        return f"{out.getvalue()}FAILED: {error}"
    return out.getvalue()


def break_counter(office: Office, field: str, by: int) -> None:
    (key,) = office.ask("KEYS", f"{{d{office.department_id}}}:{office.epoch()}:c:*")
    office.ask("HINCRBY", key, field, str(by))


def test_counters_with_open_calls_are_equal(office: Office, busy: Worker) -> None:
    ship(busy)
    said = verify(office)
    assert f"{office.team.department.slug}: equal" in said
    assert "1 departments: the counters are what the ledger says." in said


@pytest.mark.parametrize(("field", "amounts"), [("u", "27 20 100 100"), ("r", "20 20 107 100")])
def test_a_difference_is_shown_and_repaired_only_when_told(
    office: Office, busy: Worker, field: str, amounts: str
) -> None:
    ship(busy)
    break_counter(office, field, 7)
    said = verify(office)
    assert "1 counters differ" in said
    assert amounts in " ".join(said.split())
    assert "FAILED: 1 of 1 departments differ" in said
    assert "differ" in verify(office), "nothing was mended"
    said = verify(office, repair=True, wait=8)
    assert "counters made anew: equal" in said
    assert "FAILED" not in said
    assert office.counter()[0] == 20
    assert "equal" in verify(office)


def test_what_is_not_shipped_is_waited_for_and_then_said(office: Office, busy: Worker) -> None:
    said = verify(office)
    assert "cannot be compared: " in said
    assert "FAILED" in said
    ship(busy)
    assert "equal" in verify(office)


def test_an_unknown_department_is_said_and_one_without_rules_is_right(office: Office) -> None:
    assert "no department 'nowhere'" in verify(office, department="nowhere")
    without = make_team().department.slug
    assert verify(office, department=without) == "0 departments: the counters are what the ledger says.\n"


def test_a_store_that_is_away_is_said(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "GATEWAY_COUNTERS_URL", "redis://127.0.0.1:1/0")
    assert "FAILED: The counter store is away" in verify(office)
