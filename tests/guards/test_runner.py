"""Long texts are looked through in a process of their own; when that fails the policy decides."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import psutil  # type: ignore[import-untyped]
import pytest

from guards.book import GuardBook
from guards.finding import Finding
from guards.process import GuardsAway
from guards.runner import Runner
from guards.scanner import Wanted
from tests.factories import Caller, make_caller, wait_for_record
from tests.guards.policies import make_policy
from tests.guards.test_routes import EMAIL, SAID, answer_text, ask, make_guarded, received
from tests.processes import Processes, Product, Simulator, wait_for

LONG = f"{'All of this is prose without anything in it. ' * 400} {SAID}"
WANTED = Wanted(frozenset({"EMAIL_ADDRESS", "CREDIT_CARD"}))


@contextlib.asynccontextmanager
async def running(limit_s: float = 20) -> AsyncIterator[Runner]:
    runner = Runner(limit_s)
    runner.take(GuardBook(wanted=WANTED))
    try:
        yield runner
    finally:
        await runner.close()


def processes_of(pid: int) -> list[psutil.Process]:
    """Those that look through texts."""
    return [each for each in psutil.Process(pid).children() if _looks(each)]


def _looks(process: psutil.Process) -> bool:
    try:
        return "multiprocessing.spawn" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    assert processes_of(os.getpid()) == []


async def test_short_and_long_texts_give_the_same() -> None:
    async with running() as runner:
        short, long, again = await runner.scan([SAID, LONG, SAID])
        assert [each.type for each in short] == ["EMAIL_ADDRESS", "CREDIT_CARD", "EMAIL_ADDRESS"]
        offset = LONG.index(SAID)
        moved = [
            msgspec.structs.replace(each, start=each.start + offset, end=each.end + offset) for each in short
        ]
        assert moved == list(long)
        assert again == short


@pytest.mark.slow
async def test_a_process_that_is_killed_is_followed_by_another() -> None:
    async with running() as runner:
        await runner.scan([LONG])
        (process,) = processes_of(os.getpid())
        process.send_signal(signal.SIGSTOP)
        waiting = asyncio.create_task(runner.scan([f"{LONG} 2"]))
        await asyncio.sleep(0.2)
        process.kill()
        with pytest.raises(GuardsAway, match="its process ended"):
            await waiting
        (found,) = await runner.scan([f"{LONG} 3"])
        assert len(found) == 3


@pytest.mark.slow
async def test_what_takes_too_long_is_given_up() -> None:
    async with running() as runner:
        await runner.scan([LONG])
        (process,) = processes_of(os.getpid())
        process.send_signal(signal.SIGSTOP)
        runner._apart.limit_s = 0.3
        started = time.monotonic()
        with pytest.raises(GuardsAway, match=r"longer than 0\.3 s"):
            await runner.scan([f"{LONG} 2"])
        assert time.monotonic() - started < 2
        assert len((await runner.scan([SAID]))[0]) == 3, "short texts need no process"
        runner._apart.limit_s = 20
        assert len((await runner.scan([f"{LONG} 3"]))[0]) == 3, "another process takes its place"


@pytest.mark.slow  # it waits
async def test_a_process_that_hangs_does_not_keep_the_worker_from_ending() -> None:
    async with running() as runner:
        await runner.scan([LONG])
        (process,) = processes_of(os.getpid())
        process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(10):
            await runner.close()


async def test_a_short_text_that_is_full_of_places_to_judge_goes_to_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as runner:
        apart: list[list[str]] = []
        scan_apart = runner._scan_apart

        async def note(wanted: Wanted, texts: list[str]) -> list[tuple[Finding, ...]]:
            apart.append(texts)
            return await scan_apart(wanted, texts)

        monkeypatch.setattr(runner, "_scan_apart", note)
        prose, dense = "All of this is prose. " * 150, "a@example.com " * 200
        assert len(dense) < len(prose) < 4_000
        found = await runner.scan([prose])
        assert (found, apart) == ([()], [])
        (many,) = await runner.scan([dense])
        assert (len(many), apart) == (200, [[dense]])


@pytest.mark.slow
async def test_a_process_that_died_meanwhile_does_not_keep_new_policies_out() -> None:
    async with running() as runner:
        await runner.scan([LONG])
        (process,) = processes_of(os.getpid())
        process.kill()
        await asyncio.sleep(0.5)  # until that is known
        book = GuardBook(wanted=Wanted(frozenset({"EMAIL_ADDRESS"})))
        runner.take(book)
        assert runner.book is book
        (found,) = await runner.scan([LONG])
        assert [each.type for each in found] == ["EMAIL_ADDRESS"] * 2


async def test_more_texts_than_are_remembered_are_looked_through_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("guards.scanner._MOST_KNOWN", 3)
    async with running() as runner:
        await runner.scan([LONG])
        making = runner._making
        assert making is not None
        scanner = making.result()
        assert scanner is not None
        monkeypatch.setattr(scanner, "look", lambda text: pytest.fail("not in the event loop"))
        found = await runner.scan([f"{number} {LONG}" for number in range(9)])
        assert [len(each) for each in found] == [3] * 9


async def test_without_anything_to_look_for_nobody_looks() -> None:
    with pytest.raises(GuardsAway):
        await Runner(1).scan([SAID])


@pytest.mark.slow  # it compares times
async def test_the_event_loop_goes_on_while_long_texts_are_looked_through() -> None:
    lags: list[float] = []

    async def watch() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.001)
            lags.append(time.monotonic() - started - 0.001)

    async with running() as runner:
        await runner.scan([LONG])
        watcher = asyncio.create_task(watch())
        dense = [
            f"{number} " + "a@example.com 4111 1111 1111 1111 +49 30 901820 " * 400 for number in range(5)
        ]
        found = await runner.scan(dense)
        watcher.cancel()
    assert min(map(len, found)) >= 800
    assert sorted(lags)[int(len(lags) * 0.95)] < 0.05


@pytest.fixture(scope="module")
def own(processes: Processes, product: Product) -> Product:
    """A server of which the process that looks is ours to stop."""
    return processes.start_product(GATEWAY_GUARD_S="1")


@pytest.mark.slow  # a server of its own, and seconds of waiting
@pytest.mark.parametrize("fails_open", [False, True], ids=["refuses", "passes"])
def test_the_policy_says_what_happens_when_nobody_can_look(
    own: Product, simulator: Simulator, fails_open: bool
) -> None:
    caller = make_guarded(simulator, own, pii={"act": "redact", "fails_open": fails_open})
    wait_for(lambda: ask(own, caller, "chat", LONG).status_code == 200, "a process that is ready")
    others = make_caller(simulator.base_url, own)
    (process,) = processes_of(own.web.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, own, caller, "chat", f"{LONG} again")
            times = [timed(own, others) for _ in range(20)]
        answer = waiting.result()
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # another has taken its place
            process.send_signal(signal.SIGCONT)
    assert sorted(times)[10] < 0.2, "calls that are not looked through wait for nothing"
    record = wait_for_record(answer.headers["x-request-id"])
    if fails_open:
        assert answer.status_code == 200
        assert record.guard_findings is not None
        assert [each["act"] for each in record.guard_findings] == ["unavailable"]
        assert EMAIL in received(simulator, str(record.request_id))
    else:
        assert (answer.status_code, answer.headers["x-gateway-reason"]) == (503, "guard_unavailable")
        assert (record.status, record.attempts) == ("refused", 0)


def timed(product: Product, caller: Caller) -> float:
    started = time.monotonic()
    assert ask(product, caller, "chat", "one two three").status_code == 200
    return time.monotonic() - started


@pytest.mark.slow
def test_a_process_that_is_killed_during_a_call_refuses_it_and_no_other(
    own: Product, simulator: Simulator
) -> None:
    caller = make_guarded(simulator, own, pii="redact")
    wait_for(lambda: ask(own, caller, "chat", f"{LONG} first").status_code == 200, "a process that is ready")
    (process,) = processes_of(own.web.pid)
    process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, own, caller, "chat", f"{LONG} second")
        time.sleep(0.2)
        process.kill()
        assert waiting.result().status_code == 503
    answer = wait_for(
        lambda: (found := ask(own, caller, "chat", f"{LONG} third")).status_code == 200 and found,
        "a new process",
    )
    assert SAID in answer_text(answer)


def test_a_change_of_a_policy_acts_within_a_second(product: Product, simulator: Simulator) -> None:
    caller = make_guarded(simulator, product, pii="observe")
    assert ask(product, caller, "chat", SAID).status_code == 200
    caller.team.guard_policy.policy.rules.update(act="block")
    started = time.monotonic()
    wait_for(lambda: ask(product, caller, "chat", SAID).status_code == 400, "the policy", 1.5)
    assert time.monotonic() - started < 1
    caller.team.guard_policy.delete()
    wait_for(lambda: ask(product, caller, "chat", SAID).status_code == 200, "no policy", 1.5)


def test_the_default_holds_for_teams_without_a_policy_of_their_own(
    product: Product, simulator: Simulator
) -> None:
    caller, own = make_caller(simulator.base_url), make_guarded(simulator, product, pii="observe")
    default = make_policy(pii="block")
    default.is_default = True
    default.save()
    try:
        product.wait_for_configuration()
        assert ask(product, caller, "chat", SAID).status_code == 400
        assert ask(product, own, "chat", SAID).status_code == 200
    finally:
        default.delete()
        product.wait_for_configuration()


async def test_what_is_too_long_is_given_up_at_once() -> None:
    async with running() as runner:
        with pytest.raises(GuardsAway, match="2,000,002 characters are too many"):
            await runner.scan(["x" * 1_000_001, "y" * 1_000_001])
