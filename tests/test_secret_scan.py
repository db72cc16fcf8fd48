"""The scan that ends every run finds a secret in each kind of place, and says where, not what."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from billing.spool import Spool
from gateway_site.home import BASE_DIR
from routing.metrics_file import MetricsFile
from teams.keys import generate_key
from tests.crawl import crawl
from tests.factories import make_backend
from tests.processes import Product
from tests.secret_scan import SecretScan, made_secrets, stored_credentials

CREDENTIAL = "planted-credential-4711"
KEY = generate_key()


@pytest.fixture
def scan() -> SecretScan:
    return SecretScan({"a credential": [CREDENTIAL, "short"]})


def found(scan: SecretScan) -> list[str]:
    return sorted(map(str, scan.findings))


def plant_in_log(folder: Path, secret: str) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "web-0.log").write_text(f'{{"message": "called with {secret}"}}\n')


def plant_in_spool(folder: Path, secret: str) -> None:
    spool = Spool(uuid.uuid4(), folder / "spool", max_bytes=2**30, segment_bytes=3 * 1024**2)
    for body in (b"x" * 4000, secret.encode()):
        for _ in range(300):
            spool.admit()
            spool.append(body)


def plant_in_metrics(folder: Path, secret: str) -> None:
    MetricsFile.claim(folder / "metrics").place(("gateway_requests", secret))


def plant_in_page(folder: Path, secret: str) -> None:
    (folder / "page.html").write_text(f'<input value="{secret}">')


@pytest.mark.parametrize("secret", [KEY, CREDENTIAL], ids=["key", "credential"])
@pytest.mark.parametrize("plant", [plant_in_log, plant_in_spool, plant_in_metrics, plant_in_page])
def test_a_secret_in_a_file_is_found(
    tmp_path: Path, scan: SecretScan, plant: Callable[[Path, str], None], secret: str
) -> None:
    scan.look_at_files(tmp_path)
    assert found(scan) == []
    plant(tmp_path, secret)
    scan.look_at_files(tmp_path)
    (finding,) = found(scan)
    assert finding.startswith("an API key in the file" if secret == KEY else "a credential in the file")
    assert secret not in finding
    for path in tmp_path.rglob("*"):  # else the scan that ends this run finds it too
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("secret", [KEY, CREDENTIAL], ids=["key", "credential"])
@pytest.mark.parametrize(
    ("table", "row"),
    [
        (
            "teams_department",
            "(id, slug, name, cost_centre, time_zone, created_at) VALUES (-1, 'p', %s, '', 'UTC', now())",
        ),
        (
            "audit_adminevent",
            "(id, at, actor, action, object_type, object_id, object_label, after)"
            " VALUES (-1, now(), 'a', 'b', 'c', 'd', 'e', jsonb_build_object('k', %s::text))",
        ),
        (
            "billing_quarantinedframe",
            "(id, spool, seq, body, error, at) VALUES (-1, gen_random_uuid(), 1, convert_to(%s, 'UTF8'), 'x', now())",
        ),
    ],
)
def test_a_secret_in_the_database_is_found(scan: SecretScan, table: str, row: str, secret: str) -> None:
    with psycopg.connect(os.environ["DATABASE_OWNER_URL"]) as connection:
        connection.execute(f"INSERT INTO {table} {row}", [secret])
        scan.look_at_database(connection)
        connection.rollback()
    kind = "an API key" if secret == KEY else "a credential"
    assert f"{kind} in the table {table}" in found(scan)


def test_what_only_looks_like_a_key_is_none(scan: SecretScan) -> None:
    scan.look("here", f"sk-gw_...abcd {KEY[:-1]} {KEY[:-1]}{'a' if KEY[-1] != 'a' else 'b'} short".encode())
    assert found(scan) == []
    scan.look("here", KEY.encode().hex().encode())
    assert found(scan) == ["an API key in here"]


def test_the_credentials_of_the_run_are_known_by_value() -> None:
    from outbound.credentials import encrypt_credential

    backend = make_backend("https://llm.example/v1")
    backend.credential_encrypted = encrypt_credential(CREDENTIAL, backend.base_url)
    backend.save()
    assert CREDENTIAL in stored_credentials()
    secrets = made_secrets()
    assert CREDENTIAL in secrets["a backend credential"]
    assert all(secrets[kind] for kind in ("the signing key", "a pepper", "a field key", "the metrics token"))


@pytest.mark.slow
def test_the_pages_of_an_administrator_are_among_the_places(product: Product, tmp_path: Path) -> None:
    assert crawl(product, tmp_path) > 40
    names = " ".join(path.name for path in tmp_path.iterdir())
    for page in (
        "200-admin-teams-apikey",
        "200-status",
        "200-metrics",
        "401-metrics",
        "401-v1-models",
        "200-readyz",
    ):
        assert page in names


PLUGIN = """
import os, pathlib, pytest

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    from teams.keys import generate_key
    logs = pathlib.Path(os.environ["GATEWAY_HOME"]) / "logs"
    logs.mkdir(exist_ok=True)
    (logs / "planted.log").write_text(generate_key())
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_planted", [True, False])
def test_a_run_that_leaves_a_secret_fails_although_its_tests_pass(tmp_path: Path, is_planted: bool) -> None:
    (tmp_path / "planting.py").write_text(PLUGIN)
    plugin = ["-p", "planting"] if is_planted else []
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, "tests/test_money.py"],
        cwd=BASE_DIR,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "failed" not in run.stdout
    assert ("SECRET FOUND: an API key in the file logs/planted.log" in run.stdout) == is_planted
    assert "sk-gw_" not in run.stdout
    assert run.returncode == (1 if is_planted else 0), run.stdout
