"""Connections to backends, against raw recorded bytes: framing, reuse, bounds, and what is never believed."""

import asyncio
import itertools
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outbound.bell import Bell
from outbound.connection import (
    Broke,
    Connection,
    Malformed,
    Origin,
    Rest,
    Unreachable,
    UpstreamFailure,
)
from outbound.dial import Dialer
from outbound.pool import Pool

REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello"


@dataclass
class Peer:
    """A backend of raw bytes: answers each request with the next of `answers`, cut at `cuts`."""

    answers: list[bytes]
    closes: bool = False
    cuts: tuple[int, ...] = ()
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                await self._answer(writer, self.answers.pop(0))
                if self.closes:
                    break
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        edges = [0, *sorted(self.cuts), len(answer)]
        for start, end in itertools.pairwise(edges):
            writer.write(answer[start:end])
            await writer.drain()
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(peer: Peer, **options: Any) -> AsyncIterator[tuple[Pool, Origin]]:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, **options)
    peer.port = server.sockets[0].getsockname()[1]
    pool = Pool(Dialer({f"127.0.0.1:{peer.port}", f"localhost:{peer.port}"}))
    try:
        yield pool, Origin("https" if "ssl" in options else "http", "127.0.0.1", peer.port)
    finally:
        pool.close()
        server.close()
        await asyncio.sleep(0)


async def exchange(pool: Pool, origin: Origin, *, most_bytes: int | None = 1000) -> tuple[int, bytes]:
    """Status and body of one exchange."""
    bell = Bell()
    connection = await pool.acquire(origin, 5)
    connection.begin(REQUEST, bell.ring, most_bytes=most_bytes)
    body = b""
    try:
        async with asyncio.timeout(10):
            while (piece := connection.take()) != b"":
                body += piece or b""
                if piece is None:
                    await bell.wait()
        return connection.status, body
    finally:
        pool.give_back(connection)


async def closed(connection: Connection) -> None:
    """Waits until the connection is."""
    async with asyncio.timeout(5):
        while connection.is_open:  # noqa: ASYNC110 - a resting connection tells nobody
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("most_bytes", [1000, None], ids=["whole", "in pieces"])
@pytest.mark.parametrize("answer", [PLAIN, CHUNKED], ids=["length", "chunked"])
async def test_a_connection_carries_one_exchange_after_another(answer: bytes, most_bytes: int | None) -> None:
    peer = Peer([answer] * 3)
    async with serving(peer) as (pool, origin):
        for _ in range(3):
            assert await exchange(pool, origin, most_bytes=most_bytes) == (200, b"hello")
    assert (peer.connections, len(peer.requests)) == (1, 3)


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    peer = Peer([UNTIL_CLOSE, UNTIL_CLOSE], closes=True)
    async with serving(peer) as (pool, origin):
        assert await exchange(pool, origin) == (200, b"hello")
        assert await exchange(pool, origin, most_bytes=None) == (200, b"hello")
    assert peer.connections == 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.sampled_from([PLAIN, CHUNKED]), data=st.data())
@pytest.mark.slow
def test_however_an_answer_is_cut_it_is_the_same(answer: bytes, data: st.DataObject) -> None:
    cuts = tuple(data.draw(st.lists(st.integers(1, len(answer) - 1), max_size=6, unique=True)))

    async def ask() -> tuple[int, bytes]:
        async with serving(Peer([answer], cuts=cuts)) as (pool, origin):
            return await exchange(pool, origin, most_bytes=None)

    assert asyncio.run(ask()) == (200, b"hello")


