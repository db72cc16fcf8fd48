"""From spool to ledger: each record exactly once, bad rows set aside, the past unchangeable."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audit.models import AdminEvent
from billing.ids import smallest_id_at, uuid7
from billing.ledger import LedgerEntry, clean_text
from billing.models import QuarantinedFrame, Spool, UsageCorrection, UsageRecord
from billing.partitions import create_ledger_partitions
from billing.shipper import Shipper, read_watermark, ship_frames
from billing.spool import MAX_FRAME_BYTES, Frame, segment_name
from billing.spool import Spool as SpoolFile
from tests.entries import entry, frame
from tests.factories import make_team


def test_the_entry_has_exactly_the_columns_of_the_ledger() -> None:
    assert set(LedgerEntry.__struct_fields__) == {field.column for field in UsageRecord._meta.fields}


def test_a_batch_is_shipped_once_however_often_it_is_sent() -> None:
    spool = uuid.uuid4()
    frames = [frame(seq, spool=spool, cost_nanousd=7, input_cost_nanousd=7) for seq in (1, 2, 3)]
    ship_frames(spool, "host", frames)
    ship_frames(spool, "host", frames)
    ship_frames(spool, "host", frames[1:])
    rows = UsageRecord.objects.filter(spool=spool).order_by("seq")
    assert [(row.seq, row.cost_nanousd) for row in rows] == [(1, 7), (2, 7), (3, 7)]
    assert read_watermark(spool) == 3
    assert not QuarantinedFrame.objects.filter(spool=spool).exists()


def test_a_request_id_used_twice_keeps_the_first_row_and_sets_the_second_aside() -> None:
    first, second, shared = uuid.uuid4(), uuid.uuid4(), uuid7()
    ship_frames(first, "host", [frame(1, spool=first, request_id=shared, output_tokens=1)])
    ship_frames(second, "host", [frame(1, spool=second, request_id=shared, output_tokens=2)])
    assert UsageRecord.objects.get(pk=shared).output_tokens == 1
    assert "another record" in QuarantinedFrame.objects.get(spool=second, seq=1).error
    assert read_watermark(second) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"cost_nanousd": 1},  # not the sum of its kinds
        {"cached_input_tokens": 5},  # more than the input tokens
        {"status": "invented"},
        {"input_cost_nanousd": -1, "cost_nanousd": -1},
        {"team": "x" * 64},  # longer than the column
        {"model": "nul \x00 in it"},
    ],
)
def test_a_row_the_database_cannot_take_is_set_aside_and_blocks_nothing(bad: dict[str, Any]) -> None:
    spool = uuid.uuid4()
    frames = [frame(seq, spool=spool, **(bad if seq == 3 else {})) for seq in range(1, 8)]
    ship_frames(spool, "host", frames)
    assert sorted(UsageRecord.objects.filter(spool=spool).values_list("seq", flat=True)) == [1, 2, 4, 5, 6, 7]
    kept = QuarantinedFrame.objects.get(spool=spool)
    assert (kept.seq, bytes(kept.body)) == (3, frames[2].body)
    assert read_watermark(spool) == 7


def write_spool(folder: Path, count: int) -> uuid.UUID:
    """A dead worker's spool with `count` entries, written by another process."""
    spool = uuid.uuid4()
    entries = [msgspec.json.encode(entry(spool=spool, seq=seq)).hex() for seq in range(1, count + 1)]
    program = (
        "import sys, uuid; from pathlib import Path; from billing.spool import Spool\n"
        "spool = Spool(uuid.UUID(sys.argv[1]), Path(sys.argv[2]), max_bytes=10**7, segment_bytes=65536)\n"
        "for line in sys.stdin.read().split():\n spool.admit(); spool.append(bytes.fromhex(line))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(spool), str(folder)],
        input="\n".join(entries).encode(),
        cwd=settings.BASE_DIR,
        check=True,
    )
    return spool


def test_a_dead_workers_spool_is_shipped_over_all_segments_and_removed(tmp_path: Path) -> None:
    spool = write_spool(tmp_path, 250)
    assert len(list(tmp_path.glob("*.spool"))) > 2
    assert Shipper(tmp_path, batch_frames=40).ship_all() == 250
    assert UsageRecord.objects.filter(spool=spool).count() == 250
    assert list(tmp_path.iterdir()) == []
    assert Shipper(tmp_path).ship_all() == 0


def test_a_shipper_that_died_after_a_batch_goes_on_behind_it(tmp_path: Path) -> None:
    spool = write_spool(tmp_path, 30)
    frames = SpoolReader(tmp_path, spool).frames()
    ship_frames(spool, "host", frames[:12])
    assert Shipper(tmp_path).ship_all() == 18
    assert UsageRecord.objects.filter(spool=spool).count() == 30


class SpoolReader:
    """Reads the first segment of a spool."""

    def __init__(self, folder: Path, spool: uuid.UUID) -> None:
        self.path = folder / segment_name(spool, 0)

    def frames(self) -> list[Frame]:
        from billing.spool import read_frames

        return read_frames(self.path, 0, limit=1000)


