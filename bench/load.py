"""The built-in load generator, for where there is no wrk: ready-made bytes over N connections that stay open.

`python -m bench.load URL --connections N` sends `$BENCH_BODY` with the key `$BENCH_KEY` until SIGINT, lets
the requests in flight finish, and prints the same line of JSON as wrk.lua.
"""

import argparse
import asyncio
import json
import os
import signal
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.figures import percentile

_DRAIN_S = 20.0
_STREAM_END = b"data: [DONE]\n\n"


class ChunkedBody:
    """Finds the end of a chunked body, wherever the bytes are split."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0
        self._tail = b""

    def feed(self, data: bytes) -> bool:
        """Take what arrived; True when the last chunk has ended."""
        self._tail = (self._tail + data)[-64:]
        data = self._rest + data
        at = self._skip
        while (line_end := data.find(b"\r\n", at)) >= 0:
            size_bytes = int(data[at:line_end].partition(b";")[0], 16)
            if size_bytes == 0:
                if data.startswith(b"\r\n", line_end + 2):
                    return True
                break
            at = line_end + 2 + size_bytes + 2
        self._skip, self._rest = max(0, at - len(data)), data[at:]
        return False

    def is_whole_stream(self) -> bool:
        """Whether the body ended with an event stream's closing frame; asked after the end."""
        return _STREAM_END in self._tail


class Tally:
    """What all connections have counted together."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.latencies_s: list[float] = []
        self.bad_answers = 0
        self.socket_errors = 0
        self.open = 0
        self.stopping = False
        self.drained = asyncio.Event()

    def closed(self) -> None:
        """One connection less."""
        self.open -= 1
        if self.open == 0:
            self.drained.set()

    def report(self) -> str:
        """One line of JSON."""
        latencies_s = sorted(self.latencies_s)
        return json.dumps(
            {
                "answered": len(latencies_s),
                "bad_answers": self.bad_answers,
                "socket_errors": self.socket_errors,
                "p50_ms": round(percentile(latencies_s, 50) * 1000, 3),
                "p99_ms": round(percentile(latencies_s, 99) * 1000, 3),
            }
        )


class Caller(asyncio.Protocol):
    """One connection: sends the request, waits for the whole answer, sends it again."""

    transport: asyncio.Transport

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._head = b""
        self._left_bytes = 0
        self._chunked: ChunkedBody | None = None
        self._in_body = False
        self._is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Read on in the answer; send the next request when it is whole."""
        if not self._in_body:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._read_head(head.lower())
        if self._chunked is not None:
            is_whole = self._chunked.feed(data) if data else False
        else:
            self._left_bytes -= len(data)
            is_whole = self._left_bytes == 0
        if is_whole:
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a lost answer; the connection is not opened again."""
        if self._is_busy:
            self._tally.socket_errors += 1
        self._tally.closed()

    def _send(self) -> None:
        self._head, self._in_body, self._is_busy, self._is_good = b"", False, True, False
        self._began = time.perf_counter()
        self.transport.write(self._tally.request)

    def _read_head(self, head: bytes) -> None:
        self._in_body = True
        self._is_good = head.startswith(b"http/1.1 2")
        at = head.find(b"\r\ncontent-length:")
        self._chunked = ChunkedBody() if at < 0 else None
        self._left_bytes = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0

    def _answered(self) -> None:
        tally = self._tally
        tally.latencies_s.append(time.perf_counter() - self._began)
        if not self._is_good or (self._chunked is not None and not self._chunked.is_whole_stream()):
            tally.bad_answers += 1
        self._is_busy = False
        if tally.stopping:
            self.transport.close()
        else:
            self._send()


def build_request(url: str, body: bytes, key: str) -> bytes:
    """The bytes of one POST."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


async def generate(host: str, port: int, connections: int, request: bytes) -> str:
    """Keep `connections` busy until SIGINT or SIGTERM; returns the report."""
    loop, stop, tally = asyncio.get_running_loop(), asyncio.Event(), Tally(request)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    for _ in range(connections):
        tally.open += 1
        try:
            await loop.create_connection(lambda: Caller(tally), host, port)
        except OSError:
            tally.socket_errors += 1
            tally.closed()
    await stop.wait()
    tally.stopping = True
    try:
        await asyncio.wait_for(tally.drained.wait(), _DRAIN_S)
    except TimeoutError:
        tally.socket_errors += tally.open
    return tally.report()


def main() -> None:
    """Generate load with what the command line and the environment say."""
    parser = argparse.ArgumentParser(prog="load", description="A light HTTP load generator.")
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, required=True)
    options = parser.parse_args()
    request = build_request(options.url, os.environ["BENCH_BODY"].encode(), os.environ["BENCH_KEY"])
    parts = urlsplit(options.url)
    report = generate(parts.hostname or "", parts.port or 80, options.connections, request)
    print(uvloop.run(report), flush=True)


if __name__ == "__main__":
    main()