async def test_words_on_the_way_are_not_the_answer() -> None:
    peer = Peer([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + PLAIN, PLAIN])
    async with serving(peer) as (pool, origin):
        assert await exchange(pool, origin) == (200, b"hello")
        assert await exchange(pool, origin) == (200, b"hello")
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"", Broke),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Broke),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", Broke),
        (CHUNKED[:-5], Broke),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 4\r\n\r\nhello", Malformed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Malformed),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000 + b"\r\n", Malformed),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000, Malformed),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000, Malformed),
    ],
    ids=[
        "nothing", "half a head", "half a body", "half a chunked body", "not HTTP", "a length that is none",
        "two framings", "two lengths", "a chunk size that is none", "an upgrade", "a long header",
        "many headers", "a header without an end", "words on the way without an end", "more than the bound",
    ],
)  # fmt: skip
async def test_what_is_no_answer_is_a_failure_and_ends_the_connection(
    answer: bytes, failure: type[UpstreamFailure]
) -> None:
    peer = Peer([answer, PLAIN], closes=True)
    async with serving(peer) as (pool, origin):
        bell, connection = Bell(), await pool.acquire(origin, 5)
        connection.begin(REQUEST, bell.ring, most_bytes=1000)
        assert await bell.wait()
        with pytest.raises(failure):
            connection.take_whole()
        assert not connection.is_reusable
        pool.give_back(connection)
        assert await exchange(pool, origin) == (200, b"hello")
    assert peer.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN + PLAIN,
        PLAIN + b"surplus",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["a second answer", "bytes behind the answer", "connection: close", "HTTP/1.0"],
)
async def test_a_connection_that_is_out_of_step_carries_nothing_more(answer: bytes) -> None:
    peer = Peer([answer, PLAIN])
    async with serving(peer) as (pool, origin):
        bell, connection = Bell(), await pool.acquire(origin, 5)
        connection.begin(REQUEST, bell.ring, most_bytes=1000)
        assert await bell.wait()
        assert connection.take_whole() == b"hello", "the answer itself is whole"
        assert not connection.is_reusable
        pool.give_back(connection)
        assert await exchange(pool, origin) == (200, b"hello")
    assert peer.connections == 2


async def test_bytes_that_nobody_asked_for_close_a_resting_connection() -> None:
    arrived = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PLAIN)
        await arrived.wait()
        writer.write(PLAIN)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool, origin = Pool(Dialer({f"127.0.0.1:{port}"})), Origin("http", "127.0.0.1", port)
    bell, connection = Bell(), await pool.acquire(origin, 5)
    connection.begin(REQUEST, bell.ring, most_bytes=1000)
    assert await bell.wait()
    pool.give_back(connection)
    assert connection.is_open
    arrived.set()
    await closed(connection)
    pool.close()
    server.close()


