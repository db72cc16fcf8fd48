"""Two gateway processes whose counters lie on a cluster, while slots move and a server dies under calls."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from django.test import override_settings
from redis.crc import key_slot

from billing.admission.commands import marker_key
from billing.rule_models import Budget
from gateway_site.checks.stores import check_store_memory
from tests.clusters import Cluster, ClusterServer
from tests.factories import Caller, make_caller
from tests.processes import Processes, Product, Simulator, manage, wait_for
from tests.routes import CHAT
from tests.test_budget_concurrency import CALL_NANOUSD, CALLS, FOR_ALL, PRICES, TOKENS, Crowd, spent_nanousd

pytestmark = pytest.mark.slow  # each hurts a cluster and waits for what follows

MANY = FOR_ALL | {"amount": 100_000 * CALL_NANOUSD}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), password="of-all-servers") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def products(
    processes: Processes, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Product, ...]:
    """Two web processes on one spool folder, which one shipper empties."""
    own = {"GATEWAY_COUNTERS_URL": cluster.url, "GATEWAY_SPOOL_DIR": str(tmp_path_factory.mktemp("spool"))}
    second = processes.start_product(with_shipper=False, **own)
    return processes.start_product(with_shipper=True, **own), second


def make_spenders(
    simulator: Simulator, cluster: Cluster, products: tuple[Product, ...], budget: dict[str, Any]
) -> dict[ClusterServer, Caller]:
    """A caller on each of two servers, with open counters."""
    spenders: dict[ClusterServer, Caller] = {}
    while len(spenders) < 2:
        caller = make_caller(simulator.base_url, prices=PRICES)
        server = cluster.server_of(caller.team.department_id)
        if spenders or server is not cluster.server_of_leases():  # the first may be killed
            spenders.setdefault(server, caller)
    for caller in spenders.values():
        Budget.objects.create(team=caller.team, unit="money", **budget)
    for product in products:
        product.wait_for_configuration()
    return spenders


def verify(cluster: Cluster, *callers: Caller) -> None:
    """The counters are the ledger."""
    for caller in callers:
        slug = caller.team.department.slug
        manage(["ledger", "verify", "--department", slug], {"GATEWAY_COUNTERS_URL": cluster.url})


class Load:
    """Calls of one caller on all products until it is stopped; how each ended, and when the last was refused."""

    def __init__(self, products: tuple[Product, ...], caller: Caller, clients: int = 4) -> None:
        self.ended: Counter[str] = Counter()
        self.last_refusal = 0.0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._jobs = [
            self._pool.submit(self._call, products[number % len(products)], caller)
            for number in range(clients)
        ]

    def __enter__(self) -> "Load":
        wait_for(lambda: self.ended["served"] > 20, "calls under way")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for job in self._jobs:
            job.result(30)
        self._pool.shutdown()

    def is_served(self, calls: int = 40) -> None:
        """Until so many more calls were served."""
        more = self.ended["served"] + calls
        wait_for(lambda: self.ended["served"] >= more, "calls that are served")

    def _call(self, product: Product, caller: Caller) -> None:
        usage = {"prompt_tokens": 5, "completion_tokens": TOKENS, "total_tokens": 5 + TOKENS}
        body = {
            "model": caller.model,
            **CHAT.content,
            "max_tokens": TOKENS,
            "simulator": {"usage": usage, "output_tokens": TOKENS, "first_byte_s": 0.01},
        }
        headers = {"Authorization": f"Bearer {caller.secret}"}
        with httpx.Client(timeout=20) as client:
            while not self._stop.is_set():
                answer = client.post(CHAT.url(product, caller.model), headers=headers, json=body)
                how = "served" if answer.status_code == 200 else answer.headers["x-gateway-reason"]
                self.ended[how] += 1
                if how != "served":
                    self.last_refusal = time.monotonic()
                    time.sleep(0.02)


def test_exactly_what_the_budgets_pay_is_served_on_two_servers(
    simulator: Simulator, cluster: Cluster, products: tuple[Product, ...]
) -> None:
    callers = make_spenders(simulator, cluster, products, FOR_ALL).values()

    async def spend() -> list[Counter[str]]:
        return await asyncio.gather(*(Crowd(products, caller).spend() for caller in callers))

    for caller, ended in zip(callers, asyncio.run(spend()), strict=True):
        assert ended["served"] == CALLS
        assert set(ended) <= {"served", "budget_spent", "budget_held"}
        assert spent_nanousd(caller, calls=CALLS) == CALLS * CALL_NANOUSD
    verify(cluster, *callers)


def test_the_memory_of_every_server_is_watched(
    simulator: Simulator, cluster: Cluster, products: tuple[Product, ...]
) -> None:
    def codes() -> set[str]:
        return {fault["code"] for fault in httpx.get(f"{products[0].url}/readyz").json()["degraded"]}

    last = cluster.servers[-1]
    last.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        wait_for(lambda: "store_evicts" in codes(), "readiness to name the policy")
        with override_settings(GATEWAY_COUNTERS_URL=cluster.url):
            (warning,) = check_store_memory(None)
        assert "GATEWAY_COUNTERS_URL" in warning.msg
    finally:
        last.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    wait_for(lambda: "store_evicts" not in codes(), "readiness to forget it")


def move_key_by_key(cluster: Cluster, slot: int, source: ClusterServer, target: ClusterServer) -> None:
    cluster.begin_move(slot, source, target)
    time.sleep(0.3)  # under load
    cluster.move_keys(slot, source, target)
    time.sleep(0.3)
    cluster.move_keys(slot, source, target)
    cluster.end_move(slot, source, target)


def move_at_once(cluster: Cluster, slot: int, source: ClusterServer, target: ClusterServer) -> None:
    cluster.move_at_once(slot, source, target)


@pytest.mark.parametrize("move", [move_key_by_key, move_at_once])
def test_a_slot_moves_under_load(
    simulator: Simulator,
    cluster: Cluster,
    products: tuple[Product, ...],
    move: Callable[[Cluster, int, ClusterServer, ClusterServer], None],
) -> None:
    (source, caller), (target, _) = make_spenders(simulator, cluster, products, MANY).items()
    slot = key_slot(marker_key(caller.team.department_id))
    with Load(products, caller) as load:
        move(cluster, slot, source, target)
        moved = time.monotonic()
        load.is_served()
        time.sleep(1)
    assert set(load.ended) <= {"served", "counters_unavailable", "counters_rebuilding"}, load.ended
    assert load.last_refusal < moved + 8
    assert cluster.server_of(caller.team.department_id) is target
    assert spent_nanousd(caller, calls=load.ended["served"]) == load.ended["served"] * CALL_NANOUSD
    verify(cluster, caller)


def test_a_budget_is_not_overspent_while_its_slot_moves(
    simulator: Simulator, cluster: Cluster, products: tuple[Product, ...]
) -> None:
    (source, caller), (target, _) = make_spenders(simulator, cluster, products, FOR_ALL).items()
    slot = key_slot(marker_key(caller.team.department_id))
    mover = threading.Timer(0.3, move_key_by_key, (cluster, slot, source, target))
    mover.start()
    ended = asyncio.run(PatientCrowd(products, caller).spend())
    mover.join()
    assert ended["served"] == CALLS
    assert set(ended) <= {
        "served",
        "budget_spent",
        "budget_held",
        "counters_unavailable",
        "counters_rebuilding",
    }
    assert spent_nanousd(caller, calls=CALLS) == CALLS * CALL_NANOUSD
    verify(cluster, caller)


class PatientCrowd(Crowd):
    """Clients that ask again a little later while the counters are away."""

    async def _call(self, client: httpx.AsyncClient, product: Product, *, leave: bool) -> str:
        how = await super()._call(client, product, leave=leave)
        if how.startswith("counters_"):
            await asyncio.sleep(0.05)
        return how


def test_departments_of_other_servers_go_on_while_one_is_dead(
    simulator: Simulator, cluster: Cluster, products: tuple[Product, ...]
) -> None:
    (dead, theirs), (_, ours) = make_spenders(simulator, cluster, products, MANY).items()
    with Load(products, ours) as unhurt, Load(products, theirs) as hurt:
        dead.kill()
        wait_for(lambda: hurt.ended["counters_unavailable"] > 5, "refusals")
        unhurt.is_served(200)
        time.sleep(2)  # until the cluster has noticed
        unhurt.is_served(200)
        hurt_before = hurt.ended["served"]
        dead.start()
        wait_for(lambda: hurt.ended["served"] > hurt_before + 40, "calls that are served again")
    assert set(unhurt.ended) == {"served"}
    assert set(hurt.ended) <= {"served", "counters_unavailable", "counters_rebuilding"}
    for caller, load in ((ours, unhurt), (theirs, hurt)):
        assert spent_nanousd(caller, calls=load.ended["served"]) == load.ended["served"] * CALL_NANOUSD
    verify(cluster, ours, theirs)
