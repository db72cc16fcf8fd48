"""The blocking connections to the store: one batch at a time, within a time limit, never sent again blindly.

They are made by redis-py, which knows URLs, TLS and passwords; what goes over them is ours. Each verifies its
server's run id when it connects, and loads the scripts. A worker's event loop has others (wire.py).
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

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
from billing.admission.commands import Command, pack
from billing.admission.scripts import Scripts

STORE_S = 0.25  # what a call of the store may take
LATER_S = 0.05  # after which a cluster that is moving a slot is asked again
_CONNECT_S = 2.0


class StoreLost(Exception):
    """The store did not answer in time, or not at all. `was_sent`: it may carry the commands out all the same."""

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class StoreRefused(Exception):
    """The store answered with an error: nothing was changed."""


Reply = Any  # nested lists of numbers and bytes, or StoreRefused


class Exchange(Protocol):
    """Sends commands and returns their replies, in order. Raises StoreLost."""

    def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """One round trip; a reply may be a StoreRefused."""


def read_run_id(info: bytes) -> bytes:
    """The server's run id out of INFO. Raises StoreLost when it does not tell."""
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line.removeprefix(b"run_id:")
    raise StoreLost("the store does not tell its run id", was_sent=False)


def is_cluster(info: bytes) -> bool:
    """Whether a server is one of a cluster, out of INFO."""
    return not {b"redis_mode:cluster", b"server_mode:cluster"}.isdisjoint(info.splitlines())


def _options(timeout_s: float | None) -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": _CONNECT_S,
        "health_check_interval": 0,
        "protocol": 2,
    }


class ServerLink:
    """One blocking connection to one server, made when it is needed."""

    def __init__(self, url: str, scripts: Scripts, *, limit_s: float = 5.0) -> None:
        pool = redis.ConnectionPool.from_url(url, **_options(limit_s))
        self._connection: Any = pool.make_connection()
        self._scripts = scripts
        self._run: bytes | None = None
        self._is_cluster = False

    def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """See Link.exchange."""
        was_sent = False
        try:
            run = self._connected()
            payload = b"".join([command.packed(run) for command in commands])
            was_sent = True
            replies = self.send(payload, len(commands))
            if any(isinstance(reply, NoScriptError) for reply in replies):
                self._load_scripts()
                for place, command in enumerate(commands):
                    if isinstance(replies[place], NoScriptError):
                        replies[place] = self.send(command.packed(run), 1)[0]
        except (RedisError, OSError) as error:
            self.close()
            raise StoreLost(str(error), was_sent=was_sent) from error
        return [
            StoreRefused(_said(reply)) if isinstance(reply, ResponseError) else reply for reply in replies
        ]

    def is_of_cluster(self) -> bool:
        """Whether the server is one of a cluster. Raises StoreLost."""
        try:
            self._connected()
        except (RedisError, OSError) as error:
            self.close()
            raise StoreLost(str(error), was_sent=False) from error
        return self._is_cluster

    def send(self, payload: bytes, count: int) -> list[Reply]:
        """Send packed commands and read `count` replies; an error reply is returned as redis-py's exception."""
        self._connection.connect()
        self._connection.send_packed_command([payload])
        return [self._read() for _ in range(count)]

    def close(self) -> None:
        """Close the connection; the next exchange makes a new one."""
        self._run = None
        self._connection.disconnect()

    def _connected(self) -> bytes:
        if self._run is None:
            (info,) = self.send(pack("INFO", "server"), 1)
            if isinstance(info, ResponseError):
                raise info
            self._load_scripts()
            self._run, self._is_cluster = read_run_id(info), is_cluster(info)
        return self._run

    def _load_scripts(self) -> None:
        texts = [pack("SCRIPT", "LOAD", script.text) for script in self._scripts]
        for reply in self.send(b"".join(texts), len(texts)):
            if isinstance(reply, ResponseError):
                raise reply

    def _read(self) -> Reply:
        try:
            return self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error


