"""A stream is recorded once and charged, whoever leaves while its use is being counted, and however it floods."""

import hashlib
import json
import socket
import time

import httpx
import pytest

from billing.models import QuarantinedFrame, UsageRecord
from tests.factories import make_caller, unique, wait_for_record
from tests.processes import Product, Simulator, wait_for
from tests.recorded import recorded_backend
from tests.routes import CHAT

EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
# Counted in a thread for about a tenth of a second: there is time to leave meanwhile.
LONG = "".join(hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(3_700))


@pytest.mark.parametrize("answer", [EVENT_STREAM, EVENT_STREAM + b"data: [DONE]\n\n"], ids=["broke", "empty"])
@pytest.mark.parametrize("patience_s", [0.002, 0.01, 0.03, 0.06])
def test_a_caller_who_leaves_while_we_count_pays_once(
    product: Product, backend_port: int, answer: bytes, patience_s: float
) -> None:
    with recorded_backend(backend_port) as peer:
        peer.answer = answer
        caller, marker = make_caller(peer.base_url, product), unique("leaver")
        body = {"model": caller.model, "stream": True, "messages": [{"role": "user", "content": LONG}]}
        content = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {caller.secret}\r\n"
            f"X-Client-Request-Id: {marker}\r\nContent-Length: {len(content)}\r\n\r\n"
        ).encode()
        url = httpx.URL(product.url)
        with socket.create_connection((url.host, url.port or 0)) as connection:
            connection.sendall(head + content)
            ends = time.monotonic() + 10
            while not peer.bodies and time.monotonic() < ends:
                time.sleep(0.001)
            time.sleep(patience_s)  # no event tells when the count is under way: several moments are tried
        mine = UsageRecord.objects.filter(client_request_id=marker)
        wait_for(mine.exists, "the row")
    CHAT.ask(product, caller)  # one more row, behind whatever came twice
    (record,) = mine.all()
    assert record.input_tokens > 40_000
    assert record.cost_nanousd == record.input_tokens * 150
    assert not QuarantinedFrame.objects.filter(spool=record.spool).exists()


def test_a_stream_that_never_pauses_ends_at_its_time(product: Product, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url, product, total_timeout_s=1)
    started = time.monotonic()
    flood = {"output_tokens": 2_000_000, "frames_per_write": 500}
    with httpx.stream(
        "POST",
        CHAT.url(product, caller.model),
        headers={"Authorization": f"Bearer {caller.secret}"},
        json={"model": caller.model, **CHAT.content, "stream": True, "simulator": flood},
        timeout=60,
    ) as response:
        tail = b""
        for piece in response.iter_raw():
            tail = (tail + piece)[-2_000:]
    assert time.monotonic() - started < 20
    assert b"took too long" in tail or b"not a valid answer" in tail
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.reason) in {("failed", "backend_timeout"), ("failed", "backend_bad_answer")}


def test_a_frame_that_drips_is_a_silence_for_the_caller(product: Product, backend_port: int) -> None:
    with recorded_backend(backend_port) as peer:
        peer.answer, peer.dripping = EVENT_STREAM, b'data: {"choices":[]}\n\ndata: [DONE]\n\n'
        text = CHAT.ask(product, make_caller(peer.base_url, product), stream=True).text
    assert text.count(": keep-alive\n\n") >= 2
    assert text.endswith("data: [DONE]\n\n")
