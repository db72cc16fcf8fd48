"""The lean ASGI handler of the data plane.

Stock Django opens a thread-sensitive context per request, spools the body to a file and races a disconnect
listener; that costs more than the whole pipeline (docs/adr/0001). This handler reads the bounded body,
builds the HttpRequest in memory, awaits the view, and sends the Reply it returns.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from routing.authentication import refuse_keyless, refuse_repeated_keys
from routing.call import Call, Client, Reply
from routing.gateway import Gateway
from routing.urls import find_view, is_data_plane
from routing.views import DataPlaneRequest
from teams.errors import GatewayError, body_timeout, body_too_large, headers_too_large

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_BODY_S = 60.0
_SEND_S = 60.0  # for a caller to take a whole answer
_SMALL_BODY_BYTES = 64 * 1024
_MOST_HEADER_BYTES = 64 * 1024


class ClientGone(Exception):
    """The caller disconnected before its request was complete."""


class DataPlane:
    """Serves one worker's data plane."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @staticmethod
    def serves(path: str) -> bool:
        """Whether `path` is ours rather than Django's."""
        return is_data_plane(path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; returns quietly when the caller has gone."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        view, path_model = find_view(scope["path"])
        client, address = Client(receive), self.gateway.options.trusted_proxies.address_of(scope)
        try:
            _check_head(scope["headers"], headers)
            body = await _read_body(receive, headers, self.gateway.options.max_body_bytes)
        except ClientGone:
            return
        except GatewayError as error:
            call = Call(scope["method"], scope["path"], headers, b"", client, address)
            await _send_plain(send, view.refuse_unread(self.gateway, call, error), scope)
            return
        call = Call(scope["method"], scope["path"], headers, body, client, address, path_model)
        try:
            reply: Reply = await view.dispatch(DataPlaneRequest(self.gateway, call))
            if reply.stream is None:
                await _send_plain(send, reply, scope)
            else:
                with self.gateway.metrics.open_stream():
                    await _send_stream(send, reply, reply.stream, client)
        except asyncio.CancelledError:
            if not client.has_left:
                raise
        finally:
            client.stop_watching()


def _check_head(raw: list[tuple[bytes, bytes]], headers: Mapping[str, str]) -> None:
    """Refuse, before any of the body is read, oversize headers, and large bodies of callers without a key."""
    if sum(len(name) + len(value) for name, value in raw) > _MOST_HEADER_BYTES:
        raise headers_too_large(_MOST_HEADER_BYTES)
    if len(headers) < len(raw):
        refuse_repeated_keys(raw)
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or (length.isdecimal() and int(length) > _SMALL_BODY_BYTES):
        refuse_keyless(headers)


async def _read_body(receive: Receive, headers: Mapping[str, str], limit_bytes: int) -> bytes:
    """The whole body. Raises ClientGone, or GatewayError when it is too large or too slow."""
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit_bytes:
        raise body_too_large(limit_bytes)
    pieces, size = [], 0
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > limit_bytes:
                    raise body_too_large(limit_bytes)
                if not message.get("more_body"):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except TimeoutError:
        raise body_timeout() from None


async def _send_plain(send: Send, reply: Reply, scope: Scope) -> None:
    headers = [*_encode_headers(reply), (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body}
    if len(reply.body) <= _SMALL_BODY_BYTES:  # fits the server's buffer: it does not wait for the caller
        await send(body)
        return
    with contextlib.suppress(TimeoutError):  # what a caller does not take is dropped with its connection
        async with asyncio.timeout(_SEND_S):
            await send(body)


async def _send_stream(send: Send, reply: Reply, stream: AsyncGenerator[bytes, None], client: Client) -> None:
    """Send piece by piece; `aclosing` runs the stream's settlement at once when the caller vanished mid-send.

    A caller who takes nothing for longer than the whole call may last counts as one who left.
    """
    async with contextlib.aclosing(stream):
        try:
            async with asyncio.timeout(reply.send_within_s):
                headers = _encode_headers(reply)
                await send({"type": "http.response.start", "status": reply.status, "headers": headers})
                await send({"type": "http.response.body", "body": reply.first_piece, "more_body": True})
                async for piece in stream:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            client.has_left = True
            return
    await send({"type": "http.response.body", "body": b""})


def _encode_headers(reply: Reply) -> list[tuple[bytes, bytes]]:
    headers = {"content-type": "application/json", **reply.headers}
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
