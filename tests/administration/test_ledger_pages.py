"""The pages of the ledger."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from audit.admin_trail import MOST_ROWS, read_facts
from billing.ids import smallest_id_at, uuid7
from billing.models import UsageRecord
from billing.money import format_nanousd
from teams.services import create_key
from tests.administration.desk import OURS, Desk, body, make_record, page
from tests.factories import make_caller, make_team


@pytest.mark.parametrize(
    ("nanousd", "shown"),
    [
        (0, "$0.000000000"),
        (1, "$0.000000001"),
        (-1, "-$0.000000001"),
        (10_200, "$0.000010200"),
        (1_234_567_891, "$1.234567891"),
        (9_007_199_254_740_993_000_000_001, "$9,007,199,254,740,993.000000001"),
    ],
)
def test_nano_dollars_are_shown_exactly(nanousd: int, shown: str) -> None:
    assert format_nanousd(nanousd) == shown


def test_the_ledger_is_searched_by_request_team_and_key(desk: Desk) -> None:
    team = make_team()
    key = create_key(team, "A key", actor="tests").key
    record, other = make_record(team, key), make_record()
    for term in (str(record.pk), team.slug, key.hint, f" {team.slug} "):
        shown = body(desk.get(f"{page(UsageRecord, 'changelist')}?q={term}"))
        assert str(record.pk) in shown
        assert str(other.pk) not in shown
        assert "$1.234567891" in shown
    assert "0 usage records" in body(desk.get(f"{page(UsageRecord, 'changelist')}?q=nobody"))


def test_the_ledgers_periods_are_ranges_of_its_key(desk: Desk) -> None:
    team, now = make_team(), timezone.now()
    ids = {age: smallest_id_at(now - timedelta(hours=age)) for age in (2, 48, 24 * 30)}
    for request_id in ids.values():
        make_record(team, request_id=request_id, status="failed")
    start = f"{page(UsageRecord, 'changelist')}?q={team.slug}"
    for query, count in (
        ("", 3),
        ("&period=hour", 0),
        ("&period=day", 1),
        ("&period=week", 2),
        ("&period=all", 3),
        ("&status__exact=failed", 1),
        ("&status__exact=failed&period=all", 3),
    ):
        assert f"{count} usage record" in body(desk.get(start + query)), query


def test_the_ledgers_list_counts_no_further_than_it_shows(desk: Desk) -> None:
    team = make_team()
    fields = read_facts(make_record(team))
    values = {name: fact.stored for name, fact in fields.items()}
    copies = [UsageRecord(request_id=uuid7(), **values) for _ in range(MOST_ROWS)]
    UsageRecord.objects.bulk_create(copies)
    with CaptureQueriesContext(connection) as queries:
        shown = body(desk.get(f"{page(UsageRecord, 'changelist')}?q={team.slug}&p=20"))
    assert f"{MOST_ROWS} usage records" in shown
    on_ledger = [query["sql"] for query in queries if "billing_usagerecord" in query["sql"]]
    assert len(on_ledger) == 2
    assert all("LIMIT" in sql for sql in on_ledger)
    assert 'ORDER BY "billing_usagerecord"."request_id" DESC' in on_ledger[1]


def test_lists_ask_a_fixed_number_of_queries(desk: Desk) -> None:
    for _ in range(5):
        make_caller("https://api.example.com/v1")
    counts = {}
    for model in OURS:
        with CaptureQueriesContext(connection) as queries:
            desk.get(page(model, "changelist"))
        counts[model.__name__] = len(queries)
    assert counts.pop("GuardPolicy") <= 6  # and their rules
    assert counts.pop("ApiKey") <= 9  # the owners and uses of the page's keys, by look-ups of their own
    assert max(counts.values()) <= 5, counts
