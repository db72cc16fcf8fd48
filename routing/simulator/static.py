"""The benchmark fast path: fixed bytes from a raw protocol, so that what is measured is not the simulator."""

import asyncio
from collections import Counter
from typing import cast

from routing.simulator.requests import Refusal
from routing.simulator.static_bytes import WRITES, json_answer, models_answer, plain_answer, stream_writes
from routing.simulator.static_parser import BadRequestError, Incomplete, Request, parse_request
from routing.simulator.wire import encode, error_body

DEFAULT_STREAM_S = 0.42
SLOTS = 10
SHORTEST_TICK_S = 0.0005


class StreamClock:
    """One timer for all streams.

    A stream writes once per gap of `stream_s / 21`; the gap has up to ten slots and a stream keeps the
    slot it began in, so streams that began apart stay apart. The timer runs only while there are streams.
    """

    def __init__(self, stream_s: float) -> None:
        gap_s = stream_s / WRITES
        self.slots = max(1, min(SLOTS, int(gap_s / SHORTEST_TICK_S)))
        self.tick_s = gap_s / self.slots
        self._waiting: list[list[StaticProtocol]] = [[] for _ in range(self.slots)]
        self._open = 0
        self._slot = 0
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: "StaticProtocol") -> None:
        """Let a stream, its first write done, write the rest; its `write_next` is called until it says no."""
        self._waiting[self._slot].append(stream)
        self._open += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due_s = loop.time()
            self._schedule(loop)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_s = max(self._due_s + self.tick_s, loop.time() - self.tick_s * self.slots)
        self._timer = loop.call_at(self._due_s, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._slot = (self._slot + 1) % self.slots
        streams = self._waiting[self._slot]
        if streams:
            self._waiting[self._slot] = [stream for stream in streams if stream.write_next()]
            self._open -= len(streams) - len(self._waiting[self._slot])
        self._timer = None
        if self._open:
            self._schedule(loop)


class StaticServer:
    """The fixed answers, the streams' clock and a count of what was served, shared by all connections."""

    def __init__(self, stream_s: float) -> None:
        self.clock = StreamClock(stream_s)
        self.at_once = stream_s == 0
        self.plain = plain_answer()
        self.streams = (stream_writes(asked_usage=False), stream_writes(asked_usage=True))
        self.models = models_answer()
        self.counts: Counter[str] = Counter()

    def make_protocol(self) -> "StaticProtocol":
        """A protocol for one connection."""
        return StaticProtocol(self)

    def close(self) -> None:
        """Stop the streams."""
        self.clock.close()

    def answer_other(self, head: bytes) -> bytes:
        """What a request other than a chat completion gets."""
        if head.startswith(b"get /v1/models "):
            return self.models
        if head.startswith(b"get /simulator/served "):
            names = ("plain", "streams", "streams_left")
            counts = {name: self.counts[name] for name in names}
            return json_answer(b"200 OK", encode({"count": counts["plain"] + counts["streams"], **counts}))
        return json_answer(b"404 Not Found", encode(error_body(Refusal(404, "Unknown path."))))


class StaticProtocol(asyncio.Protocol):
    """One connection: answers its requests in their order, one after another."""

    __slots__ = ("buffer", "need_bytes", "server", "stopping", "transport", "writes", "written")
    transport: asyncio.Transport

    def __init__(self, server: StaticServer) -> None:
        self.server = server
        self.buffer = bytearray()
        self.need_bytes = 0
        self.writes: tuple[bytes, ...] = ()
        self.written = 0
        self.stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up the stream in flight."""
        self.stopping = True
        if self.writes:
            self.server.counts["streams_left"] += 1

    def pause_writing(self) -> None:
        """Read no more requests while the client does not read its answers."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete and whose turn it is."""
        if self.buffer or self.writes:
            self.buffer += data
            if self.writes or len(self.buffer) < self.need_bytes:
                return
            data = bytes(self.buffer)
            self.buffer.clear()
        self._serve(data)

    def _serve(self, data: bytes) -> None:
        at = 0
        answers: list[bytes] = []
        while at < len(data) and not self.writes and not self.stopping:
            try:
                request = parse_request(data, at)
            except BadRequestError as error:
                answers.append(json_answer(b"400 Bad Request", encode(error_body(Refusal(400, str(error))))))
                self.stopping = True
                break
            if isinstance(request, Incomplete):
                self.need_bytes = request.need_bytes - at
                if request.wants_continue:
                    answers.append(b"HTTP/1.1 100 Continue\r\n\r\n")
                break
            at = request.end
            answers.append(self._answer(request))
        if at < len(data):
            self.buffer += data[at:]
        if answers:
            self.transport.write(answers[0] if len(answers) == 1 else b"".join(answers))
        if self.stopping and not self.writes:
            self.transport.close()

    def _answer(self, request: Request) -> bytes:
        server = self.server
        self.stopping = not request.keep_alive
        if not request.head.startswith(b"post /v1/chat/completions "):
            return server.answer_other(request.head)
        body = request.body
        if b'"stream":true' not in body and b'"stream": true' not in body:
            server.counts["plain"] += 1
            return server.plain
        server.counts["streams"] += 1
        writes = server.streams[b'"include_usage":true' in body or b'"include_usage": true' in body]
        if server.at_once:
            return b"".join(writes)
        self.writes = writes
        self.written = 1
        server.clock.add(self)
        return writes[0]

    def write_next(self) -> bool:
        """Write the stream's next part; False when it was the last or the client left."""
        if self.transport.is_closing():
            return False
        self.transport.write(self.writes[self.written])
        self.written += 1
        if self.written < WRITES:
            return True
        self.writes = ()
        if self.stopping:
            self.transport.close()
        elif self.buffer:
            data = bytes(self.buffer)
            self.buffer.clear()
            self._serve(data)
        return False
