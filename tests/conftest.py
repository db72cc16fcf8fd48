"""Starts real PostgreSQL and Valkey for the run, and the product's own processes when a test asks for them."""

import contextlib
import functools
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from httpx._transports import default as httpx_transport
from psycopg import sql

from gateway_site.embedded import APP_ROLE, OWNER_ROLE, EmbeddedPostgres, EmbeddedValkey
from gateway_site.home import new_secrets
from tests.crawl import crawl
from tests.log_lines import unreadable_logs
from tests.processes import PROCESSES, Processes, Product, Simulator, free_ports
from tests.sdk import close_clients

# Where it is set, each of the many processes that tests start would compile the whole product anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A context for TLS takes 20 ms to make, and every `httpx.get` makes one: here one serves all.
httpx_transport.create_ssl_context = functools.cache(httpx_transport.create_ssl_context)  # type: ignore[attr-defined]

# Ports that test backends may listen on: the servers under test allow them from their start.
BACKEND_PORTS = free_ports(12)


_MIGRATED = "gateway_migrated"
_FINDINGS = pytest.StashKey[list[str]]()  # what is wrong with what the run left


class _Services:
    """One temporary home with both embedded services, from pytest's start to its end."""

    def __init__(self) -> None:
        self.home = Path(tempfile.gettempdir(), f"gw-test-{uuid.uuid4().hex[:12]}")
        self.postgres = EmbeddedPostgres(self.home / "postgres", durable=False)
        self.valkey = EmbeddedValkey(self.home / "valkey")

    def start(self) -> None:
        self.home.mkdir(mode=0o700)
        self.postgres.start()
        self.valkey.start()
        os.environ.update(
            new_secrets()
            | {
                "GATEWAY_HOME": str(self.home),
                "DATABASE_URL": self.postgres.url(APP_ROLE),
                "DATABASE_OWNER_URL": self.postgres.url(OWNER_ROLE),
                "REDIS_URL": self.valkey.url(),
                "GATEWAY_SPOOL_DIR": str(self.home / "spool"),
                "GATEWAY_PRIVATE_BACKENDS": ",".join(f"127.0.0.1:{port}" for port in BACKEND_PORTS),
                "GATEWAY_ENTRA_AUTHORITY": f"http://127.0.0.1:{BACKEND_PORTS[0]}",  # the simulator's
                "GATEWAY_KEEPALIVE_S": "1",
                "GATEWAY_MAX_BODY_BYTES": str(256 * 1024),
                "GATEWAY_MAX_ANSWER_BYTES": str(256 * 1024),
                "GATEWAY_GUARD_S": "25",  # presidio is loaded while other tests have the cores
                "GATEWAY_SHUTDOWN_S": "10",
                "GATEWAY_CONFIGURATION_POLL_MS": "50",  # most tests wait for it once; tests/test_key_rules.py has 500
                "GATEWAY_REFUSAL_ROWS": "1000000",  # tests look for the row of each refusal
                "DJANGO_SETTINGS_MODULE": "gateway_site.settings",
                "DJANGO_ALLOW_ASYNC_UNSAFE": "1",  # async tests make their rows directly
            }
        )

    def keep_as_migrated(self) -> None:
        """Keep the migrated, still empty database as what others are copied from."""
        from django.db import connections

        connections.close_all()  # a database that somebody uses cannot be copied
        self._copy_database("gateway", _MIGRATED)

    def make_database(self, name: str) -> dict[str, str]:
        """An empty, migrated database; returns what puts a process on it."""
        self._copy_database(_MIGRATED, name)
        urls = (self.postgres.url(role, name) for role in (APP_ROLE, OWNER_ROLE))
        return dict(zip(("DATABASE_URL", "DATABASE_OWNER_URL"), urls, strict=True))

    def _copy_database(self, source: str, name: str) -> None:
        parts = (sql.Identifier(part) for part in (name, OWNER_ROLE, source))
        with psycopg.connect(self.postgres.url("postgres", "postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(*parts))
        self.postgres.create_database(name)  # it exists, and is given its roles' rights

    def stop(self) -> None:
        self.valkey.stop()
        self.postgres.stop()
        shutil.rmtree(self.home, ignore_errors=True)


_services = _Services()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Services first, then Django, so that test modules may import models."""
    if session.config.option.collectonly or _only_distributes(session.config):
        return
    _services.start()
    import django
    from django.conf import settings
    from django.core.management import call_command

    django.setup()
    settings.PASSWORD_HASHERS = ["tests.hashers.QuickHasher"]
    call_command("migrate", verbosity=0)
    _services.keep_as_migrated()


def _only_distributes(config: pytest.Config) -> bool:
    """Whether the tests run in other processes, each with services of its own."""
    return bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what one of those processes found."""
    findings = node.config.stash.setdefault(_FINDINGS, [])
    findings += getattr(node, "workeroutput", {}).get("findings", [])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What the run left holds no secret and no log line that cannot be read, and nothing outlives it."""
    if _only_distributes(session.config):
        if session.config.stash.get(_FINDINGS, []):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return
    if "django" in sys.modules:
        from django.db import connections

        from tests.secret_scan import scan_run

        temporary: Path = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        scan = scan_run(_services.home, temporary)
        findings = sorted(f"SECRET FOUND: {finding}" for finding in scan.findings)
        findings += unreadable_logs(_services.home / "logs")
        session.config.stash[_FINDINGS] = findings
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["findings"] = findings
        if findings:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        connections.close_all()
    _services.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was found after the run."""
    for finding in config.stash.get(_FINDINGS, []):
        terminalreporter.write_line(finding, red=True)


@pytest.fixture(scope="session")
def processes(pytestconfig: pytest.Config) -> Iterator[Processes]:
    """Starts the product's processes, which end with the test or module that started them, or with the session."""
    with Processes(_services.home / "logs") as started:
        pytestconfig.stash[PROCESSES] = started
        yield started


@pytest.fixture(scope="module", autouse=True)
def _processes_of_a_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a module starts ends with it, and so do its models and backends: neither takes time from the next. With
    each change of configuration every worker reads all that is active."""
    with _processes_of(request):
        yield
    from django.db import DatabaseError

    from guards.external_models import ExternalGuard
    from guards.models import GuardPolicy
    from routing.models import Backend, CatalogueModel

    with contextlib.suppress(DatabaseError):  # where a module leaves no database that can be written
        GuardPolicy.objects.filter(
            name__startswith="policy-"
        ).delete()  # each server would begin a process for them
        ExternalGuard.objects.filter(name__startswith="EXTERNAL_").delete()
        made = (
            CatalogueModel.objects.filter(name__startswith="model-"),
            Backend.objects.filter(name__startswith="backend-"),
        )
        for rows in made:  # of the factories; the demo's stay
            rows.filter(is_active=True).update(is_active=False)


@pytest.fixture(autouse=True)
def _processes_of_a_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same for a test, and for the clients that it opened."""
    with _processes_of(request):
        yield
    close_clients()


@contextlib.contextmanager
def _processes_of(request: pytest.FixtureRequest) -> Iterator[None]:
    started: Processes | None = request.config.stash.get(PROCESSES, None)
    before = started.list_running() if started else []
    yield
    if (started := request.config.stash.get(PROCESSES, None)) is not None:
        started.end(process for process in started.list_running() if process not in before)


@pytest.fixture(scope="session")
def simulator(processes: Processes) -> Simulator:
    """The simulator, alone on an allowed port."""
    with processes.kept():
        return processes.start_simulator(BACKEND_PORTS[0])


@pytest.fixture(scope="session")
def product(processes: Processes) -> Iterator[Product]:
    """A web process and a shipper on the run's database; in the end its pages are kept for the secret scan."""
    with processes.kept():
        product = processes.start_product()
    yield product
    crawl(product, _services.home / "pages")


@pytest.fixture(scope="session")
def make_database() -> Callable[[str], dict[str, str]]:
    """Makes an empty, migrated database; returns what puts a process on it."""
    return _services.make_database


@pytest.fixture
def backend_port() -> int:
    """An allowed port for a backend of the test's own; one test at a time uses it."""
    return BACKEND_PORTS[1]
