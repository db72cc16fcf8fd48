"""What clients notice while backends fail under load: figures are printed, and bounded.

The aim is that they notice nothing: no failed request, no waiting for what is known to be down, no burst at a return.
"""

import asyncio
import contextlib
import random
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import pytest

from routing.models import Fallback, Route
from tests.dialects.test_pairs import told
from tests.factories import Caller, make_backend, make_caller, make_model
from tests.processes import Processes, Product, Simulator
from tests.routes import CHAT

pytestmark = pytest.mark.slow
CLIENTS = 16
AWAY_S = 60
Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Prints a figure, whether or not the test fails."""

    def print_it(text: str) -> None:
        with capsys.disabled():
            print(f"\n    {text}", end="", flush=True)

    return print_it


@dataclass(frozen=True)
class Called:
    """One call: when it began, how long it took, what came of it."""

    at: float
    seconds: float
    status: int
    backend: str
    is_whole: bool


class Primary:
    """A simulator of its own, on a port where the gateway may call."""

    def __init__(self, processes: Processes, port: int) -> None:
        self._processes = processes
        self._port = port
        self._process: subprocess.Popen[bytes]
        self.simulator = self.start()

    def start(self) -> Simulator:
        """Come up."""
        self._process, log = self._processes.start("simulator", "simulator", "--port", str(self._port))
        simulator = Simulator(f"http://127.0.0.1:{self._port}")
        self._processes.wait_until_up(self._process, log, f"{simulator.url}/v1/models")
        return simulator

    def die(self) -> None:
        """Be gone at once."""
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Take connections and say nothing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@pytest.fixture
def primary(processes: Processes, backend_port: int) -> Iterator[Primary]:
    primary = Primary(processes, backend_port)
    yield primary
    primary.die()


def make_pool(first: str, *others: str, **fields: Any) -> Caller:
    """A model with a first backend, and others that are used when that is out."""
    caller = make_caller(first, **fields)
    model = caller.backend.catalogue_models.get()
    for priority, address in enumerate(others, start=2):
        Route.objects.create(model=model, backend=make_backend(address), priority=priority)
    return caller


async def _load(
    product: Product,
    caller: Caller,
    seconds: float,
    *,
    clients: int = CLIENTS,
    most: int = 10**9,
    **fields: Any,
) -> list[Called]:
    """So many clients, each with one call after another, every third of which is a stream."""
    ends, calls, left = time.monotonic() + seconds, list[Called](), iter(range(most))
    url, headers = CHAT.url(product, caller.model), {"Authorization": f"Bearer {caller.secret}"}

    async def run(session: aiohttp.ClientSession, number: int) -> None:
        for turn in range(number, most):
            if time.monotonic() >= ends or next(left, None) is None:
                return
            began, stream = time.monotonic(), turn % 3 == 0
            body = {"model": caller.model, **CHAT.content, "stream": stream, **fields}
            async with session.post(url, json=body, headers=headers) as answer:
                text = await answer.read()
                is_whole = answer.status == 200 and (text.endswith(b"data: [DONE]\n\n") if stream else True)
                backend = answer.headers.get("x-gateway-backend", "")
                calls.append(Called(began, time.monotonic() - began, answer.status, backend, is_whole))

    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await asyncio.gather(*(run(session, number) for number in range(clients)))
    return calls


def cut_by(calls: list[Called], moment: float) -> int:
    """Streams that had begun when their backend died: nobody can take that back. Every other call must be whole."""
    broken = [call for call in calls if not call.is_whole]
    assert all(call.status == 200 and call.at < moment < call.at + call.seconds + 0.5 for call in broken), (
        broken
    )
    return len(broken)


def load(product: Product, caller: Caller, seconds: float, **options: Any) -> list[Called]:
    """See _load."""
    return asyncio.run(_load(product, caller, seconds, **options))


def begin_load(product: Product, caller: Caller, seconds: float) -> "Future[list[Called]]":
    """A load that goes on meanwhile."""
    pool = ThreadPoolExecutor(1)
    work = pool.submit(load, product, caller, seconds)
    pool.shutdown(wait=False)
    return work


def failures(calls: list[Called]) -> Counter[int]:
    return Counter(call.status for call in calls if not call.is_whole)


def test_a_primary_that_goes_down_costs_no_client_a_request(
    product: Product, simulator: Simulator, primary: Primary, say: Say
) -> None:
    """Down for a minute under load, by refusing connections; then it comes back, and gets its calls by and by."""
    caller = make_pool(primary.simulator.base_url, simulator.base_url)
    product.wait_for_configuration()
    work = begin_load(product, caller, 3 + AWAY_S + 30)
    time.sleep(3)
    primary.die()
    down = time.monotonic()
    time.sleep(AWAY_S)
    primary.start()
    up = time.monotonic()
    calls = work.result()
    away = [call for call in calls if down + 1 < call.at < up]
    before = [call for call in calls if call.at < down]
    cut = cut_by(calls, down)
    say(f"down for {up - down:.0f} s: {len(calls)} calls, none failed but {cut} streams that had begun")
    assert cut <= CLIENTS
    assert not any(call.backend == caller.backend.name for call in away)
    ratio = statistics.median(c.seconds for c in away) / statistics.median(c.seconds for c in before)
    say(f"median while it is away: {ratio:.2f} of the median before")
    assert ratio < 1.5
    served = [call.at for call in calls if call.backend == caller.backend.name and call.at > up]
    assert served, "it did not come back"
    first = min(served)
    rates = [len([at for at in served if first + s <= at < first + s + 1]) for s in range(8)]
    all_of = [len([c for c in calls if first + s <= c.at < first + s + 1]) for s in range(8)]
    shares = [round(rate / (whole or 1), 2) for rate, whole in zip(rates, all_of, strict=True)]
    say(f"back {first - up:.1f} s after it was up; its share of the calls by second: {shares}")
    assert first - up < 25
    assert shares[0] < 0.5
    assert shares[7] > 0.9


def test_while_a_backend_is_away_a_call_takes_no_longer(
    product: Product, simulator: Simulator, backend_port: int, say: Say
) -> None:
    """The time in the gateway before the call, with the first backend open, beside a pool without one."""
    away = make_pool(f"http://127.0.0.1:{backend_port}/v1", simulator.base_url)
    alone = make_caller(simulator.base_url, product)
    load(product, away, 2, clients=4)  # it trips
    overheads: dict[str, list[float]] = {away.model: [], alone.model: []}
    with httpx.Client() as client:
        for caller in [away, alone] * 300:
            headers = {"Authorization": f"Bearer {caller.secret}"}
            body = {"model": caller.model, **CHAT.content}
            answer = client.post(CHAT.url(product, caller.model), json=body, headers=headers)
            assert answer.status_code == 200
            if answer.headers["x-gateway-attempts"] == "1":  # else it was a probe
                overheads[caller.model].append(float(answer.headers["x-gateway-overhead-ms"]))
    added = statistics.median(overheads[away.model]) - statistics.median(overheads[alone.model])
    say(f"added while a backend is away: {added * 1000:.0f} us (median of 300)")
    assert added < 1


def test_who_throttles_is_left_alone_as_long_as_it_said(
    product: Product, simulator: Simulator, primary: Primary, say: Say
) -> None:
    fault = told(primary.simulator, status=429, retry_after=7)
    caller = make_pool(fault, simulator.base_url)
    product.wait_for_configuration()
    began = time.monotonic()
    calls = load(product, caller, 6.5)
    assert not failures(calls)
    seen = served_count(primary.simulator)
    say(f"{len(calls)} calls within 7 s, of which the throttling backend saw {seen}")
    assert time.monotonic() - began < 7
    assert seen <= CLIENTS  # those that were under way when the first was told


def served_count(simulator: Simulator) -> int:
    return int(httpx.get(f"{simulator.url}/simulator/served", timeout=15).json()["count"])


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500, "share": 0.5},
        {"drop": True, "share": 0.3},
        {"break_after_frames": 0, "share": 0.4},
        {"bad_json": True, "share": 0.0},
    ],
    ids=["half of it 500", "a third dropped", "cut before the first frame", "well"],
)
def test_who_flaps_is_covered_for(
    product: Product, simulator: Simulator, fault: dict[str, Any], say: Say
) -> None:
    caller = make_pool(told(simulator, **fault), simulator.base_url)
    product.wait_for_configuration()
    calls = load(product, caller, 8)
    share = len([call for call in calls if call.backend == caller.backend.name]) / len(calls)
    say(f"{len(calls)} calls, failed {dict(failures(calls))}, {share:.0%} served by the one that flaps")
    assert not failures(calls)


def test_a_backend_that_hangs_costs_its_time_limit_and_then_nothing(
    product: Product, simulator: Simulator, primary: Primary, say: Say
) -> None:
    limits = {"first_byte_timeout_s": 1, "total_timeout_s": 2, "connect_timeout_s": 1}
    caller = make_pool(primary.simulator.base_url, simulator.base_url, **limits)
    product.wait_for_configuration()
    with primary.hanging():
        calls = load(product, caller, 12)
        late = [call for call in calls if call.seconds > 0.9]
        say(f"{len(calls)} calls, failed {dict(failures(calls))}, {len(late)} waited for the hanging backend")
        assert not failures(calls)
        assert len(late) <= 3 * CLIENTS  # those under way when it tripped, and probes
        assert max(call.seconds for call in calls) < 5


def test_the_next_group_is_used_only_when_every_backend_above_is_out(
    product: Product, simulator: Simulator, primary: Primary, say: Say
) -> None:
    caller = make_caller(primary.simulator.base_url)
    model = caller.backend.catalogue_models.get()
    beside = make_backend(told(simulator, text="beside"))
    below = make_backend(told(simulator, text="below"))
    Route.objects.create(model=model, backend=beside, priority=1)
    Route.objects.create(model=model, backend=below, priority=2)
    product.wait_for_configuration()
    work = begin_load(product, caller, 8)
    time.sleep(3)
    primary.die()
    died = time.monotonic()
    calls = work.result()
    counts = Counter(call.backend for call in calls)
    say(f"served by {dict(counts)}, {cut_by(calls, died)} streams cut that had begun")
    assert counts[below.name] == 0
    assert counts[beside.name] > 0


def test_compliance_is_never_crossed_in_ten_thousand_calls_that_fail_at_random(
    product: Product, simulator: Simulator, say: Say
) -> None:
    draw = random.Random(5)
    faults: list[dict[str, Any]] = [
        {"status": 500, "share": 0.5},
        {"status": 429, "share": 0.4, "retry_after": 1},
        {"drop": True, "share": 0.4},
        {"break_after_frames": 0, "share": 0.5},
        {},
    ]
    caller = make_caller(told(simulator, status=503, share=0.5), tags=["eu"], longest_trip_s=1)
    model = caller.backend.catalogue_models.get()
    tagged = {caller.backend.name}
    for number in range(12):
        tags = ["eu", "other"] if number % 3 == 0 else draw.sample(["us", "other"], 1)
        backend = make_backend(told(simulator, **draw.choice(faults)), tags=tags, longest_trip_s=1)
        if "eu" in tags:
            tagged.add(backend.name)
        Route.objects.create(model=model, backend=backend, priority=draw.randint(1, 3))
    caller.team.required_tags = ["eu"]
    caller.team.save()
    product.wait_for_configuration()
    time.sleep(0.5)
    calls = load(product, caller, 120, clients=32, most=10_000)
    counts = Counter(call.backend for call in calls if call.backend)
    statuses = Counter(call.status for call in calls)
    say(
        f"{len(calls)} calls, {dict(statuses)}; {sum(n for b, n in counts.items() if b not in tagged)} elsewhere"
    )
    assert set(counts) <= tagged
    assert len(calls) == 10_000


def test_a_fallback_takes_over_and_gives_back(
    product: Product, simulator: Simulator, primary: Primary, say: Say
) -> None:
    caller = make_caller(primary.simulator.base_url)
    other = make_model(make_backend(simulator.base_url), team=caller.team)
    Fallback.objects.create(model=caller.backend.catalogue_models.get(), to=other)
    product.wait_for_configuration()
    work = begin_load(product, caller, 6)
    time.sleep(2)
    primary.die()
    died = time.monotonic()
    calls = work.result()
    say(f"{len(calls)} calls, none failed but {cut_by(calls, died)} streams that had begun")
