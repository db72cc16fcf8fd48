"""PostgreSQL away for a while: known keys go on, unknown ones are told to come back, nothing is lost."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from gateway_site.embedded import APP_ROLE, OWNER_ROLE, EmbeddedPostgres
from teams.keys import generate_key
from tests.processes import Processes, Product, Simulator, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
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
        json={"model": "demo-chat", "messages": [{"role": "user", "content": "Say hello."}]},
        timeout=20,
    )


def rows(postgres: EmbeddedPostgres) -> int:
    with psycopg.connect(postgres.url(APP_ROLE)) as connection:
        found = connection.execute("SELECT count(*) FROM billing_usagerecord").fetchone()
    assert found is not None
    return int(found[0])


def test_an_outage_stops_no_known_key_and_loses_no_record(
    processes: Processes, simulator: Simulator, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    environment: dict[str, Any] = {
        "DATABASE_URL": postgres.url(APP_ROLE),
        "DATABASE_OWNER_URL": postgres.url(OWNER_ROLE),
        "GATEWAY_SPOOL_DIR": str(tmp_path / "spool"),
    }
    demo_file = tmp_path / "demo.json"
    for command in (
        ("migrate", "--verbosity", "0"),
        ("load_demo", "--write", str(demo_file), "--simulator-url", simulator.base_url),
    ):
        process, log = processes.start(command[0], *command, environment=environment)
        assert process.wait(60) == 0, log.read_text()
    key = httpx.Response(200, content=demo_file.read_bytes()).json()["api_key"]
    product = processes.start_product(**environment)
    assert call(product, key).status_code == 200
    wait_for(lambda: rows(postgres) == 1, "the first row")

    postgres.stop()
    assert [call(product, key).status_code for _ in range(20)] == [200] * 20
    unknown = call(product, generate_key())
    assert (unknown.status_code, unknown.headers["x-gateway-reason"]) == (503, "key_lookup_unavailable")
    wait_for(
        lambda: "database" in str(httpx.get(f"{product.url}/readyz").json()["degraded"]),
        "readiness to say so",
    )

    postgres.start()
    wait_for(lambda: rows(postgres) == 22, "all rows")
    wait_for(lambda: httpx.get(f"{product.url}/readyz").json()["status"] == "ok", "readiness")
    assert call(product, generate_key()).status_code == 401
