"""The paths that operators' tools ask, answered beside Django: they need the worker's own state."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway_site.health import livez, readyz
from gateway_site.metrics_page import render_metrics
from gateway_site.monitor import Monitor
from routing.call import Reply

Scope = Mapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_PATHS = frozenset({"/livez", "/readyz", "/metrics"})


class Operations:
    """Serves one worker's `/livez`, `/readyz` and `/metrics`."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    @staticmethod
    def serves(path: str) -> bool:
        """Whether `path` is ours."""
        return path in _PATHS

    async def __call__(self, scope: Scope, send: Send) -> None:
        """Answer one request; its body is not read."""
        reply = await self._reply(scope)
        headers = {
            "content-type": "application/json",
            "cache-control": "no-store",
            **reply.headers,
            "content-length": str(len(reply.body)),
        }
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
        body = b"" if scope["method"] == "HEAD" else reply.body
        await send({"type": "http.response.body", "body": body})

    async def _reply(self, scope: Scope) -> Reply:
        if scope["method"] not in {"GET", "HEAD"}:
            return Reply(405, b'{"error":"Use GET."}', {"allow": "GET, HEAD"})
        if scope["path"] == "/livez":
            return livez()
        if scope["path"] == "/readyz":
            return readyz(self.monitor)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return await render_metrics(self.monitor, headers)
