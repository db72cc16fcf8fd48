"""Access tokens of Microsoft Entra ID, by client credentials, for Azure backends.

A worker keeps each token until shortly before it ends, and asks once for any number of calls that wait for it.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import msgspec

from outbound.addresses import check_base_url
from outbound.connection import UpstreamFailure
from outbound.place import place_of
from outbound.pool import Pool
from outbound.post import Answered, post
from routing.providers import base
from routing.snapshot import Target
from teams.errors import GatewayError

logger = logging.getLogger(__name__)

SCOPE = "https://cognitiveservices.azure.com/.default"
_EARLY_S = 300.0  # before its end a token is not used any more; half of its time, where it has less
_ASK_S = 10.0
_AGAIN_S = 5.0  # after a failure: a crowd of calls is not a crowd of questions
_MOST_BYTES = 64 * 1024

_Key = tuple[str, str, str | None]  # tenant, client, its secret


class _Answer(msgspec.Struct):
    access_token: str
    expires_in: float


@dataclass(frozen=True, slots=True)
class _Held:
    token: str | None  # None: it was refused
    until: float
    at: float


class EntraTokens:
    """One worker's tokens. `authority`: where Entra ID is, an https URL. Raises ForbiddenAddress for another."""

    def __init__(self, pool: Pool, authority: str) -> None:
        check_base_url(authority)
        self._pool = pool
        self._place = place_of(authority)
        self._held: dict[_Key, _Held] = {}
        self._asking: dict[_Key, asyncio.Task[_Held]] = {}

    async def get(self, target: Target) -> str:
        """A token that will hold for the call. Raises GatewayError: there is none to be had."""
        key = _key(target)
        held = self._held.get(key)
        if held is None or held.until <= time.monotonic():
            held = await asyncio.shield(self._ask(key, target))
        if held.token is None:
            raise base.backend_not_signed_in()
        return held.token

    def forget(self, target: Target) -> None:
        """The backend did not take its token: ask for another the next time, unless that was just done."""
        held = self._held.get(_key(target))
        if held is not None and held.token is not None and held.at + _AGAIN_S < time.monotonic():
            del self._held[_key(target)]

    def _ask(self, key: _Key, target: Target) -> "asyncio.Task[_Held]":
        if (task := self._asking.get(key)) is None:
            task = self._asking[key] = asyncio.create_task(self._renew(key, target))
        return task

    async def _renew(self, key: _Key, target: Target) -> _Held:
        try:
            answer = await self._request(key, target)
            lasts_s = answer.expires_in - min(_EARLY_S, answer.expires_in / 2)
            held = _Held(answer.access_token, time.monotonic() + lasts_s, time.monotonic())
        except (UpstreamFailure, TimeoutError, msgspec.DecodeError, GatewayError) as error:
            logger.error("No access token for a backend: %r", error, extra={"backend": target.name})
            held = _Held(None, time.monotonic() + _AGAIN_S, time.monotonic())
        finally:
            del self._asking[key]
        self._held[key] = held
        return held

    async def _request(self, key: _Key, target: Target) -> _Answer:
        tenant, client_id, secret = key
        fields = {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": secret or "",
            "scope": SCOPE,
        }
        path = f"/{quote(tenant, safe='')}/oauth2/v2.0/token"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(fields).encode()
        return _read(
            await post(self._pool, self._place, path, headers, body, within_s=_ASK_S, most_bytes=_MOST_BYTES)
        )


def _key(target: Target) -> _Key:
    assert target.entra is not None, "the backend signs in"  # noqa: S101
    return target.entra.tenant, target.entra.client_id, target.credential


def _read(answered: Answered) -> _Answer:
    """Raises GatewayError for a refusal, DecodeError for what is no token."""
    if answered.status != 200:
        raise base.backend_not_signed_in()
    answer = msgspec.json.decode(answered.body, type=_Answer)
    if not (answer.access_token.isascii() and answer.access_token.isprintable()) or answer.expires_in <= 0:
        raise msgspec.DecodeError("not a token")
    return answer
