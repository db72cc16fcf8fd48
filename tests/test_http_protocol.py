"""What a caller without a key cannot do to the server: heads without an end, silence, floods of requests."""

import contextlib
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tests.factories import make_caller
from tests.processes import Processes, Product, Simulator
from tests.routes import CHAT


@contextlib.contextmanager
def connected(product: Product) -> Iterator[socket.socket]:
    url = httpx.URL(product.url)
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        yield connection


def send_all(connection: socket.socket, piece: bytes, times: int) -> int:
    """How many pieces the server took before it closed the connection."""
    for number in range(times):
        try:
            connection.sendall(piece)
        except OSError:
            return number
    return times


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET /livez HTTP/1.1\r\nX: ", b"y" * 65536),
        (b"GET /", b"y" * 65536),
        (b"GET /livez HTTP/1.1\r\n", b"X: y\r\n" * 10_000),
    ],
    ids=["a header", "a path", "many headers"],
)
def test_a_head_without_an_end_is_cut_off(product: Product, begin: bytes, piece: bytes) -> None:
    with connected(product) as connection:
        connection.sendall(begin)
        assert send_all(connection, piece, 1_000) < 1_000
    assert httpx.get(f"{product.url}/livez").status_code == 200


def test_a_flood_of_requests_on_one_connection_is_cut_off(product: Product) -> None:
    before = psutil.Process(product.web.pid).memory_info().rss
    with connected(product) as connection:
        sent = send_all(connection, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000, 1_000)
    assert sent < 1_000
    assert psutil.Process(product.web.pid).memory_info().rss < before + 50 * 1024**2
    assert httpx.get(f"{product.url}/livez").status_code == 200


def test_a_few_requests_at_once_are_answered_in_turn(product: Product) -> None:
    with connected(product) as connection:
        requests = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 9
        connection.sendall(requests + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == 10


@pytest.fixture(scope="module")
def hasty(processes: Processes) -> Product:
    """Gives a request's head one second."""
    return processes.start_product(with_shipper=False, GATEWAY_HEAD_S="1")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/comp"], ids=["nothing", "half a line"])
def test_a_silent_caller_is_cut_off(hasty: Product, sent: bytes) -> None:
    with connected(hasty) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        assert read_all(connection).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_kept_connection_and_a_slow_answer_are_not_cut_off(hasty: Product, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url, hasty)
    url = httpx.URL(hasty.url)
    connection = HTTPConnection(url.host, url.port, timeout=20)
    connection.connect()
    connection.auto_open = 0  # the second request goes over the same connection or fails
    for _ in range(2):
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')
        time.sleep(1.5)  # longer than a head may take
    connection.close()
    assert CHAT.ask(hasty, caller, simulator={"first_byte_s": 1.5}).status_code == 200
