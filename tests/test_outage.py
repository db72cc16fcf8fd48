"""PostgreSQL away for a while: known keys go on, unknown ones are told to come back, nothing is lost."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from gateway_site.embedded import APP_ROLE, OWNER_ROLE, EmbeddedPostgres, EmbeddedValkey
from teams.keys import generate_key
from tests.processes import Processes, Product, Simulator, manage, wait_for

pytestmark = pytest.mark.slow

ESTIMATE_TOKENS = 100  # no call here is held at more

RULES = """
from billing.rule_models import Budget
from teams.models import ApiKey
(key,) = [key for key in ApiKey.objects.all() if key.team.slug == "demo-team"]
Budget.objects.create(team=key.team, unit="tokens", period="year", amount={amount})
from routing.snapshot import read_version
print("version", read_version())
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server of its own, to be stopped."""
    folder = Path(tempfile.mkdtemp(prefix="gw-outage-"))
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def call(product: Product, key: str) -> httpx.Response:
    return httpx.post(
        f"{product.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={
            "model": "demo-chat",
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": 50,
        },
        timeout=20,
    )


def rows(postgres: EmbeddedPostgres) -> int:
    with psycopg.connect(postgres.url(APP_ROLE)) as connection:
        found = connection.execute("SELECT count(*) FROM billing_usagerecord").fetchone()
    assert found is not None
    return int(found[0])


@dataclass(frozen=True)
class Stage:
    """A product on that server, with the demo's data in it."""

    postgres: EmbeddedPostgres
    product: Product
    key: str
    environment: dict[str, Any]

    def faults(self) -> dict[str, str]:
        """What readiness names, by code; it stays ready."""
        answer = httpx.get(f"{self.product.url}/readyz")
        assert answer.status_code == 200
        return {fault["code"]: fault["message"] for fault in answer.json()["degraded"]}

    def version(self) -> int:
        """Of the configuration in force."""
        return int(httpx.get(f"{self.product.url}/readyz").json()["configuration_version"])

    def spent_tokens(self) -> int:
        """Of all calls, in the ledger."""
        with psycopg.connect(self.postgres.url(APP_ROLE)) as connection:
            query = "SELECT COALESCE(sum(input_tokens + output_tokens), 0) FROM billing_usagerecord"
            found = connection.execute(query).fetchone()
        assert found is not None
        return int(found[0])

    def wait_until_well(self) -> None:
        """Until nothing of the outage is left. No Celery runs here."""
        wait_for(lambda: not self.faults().keys() - {"celery_beat_silent"}, "readiness")


@pytest.fixture(scope="module")
def stage(
    processes: Processes,
    simulator: Simulator,
    postgres: EmbeddedPostgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    """It has a store of its own too: counters are of this server's departments."""
    tmp_path = tmp_path_factory.mktemp("outage")
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    valkey.start()
    environment: dict[str, Any] = {
        "DATABASE_URL": postgres.url(APP_ROLE),
        "DATABASE_OWNER_URL": postgres.url(OWNER_ROLE),
        "REDIS_URL": valkey.url(),
        "GATEWAY_SPOOL_DIR": str(tmp_path / "spool"),
    }
    demo_file = tmp_path / "demo.json"
    manage(["migrate", "--verbosity", "0"], environment)
    manage(
        ["load_demo", "--write", str(demo_file), "--simulator-url", simulator.base_url],
        environment,
    )
    key = json.loads(demo_file.read_bytes())["api_key"]
    yield Stage(postgres, processes.start_product(**environment), key, environment)
    valkey.stop()


def test_an_outage_stops_no_known_key_and_loses_no_record(stage: Stage) -> None:
    product, key, postgres = stage.product, stage.key, stage.postgres
    before = rows(postgres)
    assert call(product, key).status_code == 200
    wait_for(lambda: rows(postgres) == before + 1, "the first row")

    postgres.stop()
    assert [call(product, key).status_code for _ in range(20)] == [200] * 20
    unknown = call(product, generate_key())
    assert (unknown.status_code, unknown.headers["x-gateway-reason"]) == (503, "key_lookup_unavailable")
    wait_for(lambda: {"database_away", "records_waiting"} <= stage.faults().keys(), "readiness to say so")
    wait_for(lambda: stage.faults()["records_waiting"].startswith("21 records wait"), "all of them")

    postgres.start()
    wait_for(lambda: rows(postgres) == before + 22, "all rows")
    stage.wait_until_well()
    assert call(product, generate_key()).status_code == 401


def test_budgets_hold_in_an_outage_and_counters_are_the_ledger_afterwards(stage: Stage) -> None:
    """Counters are in the store: they need PostgreSQL only to be made."""
    product, key, postgres = stage.product, stage.key, stage.postgres
    assert call(product, key).status_code == 200
    wait_for(lambda: stage.spent_tokens() > 0, "the first row")
    a_call = call(product, key).json()["usage"]["total_tokens"]
    amount = stage.spent_tokens() + 9 * a_call + ESTIMATE_TOKENS
    output = manage(["shell", "-c", RULES.format(amount=amount)], stage.environment)
    version = int(output.split()[-1])
    wait_for(lambda: stage.version() >= version, "the rules to be in force")
    assert call(product, key).status_code == 200, "counters are open, after a moment"

    postgres.stop()
    answers = [call(product, key) for _ in range(20)]
    passed = sum(answer.status_code == 200 for answer in answers)
    assert 0 < passed < 15
    assert [answer.status_code for answer in answers] == [200] * passed + [429] * (20 - passed)
    assert {answer.headers["x-gateway-reason"] for answer in answers[passed:]} == {"budget_spent"}
    wait_for(lambda: {"database_away", "records_waiting"} <= stage.faults().keys(), "readiness to say so")
    assert not {"counters_away", "counters_closed", "store_away"} & stage.faults().keys()

    postgres.start()
    stage.wait_until_well()
    verified = manage(["ledger", "verify"], stage.environment)
    assert "1 departments: the counters are what the ledger says." in verified
    assert amount - ESTIMATE_TOKENS - a_call <= stage.spent_tokens() <= amount
    assert call(product, key).headers["x-gateway-reason"] == "budget_spent"
