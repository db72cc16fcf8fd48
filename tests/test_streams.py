"""Streams through the real server: first byte, silence, the caller leaving, shutdown."""

import asyncio
import itertools
import json
import os
import signal
import socket
import time
from typing import Any

import httpx
import pytest

from billing.models import UsageRecord
from tests.factories import Caller, make_caller, unique, wait_for_record
from tests.processes import Processes, Product, Simulator, wait_for

HELLO = [{"role": "user", "content": "one two three"}]
KEEP_ALIVE = b": keep-alive\n\n"  # the servers under test send it after one second of silence


@pytest.fixture(scope="module")
def caller(product: Product, simulator: Simulator) -> Caller:
    return make_caller(
        simulator.base_url, product, first_byte_timeout_s=4, idle_timeout_s=3, total_timeout_s=30
    )


def request_of(caller: Caller, marker: str = "", **fault: Any) -> dict[str, Any]:
    return {
        "headers": {"Authorization": f"Bearer {caller.secret}", "X-Client-Request-Id": marker},
        "json": {"model": caller.model, "messages": HELLO, "stream": True, "simulator": fault},
        "timeout": 20,
    }


def url_of(product: Product) -> str:
    return f"{product.base_url}/chat/completions"


def test_each_frame_passes_as_soon_as_it_arrives(product: Product, caller: Caller) -> None:
    arrivals = []
    options = request_of(caller, between_chunks_s=0.15, text="alpha beta gamma delta")
    with httpx.stream("POST", url_of(product), **options) as response:
        for piece in response.iter_raw():
            arrivals.append(time.monotonic())
            assert piece.endswith(b"\n\n"), "only whole frames are passed"
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert len(arrivals) >= 6
    assert sorted(gaps)[len(gaps) // 2] > 0.1


@pytest.mark.slow  # it compares times
def test_the_first_token_does_not_wait(
    product: Product, simulator: Simulator, caller: Caller, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small segments that wait for an acknowledgement (Nagle and delayed ACK) would cost 40 ms."""
    added = []
    direct, ours = f"{simulator.base_url}/chat/completions", url_of(product)
    with httpx.Client() as client:
        for _ in range(100):
            times = [first_token_ms(client, url, caller) for url in (direct, ours)]
            added.append(times[1] - times[0])
    added.sort()
    with capsys.disabled():
        print(f"\nfirst token later by: median {added[50]:.1f} ms, 95 of 100 within {added[94]:.1f} ms")
    assert added[50] < 10
    assert added[94] < 30


def first_token_ms(client: httpx.Client, url: str, caller: Caller) -> float:
    """From sending to the first frame with text, on a stream that takes a while to its second."""
    started = time.monotonic()
    with client.stream("POST", url, **request_of(caller, between_chunks_s=0.05, text="alpha")) as response:
        received = b""
        for piece in response.iter_raw():
            received += piece
            if b"alpha" in received:
                return 1000 * (time.monotonic() - started)
    raise AssertionError(received)


def test_silence_before_the_first_byte_commits_200_and_sends_comments(
    product: Product, caller: Caller
) -> None:
    with httpx.stream("POST", url_of(product), **request_of(caller, first_byte_s=2.5)) as response:
        assert response.status_code == 200
        text = b"".join(response.iter_raw())
    assert text.startswith(KEEP_ALIVE * 2 + b"data: ")
    assert text.endswith(b"data: [DONE]\n\n")
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.estimated) == ("completed", False)
    assert record.first_byte_ms is not None
    assert record.first_byte_ms >= 2500


def test_silence_in_the_middle_sends_comments_between_frames(product: Product, caller: Caller) -> None:
    options = request_of(caller, between_chunks_s=1.3, text="alpha beta", frames_per_write=3)
    with httpx.stream("POST", url_of(product), **options) as response:
        text = b"".join(response.iter_raw())
    assert KEEP_ALIVE in text
    assert b"".join(part for part in text.split(KEEP_ALIVE)).count(b"data: ") >= 4
    assert text.endswith(b"data: [DONE]\n\n")


def test_an_error_after_a_comment_is_an_error_event(product: Product, caller: Caller) -> None:
    with httpx.stream("POST", url_of(product), **request_of(caller, hang=True)) as response:
        text = b"".join(response.iter_raw())
    assert (response.status_code, text.count(KEEP_ALIVE)) == (200, 3)
    assert b'"code":"backend_timeout"' in text
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.reason, record.http_status) == ("failed", "backend_timeout", 504)


@pytest.mark.parametrize("fault", [{"hang": True}, {"first_byte_s": 3}])
def test_a_client_that_leaves_before_the_first_byte_closes_the_backend(
    product: Product, caller: Caller, simulator: Simulator, fault: dict[str, Any]
) -> None:
    marker = unique("marker")
    options = request_of(caller, marker, **fault)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url_of(product), **{**options, "timeout": 0.3})
    rows = UsageRecord.objects.filter(client_request_id=marker)
    (record,) = wait_for(lambda: list(rows.all()), "the row")
    assert (record.status, record.reason) == ("client_left", "client_left")
    # The prompt was sent, so it is charged, at our count: 3 + 1 + 3 + 3 tokens.
    assert (record.estimated, record.input_tokens, record.output_tokens) == (True, 10, 0)
    (served,) = simulator.served(str(record.request_id))
    assert served["outcome"] == "client_left"


def test_a_plain_call_whose_client_left_is_finished_and_charged(
    product: Product, caller: Caller, simulator: Simulator
) -> None:
    marker = unique("marker")
    options = request_of(caller, marker, first_byte_s=1)
    options["json"]["stream"] = False
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url_of(product), **{**options, "timeout": 0.3})
    (record,) = wait_for(lambda: list(UsageRecord.objects.filter(client_request_id=marker)), "the row")
    assert (record.status, record.estimated, record.cost_nanousd) == ("completed", False, 3 * 150 + 16 * 600)
    (served,) = simulator.served(str(record.request_id))
    assert served["outcome"] == "complete"


def test_clients_that_leave_at_odd_moments_pay_for_what_the_backend_saw(
    product: Product, caller: Caller, simulator: Simulator
) -> None:
    marker = unique("marker")
    options = request_of(caller, marker, between_chunks_s=0.01, first_byte_s=0.02)
    body = json.dumps(options["json"]).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in options["headers"].items())
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
    )
    address = (httpx.URL(product.url).host, httpx.URL(product.url).port or 0)

    async def leave_after(delay_s: float) -> None:
        _reader, writer = await asyncio.open_connection(*address)
        writer.write(request + body)
        await asyncio.sleep(delay_s)
        writer.close()

    async def all_leave() -> None:
        await asyncio.gather(*(leave_after(0.0005 * number) for number in range(120)))

    asyncio.run(all_leave())
    wait_for_record(httpx.post(url_of(product), **request_of(caller)).headers["x-request-id"])
    wait_for(
        lambda: httpx.get(f"{simulator.url}/simulator/served").json()["open"] == 0, "the backend to be free"
    )
    rows = list(UsageRecord.objects.filter(client_request_id=marker))
    assert len(rows) > 60
    for row in rows:
        seen = len(simulator.served(str(row.request_id), wait=0))
        assert (row.cost_nanousd > 0) == bool(seen), (row.status, row.duration_ms, seen)


def test_frames_with_crlf_ends_are_passed_and_counted(product: Product, caller: Caller) -> None:
    with httpx.stream("POST", url_of(product), **request_of(caller, crlf=True)) as response:
        text = b"".join(response.iter_raw())
    assert b'"usage"' not in text
    assert text.endswith(b"data: [DONE]\n\n")
    assert wait_for_record(response.headers["x-request-id"]).cost_nanousd == 3 * 150 + 16 * 600


def test_shutdown_finishes_running_streams_and_calls(
    processes: Processes, product: Product, simulator: Simulator
) -> None:
    own = processes.start_product(with_shipper=False)
    caller = make_caller(simulator.base_url, own)
    options = request_of(caller, between_chunks_s=0.1, text="alpha beta gamma delta epsilon zeta eta theta")
    with httpx.stream("POST", url_of(own), **options) as response:
        pieces = response.iter_raw()
        text = next(pieces)
        own.web.send_signal(signal.SIGTERM)
        text += b"".join(pieces)
    assert text.endswith(b"data: [DONE]\n\n")
    assert own.web.wait(10) in {0, -signal.SIGTERM}  # uvicorn ends by the signal it was sent
    assert wait_for_record(response.headers["x-request-id"]).status == "completed"


def test_a_killed_worker_loses_no_finished_call(
    processes: Processes, product: Product, simulator: Simulator
) -> None:
    own = processes.start_product(with_shipper=False)
    caller = make_caller(simulator.base_url, own)
    ids = [httpx.post(url_of(own), **request_of(caller)).headers["x-request-id"] for _ in range(5)]
    os.kill(own.web.pid, signal.SIGKILL)
    assert own.web.wait(5) == -signal.SIGKILL
    for request_id in ids:
        assert wait_for_record(request_id).status == "completed"


def test_a_caller_who_never_reads_is_cut_off_after_the_whole_calls_time(
    product: Product, simulator: Simulator
) -> None:
    caller = make_caller(simulator.base_url, product, total_timeout_s=1, idle_timeout_s=1)
    marker = unique("marker")
    options = request_of(caller, marker, output_tokens=60_000, frames_per_write=1000)
    body = json.dumps(options["json"]).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in options["headers"].items())
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
    )
    address = (httpx.URL(product.url).host, httpx.URL(product.url).port or 0)
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request + body)
        (record,) = wait_for(lambda: list(UsageRecord.objects.filter(client_request_id=marker)), "the row")
    assert record.status in {"client_left", "failed"}
    assert record.cost_nanousd > 0
    assert record.duration_ms < 8_000


@pytest.mark.slow
def test_a_shutdown_that_cuts_streams_off_still_records_each(
    processes: Processes, product: Product, simulator: Simulator
) -> None:
    own = processes.start_product(with_shipper=False, GATEWAY_SHUTDOWN_S="1")
    caller = make_caller(simulator.base_url, own, idle_timeout_s=60)
    marker = unique("marker")
    options = request_of(caller, marker, hang_after_frames=3)
    options["json"]["messages"] = [{"role": "user", "content": "word " * 40_000}]

    async def cut_off() -> None:
        async with httpx.AsyncClient() as client:
            streams = [asyncio.create_task(client.post(url_of(own), **options)) for _ in range(8)]
            served = f"{simulator.url}/simulator/served"
            while (await client.get(served)).json()["open"] < 8:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
            own.web.send_signal(signal.SIGTERM)
            await asyncio.gather(*streams, return_exceptions=True)

    asyncio.run(cut_off())
    own.web.wait(20)
    rows = wait_for(
        lambda: (
            found if len(found := list(UsageRecord.objects.filter(client_request_id=marker))) == 8 else None
        ),
        "eight rows",
    )
    assert {(row.status, row.reason) for row in rows} <= {
        ("failed", "gateway_stopped"),
        ("client_left", "client_left"),
    }
    assert all(row.estimated and row.input_tokens > 40_000 for row in rows)
