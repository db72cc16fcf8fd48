"""The blocking connection to the store: one batch at a time, within a time limit, never sent again blindly.

It is made by redis-py, which knows URLs, TLS and passwords; what goes over it is ours. It verifies the server's
run id when it connects, and loads the scripts. A worker's event loop has another (wire.py).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from billing.admission.commands import Command, pack
from billing.admission.scripts import Scripts

STORE_S = 0.25  # what a call of the store may take
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


def _options(timeout_s: float | None) -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": _CONNECT_S,
        "health_check_interval": 0,
        "protocol": 2,
    }


class DirectLink:
    """One blocking connection, for the rebuild, the janitor and commands. Not for an event loop."""

    def __init__(self, url: str, scripts: Scripts, *, limit_s: float = 5.0) -> None:
        pool = redis.ConnectionPool.from_url(url, **_options(limit_s))
        self._connection: Any = pool.make_connection()
        self._scripts = scripts
        self._run: bytes | None = None

    def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """See Link.exchange."""
        was_sent = False
        try:
            if self._run is None:
                self._run = self._connect()
            payload = b"".join([command.packed(self._run) for command in commands])
            was_sent = True
            replies = self.send(payload, len(commands))
            if any(isinstance(reply, NoScriptError) for reply in replies):
                self._load_scripts()
                for place, command in enumerate(commands):
                    if isinstance(replies[place], NoScriptError):
                        replies[place] = self.send(command.packed(self._run), 1)[0]
        except (RedisError, OSError) as error:
            self.close()
            raise StoreLost(str(error), was_sent=was_sent) from error
        return [StoreRefused(str(reply)) if isinstance(reply, ResponseError) else reply for reply in replies]

    def send(self, payload: bytes, count: int) -> list[Reply]:
        """Send packed commands and read `count` replies; an error reply is returned as redis-py's exception."""
        self._connection.connect()
        self._connection.send_packed_command([payload])
        return [self._read() for _ in range(count)]

    def close(self) -> None:
        """Close the connection; the next exchange makes a new one."""
        self._run = None
        self._connection.disconnect()

    def _connect(self) -> bytes:
        (info,) = self.send(pack("INFO", "server"), 1)
        self._load_scripts()
        return read_run_id(info)

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
