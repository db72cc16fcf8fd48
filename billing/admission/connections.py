"""A worker's connections to the store: one to a single server, or one to each server of a cluster.

Which it is, the server that the URL names says. A connection that breaks is made again, as long as the worker lives.
In a cluster each command goes to the server that has its key. What a cluster did not carry out, because the slot of
the key is elsewhere or on its way, is sent once more within the store's time limit.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from billing.admission.cluster import (
    ASKING,
    SLOTS,
    Address,
    Redirect,
    SlotMap,
    Turn,
    host_of,
    read_redirect,
    read_slots,
    url_at,
)
from billing.admission.commands import Command
from billing.admission.links import LATER_S, STORE_S, Reply, StoreLost, StoreRefused
from billing.admission.scripts import Scripts
from billing.admission.wire import Batch, Taker, Wire, gather

logger = logging.getLogger(__name__)

_RECONNECT_S = (0.02, 0.5)  # the first pause, and the longest
_STABLE_S = 1.0
_REFRESH_S = 2.0  # between looks at who has which slot
_REFRESH_PAUSE_S = 0.1  # at least, however often a slot was found elsewhere
_AWAY = "there is no connection to the store"


class _Server:
    """One server and the connection to it, which is made again whenever it is lost."""

    def __init__(self, url: str, make_wire: Callable[[Callable[[], None]], Wire]) -> None:
        self.url = url
        self.wire = make_wire(self._on_lost)
        self.host = host_of(url)
        self.is_open = False
        self.lost = 0
        self._lost = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def begin(self, on_opened: Callable[["_Server"], Awaitable[bool]]) -> None:
        """Connect and stay so; `on_opened` says each time whether this server is still wanted."""
        self.task = asyncio.create_task(self._keep_connected(on_opened))

    def close(self) -> None:
        """Disconnect for good."""
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        self.wire.close()

    def _on_lost(self) -> None:
        self.is_open = False
        self.lost += 1
        self._lost.set()

    async def _keep_connected(self, on_opened: Callable[["_Server"], Awaitable[bool]]) -> None:
        pause, longest = _RECONNECT_S
        was_away = False
        while True:
            self._lost.clear()
            try:
                await self.wire.connect()
            except StoreLost as error:
                if not was_away:
                    logger.error("The store of the counters is away: %s", error)
                was_away = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
                continue
            if was_away:
                logger.warning("The store of the counters is back.")
            was_away, began = False, time.monotonic()
            if not await on_opened(self):
                return
            await self._lost.wait()
            if time.monotonic() - began > _STABLE_S:
                pause = _RECONNECT_S[0]
            else:  # a server that takes connections and nothing else
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)


class Connections:
    """See the module. Used from one event loop."""

    def __init__(
        self,
        url: str,
        scripts: Scripts,
        *,
        on_opened: Callable[[], None],
        greeting: Callable[[], Sequence[Command]],
        on_answered: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`greeting` is said to each server that is connected; when it is answered, `on_opened` is called, and
        again whenever a slot is found at another server. `on_answered` is told the seconds of each exchange."""
        self._url = url
        self._scripts = scripts
        self._on_opened = on_opened
        self._greeting = greeting
        self._on_answered = on_answered
        self._sole: _Server | None = None  # of a store that is no cluster, or is not known yet
        self._slots = SlotMap()
        self._servers: dict[Address, _Server] = {}
        self._changed = asyncio.Event()  # replaced after each change of what is open
        self._stale = asyncio.Event()  # somebody else has a slot than we thought
        self._refreshing: asyncio.Task[None] | None = None
        self._resending: set[asyncio.Task[None]] = set()
        self._lost_before = 0
        self._said = ""

    def start(self) -> None:
        """Begin to connect."""
        self._sole = _Server(self._url, self._maker(self._url))
        self._sole.begin(self._first_opened)

    async def close(self) -> None:
        """Disconnect; what was sent is lost."""
        servers = self._all_servers()
        tasks = [server.task for server in servers if server.task is not None]
        tasks += [task for task in (self._refreshing, *self._resending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in servers:
            server.close()

    @property
    def lost(self) -> int:
        """How many connections broke."""
        return self._lost_before + sum(server.lost for server in self._all_servers())

    @property
    def are_all_open(self) -> bool:
        """Whether every server can be asked."""
        servers = self._all_servers()
        return bool(servers) and all(server.is_open for server in servers)

    @property
    def url(self) -> str:
        """Of a server that answers, if there is one: by it the others are found."""
        return next((server.url for server in self._all_servers() if server.is_open), self._url)

    def is_open(self, key: bytes) -> bool:
        """Whether the server that has `key` can be asked."""
        server = self._server_of(key)
        return server is not None and server.is_open

    async def opened(self, key: bytes) -> None:
        """Wait until it can be."""
        while not self.is_open(key):
            await self._changed.wait()

    def send(self, batch: Batch) -> None:
        """Send now, each command to its server. Each taker gets a reply, a StoreRefused or a StoreLost, exactly
        once. Commands on one key are carried out in their order, except those that a cluster turned away."""
        if self._sole is not None:
            _send(self._sole if self._sole.is_open else None, batch)
            return
        by_server: dict[_Server | None, list[tuple[Command, Taker]]] = {}
        now = time.monotonic()
        for command, taker in batch:
            routed = _Routed(self, command, taker, now)
            by_server.setdefault(self._server_of(command.key), []).append((command, routed.take))
        for server, part in by_server.items():
            _send(server, part)

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send, and wait for all replies. Raises StoreLost."""
        return await gather(self.send, commands)

    async def ask_each(self, command: Command) -> list[Reply]:
        """The reply of every server. Raises StoreLost when one is away."""
        return [(await server.wire.exchange([command]))[0] for server in self._all_servers()]

    # --- which server ----------------------------------------------------------------------------

    def _all_servers(self) -> list[_Server]:
        return [self._sole] if self._sole is not None else list(self._servers.values())

    def _server_of(self, key: bytes) -> _Server | None:
        if self._sole is not None:
            return self._sole
        address = self._slots.of(key)
        return self._servers.get(address) if address is not None else None

    def _maker(self, url: str) -> Callable[[Callable[[], None]], Wire]:
        return lambda on_lost: Wire(url, self._scripts, on_lost, on_answered=self._on_answered)

    async def _first_opened(self, server: _Server) -> bool:
        """The URL's own server is there: it tells whether there are others."""
        if not server.wire.is_cluster:
            return await self._server_opened(server)
        with contextlib.suppress(StoreLost):
            (reply,) = await server.wire.exchange([SLOTS])
            self._sole = None
            if (slots := self._read_slots(reply, server.host)) is not None:
                self._take_slots(slots)
        if self._sole is not None:
            return True
        self._lost_before += server.lost
        server.close()
        self._refreshing = asyncio.create_task(self._keep_refreshed())
        return False

    async def _server_opened(self, server: _Server) -> bool:
        with contextlib.suppress(StoreLost):
            await gather(self.send if self._sole is None else server.wire.send, self._greeting())
        if server.wire.is_open:
            server.is_open = True
            self._tell()
        return True

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_opened()

    def _server_at(self, address: Address) -> _Server:
        if address not in self._servers:
            url = url_at(self._url, address)
            server = self._servers[address] = _Server(url, self._maker(url))
            server.begin(self._server_opened)
        return self._servers[address]

    # --- a cluster that changes ------------------------------------------------------------------

    def _take_slots(self, slots: SlotMap) -> None:
        self._slots = slots
        for address in self._servers.keys() - slots.addresses:
            gone = self._servers.pop(address)
            self._lost_before += gone.lost
            gone.close()
        for address in slots.addresses:
            self._server_at(address)
        self._tell()

    async def _keep_refreshed(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_S if self.are_all_open else _REFRESH_PAUSE_S * 5):
                    await self._stale.wait()
            self._stale.clear()
            try:
                if (slots := await self._ask_for_slots()) is not None:
                    self._take_slots(slots)
            except Exception:  # without this the worker would never learn where its counters are
                logger.exception("What the cluster of the counters said of its slots cannot be read.")
            await asyncio.sleep(_REFRESH_PAUSE_S)

    async def _ask_for_slots(self) -> SlotMap | None:
        """What the first server says that answers, or the one that the URL names when none is connected."""
        for server in self._all_servers():
            if server.wire.is_open:
                with contextlib.suppress(StoreLost):
                    (reply,) = await server.wire.exchange([SLOTS])
                    return self._read_slots(reply, server.host)
        wire = Wire(self._url, self._scripts, lambda: None)
        with contextlib.suppress(StoreLost):
            await wire.connect()
            try:
                (reply,) = await wire.exchange([SLOTS])
            finally:
                wire.close()
            return self._read_slots(reply, host_of(self._url))
        return None

    def _read_slots(self, reply: Reply, asked: str) -> SlotMap | None:
        if not isinstance(reply, StoreRefused):
            return read_slots(reply, asked)
        if str(reply) != self._said:
            self._said = str(reply)
            logger.error("The cluster of the counters does not tell its slots: %s", reply)
        return None

    def redirect(self, reply: StoreRefused) -> Redirect | None:
        """What an error means for the place of a command."""
        return read_redirect(str(reply), host_of(self._url))

    def send_again(self, command: Command, taker: Taker, redirect: Redirect, sent_at: float) -> None:
        """Send once more what was not carried out: at once where it is said to belong, or a little later."""
        self._stale.set()
        server = None
        if redirect.address is not None:
            server = self._server_at(redirect.address)
            if redirect.turn is Turn.MOVED:
                self._slots.move(redirect.slot, redirect.address)
        if server is not None and server.is_open:
            _send_there(server, command, taker, redirect)
        else:
            task = asyncio.create_task(self._send_later(command, taker, redirect, sent_at))
            self._resending.add(task)
            task.add_done_callback(self._resending.discard)

    async def _send_later(self, command: Command, taker: Taker, redirect: Redirect, sent_at: float) -> None:
        server = None
        try:
            while time.monotonic() + LATER_S < sent_at + STORE_S:
                await asyncio.sleep(LATER_S)
                at = redirect.address
                server = self._servers.get(at) if at is not None else self._server_of(command.key)
                if server is not None and server.is_open:
                    break
        finally:
            if server is not None and server.is_open:
                _send_there(server, command, taker, redirect)
            else:
                taker(StoreLost("a slot of the cluster is being moved", was_sent=False))


class _Routed:
    """A command on its way in a cluster: what comes back is its reply, or where else it is to be sent."""

    __slots__ = ("_command", "_connections", "_is_second", "_sent_at", "_taker")

    def __init__(self, connections: Connections, command: Command, taker: Taker, sent_at: float) -> None:
        self._connections = connections
        self._command = command
        self._taker = taker
        self._sent_at = sent_at
        self._is_second = False

    def take(self, reply: Reply | StoreLost) -> None:
        redirect = self._connections.redirect(reply) if isinstance(reply, StoreRefused) else None
        if redirect is None:
            self._taker(reply)
        elif self._is_second or time.monotonic() > self._sent_at + STORE_S:
            self._taker(StoreLost(f"a slot of the cluster is being moved: {reply}", was_sent=False))
        else:
            self._is_second = True
            self._connections.send_again(self._command, self.take, redirect, self._sent_at)


def _send(server: _Server | None, batch: Batch) -> None:
    try:
        if server is None:
            raise StoreLost(_AWAY, was_sent=False)
        server.wire.send(batch)
    except StoreLost as lost:
        for _, taker in batch:
            taker(lost)


def _send_there(server: _Server, command: Command, taker: Taker, redirect: Redirect) -> None:
    before: list[tuple[Command, Taker]] = [(ASKING, _ignore)] if redirect.turn is Turn.ASK else []
    try:
        server.wire.send([*before, (command, taker)])
    except StoreLost as lost:
        taker(lost)


def _ignore(reply: Reply | StoreLost) -> None:
    """For what is said before a command."""
