"""Connections to the store: one batch at a time, within a time limit, never sent again blindly.

A connection is made by redis-py, which knows URLs, TLS and passwords; what goes over it is ours. Both links
verify the server's run id when they connect, and load the scripts.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

import redis
import redis.asyncio
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


def _run_id(info: bytes) -> bytes:
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


class Link:
    """One connection of a worker's event loop. One task at a time uses it."""

    def __init__(self, url: str, scripts: Scripts, *, limit_s: float = STORE_S) -> None:
        pool = redis.asyncio.ConnectionPool.from_url(url, **_options(None))
        self._connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]
        self._scripts = scripts
        self._limit_s = limit_s
        self._run: bytes | None = None

    async def exchange(self, commands: Sequence[Command], *, limit_s: float | None = None) -> list[Reply]:
        """Send `commands` at once and read their replies; connects first if need be. Raises StoreLost, after
        which the connection is closed: no reply can be taken for another's."""
        was_sent = False
        try:
            async with asyncio.timeout(self._limit_s if limit_s is None else limit_s):
                if self._run is None:
                    self._run = await self._connect()
                payload = b"".join([command.packed(self._run) for command in commands])
                was_sent = True
                await self._connection.send_packed_command(payload)
                replies = [await self._read() for _ in commands]
                return await self._load_missing(commands, replies)
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()
            raise StoreLost(str(error) or type(error).__name__, was_sent=was_sent) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; the next exchange makes a new one."""
        self._run = None
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._connection.disconnect(nowait=True)

    async def _connect(self) -> bytes:
        await self._connection.connect()
        await self._connection.send_packed_command(pack("INFO", "server"))
        run = _run_id(await self._read_or_raise())
        await self._load_scripts()
        return run

    async def _load_scripts(self) -> None:
        texts = [pack("SCRIPT", "LOAD", script.text) for script in self._scripts]
        await self._connection.send_packed_command(b"".join(texts))
        for _ in texts:
            await self._read_or_raise()

    async def _load_missing(self, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        """Send again, once, what the server had no script for: that alone was surely not carried out."""
        missing = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            assert self._run is not None  # noqa: S101 - we are connected
            await self._load_scripts()
            payload = b"".join([commands[place].packed(self._run) for place in missing])
            await self._connection.send_packed_command(payload)
            for place in missing:
                replies[place] = await self._read()
        return [StoreRefused(str(reply)) if isinstance(reply, ResponseError) else reply for reply in replies]

    async def _read(self) -> Reply:
        try:
            return await self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error

    async def _read_or_raise(self) -> Any:
        return await self._connection.read_response(disable_decoding=True)


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
        return _run_id(info)

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
