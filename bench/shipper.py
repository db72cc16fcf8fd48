"""How fast the shipper brings records to the ledger: `python -m bench` runs this in a process of its own.

A worker writes the frames of as many calls, one when each begins and one when it has ended, and dies; then they
are shipped. The figures are printed as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from billing.ids import uuid7
from billing.ledger import Ledger, LedgerEntry
from billing.spool import Spool

_MOST_BYTES = 8 * 1024**3


def make_entry() -> LedgerEntry:
    """The record of an ordinary call."""
    now = datetime.now(UTC)
    return LedgerEntry(
        request_id=uuid7(),
        admitted_at=now,
        ended_at=now,
        operation="chat",
        streamed=False,
        status="completed",
        http_status=200,
        reason="",
        department_id=1,
        department="a-department",
        team_id=1,
        team="a-team",
        application_id=1,
        application="an-application",
        api_key_id=1,
        api_key_hint="sk-gw_1234...AbCd",
        end_user="somebody@example.com",
        client_request_id="0f8fad5b-d9cb-469f-a165-70867728950e",
        model="gpt-4o-mini",
        backend_id=1,
        backend="a-backend",
        price_entry_id=1,
        input_tokens=200,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=300,
        reasoning_tokens=0,
        estimated=False,
        input_cost_nanousd=30_000,
        cached_input_cost_nanousd=0,
        cache_write_cost_nanousd=0,
        output_cost_nanousd=180_000,
        cost_nanousd=210_000,
        attempts=1,
        duration_ms=420,
        first_byte_ms=400,
        overhead_us=900,
    )


def write_spool(directory: Path, records: int) -> None:
    """A worker's life: `records` calls, each with its two frames."""
    ledger = Ledger(Spool(uuid.uuid4(), directory, max_bytes=_MOST_BYTES))
    for _ in range(records):
        ledger.spool.admit()
        entry = make_entry()
        ledger.append_open(msgspec.structs.replace(entry, status="abandoned", reason="worker_died"))
        ledger.append(entry)


def ship(directory: Path, records: int) -> dict[str, float]:
    """Ship what was written; returns the figures."""
    import django

    django.setup()
    from billing.shipper import Shipper

    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    shipped = Shipper(directory).ship_all()
    taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    return {
        "records": shipped,
        "seconds": round(taken_s, 3),
        "records_per_s": round(shipped / taken_s, 1),
        "cpu_us": round(cpu_s / max(1, shipped) * 1e6, 1),
        "errors": abs(records - shipped),
    }


def main() -> None:
    """Write in one process, ship in another."""
    parser = argparse.ArgumentParser(prog="bench.shipper", description="Measures the shipper.")
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--write", type=Path, help="only write, into this folder, and die")
    options = parser.parse_args()
    if options.write is not None:
        write_spool(options.write, options.records)
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")
    with tempfile.TemporaryDirectory(prefix="spool-", dir=os.environ.get("GATEWAY_HOME")) as folder:
        written = ["-m", "bench.shipper", "--records", str(options.records), "--write", folder]
        subprocess.run([sys.executable, *written], check=True)
        print(json.dumps(ship(Path(folder), options.records)))


if __name__ == "__main__":
    main()
