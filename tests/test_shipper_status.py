"""What the shipper says of itself, also while PostgreSQL is away."""

import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from billing.ledger import Ledger
from billing.shipper_status import (
    STATUS_FILE,
    ShipperReport,
    ShipperStatus,
    is_shipper_alive,
    read_shipper_status,
)
from billing.spool import Spool
from routing.trace import Trace
from tests.processes import Processes, wait_for

SEGMENT_BYTES = 64 * 1024


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Spool(uuid.uuid4(), tmp_path, max_bytes=2**30, segment_bytes=SEGMENT_BYTES))


def append(ledger: Ledger, count: int) -> datetime:
    """Append records; returns when the first was admitted."""
    entries = [Trace("chat").to_entry() for _ in range(count)]
    for entry in entries:
        ledger.spool.admit()
        ledger.append(entry)
    return entries[0].admitted_at


def test_rows_are_counted_over_restarts(tmp_path: Path) -> None:
    assert read_shipper_status(tmp_path) == ShipperStatus()
    for rows in (3, 4):
        report = ShipperReport(tmp_path)
        report.succeeded(rows)
        report.close()
    status = read_shipper_status(tmp_path)
    assert (status.shipped_rows, status.backlog_records) == (7, 0)
    assert status.last_success_at == pytest.approx(time.time(), abs=5)


def test_the_file_is_not_written_in_every_round(tmp_path: Path) -> None:
    report = ShipperReport(tmp_path)
    report.succeeded(1)
    report.succeeded(2)
    assert read_shipper_status(tmp_path).shipped_rows == 1
    report.close()
    assert read_shipper_status(tmp_path).shipped_rows == 3


def test_the_backlog_of_an_outage_spans_segments_and_spools(tmp_path: Path, ledger: Ledger) -> None:
    other = Ledger(Spool(uuid.uuid4(), tmp_path, max_bytes=2**30, segment_bytes=SEGMENT_BYTES))
    first = append(ledger, 150)  # about 900 bytes each: more than one segment
    append(other, 10)
    assert len(list(tmp_path.glob("*.spool"))) > 2
    report = ShipperReport(tmp_path)
    report.failed({})
    status = read_shipper_status(tmp_path)
    assert status.backlog_records == 160
    assert datetime.fromtimestamp(status.oldest_at or 0, UTC) == first


def test_what_is_shipped_does_not_wait_and_what_comes_later_does(tmp_path: Path, ledger: Ledger) -> None:
    append(ledger, 5)
    report = ShipperReport(tmp_path)
    shipped = {ledger.spool.id: 4}
    report.failed(shipped)
    assert read_shipper_status(tmp_path).backlog_records == 1
    append(ledger, 2)
    report.failed(shipped)
    report.close()
    assert read_shipper_status(tmp_path).backlog_records == 3
    report.succeeded(3)
    report.close()
    assert read_shipper_status(tmp_path).backlog_records == 0


@pytest.mark.parametrize("content", [b"", b"{", b'{"shipped_rows": "many"}', b"[]"])
def test_a_damaged_status_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATUS_FILE).write_bytes(content)
    assert read_shipper_status(tmp_path) == ShipperStatus()


@pytest.mark.slow
def test_a_running_shipper_is_known_by_its_lock_and_outlives_being_looked_at(
    processes: Processes, tmp_path: Path
) -> None:
    assert not is_shipper_alive(tmp_path)
    shipper, log = processes.start("shipper", "ship", environment={"GATEWAY_SPOOL_DIR": str(tmp_path)})
    wait_for(lambda: is_shipper_alive(tmp_path) or shipper.poll() is not None, "the shipper")
    assert all(is_shipper_alive(tmp_path) for _ in range(100))
    wait_for(lambda: read_shipper_status(tmp_path).last_success_at, "its first word")
    second, second_log = processes.start("shipper", "ship", environment={"GATEWAY_SPOOL_DIR": str(tmp_path)})
    assert second.wait(20) == 1
    assert "Another shipper works" in second_log.read_text()
    shipper.kill()
    shipper.wait()
    assert not is_shipper_alive(tmp_path), log.read_text()
