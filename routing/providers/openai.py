"""OpenAI-compatible backends over one aiohttp session: OpenAI itself, vLLM, the simulator."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import lru_cache
from typing import Any

import aiohttp
import msgspec

from routing.addresses import ForbiddenAddress, GuardedResolver
from routing.providers import base
from routing.snapshot import Target
from teams.errors import GatewayError

_ERROR_BYTES = 64 * 1024
_ERROR_S = 5.0
# Below the 5 s after which uvicorn-based servers, vLLM among them, close: a request that meets the closing of its
# connection fails, and might have cost.
_KEEPALIVE_S = 4.0


class _ErrorBody(msgspec.Struct):
    class Error(msgspec.Struct):
        message: str | None = None
        code: str | int | None = None
        param: str | None = None

    error: Error


class OpenAIProvider:
    """See base.Provider. Keeps connections alive, follows no redirects, uses no proxy of the environment."""

    def __init__(self, *, private: Collection[str], max_answer_bytes: int) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._connector = aiohttp.TCPConnector(
            limit=0, resolver=GuardedResolver(private), keepalive_timeout=15
        )
        self._plain = _session(self._connector)
        sent = aiohttp.TraceConfig()
        sent.on_request_headers_sent.append(_tell_sent)
        self._streams = _session(self._connector, [sent])

    async def close(self) -> None:
        """Close every connection."""
        await self._plain.close()
        await self._streams.close()
        await self._connector.close()

    async def complete(self, target: Target, body: bytes, request_id: str) -> bytes:
        """See base.Provider."""
        try:
            async with (
                asyncio.timeout(target.total_timeout_s),
                self._plain.post(_url(target), data=body, **_options(target, request_id)) as response,
            ):
                if response.status != 200:
                    raise await _refusal(target, response)
                return await self._read_answer(response)
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise _as_gateway_error(error, "whole call") from None

    async def _read_answer(self, response: aiohttp.ClientResponse) -> bytes:
        answer = bytearray()
        while chunk := await response.content.readany():
            answer += chunk
            if len(answer) > self._max_answer_bytes:
                response.close()
                raise base.backend_bad_answer()
        return bytes(answer)

    async def open_stream(
        self, target: Target, body: bytes, request_id: str, on_sent: Callable[[], None]
    ) -> "OpenAIStream":
        """See base.Provider."""
        try:
            options = _options(target, request_id)
            response = await self._streams.post(_url(target), data=body, trace_request_ctx=on_sent, **options)
            try:
                if response.status != 200:
                    raise await _refusal(target, response)
                if not response.content_type.startswith("text/event-stream"):
                    raise base.backend_bad_answer()
            except BaseException:
                response.close()
                raise
            return OpenAIStream(response)
        except (aiohttp.ClientError, OSError) as error:
            raise _as_gateway_error(error, "first byte") from None


def _session(
    connector: aiohttp.TCPConnector, traces: list[aiohttp.TraceConfig] | None = None
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
        headers={
            "User-Agent": "llm-gateway",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        },
        trace_configs=traces,
    )


async def _tell_sent(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
    context.trace_request_ctx()


def _url(target: Target) -> str:
    return f"{target.base_url}/chat/completions"


def _options(target: Target, request_id: str) -> dict[str, Any]:
    headers = {"X-Request-Id": request_id}
    if target.credential is not None:
        headers["Authorization"] = f"Bearer {target.credential}"
    return {
        "headers": headers,
        "allow_redirects": False,
        "timeout": _connect_within(target.connect_timeout_s),
    }


@lru_cache(maxsize=64)
def _connect_within(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=seconds)


class OpenAIStream:
    """See base.UpstreamStream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def read(self) -> bytes:
        """See base.UpstreamStream."""
        content = self._response.content
        try:
            return await content.readany()
        except (aiohttp.ClientError, OSError):
            # Once the connection broke, aiohttp offers nothing of what had arrived by then; but it was produced.
            if arrived := content._read_nowait(-1):
                return arrived
            raise base.backend_broke() from None

    def close(self) -> None:
        """See base.UpstreamStream; a connection whose answer was read to its end goes back to the pool."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


def _as_gateway_error(error: Exception, what: str) -> GatewayError:
    """The one seam where the transport's exceptions become ours; `what` names the time limit that passed."""
    if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError | ForbiddenAddress):
        return base.backend_unreachable()
    if isinstance(error, TimeoutError):
        return base.backend_timeout(what)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | OSError):
        return base.backend_broke()
    return base.backend_bad_answer()


async def _refusal(target: Target, response: aiohttp.ClientResponse) -> GatewayError:
    """Our error for a status other than 200; reads at most about 64 kB of its body, for at most 5 s."""
    body = bytearray()
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_ERROR_S):
            while len(body) < _ERROR_BYTES and (chunk := await response.content.readany()):
                body += chunk
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = _ErrorBody.Error()
    return base.backend_refused(
        target,
        base.Refusal(
            response.status,
            error.message,
            error.param,
            None if error.code is None else str(error.code),
            response.headers.get("Retry-After"),
        ),
    )