def test_a_torn_rest_is_kept_for_a_person_and_named(tmp_path: Path) -> None:
    spool = write_spool(tmp_path, 3)
    path = tmp_path / segment_name(spool, 0)
    end = SpoolReader(tmp_path, spool).frames()[-1].end
    with path.open("r+b") as file:
        file.seek(end)
        file.write(b"\x10\x00\x00\x00torn")
    assert Shipper(tmp_path).ship_all() == 3
    assert [item.suffix for item in tmp_path.iterdir()] == [".torn"]


def test_a_living_workers_spool_is_shipped_and_kept(tmp_path: Path) -> None:
    spool_id = uuid.uuid4()
    program = (
        "import sys, uuid; from pathlib import Path; from billing.spool import Spool\n"
        "spool = Spool(uuid.UUID(sys.argv[1]), Path(sys.argv[2]), max_bytes=10**7, segment_bytes=65536)\n"
        "for line in sys.stdin:\n"
        " spool.admit(); spool.append(bytes.fromhex(line.strip())); print('done', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program, str(spool_id), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=settings.BASE_DIR,
    ) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        shipper = Shipper(tmp_path)
        for seq in range(1, 150):
            owner.stdin.write(msgspec.json.encode(entry(spool=spool_id, seq=seq)).hex().encode() + b"\n")
            owner.stdin.flush()
            assert owner.stdout.readline() == b"done\n"
            if seq % 10 == 0:
                assert shipper.ship_all() == 10
                assert (tmp_path / f"{spool_id}.lock").exists()
        owner.stdin.close()
        owner.wait()
        assert shipper.ship_all() == 9
    assert UsageRecord.objects.filter(spool=spool_id).count() == 149
    assert list(tmp_path.iterdir()) == []


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(text=st.text(alphabet=st.characters(), max_size=400))
def test_any_text_of_a_caller_can_be_stored(text: str) -> None:
    spool = uuid.uuid4()
    cleaned = {
        "end_user": clean_text(text),
        "client_request_id": clean_text(text),
        "model": clean_text(text, 128),
    }
    ship_frames(spool, "host", [frame(1, spool=spool, **cleaned)])
    row = UsageRecord.objects.get(spool=spool)
    assert (row.end_user, row.model) == (cleaned["end_user"], cleaned["model"])


def test_the_largest_entry_fits_a_frame() -> None:
    longest = {"end_user": "\N{GRINNING FACE}" * 200, "client_request_id": '"' * 200, "model": "\\" * 128}
    slugs = dict.fromkeys(("department", "team", "application", "backend", "reason", "operation"), "s" * 63)
    numbers = {name: 2**62 for name, kind in LedgerEntry.__annotations__.items() if "int" in str(kind)}
    assert len(msgspec.json.encode(entry(**(longest | slugs | numbers)))) + 17 < MAX_FRAME_BYTES


APPEND_ONLY = [UsageRecord, UsageCorrection, QuarantinedFrame, AdminEvent]
CHANGES = ["UPDATE {table} SET {column} = {column}", "DELETE FROM {table}", "TRUNCATE {table}"]


@pytest.fixture(scope="module")
def some_rows() -> None:
    spool = uuid.uuid4()
    request_id = uuid7()
    estimate = frame(1, spool=spool, request_id=request_id, status="abandoned")
    truth = frame(3, spool=spool, request_id=request_id)
    ship_frames(spool, "host", [estimate, frame(2, spool=spool, status="invented"), truth])
    from audit.services import record_event

    record_event("tests", "test.event", make_team())


@pytest.mark.parametrize("model", APPEND_ONLY, ids=lambda model: model._meta.db_table)
@pytest.mark.parametrize("statement", CHANGES)
@pytest.mark.parametrize("url", ["DATABASE_URL", "DATABASE_OWNER_URL"])
def test_neither_role_can_change_the_past(some_rows: None, model: Any, statement: str, url: str) -> None:
    sql = statement.format(table=model._meta.db_table, column=model._meta.pk.column)
    with psycopg.connect(os.environ[url]) as role, pytest.raises(psycopg.errors.InsufficientPrivilege):
        role.execute(sql)


def test_the_runtime_role_cannot_disarm_or_drop_the_ledger() -> None:
    statements = [
        "DROP TABLE billing_usagerecord",
        "ALTER TABLE billing_usagerecord DISABLE TRIGGER ALL",
        "DELETE FROM billing_usagerecord_default",
        "CREATE TABLE elsewhere (id int)",
        "SELECT audit_refuse_change()",
    ]
    for statement in statements:
        with pytest.raises(Exception), transaction.atomic(), connection.cursor() as cursor:  # noqa: B017, PT011
            cursor.execute(statement)


