"""A request and its answer as the pipeline sees them, free of any web framework."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Client:
    """The caller's connection. A server's `send` never fails after the caller has gone; only `receive` tells."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self.has_left = False

    def cancel_when_gone(self) -> None:
        """From now on, cancel the current task as soon as the caller disconnects."""
        task = asyncio.current_task()
        if task is not None and self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(task))

    def stop_watching(self) -> None:
        """The answer is complete."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # else the two would keep each other until the collector comes

    async def _watch(self, task: "asyncio.Task[Any]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_left = True
        task.cancel()


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `headers` are lower-case names; the body is complete and within its bound; `address` is the
    caller's, as far as proxies that we trust can say; `path_model` is the model that the path names."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client: Client
    address: str = ""
    path_model: str | None = None


@dataclass(slots=True)
class Reply:
    """The answer: a body, or a stream whose first piece is already known. A started stream must be closed.

    `headers` are lower-case names; a content type other than JSON is among them.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    first_piece: bytes = b""
    stream: AsyncGenerator[bytes, None] | None = None
    send_within_s: float | None = None  # for the caller to take a whole stream
