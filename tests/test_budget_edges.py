"""64 clients on three gateways while a window of a hard budget ends: each window pays for its calls and no others."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from billing.models import UsageRecord
from billing.rule_models import Budget
from gateway_site.embedded import EmbeddedValkey
from teams.models import Department
from tests.factories import Caller, make_caller
from tests.processes import Processes, Product, manage, wait_for
from tests.test_budget_concurrency import CALL_NANOUSD, PRICES, Crowd

pytestmark = pytest.mark.slow  # each waits for midnight

ZONE = ZoneInfo("Asia/Kolkata")  # its midnights are no full hours of UTC
LEAD_S = 15.0  # for everything to start
AFTER_S = 4.0
DAY_CALLS = 120
PERIODS = {"day": DAY_CALLS, "month": 200}  # calls that each budget pays


@dataclass(frozen=True)
class Stage:
    """Three gateways on a store whose clock stands before an edge."""

    products: tuple[Product, ...]
    backend: str
    environment: dict[str, str]
    edge: datetime
    edge_at: float  # the same moment on this machine's clock


def next_edge(which: str) -> datetime:
    """The next end of a month in the zone, or of the first day of a month."""
    today = datetime.now(ZONE).replace(hour=0, minute=0, second=0, microsecond=0)
    first = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return first if which == "month end" else first + timedelta(days=1)


@pytest.fixture(params=["midnight", "month end"])
def stage(
    request: pytest.FixtureRequest, processes: Processes, backend_port: int, tmp_path: Path
) -> Iterator[Stage]:
    """See Stage. Other gateways on this database stand still: they would keep counters elsewhere."""
    valkey = EmbeddedValkey(tmp_path / "valkey")
    with processes.paused():
        valkey.start()
        edge, edge_at = next_edge(request.param), time.time() + LEAD_S
        environment = {
            "REDIS_URL": valkey.url(),
            "GATEWAY_SPOOL_DIR": str(tmp_path / "spool"),
            "PYTHONPATH": str(Path(__file__).parent / "shifted_clock"),
            "GATEWAY_TEST_CLOCK_AHEAD_MS": str(int((edge.timestamp() - edge_at) * 1000)),
        }
        simulator = processes.start_simulator(backend_port)
        first = processes.start_product(with_shipper=True, **environment)
        others = (processes.start_product(with_shipper=False, **environment) for _ in range(2))
        yield Stage((first, *others), simulator.base_url, environment, edge, edge_at)
        valkey.stop()


@pytest.mark.parametrize(
    ("begins_s", "answer_s"),
    [(-2.0, 0.01), (-0.25, 0.5)],
    ids=["spent before the edge", "calls under way over the edge"],
)
def test_each_window_pays_its_own_calls(
    stage: Stage, request: pytest.FixtureRequest, begins_s: float, answer_s: float
) -> None:
    caller = make_spender(stage)
    crowd = Crowd(stage.products, caller, answer_s=answer_s, until=stage.edge_at + AFTER_S)
    assert time.time() < stage.edge_at + begins_s, "everything took too long to start"
    time.sleep(stage.edge_at + begins_s - time.time())
    ended = asyncio.run(crowd.spend())
    assert set(ended) <= {"served", "budget_spent", "budget_held"}

    made = UsageRecord.objects.filter(team_id=caller.team.pk, attempts__gt=0)
    wait_for(lambda: made.count() >= ended["served"], "all calls in the ledger")
    before = made.filter(admitted_at__lt=stage.edge).count()
    after = made.filter(admitted_at__gte=stage.edge).count()
    assert before + after == ended["served"]
    if begins_s < -1:
        assert before == DAY_CALLS
    else:
        assert 0 < before < DAY_CALLS, "calls were under way at the edge"
    is_month_end = "month end" in request.node.name
    assert after == (DAY_CALLS if is_month_end else min(DAY_CALLS, PERIODS["month"] - before))
    assert {record.cost_nanousd for record in made} == {CALL_NANOUSD}
    told = manage(["ledger", "verify", "--department", caller.team.department.slug], stage.environment)
    assert "the counters are what the ledger says" in told


def make_spender(stage: Stage) -> Caller:
    caller = make_caller(stage.backend, stage.products[0], prices=PRICES)
    Department.objects.filter(pk=caller.team.department_id).update(time_zone=str(ZONE))
    for period, calls in PERIODS.items():
        Budget.objects.create(team=caller.team, unit="money", period=period, amount=calls * CALL_NANOUSD)
    for product in stage.products:
        product.wait_for_configuration()
    return caller
