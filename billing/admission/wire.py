"""A worker's connection to the store: pipelined, each reply to its own taker in order, none waited for too long.

Nothing is sent again: a command whose reply did not come may have been carried out, and its taker is told so.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis.asyncio

from billing.admission.commands import Command, pack
from billing.admission.links import STORE_S, Reply, StoreLost, StoreRefused, is_cluster, read_run_id
from billing.admission.scripts import Scripts

logger = logging.getLogger(__name__)

Taker = Callable[[Reply | StoreLost], None]
Batch = Sequence[tuple[Command, Taker]]
_CONNECT_S = 1.0
_LAST_CHANCE_S = 0.005
# Errors after which the connection is made anew: that loads the scripts, or finds the server that may be written to.
_DISQUALIFYING = ("NOSCRIPT", "READONLY", "MASTERDOWN", "LOADING")


class Wire:
    """One connection, made by `connect` and lost for good at the first late reply; then it is made anew.

    `on_lost` is called once for each connection that was open, after its takers. `on_answered` is told how many
    seconds passed until all replies to one `send` were there.
    """

    def __init__(
        self,
        url: str,
        scripts: Scripts,
        on_lost: Callable[[], None],
        *,
        on_answered: Callable[[float], None] = lambda _: None,
        limit_s: float = STORE_S,
    ) -> None:
        self._url = url
        self._scripts = scripts
        self._on_lost = on_lost
        self._on_answered = on_answered
        self._limit_s = limit_s
        self._run = b""
        self.is_cluster = False  # whether the server is one of a cluster, as it said at the last `connect`
        self._protocol: _Protocol | None = None

    @property
    def is_open(self) -> bool:
        """Whether something can be sent now."""
        return self._protocol is not None

    async def connect(self) -> None:
        """Connect, learn the server's run id and load the scripts. Raises StoreLost."""
        protocol: _Protocol | None = None
        try:
            async with asyncio.timeout(_CONNECT_S):
                protocol, greeting = await _dial(self._url, self._limit_s)
                *_, info = await protocol.ask([*greeting, pack("INFO", "server")])
                run = read_run_id(info)
                await protocol.ask([pack("SCRIPT", "LOAD", script.text) for script in self._scripts])
        except (OSError, TimeoutError, StoreLost, StoreRefused) as error:
            if protocol is not None:
                protocol.abort()
            raise StoreLost(str(error) or type(error).__name__, was_sent=False) from None
        self._run, self.is_cluster = run, is_cluster(info)
        self._protocol = protocol
        protocol.on_lost = self._lost
        protocol.on_answered = self._on_answered

    def send(self, commands: Batch) -> None:
        """Send now. Each taker gets its reply, a StoreRefused, or a StoreLost, later and exactly once.

        Raises StoreLost when there is no connection.
        """
        if self._protocol is None:
            raise StoreLost("there is no connection to the store", was_sent=False)
        run = self._run
        payload = b"".join([command.packed(run) for command, _ in commands])
        self._protocol.send(payload, [taker for _, taker in commands])

    async def exchange(self, commands: list[Command]) -> list[Reply]:
        """Send, and wait for all replies. Raises StoreLost."""
        return await gather(self.send, commands)

    def close(self) -> None:
        """Drop the connection; what was sent is lost."""
        if self._protocol is not None:
            self._protocol.abort()

    def _lost(self) -> None:
        self._protocol = None
        self._on_lost()


async def gather(send: Callable[[Batch], None], commands: Sequence[Command]) -> list[Reply]:
    """Send by `send`, and wait for all replies. Raises StoreLost when one does not come."""
    if not commands:
        return []
    gathered = _Gathered(len(commands))
    send([(command, gathered.taker(place)) for place, command in enumerate(commands)])
    return await gathered.future


