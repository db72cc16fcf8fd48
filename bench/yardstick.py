"""The yardstick: the least a Python proxy can do with the same server and client libraries.

A bare ASGI function on aiohttp, the fastest client library measured (docs/adr/0002): no key, no JSON, no record.
The server is set up as the gateway sets up its own (manage.py serve).
"""

import argparse
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp

from gateway_site.server import run_server

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_HEADERS = {
    "User-Agent": "llm-yardstick",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    # As many bytes as the gateway sends.
    "Authorization": "Bearer simulator-needs-no-secret",
    "X-Request-Id": "00000000-0000-7000-8000-000000000000",
}


class Yardstick:
    """Posts every body to `backend_url` and passes the answer on."""

    def __init__(self, backend_url: str) -> None:
        self._backend_url = backend_url
        self._session: aiohttp.ClientSession

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = await _read_body(receive)
        async with self._session.post(self._backend_url, data=body, allow_redirects=False) as response:
            headers = [(b"content-type", response.headers["Content-Type"].encode())]
            length = response.headers.get("Content-Length")
            if length is not None:
                headers.append((b"content-length", length.encode()))
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            if length is not None:
                await send({"type": "http.response.body", "body": await response.read()})
                return
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            headers=_HEADERS,
            read_bufsize=64 * 1024,
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._session.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _read_body(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="yardstick", description="A bare pass-through proxy.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend-url", required=True, help="where every body is posted to")
    options = parser.parse_args()
    run_server(Yardstick(options.backend_url), host="127.0.0.1", port=options.port, shutdown_s=5)


if __name__ == "__main__":
    main()
