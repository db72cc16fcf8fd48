"""Calls to backends over HTTP, whatever their API: one machine for all of them."""

import time
from collections.abc import Callable
from contextlib import suppress

from outbound.bell import Bell
from outbound.connection import Broke, Connection, Unreachable, UpstreamFailure
from outbound.place import Place, place_of
from outbound.pool import Pool
from routing.providers import base
from routing.providers.api import Api
from routing.providers.entra import EntraTokens
from routing.providers.waits import read_back_in_s
from routing.snapshot import Target
from teams.errors import GatewayError

_ERROR_BYTES = 64 * 1024
_ERROR_S = 5.0


class HttpProvider:
    """See base.Provider. Follows no redirects, uses no proxy of the environment, asks for no compression."""

    def __init__(self, api: Api, pool: Pool, tokens: EntraTokens, *, max_answer_bytes: int) -> None:
        self._api = api
        self._tokens = tokens
        self._pool = pool
        self._max_answer_bytes = max_answer_bytes

    async def complete(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """See base.Provider."""
        deadline = time.monotonic() + target.total_timeout_s
        bell = Bell()
        try:
            connection = await self._begin(
                target, path, body, request_id, bell.ring, most_bytes=self._max_answer_bytes
            )
            try:
                if not await bell.wait(deadline):
                    raise base.backend_timeout("whole call")
                if connection.status != 200:
                    await self._refuse(target, connection, bell)
                return connection.take_whole()
            finally:
                self._pool.give_back(connection)
        except UpstreamFailure as failure:
            raise _as_gateway_error(failure) from None
        finally:
            bell.close()

    async def open_stream(
        self, target: Target, path: str, body: bytes, request_id: str, on_sent: Callable[[], None]
    ) -> "HttpStream":
        """See base.Provider."""
        bell = Bell()
        try:
            connection = await self._begin(target, path, body, request_id, bell.ring)
            on_sent()
            try:
                while not connection.has_head:
                    await bell.wait()
                if connection.status != 200:
                    await self._refuse(target, connection, bell)
                if not connection.headers.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
                    raise base.backend_bad_answer()
            except BaseException:
                self._pool.give_back(connection)
                raise
            return HttpStream(self._pool, connection)
        except UpstreamFailure as failure:
            raise _as_gateway_error(failure) from None
        finally:
            bell.close()

    async def check(self, target: Target, within_s: float) -> None:
        """See base.Provider."""
        deadline = time.monotonic() + within_s
        bell = Bell()
        try:
            place, credential = place_of(target.base_url), await self._credential(target)
            connection = await self._pool.acquire(
                place.origin, min(target.connect_timeout_s, within_s), target.rest
            )
            address = self._api.check_address(target, place.path)
            head = (
                f"GET {address} HTTP/1.1\r\nHost: {place.host}\r\nUser-Agent: llm-gateway\r\n"
                f"Accept: */*\r\nAccept-Encoding: identity\r\n{self._api.headers(target, credential)}\r\n"
            )
            try:
                connection.begin(head.encode("ascii"), bell.ring)
                while not connection.has_head:
                    if not await bell.wait(deadline):
                        raise base.backend_timeout("check")
                if connection.status != 200:
                    await self._refuse(target, connection, bell)
            finally:
                self._pool.give_back(connection)
        except UpstreamFailure as failure:
            raise _as_gateway_error(failure) from None
        finally:
            bell.close()

    async def _credential(self, target: Target) -> str | None:
        return target.credential if target.entra is None else await self._tokens.get(target)

    async def _begin(
        self,
        target: Target,
        path: str,
        body: bytes,
        request_id: str,
        notify: Callable[[], object],
        *,
        most_bytes: int | None = None,
    ) -> Connection:
        """A connection with the request on its way. Raises Unreachable, or GatewayError where it cannot be signed."""
        place = place_of(target.base_url)
        credential = await self._credential(target)
        request = self._head(place, path, target, credential, len(body), request_id) + body
        connection = await self._pool.acquire(place.origin, target.connect_timeout_s, target.rest)
        connection.begin(request, notify, most_bytes=most_bytes)
        return connection

    def _head(
        self, place: Place, path: str, target: Target, credential: str | None, length: int, request_id: str
    ) -> bytes:
        """The request's head. Nothing of the caller's headers is in it."""
        return (
            f"POST {self._api.address(target, place.path, path)} HTTP/1.1\r\n"
            f"Host: {place.host}\r\n"
            "User-Agent: llm-gateway\r\n"
            "Accept: */*\r\n"
            "Accept-Encoding: identity\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {length}\r\n"
            f"X-Request-Id: {request_id}\r\n"
            f"{self._api.headers(target, credential)}\r\n"
        ).encode("ascii")

    async def _refuse(self, target: Target, connection: Connection, bell: Bell) -> None:
        """Raises GatewayError for another status, or UpstreamFailure when there is none."""
        if connection.status == 0 and connection.failure is not None:
            raise connection.failure
        if connection.status == 401 and target.entra is not None:
            self._tokens.forget(target)
        words = self._api.read_error(await _read_error(connection, bell))
        retry_after = connection.headers.get(b"retry-after")
        refusal = base.Refusal(
            connection.status,
            words.message,
            words.param,
            None if words.code is None else str(words.code),
            None if retry_after is None else retry_after.decode("latin-1"),
            read_back_in_s(connection.headers),
        )
        raise base.backend_refused(target, refusal)


class HttpStream:
    """See base.UpstreamStream."""

    def __init__(self, pool: Pool, connection: Connection) -> None:
        self._pool = pool
        self._connection: Connection | None = connection

    def listen(self, notify: Callable[[], object]) -> None:
        """See base.UpstreamStream."""
        if self._connection is not None:
            self._connection.notify = notify

    def take(self) -> bytes | None:
        """See base.UpstreamStream."""
        if self._connection is None:
            return b""
        try:
            return self._connection.take()
        except UpstreamFailure as failure:
            raise _as_gateway_error(failure) from None

    def close(self) -> None:
        """See base.UpstreamStream; a connection whose answer was read to its end goes back to the pool."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)


def _as_gateway_error(failure: UpstreamFailure) -> GatewayError:
    """The one seam where the transport's failures become ours."""
    if isinstance(failure, Unreachable):
        return base.backend_unreachable()
    if isinstance(failure, Broke):
        return base.backend_broke()
    return base.backend_bad_answer()


async def _read_error(connection: Connection, bell: Bell) -> bytes:
    """The body of an answer that is none: at most about 64 kB, for at most 5 s."""
    body, ends = bytearray(), time.monotonic() + _ERROR_S
    with suppress(UpstreamFailure):
        while len(body) < _ERROR_BYTES:
            if piece := connection.take():
                body += piece
            elif piece is not None or not await bell.wait(ends):
                break
    return bytes(body)