class _Gathered:
    """Takes so many replies into one future, each to its place."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._replies: list[Reply] = [None] * count
        self.future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()

    def taker(self, place: int) -> Taker:
        """Takes the reply to the command at `place`."""
        return lambda reply: self._take(place, reply)

    def _take(self, place: int, reply: Reply | StoreLost) -> None:
        if self.future.done():
            return
        if isinstance(reply, StoreLost):
            self.future.set_exception(reply)
            return
        self._replies[place] = reply
        self._missing -= 1
        if not self._missing:
            self.future.set_result(self._replies)


class _Protocol(asyncio.Protocol):
    """Bytes to replies. The first command that is not answered in time ends the connection."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._reader = hiredis.Reader(replyError=StoreRefused)
        self._takers: deque[Taker] = deque()
        self._batches: deque[list[float]] = deque()  # until when, and how many replies are still to come
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = False
        self._is_lost = False
        self.on_lost: Callable[[], None] = lambda: None
        self.on_answered: Callable[[float], None] = lambda _: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to send."""
        self._transport = transport  # type: ignore[assignment]

    def send(self, payload: bytes, takers: list[Taker]) -> None:
        """Write `payload`, whose replies go to `takers` in order."""
        if self._is_lost:
            raise StoreLost("the connection to the store is closed", was_sent=False)
        self._takers.extend(takers)
        self._batches.append([self._loop.time() + self._limit_s, len(takers)])
        self._transport.write(payload)
        if self._timer is None:
            self._timer = self._loop.call_at(self._batches[0][0], self._look)

    async def ask(self, packed: list[bytes]) -> list[Any]:
        """The replies to ordinary commands. Raises StoreLost, or StoreRefused for an error among them."""
        gathered = _Gathered(len(packed))
        self.send(b"".join(packed), [gathered.taker(place) for place in range(len(packed))])
        replies = await gathered.future
        for reply in replies:
            if isinstance(reply, StoreRefused):
                raise reply
        return replies

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are whole."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError:
            logger.exception("The store sent what is no reply.")
            self.abort()

    def _take(self, reply: Any) -> None:
        if isinstance(reply, StoreRefused) and str(reply).startswith(_DISQUALIFYING):
            reply = StoreLost(str(reply), was_sent=False)
            self._loop.call_soon(self.abort)
        taker = self._takers.popleft()
        batch = self._batches[0]
        batch[1] -= 1
        if not batch[1]:
            self._batches.popleft()
            self.on_answered(self._loop.time() + self._limit_s - batch[0])
        try:
            taker(reply)
        except Exception:  # the replies to others must not be lost with this one
            logger.exception("A reply of the store could not be taken.")

    def _look(self) -> None:
        """Look at the oldest batch: one timer serves all."""
        self._timer = None
        if not self._batches:
            return
        due = self._batches[0][0]
        if due > self._loop.time():
            self._is_late = False
            self._timer = self._loop.call_at(due, self._look)
        elif self._is_late:
            self.abort()
        else:  # perhaps it is we who are late, and the replies wait to be read
            self._is_late = True
            self._timer = self._loop.call_later(_LAST_CHANCE_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed, or the network did."""
        self.abort()

    def abort(self) -> None:
        """Close without waiting; who waits for a reply is told that it will not come."""
        if self._is_lost:
            return
        self._is_lost = True
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        takers, self._takers = self._takers, deque()
        self._batches.clear()
        for taker in takers:
            taker(StoreLost("the store did not answer", was_sent=True))
        self.on_lost()


async def _dial(url: str, limit_s: float) -> tuple[_Protocol, list[bytes]]:
    """A connection, and what is to be said first: who we are, and which database. redis-py reads the URL."""
    named: Any = redis.asyncio.ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
    loop = asyncio.get_running_loop()
    make = lambda: _Protocol(limit_s)  # noqa: E731 - a name for the factory of both kinds
    if path := getattr(named, "path", None):
        _, protocol = await loop.create_unix_connection(make, path)
    else:
        context = getattr(named, "ssl_context", None)
        tls = {"ssl": context.get(), "server_hostname": named.host} if context is not None else {}
        _, protocol = await loop.create_connection(make, named.host, named.port, **tls)
    greeting = []
    if named.password:
        greeting.append(pack("AUTH", *([named.username] if named.username else []), named.password))
    if named.db:
        greeting.append(pack("SELECT", str(named.db)))
    return protocol, greeting