def _said(error: ResponseError) -> str:
    """The error as the server wrote it: redis-py takes the first word off those that it has classes for."""
    word = getattr(error, "status_code", None)
    return f"{word} {error}" if word else str(error)


class DirectLink:
    """The store, be it one server or a cluster, for the rebuild, the janitor and commands. Not for an event loop."""

    def __init__(self, url: str, scripts: Scripts, *, limit_s: float = 5.0) -> None:
        self._url = url
        self._scripts = scripts
        self._limit_s = limit_s
        self._first = ServerLink(url, scripts, limit_s=limit_s)
        self._servers: dict[Address, ServerLink] = {}
        self._slots: SlotMap | None = None  # None: of one server, or not known

    def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """See Exchange. Commands to the same server are carried out in their order."""
        if not self._servers and not self._first.is_of_cluster():  # other servers are known of a cluster only
            return self._first.exchange(commands)
        replies: list[Reply] = [None] * len(commands)
        try:
            for server, places in self._by_server(commands).items():
                answers = server.exchange([commands[place] for place in places])
                for place, answer in zip(places, answers, strict=True):
                    replies[place] = answer
            for place, reply in enumerate(replies):
                if (redirect := self._redirect(reply)) is not None:
                    replies[place] = self._send_again(commands[place], redirect)
        except StoreLost as lost:
            self._slots = None
            raise StoreLost(str(lost), was_sent=True) from lost
        return replies

    def ask_each(self, command: Command) -> list[Reply]:
        """The reply of every server that has data. Raises StoreLost when one is away."""
        if not self._servers and not self._first.is_of_cluster():
            return self._first.exchange([command])
        slots = self._read_slots()
        return [self._server(address).exchange([command])[0] for address in sorted(slots.addresses)]

    def close(self) -> None:
        """Close the connections; the next exchange makes new ones."""
        for server in (self._first, *self._servers.values()):
            server.close()
        self._servers.clear()
        self._slots = None

    def _by_server(self, commands: Sequence[Command]) -> dict[ServerLink, list[int]]:
        slots = self._slots = self._slots or self._read_slots()
        places: dict[ServerLink, list[int]] = {}
        for place, command in enumerate(commands):
            address = slots.of(command.key)
            if address is None:
                raise StoreLost("no server has the slot of a key", was_sent=False)
            places.setdefault(self._server(address), []).append(place)
        return places

    def _server(self, address: Address) -> ServerLink:
        if address not in self._servers:
            url = url_at(self._url, address)
            self._servers[address] = ServerLink(url, self._scripts, limit_s=self._limit_s)
        return self._servers[address]

    def _read_slots(self) -> SlotMap:
        """As the first server that answers says."""
        lost = StoreLost("no server of the cluster answers", was_sent=False)
        hosts = [(self._first, host_of(self._url)), *((link, at.host) for at, link in self._servers.items())]
        for server, host in hosts:
            try:
                (reply,) = server.exchange([SLOTS])
            except StoreLost as error:
                lost = error
                continue
            if not isinstance(reply, StoreRefused):
                return read_slots(reply, host)
        raise lost

    def _redirect(self, reply: Reply) -> Redirect | None:
        return read_redirect(str(reply), host_of(self._url)) if isinstance(reply, StoreRefused) else None

    def _send_again(self, command: Command, redirect: Redirect) -> Reply:
        """What was not carried out, once more. Raises StoreLost if it is not then either."""
        if redirect.address is None:
            time.sleep(LATER_S)
            self._slots = self._read_slots()
            address = self._slots.of(command.key)
        else:
            address = redirect.address
            if redirect.turn is Turn.MOVED and self._slots is not None:
                self._slots.move(redirect.slot, address)
        if address is None:
            raise StoreLost("no server has the slot of a key", was_sent=True)
        before = [ASKING] if redirect.turn is Turn.ASK else []
        reply = self._server(address).exchange([*before, command])[-1]
        if self._redirect(reply) is not None:
            raise StoreLost(f"a slot of the cluster is being moved: {reply}", was_sent=True)
        return reply
