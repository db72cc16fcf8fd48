"""Refusals that come in floods: the first have rows of their own, the rest share one, and none is uncounted."""

import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.ledger import LedgerEntry
from billing.models import UsageRecord
from billing.refusals import RefusalBundles
from tests.entries import entry
from tests.factories import make_caller
from tests.processes import Processes, Product, Simulator, wait_for
from tests.routes import CHAT

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def refusal(seconds: float = 0, **fields: Any) -> LedgerEntry:
    at = NOON + timedelta(seconds=seconds)
    return entry(status="refused", reason="field_invalid", admitted_at=at, ended_at=at, **fields)


def test_the_first_of_a_minute_have_rows_and_the_rest_share_one() -> None:
    bundles = RefusalBundles(3)
    taken = [bundles.take(refusal(second, api_key_id=7, model=f"m{second}")) for second in range(10)]
    assert taken == [True] * 3 + [False] * 7
    assert bundles.drain(NOON + timedelta(seconds=59)) == [], "the minute is not over"
    (shared,) = bundles.drain(NOON + timedelta(seconds=60))
    assert (shared.requests, shared.api_key_id, shared.reason) == (7, 7, "field_invalid")
    assert (shared.admitted_at, shared.ended_at) == (NOON + timedelta(seconds=3), NOON + timedelta(seconds=9))
    assert (shared.model, shared.end_user, shared.application) == ("", "", ""), "what differs is not told"
    assert bundles.drain_all() == []


def test_a_bundle_of_one_minute_key_or_reason_holds_no_other() -> None:
    bundles = RefusalBundles(1)
    kinds: list[dict[str, Any]] = [
        {"api_key_id": 1},
        {"api_key_id": 2},
        {"api_key_id": 2, "operation": "chat"},
    ]
    for fields in [*kinds, {"seconds": 60, "api_key_id": 1}]:
        assert bundles.take(refusal(**fields))
        assert not bundles.take(refusal(**fields))
    assert len(bundles.drain(NOON + timedelta(seconds=60))) == 3
    assert len(bundles.drain_all()) == 1


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from([None, 1, 2])), max_size=200), st.integers(1, 30)
)
def test_no_refusal_is_lost_or_counted_twice(calls: list[tuple[int, int | None]], most_rows: int) -> None:
    bundles, rows = RefusalBundles(most_rows), 0
    drained: list[LedgerEntry] = []
    for second, key in sorted(calls, key=lambda call: call[0]):
        drained += bundles.drain(NOON + timedelta(seconds=second))
        rows += bundles.take(refusal(second, api_key_id=key))
    drained += bundles.drain_all()
    assert rows + sum(shared.requests for shared in drained) == len(calls)
    assert len({shared.request_id for shared in drained}) == len(drained)


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.slow
def test_a_flood_of_refusals_leaves_few_rows_with_an_exact_count(
    processes: Processes, product: Product, simulator: Simulator, with_key: bool
) -> None:
    own = processes.start_product(with_shipper=False, GATEWAY_REFUSAL_ROWS="5")
    caller = make_caller(simulator.base_url, own)
    marks = {"X-Client-Request-Id": caller.model} | ({} if with_key else {"Authorization": "Bearer nonsense"})
    for number in range(60):
        assert CHAT.ask(own, caller, model=f"unknown-{number}", headers=marks).status_code in {401, 404}
    own.web.send_signal(signal.SIGTERM)
    own.web.wait(20)
    mine = {"api_key_id": caller.key.pk} if with_key else {"api_key_id": None, "reason": "key_invalid"}
    first = UsageRecord.objects.filter(client_request_id=caller.model, **mine).order_by("request_id")
    wait_for(lambda: len(first.all()) >= 5, "the first rows")
    spool = first[0].spool

    def told() -> int:
        return sum(UsageRecord.objects.filter(spool=spool, **mine).values_list("requests", flat=True))

    wait_for(lambda: told() == 60, "all refusals to be counted")
    assert UsageRecord.objects.filter(spool=spool, **mine).count() <= 2 * (5 + 1), "at most two minutes"
    assert CHAT.ask(product, caller).status_code == 200