def test_this_months_rows_are_in_this_months_partition() -> None:
    spool = uuid.uuid4()
    ship_frames(spool, "host", [frame(1, spool=spool)])
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM billing_usagerecord WHERE spool = %s", [spool])
        assert cursor.fetchone() == (f"billing_usagerecord_{datetime.now(UTC):%Y%m}",)


def partitions() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'billing_usagerecord'::regclass"
        )
        return [row[0] for row in cursor.fetchall()]


def test_partitions_are_made_ahead_once() -> None:
    create_ledger_partitions(5)
    names = partitions()
    assert len(names) == len(set(names)) >= 7  # this month, five ahead, the default one
    assert create_ledger_partitions(5) == 0
    with pytest.raises(Exception, match="0 to 24"):
        create_ledger_partitions(999)


def stray_id(moment: datetime) -> uuid.UUID:
    """A request id of a month that has no partition."""
    return uuid.UUID(int=smallest_id_at(moment).int | uuid.uuid4().int & ((1 << 62) - 1))


def lies_in(request_id: uuid.UUID) -> str:
    with connection.cursor() as cursor:
        query = "SELECT tableoid::regclass::text FROM billing_usagerecord WHERE request_id = %s"
        cursor.execute(query, [request_id])
        (name,) = cursor.fetchone()
    return str(name)


def default_has_rows() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT 1 FROM billing_usagerecord_default)")
        return bool(cursor.fetchone()[0])


def test_rows_without_a_partition_count_and_go_where_they_belong_later() -> None:
    spool, months = (
        uuid.uuid4(),
        (datetime(2031, 5, 31, 23, 59, 59, tzinfo=UTC), datetime(2031, 6, 1, tzinfo=UTC)),
    )
    ids = [stray_id(moment) for moment in months]
    ship_frames(spool, "host", [frame(n, spool=spool, request_id=each) for n, each in enumerate(ids, 1)])
    assert {lies_in(each) for each in ids} == {"billing_usagerecord_default"}
    before = list(UsageRecord.objects.filter(spool=spool).order_by("seq").values())

    assert create_ledger_partitions() == 2
    assert [lies_in(each) for each in ids] == ["billing_usagerecord_203105", "billing_usagerecord_203106"]
    assert not default_has_rows(), "and the runtime role may still look"
    assert list(UsageRecord.objects.filter(spool=spool).order_by("seq").values()) == before
    for url in ("DATABASE_URL", "DATABASE_OWNER_URL"):
        for table in ("billing_usagerecord_203105", "billing_usagerecord_default"):
            with (
                psycopg.connect(os.environ[url]) as role,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                role.execute(f"TRUNCATE {table}")
    ship_frames(spool, "host", [frame(n, spool=spool, request_id=each) for n, each in enumerate(ids, 1)])
    assert UsageRecord.objects.filter(spool=spool).count() == 2, "told again, they are known"


def test_a_default_partition_in_use_is_emptied_another_time() -> None:
    spool, request_id = uuid.uuid4(), stray_id(datetime(2032, 1, 15, tzinfo=UTC))
    ship_frames(spool, "host", [frame(1, spool=spool, request_id=request_id)])
    with psycopg.connect(os.environ["DATABASE_URL"]) as reader:
        reader.execute("SELECT count(*) FROM billing_usagerecord")
        assert create_ledger_partitions() == 0
        assert lies_in(request_id) == "billing_usagerecord_default"
    assert create_ledger_partitions() == 1
    assert lies_in(request_id) == "billing_usagerecord_203201"


def test_a_partition_bound_is_the_first_id_of_its_month() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_uuid7_floor('2026-12-01T00:00:00Z')")
        floor = cursor.fetchone()[0]
    moment = datetime(2026, 12, 1, tzinfo=UTC)
    assert floor.int >> 80 == int(moment.timestamp() * 1000)
    assert floor.int & ((1 << 80) - 1) == 0


def test_uuid7_has_the_clock_in_front_and_the_right_marks() -> None:
    ids = [uuid7() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
    assert abs(ids[0].int >> 80 - 0) > 0
    assert abs((ids[0].int >> 80) / 1000 - datetime.now(UTC).timestamp()) < 5


def test_a_record_cannot_be_inserted_twice_even_with_another_time() -> None:
    spool, shared = uuid.uuid4(), uuid7()
    ship_frames(spool, "host", [frame(1, spool=spool, request_id=shared)])
    row = UsageRecord.objects.get(pk=shared)
    row.admitted_at += timedelta(days=40)
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)


@pytest.fixture
def living_spool(tmp_path: Path) -> Iterator[SpoolFile]:
    spool = SpoolFile(uuid.uuid4(), tmp_path, max_bytes=10**7, segment_bytes=65536)
    yield spool
    spool.close()


def test_the_watermark_never_goes_back(living_spool: SpoolFile) -> None:
    ship_frames(living_spool.id, "host", [frame(5, spool=living_spool.id)])
    ship_frames(living_spool.id, "host", [frame(2, spool=living_spool.id)])
    assert Spool.objects.get(pk=living_spool.id).shipped_seq == 5
