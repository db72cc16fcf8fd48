"""Later truths about abandoned calls: one correction at most, in every order, and nothing lost in a race."""

import threading
import uuid
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import connection, transaction

from billing.admission.ledger_view import LedgerView
from billing.ids import uuid7
from billing.ledger_rows import append_entries
from billing.models import QuarantinedFrame, UsageCorrection, UsageRecord
from billing.shipper import read_watermark, ship_frames
from billing.spool import Frame
from tests.entries import entry

ESTIMATE: dict[str, Any] = {
    "status": "abandoned",
    "input_tokens": 100,
    "output_tokens": 900,
    "output_cost_nanousd": 1000,
    "cost_nanousd": 1000,
    "team_id": 7,
    "end_user": "ann",
}
TRUTH: dict[str, Any] = {
    "status": "completed",
    "input_tokens": 110,
    "output_tokens": 20,
    "input_cost_nanousd": 7,
    "output_cost_nanousd": 30,
    "cost_nanousd": 37,
}


def body(request_id: UUID, spool: UUID, seq: int, **fields: Any) -> bytes:
    return msgspec.json.encode(entry(request_id=request_id, spool=spool, seq=seq, **fields))


def put_estimate(request_id: UUID, spool: UUID) -> None:
    """As the janitor does."""
    with transaction.atomic():
        append_entries([body(request_id, spool, 0, **ESTIMATE)])


def ship_truth(request_id: UUID, spool: UUID, seq: int = 5, **fields: Any) -> None:
    ship_frames(spool, "host", [Frame(seq, body(request_id, spool, seq, **{**TRUTH, **fields}), end=0)])


def in_ledger(request_id: UUID) -> tuple[int, int]:
    """Money and tokens, as totals count them."""
    with connection.cursor() as cursor:
        lines = LedgerView().read_lines(cursor, [request_id])
    return sum(line.amounts.money for line in lines), sum(line.amounts.tokens for line in lines)


def test_the_truth_after_an_estimate_is_a_correction_of_the_difference() -> None:
    request_id, spool = uuid7(), uuid.uuid4()
    put_estimate(request_id, spool)
    assert in_ledger(request_id) == (1000, 1000)
    ship_truth(request_id, spool)
    assert UsageRecord.objects.get(pk=request_id).cost_nanousd == 1000, "rows are never changed"
    correction = UsageCorrection.objects.get(pk=request_id)
    deltas = correction.input_tokens, correction.output_tokens, correction.output_cost_nanousd
    assert deltas == (10, -880, -970)
    assert (correction.cost_nanousd, correction.input_cost_nanousd) == (-963, 7)
    assert (correction.spool, correction.seq, correction.status) == (spool, 5, "completed")
    assert (correction.team_id, correction.end_user) == (7, "ann"), "as in the row"
    assert in_ledger(request_id) == (37, 130)
    assert read_watermark(spool) == 5
    assert not QuarantinedFrame.objects.filter(spool=spool).exists()


def test_an_estimate_after_the_truth_changes_nothing() -> None:
    request_id, spool = uuid7(), uuid.uuid4()
    ship_truth(request_id, spool)
    put_estimate(request_id, spool)
    assert in_ledger(request_id) == (37, 130)
    assert not UsageCorrection.objects.filter(pk=request_id).exists()


def test_a_truth_sent_again_is_a_replay_and_another_truth_is_a_collision() -> None:
    request_id, spool, other = uuid7(), uuid.uuid4(), uuid.uuid4()
    put_estimate(request_id, spool)
    ship_truth(request_id, spool)
    ship_truth(request_id, spool)
    assert not QuarantinedFrame.objects.filter(spool=spool).exists()
    ship_truth(request_id, other, seq=9, output_cost_nanousd=2, cost_nanousd=9)
    ship_truth(request_id, spool, seq=6)
    assert in_ledger(request_id) == (37, 130)
    kept = QuarantinedFrame.objects.filter(spool__in=[spool, other]).values_list("seq", flat=True)
    assert sorted(kept) == [6, 9]


def test_one_id_twice_in_a_batch_is_a_collision_too() -> None:
    request_id, spool = uuid7(), uuid.uuid4()
    frames = [Frame(seq, body(request_id, spool, seq, **TRUTH), end=0) for seq in (1, 2)]
    ship_frames(spool, "host", frames)
    assert UsageRecord.objects.get(pk=request_id).seq == 1
    assert QuarantinedFrame.objects.get(spool=spool).seq == 2


def test_a_truth_that_cannot_be_stored_is_set_aside_and_blocks_nothing() -> None:
    bad, good, spool = uuid7(), uuid7(), uuid.uuid4()
    put_estimate(bad, spool)
    put_estimate(good, spool)
    frames = [
        Frame(1, body(bad, spool, 1, **{**TRUTH, "cost_nanousd": 38}), end=0),
        Frame(2, body(good, spool, 2, **TRUTH), end=0),
    ]
    ship_frames(spool, "host", frames)
    assert (in_ledger(bad), in_ledger(good)) == ((1000, 1000), (37, 130))
    assert QuarantinedFrame.objects.get(spool=spool).seq == 1


class OpenTransaction:
    """A thread with a connection of its own that does something and waits before it commits."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self._do = do
        self.has_done = threading.Event()
        self.may_commit = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self.has_done.wait(20)

    def commit(self) -> None:
        self.may_commit.set()
        self._thread.join(20)

    def _run(self) -> None:
        try:
            with transaction.atomic():
                self._do()
                self.has_done.set()
                assert self.may_commit.wait(20)
        finally:
            connection.close()


def in_thread(do: Callable[[], Any]) -> threading.Thread:
    def run() -> None:
        try:
            do()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def wait_for_lock() -> None:
    """Until another connection waits for a transaction to end."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    for _ in range(2000):
        with connection.cursor() as cursor:
            cursor.execute(query)
            if cursor.fetchone()[0]:
                return
    pytest.fail("nobody waits")


@pytest.mark.parametrize("estimate_first", [True, False])
def test_estimate_and_truth_at_the_same_time_on_two_connections(estimate_first: bool) -> None:
    request_id, spool = uuid7(), uuid.uuid4()
    acts = [lambda: put_estimate(request_id, spool), lambda: ship_truth(request_id, spool)]
    first, second = acts if estimate_first else reversed(acts)
    opened = OpenTransaction(first)
    waiting = in_thread(second)
    wait_for_lock()
    opened.commit()
    waiting.join(20)
    assert in_ledger(request_id) == (37, 130)
    assert UsageCorrection.objects.filter(pk=request_id).exists() is estimate_first
    assert not QuarantinedFrame.objects.filter(spool=spool).exists()


def test_two_shippers_of_one_truth_make_one_correction() -> None:
    request_id, spool = uuid7(), uuid.uuid4()
    put_estimate(request_id, spool)
    opened = OpenTransaction(lambda: ship_truth(request_id, spool))
    waiting = in_thread(lambda: ship_truth(request_id, spool))
    wait_for_lock()
    opened.commit()
    waiting.join(20)
    assert in_ledger(request_id) == (37, 130)
    assert not QuarantinedFrame.objects.filter(spool=spool).exists()
