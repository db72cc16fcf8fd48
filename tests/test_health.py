"""Readiness: each fault by its code, at once whatever hangs, and nothing for strangers to learn."""

import dataclasses
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import psycopg
import pytest
import redis

from billing.shipper_status import KeeperStatus, ShipperStatus
from gateway_site import celery_life, faults
from gateway_site.checks.stores import check_store_memory
from gateway_site.faults import CODES, CounterFacts, DatabaseFacts, Fault, HostFacts, StoreFacts
from gateway_site.probes import DatabaseProbe, _months
from gateway_site.tasks import show_sign_of_life
from routing.snapshot import LeftOut
from tests.processes import Processes, Product, wait_for
from tests.proxy import Proxy

NOW = 1_800_000_000.0
SECRET = "vault.internal:8200/secret"
HOST = HostFacts(0, 0, True, ShipperStatus(last_success_at=NOW - 1))
DATABASE = DatabaseFacts((), (), False, 0)
STORE = StoreFacts("noeviction", 0.0, 0, used_bytes=90, max_bytes=0)
COUNTERS = CounterFacts(is_connected=True, closed_departments=0, closed_s=0.0, unbooked_ends=0)
replace = dataclasses.replace


def host(**facts: Any) -> list[Fault]:
    return faults.host_faults(replace(HOST, **facts), NOW)


def database(**facts: Any) -> list[Fault]:
    return faults.database_faults(replace(DATABASE, **facts), NOW)


def store(**facts: Any) -> list[Fault]:
    return faults.store_faults(replace(STORE, **facts))


def keeper(**facts: Any) -> list[Fault]:
    shipper = ShipperStatus(last_success_at=NOW - 1, keeper=KeeperStatus(**facts))
    return faults.host_faults(replace(HOST, shipper=shipper), NOW)


def counters(**facts: Any) -> list[Fault]:
    return faults.counter_faults(replace(COUNTERS, **facts))


CASES: list[tuple[list[str], list[Fault]]] = [
    ([], host()),
    ([], database()),
    ([], store()),
    ([], faults.spool_faults(has_room=True)),
    ([], faults.configuration_faults((), is_current=True, are_keys_current=True)),
    (["spool_full"], faults.spool_faults(has_room=False)),
    (["spool_torn"], host(torn_segments=2)),
    (["shipper_down"], host(shipper_is_alive=False)),
    (["shipper_down"], host(shipper_is_alive=False, shipper=ShipperStatus(last_success_at=1.0))),
    ([], host(shipper=ShipperStatus())),
    ([], host(shipper=ShipperStatus(last_success_at=NOW - 60))),
    (["shipper_lagging"], host(shipper=ShipperStatus(last_success_at=NOW - 61))),
    (["migrations_missing"], database(missing_migrations=("billing.0009_more",))),
    (["partition_missing"], database(missing_partitions=("2026-12", "2027-01"))),
    (["partition_default_rows"], database(has_default_rows=True)),
    ([], database(quarantined_records=3, quarantined_at=NOW - 8 * 86_400)),
    (["records_quarantined"], database(quarantined_records=3, quarantined_at=NOW - 6 * 86_400)),
    (["records_waiting"], host(shipper=ShipperStatus(NOW - 60, 7, 3, NOW - 42))),
    (["records_waiting"], host(shipper=ShipperStatus(NOW - 60, 7, 3))),
    (["shipper_down", "records_waiting"], host(shipper_is_alive=False, shipper=ShipperStatus(1.0, 7, 3))),
    ([], keeper()),
    ([], keeper(turn_at=NOW - 60, copies=9, copies_bytes=200 * 1024**2, waiting_spools=1)),
    (["keeper_lagging"], keeper(turn_at=NOW - 61)),
    (["copies_large"], keeper(copies_bytes=200 * 1024**2 + 1)),
    ([], counters()),
    ([], counters(closed_departments=1, closed_s=1.0, unbooked_ends=5)),
    (["counters_closed"], counters(closed_departments=1, closed_s=1.1)),
    (["counters_away"], counters(is_connected=False, closed_departments=1, closed_s=1.1)),
    ([], store(used_bytes=80, max_bytes=100)),
    (["store_filling"], store(used_bytes=81, max_bytes=100)),
    (["store_away"], [faults.STORE_AWAY]),
    (["store_evicts"], store(eviction_policy="allkeys-lru")),
    ([], store(celery_silence_s=120)),
    (["celery_beat_silent"], store(celery_silence_s=121)),
    (["celery_worker_silent"], store(celery_silence_s=121, waiting_tasks=4)),
    (["store_evicts", "celery_beat_silent"], store(eviction_policy="volatile-lru", celery_silence_s=999)),
    (
        ["key_changes_unheard"],
        faults.configuration_faults((), is_current=True, are_keys_current=False),
    ),
    (["database_away"], faults.configuration_faults((), is_current=False, are_keys_current=True)),
    (
        ["backend_left_out"],
        faults.configuration_faults(
            (LeftOut("acme-project", SECRET), LeftOut("b", SECRET)), is_current=True, are_keys_current=True
        ),
    ),
]


@pytest.mark.parametrize(("codes", "found"), CASES)
def test_a_fact_that_is_not_well_has_its_code(codes: list[str], found: list[Fault]) -> None:
    assert [fault.code for fault in found] == codes
    for fault in found:
        assert fault.message.endswith(".")
        assert SECRET not in fault.message
        assert "acme" not in fault.message, "strangers read it"


def test_every_code_has_a_case() -> None:
    assert {code for codes, _ in CASES for code in codes} == set(CODES)


