"""One HTTP/1.1 connection to a backend. It carries one exchange at a time; httptools does the parsing."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, cast

import httptools

_MOST_HEADER_BYTES = 64 * 1024
_MOST_UNREAD_BYTES = 256 * 1024  # of a stream whose reader is slow; then the backend has to wait
_PLAIN_STATUSES = frozenset({0, 200})


class UpstreamFailure(Exception):
    """A call to a backend did not work out; the subclass says how far it came."""


class Unreachable(UpstreamFailure):
    """No connection could be made: nothing was sent."""


class Broke(UpstreamFailure):
    """The connection ended after the request was sent, before the answer was complete."""


class Malformed(UpstreamFailure):
    """What came is not HTTP, or beyond all bounds."""


class Origin(NamedTuple):
    """Where connections go: they are shared by everything with the same origin."""

    scheme: str
    host: str
    port: int


class Rest(NamedTuple):
    """How long connections may wait for their next exchange, and how many of an origin's may."""

    seconds: float
    most: int | None = None


# Below the 5 s after which uvicorn-based servers, vLLM among them, close: a request that meets the closing of its
# connection fails, and might have cost.
USUAL_REST = Rest(4.0)


class Connection(asyncio.Protocol):
    """Send with `begin`, be told of news, and `take` what has arrived; `status` is 0 until the head is there.

    Not safe to share: whoever got it from the pool owns it until it is given back or closed.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self.may_rest = USUAL_REST
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._is_lost = False
        self.notify: Callable[[], object] | None = None  # None: no exchange is under way
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}  # lower-case names; the last of equal ones
        self.is_complete = False
        self.failure: UpstreamFailure | None = None
        self._most_bytes: int | None = None
        self._header_bytes = 0
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._is_interim = False
        self._keeps_alive = False
        self._has_surplus = False
        self._is_paused = False

    # --- for the owner ----------------------------------------------------------------------------------

    def begin(self, request: bytes, notify: Callable[[], object], *, most_bytes: int | None = None) -> None:
        """Send a whole request. `notify` is called whenever there is something new to take.

        With `most_bytes`, a 200 is wanted whole: `notify` is called once, at its end, and a body of more bytes
        is a failure. Without, pieces are told as they come, and an unread rest makes the backend wait.
        """
        self._reset()
        self._most_bytes = most_bytes
        self.notify = notify
        if self._transport is None or self._transport.is_closing():
            self._fail(Unreachable("the connection was closed"))
        else:
            self._transport.write(request)

    @property
    def has_head(self) -> bool:
        """Whether the head of the answer is there, or never will be."""
        return self.status != 0 or self.failure is not None

    def take(self) -> bytes | None:
        """What has arrived of the body: None when nothing has yet, b"" at the end. Raises UpstreamFailure.

        What came before a failure is given out first: it was produced, and may have to be paid.
        """
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces, self._unread_bytes = [], 0
            if self._is_paused and self._transport is not None:
                self._is_paused = False
                self._transport.resume_reading()
            return data
        if self.is_complete:
            return b""
        if self.failure is not None:
            raise self.failure
        return None

    def take_whole(self) -> bytes:
        """The whole body, once `notify` was called. Raises UpstreamFailure when it is not whole."""
        if self.failure is not None:
            raise self.failure
        return self.take() or b""

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange ended so cleanly that another one may follow."""
        return (
            self.is_complete
            and self._keeps_alive
            and not self._has_surplus
            and not self._is_paused
            and self.is_open
            and cast(asyncio.Transport, self._transport).get_write_buffer_size() == 0
        )

    @property
    def is_open(self) -> bool:
        """Whether both sides still hold the connection."""
        return self._transport is not None and not self._is_lost and not self._transport.is_closing()

    def rest(self, now: float) -> None:
        """No exchange is under way: anything that arrives closes the connection."""
        self.notify = None
        self.idle_since = now
        self._reset()

    def close(self) -> None:
        """Drop the connection at once."""
        self.notify = None
        if self._transport is not None:
            self._transport.abort()

    # --- for the transport ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse, and tell the owner."""
        if self.notify is None:
            self.close()
            return
        self._head_bytes += 0 if self.status else len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._has_surplus = True
            if not self.is_complete:  # else the answer is whole, and what follows it ends the connection
                self._fail(Malformed(type(error).__name__))
                return
        if self.status == 0 and self._head_bytes > _MOST_HEADER_BYTES:  # the parser keeps what has no end yet
            self._fail(Malformed("an endless head"))
        elif self._most_bytes is None:
            if self._unread_bytes > _MOST_UNREAD_BYTES and not self._is_paused and self.is_open:
                self._is_paused = True
                cast(asyncio.Transport, self._transport).pause_reading()
            self.notify()
        elif self._unread_bytes > self._most_bytes:
            self._fail(Malformed("the answer is too large"))
        elif self.is_complete or self.status not in _PLAIN_STATUSES:
            self.notify()

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that tells no length ends here; any other that is not complete broke off."""
        self._is_lost = True
        del self._parser  # it refers back to us
        if self.notify is None or self.is_complete or self.failure is not None:
            return
        if exc is None and self.status and not self._tells_its_end:
            self.is_complete = True
            self.notify()
        else:
            self._fail(Broke("the connection ended"))

    @property
    def _tells_its_end(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers

    def _fail(self, failure: UpstreamFailure) -> None:
        notify, self.failure = self.notify, self.failure or failure
        if self._transport is not None:
            self._transport.abort()
        if notify is not None:
            notify()

    # --- for the parser ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A second answer to one request is never believed, nor is the connection used again."""
        self._has_surplus = self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep it, within bounds. Raises Malformed, which the parser turns into its own error."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise Malformed("oversize headers")
        if not self._has_surplus:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is there, unless it is only a word on the way (100 Continue)."""
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200
        if self._is_interim:
            self.headers.clear()
        elif not self._has_surplus:
            self.status = status

    def on_body(self, body: bytes) -> None:
        """A piece of the answer."""
        if not self._has_surplus:
            self._pieces.append(body)
            self._unread_bytes += len(body)

    def on_message_complete(self) -> None:
        """The end of the answer."""
        if not self._is_interim:
            self.is_complete = True
            self._keeps_alive = self._parser.should_keep_alive()