async def test_what_arrived_before_a_break_is_given_out_first() -> None:
    peer = Peer([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"], closes=True)
    async with serving(peer) as (pool, origin):
        bell, connection = Bell(), await pool.acquire(origin, 5)
        connection.begin(REQUEST, bell.ring)
        while connection.failure is None:
            await bell.wait()
        assert connection.take() == b"hello"
        with pytest.raises(Broke):
            connection.take()


async def test_a_slow_reader_makes_the_backend_wait() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n")
        for _ in range(32):
            writer.write(bytes(1024**2))
            await writer.drain()
            sent += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = Pool(Dialer({f"127.0.0.1:{port}"}))
    bell, connection = Bell(), await pool.acquire(Origin("http", "127.0.0.1", port), 5)
    connection.begin(REQUEST, bell.ring)
    await asyncio.sleep(0.3)
    assert sent < 32, "what nobody takes is not read into memory"
    taken = 0
    async with asyncio.timeout(20):
        while (piece := connection.take()) != b"":
            taken += len(piece or b"")
            if piece is None:
                await bell.wait()
    assert (taken, sent) == (32 * 1024**2, 32)
    pool.close()
    server.close()


async def test_a_connection_that_was_left_while_it_waited_is_not_used_again() -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    peer = Peer([large, PLAIN])
    async with serving(peer) as (pool, origin):
        bell, connection = Bell(), await pool.acquire(origin, 5)
        connection.begin(REQUEST, bell.ring)
        while not connection.is_complete:
            if await bell.wait(time.monotonic() + 0.2):
                continue
            break
        pool.give_back(connection)
        assert await exchange(pool, origin) == (200, b"hello")
    assert peer.connections == 2


async def test_a_connection_that_the_backend_closed_is_not_used_again() -> None:
    peer = Peer([PLAIN, PLAIN], closes=True)
    async with serving(peer) as (pool, origin):
        assert await exchange(pool, origin) == (200, b"hello")
        await asyncio.sleep(0.05)
        assert await exchange(pool, origin) == (200, b"hello")
    assert peer.connections == 2


async def test_a_request_on_a_connection_that_just_closed_says_so_at_once() -> None:
    peer = Peer([PLAIN])
    async with serving(peer) as (pool, origin):
        connection = await pool.acquire(origin, 5)
        connection.close()
        await asyncio.sleep(0.02)
        bell = Bell()
        connection.begin(REQUEST, bell.ring)
        assert await bell.wait()
        with pytest.raises(Unreachable):  # nothing was sent
            connection.take()


@pytest.mark.parametrize(
    "origin_of",
    [
        lambda port: Origin("http", "127.0.0.1", port),
        lambda port: Origin("https", "127.0.0.1", port),
        lambda port: Origin("http", "name.invalid", port),
        lambda port: Origin("http", "a" * 64 + ".example", port),
    ],
    ids=["nobody listens", "nobody listens, TLS", "an unknown name", "an impossible name"],
)
async def test_what_cannot_be_reached_is_unreachable(
    origin_of: Callable[[int], Origin], backend_port: int
) -> None:
    origin = origin_of(backend_port)
    pool = Pool(Dialer({f"{origin.host}:{origin.port}"}))
    with pytest.raises(Unreachable):
        await pool.acquire(origin, 5)


async def test_an_address_that_may_not_be_called_is_unreachable_and_gets_no_connection() -> None:
    peer = Peer([PLAIN])
    async with serving(peer) as (_, origin):
        with pytest.raises(Unreachable, match="ForbiddenAddress"):
            await Pool(Dialer(set())).acquire(origin, 5)
        with pytest.raises(Unreachable, match="ForbiddenAddress"):
            await Pool(Dialer(set())).acquire(Origin("http", "localhost", origin.port), 5)
    assert peer.connections == 0


async def test_a_peer_that_never_shakes_hands_is_given_up_in_time() -> None:
    peer = Peer([PLAIN])
    async with serving(peer) as (pool, origin):
        with pytest.raises(Unreachable, match="TimeoutError"):
            await pool.acquire(Origin("https", "127.0.0.1", origin.port), 0.1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key for localhost."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*new, "-keyout", str(file), "-out", f"{file}.crt"], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


async def test_tls_is_spoken_and_the_name_is_checked(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate)
    peer = Peer([PLAIN, PLAIN])
    async with serving(peer, ssl=server_side) as (distrusting, origin):
        named = Origin("https", "localhost", origin.port)
        with pytest.raises(Unreachable, match="SSLCertVerificationError"):
            await distrusting.acquire(named, 5)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        pool = Pool(Dialer({f"localhost:{peer.port}", f"127.0.0.1:{peer.port}"}))
        assert await exchange(pool, named) == (200, b"hello")
        with pytest.raises(Unreachable, match="SSLCertVerificationError"):
            await pool.acquire(Origin("https", "127.0.0.1", peer.port), 5)
        pool.close()


async def test_a_name_is_resolved_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def count(*args: Any, **options: Any) -> Any:
        nonlocal asked
        asked += args[0] == "localhost"
        return await resolve(*args, **options)

    monkeypatch.setattr(loop, "getaddrinfo", count)
    peer = Peer([PLAIN] * 20)
    async with serving(peer) as (pool, origin):
        named = Origin("http", "localhost", origin.port)
        connections = await asyncio.gather(*(pool.acquire(named, 5) for _ in range(20)))
        assert all(isinstance(connection, Connection) for connection in connections)
        for connection in connections:
            connection.close()
    assert asked == 1


@pytest.mark.parametrize(
    "private",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "fe80::1%lo",
    ],
)
@pytest.mark.parametrize("beside", [(), ("192.0.2.55", "8.8.8.8")], ids=["alone", "beside public ones"])
async def test_a_name_that_turns_private_is_not_called(
    private: str, beside: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver that gives a public address when the backend is saved and another at the call, as rebinding does."""
    loop, connected = asyncio.get_running_loop(), []

    async def rebind(host: str, port: int, **_: Any) -> Any:
        addresses = (*beside, private)
        return [(0, 0, 0, "", (address, port)) for address in addresses]

    async def connect(*args: Any, **_: Any) -> Any:
        connected.append(args)
        raise AssertionError("it must not be called")

    monkeypatch.setattr(loop, "getaddrinfo", rebind)
    monkeypatch.setattr(loop, "create_connection", connect)
    with pytest.raises(Unreachable, match="ForbiddenAddress"):
        await Pool(Dialer(set())).acquire(Origin("https", "rebinding.example", 443), 5)
    assert connected == []


async def test_the_address_that_was_checked_is_the_one_that_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name is not resolved a second time, where another answer could come between."""
    loop, answers, called = asyncio.get_running_loop(), iter(["8.8.8.8", "127.0.0.1"]), []

    async def rebind(host: str, port: int, **_: Any) -> Any:
        return [(0, 0, 0, "", (next(answers), port))]

    async def connect(_: Any, host: str, port: int, **__: Any) -> Any:
        called.append((host, port))
        raise OSError

    monkeypatch.setattr(loop, "getaddrinfo", rebind)
    monkeypatch.setattr(loop, "create_connection", connect)
    with pytest.raises(Unreachable):
        await Pool(Dialer(set())).acquire(Origin("https", "rebinding.example", 443), 5)
    assert called == [("8.8.8.8", 443)]


# --- connections that rest -----------------------------------------------------------------------------------


async def used(pool: Pool, origin: Origin, rest: Rest) -> Connection:
    """A connection after one exchange, given back."""
    bell, connection = Bell(), await pool.acquire(origin, 5, rest)
    connection.begin(REQUEST, bell.ring, most_bytes=1000)
    assert await bell.wait()
    assert connection.take_whole() == b"hello"
    pool.give_back(connection)
    return connection


async def test_a_connection_rests_as_long_as_its_backend_says() -> None:
    async with serving(Peer([PLAIN] * 3)) as (pool, origin):
        brief, long = Rest(0.2), Rest(30)
        kept = await used(pool, origin, long)
        assert await used(pool, origin, long) is kept
        await asyncio.sleep(0.3)
        assert kept.is_open
        assert await pool.acquire(origin, 5, brief) is not kept, "too old for who asks now"
        await closed(kept)
        ending = await used(pool, origin, brief)
        await closed(ending)


@pytest.mark.parametrize("rest", [Rest(0), Rest(30, 0)], ids=["no time", "none"])
async def test_a_connection_need_not_rest_at_all(rest: Rest) -> None:
    async with serving(Peer([PLAIN])) as (pool, origin):
        connection = await used(pool, origin, rest)
        await closed(connection)


async def test_no_more_rest_than_may() -> None:
    async with serving(Peer([PLAIN] * 9)) as (pool, origin):
        rest = Rest(30, 2)
        connections = [await pool.acquire(origin, 5, rest) for _ in range(3)]
        for connection in connections:
            bell = Bell()
            connection.begin(REQUEST, bell.ring, most_bytes=1000)
            assert await bell.wait()
            assert connection.take_whole() == b"hello"
        for connection in connections:
            pool.give_back(connection)
        await closed(connections[0])
        assert [connection.is_open for connection in connections] == [False, True, True]