@pytest.mark.parametrize(
    ("today", "months"),
    [
        ("2026-11-25", ["2026-11", "2026-12"]),
        ("2026-12-31", ["2026-12", "2027-01"]),
        ("2028-01-31", ["2028-01", "2028-02"]),
    ],
)
def test_this_month_and_the_next_need_partitions(
    today: str, months: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls.fromisoformat(f"{today}T23:59:59+00:00")

    monkeypatch.setattr("gateway_site.probes.datetime", Clock)
    assert [f"{month:%Y-%m}" for month in _months()] == months


def test_postgresql_is_asked_what_is_missing() -> None:
    probe = DatabaseProbe()
    assert probe.ask().missing_migrations == ()
    assert probe.ask().missing_partitions == ()
    month = datetime.now(UTC)
    name = f"billing_usagerecord_{month.year + month.month // 12}{month.month % 12 + 1:02}"
    with psycopg.connect(os.environ["DATABASE_OWNER_URL"], autocommit=True) as owner:
        owner.execute("UPDATE django_migrations SET name = '0000_x' WHERE name = '0002_partition_ledger'")
        owner.execute(f"ALTER TABLE {name} RENAME TO renamed")
        try:
            facts = probe.ask()
        finally:
            owner.execute(f"ALTER TABLE renamed RENAME TO {name}")
            owner.execute("UPDATE django_migrations SET name = '0002_partition_ledger' WHERE name = '0000_x'")
    assert facts.missing_migrations == ("billing.0002_partition_ledger",)
    assert len(facts.missing_partitions) == 1


def test_celery_leaves_a_sign_that_lapses() -> None:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as server:
        server.delete(celery_life.SIGN)
        show_sign_of_life()
        assert 170 < server.ttl(celery_life.SIGN) <= 180
        server.delete(celery_life.SIGN)


def codes(product: Product) -> set[str]:
    """What readiness names now; asking takes no time, whatever hangs."""
    began = time.monotonic()
    answer = httpx.get(f"{product.url}/readyz")
    assert time.monotonic() - began < 1
    assert answer.status_code == 200
    for fault in answer.json()["degraded"]:
        assert set(fault) == {"code", "message"}
        assert fault["code"] in CODES
    return {fault["code"] for fault in answer.json()["degraded"]}


@pytest.fixture
def hanging_redis() -> Iterator[Proxy]:
    with Proxy(Path(urlsplit(os.environ["REDIS_URL"]).path)) as proxy:
        yield proxy


@pytest.fixture
def hanging_postgres() -> Iterator[Proxy]:
    directory = unquote(os.environ["DATABASE_URL"].partition("host=")[2])
    with Proxy(Path(directory) / ".s.PGSQL.5432") as proxy:
        yield proxy


@pytest.mark.slow  # a dozen seconds of waiting
def test_a_store_that_hangs_is_named_and_delays_nothing(
    processes: Processes, tmp_path: Path, hanging_redis: Proxy
) -> None:
    product = processes.start_product(
        with_shipper=False,
        REDIS_URL=f"redis://127.0.0.1:{hanging_redis.port}/0",
        GATEWAY_SPOOL_DIR=str(tmp_path),
    )
    assert "store_away" not in codes(product)
    assert "shipper_down" in codes(product)
    hanging_redis.hang()
    wait_for(lambda: "store_away" in codes(product), "readiness to name the store")
    hanging_redis.flow()
    wait_for(lambda: "store_away" not in codes(product), "readiness to forget it")
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as server:
        server.config_set("maxmemory-policy", "allkeys-lru")
        server.config_set("maxmemory", int(server.info("memory")["used_memory"] * 1.2))
        try:
            wanted = {"store_evicts", "store_filling"}
            wait_for(lambda: wanted <= codes(product), "readiness to name the policy and the use")
            assert {message.id for message in check_store_memory(None)} == {
                "gateway_site.W013",
                "gateway_site.W014",
            }
        finally:
            server.config_set("maxmemory-policy", "noeviction")
            server.config_set("maxmemory", 0)
    assert check_store_memory(None) == []
    wait_for(lambda: not wanted & codes(product), "readiness to forget them")
    log = product.log.read_text()
    assert log.count("may drop keys") == log.count("is nearly full") == 1, "said once"


@pytest.mark.slow
def test_a_database_that_hangs_is_named_and_delays_nothing(
    processes: Processes, tmp_path: Path, hanging_postgres: Proxy
) -> None:
    user = urlsplit(os.environ["DATABASE_URL"]).username
    product = processes.start_product(
        with_shipper=False,
        DATABASE_URL=f"postgresql://{user}@127.0.0.1:{hanging_postgres.port}/gateway",
        GATEWAY_SPOOL_DIR=str(tmp_path),
    )
    assert "database_away" not in codes(product)
    hanging_postgres.hang()
    wait_for(lambda: "database_away" in codes(product), "readiness to name the database")
    hanging_postgres.flow()
    wait_for(lambda: "database_away" not in codes(product), "readiness to forget it")


def test_strangers_learn_no_address_and_health_takes_no_other_method(product: Product) -> None:
    for path in ("/livez", "/readyz"):
        answer = httpx.get(f"{product.url}{path}")
        assert answer.headers["cache-control"] == "no-store"
        assert "127.0.0.1" not in answer.text
        assert os.environ["GATEWAY_SPOOL_DIR"] not in answer.text
        assert (
            httpx.post(f"{product.url}{path}").status_code,
            httpx.head(f"{product.url}{path}").content,
        ) == (
            405,
            b"",
        )
