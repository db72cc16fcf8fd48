"""What calls of others notice while guards work hard, or hang: figures are printed, and bounded."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx
import pytest

from guards.book import GuardBook
from guards.finding import Finding, Guard
from guards.policy import PROMPT_INJECTION, USUAL
from guards.runner import Runner
from guards.scanner import Wanted
from tests.factories import Caller, make_caller
from tests.guards.stand_in import standing_in
from tests.guards.test_answers import make_answering
from tests.guards.test_external import make_external, rule
from tests.guards.test_routes import SAID, chat
from tests.processes import Product, Simulator

pytestmark = pytest.mark.slow
PROSE = "The quarterly report shows that revenue rose in all regions, and costs stayed flat. "
CALLS = 300
_PAUSE_S = 0.02


async def test_the_event_loop_hardly_lags_while_long_prompts_are_looked_through(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runner = Runner(20)
    kinds = frozenset({*USUAL[Guard.PII], *USUAL[Guard.SECRETS], PROMPT_INJECTION})
    runner.take(GuardBook(wanted=Wanted(kinds)))
    lags: list[float] = []

    async def watch() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - started - 0.001)

    prompts = [f"Prompt {number}. {SAID} " + PROSE * 240 for number in range(60)]
    assert len(prompts[0]) > 20_000
    try:
        await runner.scan([prompts[0]])
        watcher = asyncio.create_task(watch())
        await asyncio.sleep(1)
        idle, lags[:] = sorted(lags), []
        slots = asyncio.Semaphore(8)

        async def scan(prompt: str) -> list[Sequence[Finding]]:
            async with slots:
                return await runner.scan([prompt])

        found = await asyncio.gather(*map(scan, prompts[1:]))
        watcher.cancel()
    finally:
        await runner.close()
    assert all(len(each) >= 3 for (each,) in found)
    lags.sort()
    alone_s, meanwhile_s = idle[-len(idle) // 100], lags[-len(lags) // 100]
    with capsys.disabled():
        print(
            f"\n    lag of the event loop: p99 {meanwhile_s * 1000:.1f} ms, {alone_s * 1000:.1f} with nothing to do"
        )
    assert meanwhile_s < alone_s + 0.02  # other tests may run beside it; the figure is what counts


@contextmanager
def going_on(call: Callable[[int], object], clients: int) -> Iterator[None]:
    """So many callers, each with one call after another; they share this process with the measuring one."""
    ended = threading.Event()

    def run(number: int) -> None:
        while not ended.is_set():
            call(number)
            number += clients
            time.sleep(_PAUSE_S)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def measure(product: Product, caller: Caller) -> tuple[float, float]:
    """Median and p99 of calls one after another, in ms."""
    body = {"model": caller.model, **chat("one two three")}
    times = []
    with httpx.Client(headers={"Authorization": f"Bearer {caller.secret}"}) as client:
        for _ in range(CALLS):
            started = time.perf_counter()
            assert client.post(f"{product.url}/v1/chat/completions", json=body).status_code == 200
            times.append((time.perf_counter() - started) * 1000)
    times.sort()
    return times[CALLS // 2], times[-CALLS // 100]


@pytest.mark.parametrize("case", ["the process is busy", "names are looked for", "an external guard hangs"])
def test_others_hardly_notice(
    product: Product,
    simulator: Simulator,
    backend_port: int,
    case: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = make_caller(simulator.base_url, product)
    measure(product, other)
    alone = measure(product, other)
    with standing_in(backend_port) as stand_in:
        stand_in.hangs_s = 1.0
        if case == "an external guard hangs":
            rules = rule(make_external(stand_in, timeout_ms=300), fails_open=True)
        else:
            types = ["PERSON"] if case == "names are looked for" else []
            rules = {"pii": {"act": "observe", "types": types}}
        caller = make_answering(simulator, product, "Fine.", request=rules)
        headers = {"Authorization": f"Bearer {caller.secret}"}

        def call(number: int) -> None:
            text = f"{number} " + PROSE * (3 if case == "names are looked for" else 240)
            body = {"model": caller.model, **chat(text)}
            httpx.post(f"{product.url}/v1/chat/completions", headers=headers, json=body, timeout=30)

        call(10**6)
        with going_on(call, 8):
            meanwhile = measure(product, other)
    with capsys.disabled():
        print(
            f"\n    {case}: others' median {alone[0]:.1f} to {meanwhile[0]:.1f} ms, "
            f"p99 {alone[1]:.1f} to {meanwhile[1]:.1f} ms"
        )
    assert meanwhile[1] < 100
