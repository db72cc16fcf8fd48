"""One HTTP exchange over ASGI, which notices at once when the client leaves."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from routing.simulator.azure import plain_path

_WITH = "/with/"
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientLeft(Exception):
    """The client closed its connection before the answer ended."""


def _split_path(path: str) -> tuple[str | None, str]:
    """The faults that a path begins with, `/with/{...}`, and the rest of it. A backend's address can hold them."""
    if not path.startswith(_WITH):
        return None, path
    try:
        end = json.JSONDecoder().raw_decode(path, len(_WITH))[1]
    except ValueError:
        return None, path
    return path[len(_WITH) : end], path[end:]


class Exchange:
    """The request's parts, and the way to answer it.

    A `send` to a client that left does not fail, so a task watches `receive` beside it; `close` ends it.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.in_path, self.asked_path = _split_path(scope["path"])
        self.path = plain_path(self.asked_path, scope["query_string"])
        self.method: str = scope["method"]
        self.status: int | None = None
        self.body = b""
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None
        self.headers = self._read_headers()

    def _read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for name, value in self.scope["headers"]:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return headers

    async def read_body(self) -> bytes:
        """The whole request body, which `body` holds from then on; raises ClientLeft."""
        parts = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                self.body = b"".join(parts)
                return self.body

    async def pause(self, seconds: float) -> None:
        """Let other calls run, for so long at least; raises ClientLeft at once when the client leaves."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        if seconds:
            await asyncio.wait((self._watcher,), timeout=seconds)
        else:
            await asyncio.sleep(0)
        if self._watcher.done():
            raise ClientLeft

    async def hang(self) -> None:
        """Wait until the client leaves, then raise ClientLeft."""
        while True:
            await self.pause(3600)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and headers."""
        self.status = status
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole answer, JSON unless the headers say otherwise."""
        await self.start(
            status, {"content-type": "application/json", "content-length": str(len(body)), **headers}
        )
        await self.write(body, more=False)

    async def drop(self) -> None:
        """Close the connection with no answer where the server lets us, else wait until the client leaves."""
        abort = self.scope.get("state", {}).get("abort")
        if abort is not None:
            abort()
        with suppress(ClientLeft):
            await self.hang()

    def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
