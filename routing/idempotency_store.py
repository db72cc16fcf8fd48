"""Where the answers of calls with an `Idempotency-Key` are kept: one place a key, in Valkey or Redis.

A place holds, in turn: nothing; the mark of the request that makes the call, with a lease that its worker renews and
that lapses with it; the answer, encrypted, for a day. The store is asked within a time limit and never twice.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec
import redis.asyncio
from cryptography.fernet import InvalidToken
from django.conf import settings
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from outbound.credentials import CredentialError, field_cipher
from routing.call import Call, Reply
from routing.trace import Trace
from teams.errors import (
    GatewayError,
    idempotency_answer_gone,
    idempotency_in_progress,
    idempotency_key_reused,
    idempotency_unavailable,
)

logger = logging.getLogger(__name__)

_DAY_S = 24 * 60 * 60
_DIGEST_BYTES = 16
# The first byte of what a place holds; the digest of path and body follows.
_RUNNING, _ANSWERED, _GONE = b"P", b"A", b"G"
_LEASE_S = 15.0
_STORE_S = 0.25  # for a reply, and for a free connection
_CONNECT_S = 1.0
_WAIT_S = 20.0  # for the first call to end
_MOST_ANSWER_BYTES = 1024 * 1024
_MOST_TEAM_BYTES = 64 * 1024 * 1024  # kept for one team and day: the store serves others too
_LOOK_AGAIN_S = (0.02, 0.05, 0.1, 0.2, 0.5)  # the last one from then on
_IN_A_THREAD_BYTES = 32 * 1024  # to pack longer ones takes a millisecond and more
_MOST_CONNECTIONS = 4  # a command holds one for less than a millisecond; opening one costs more

_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# Unless it is still ours nothing is done; an empty value frees the place; a team that has kept too much keeps no more.
_END = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
local value, kept = ARGV[2], tonumber(redis.call('GET', KEYS[2]) or '0') + #ARGV[2]
if kept > tonumber(ARGV[4]) then
  value = ARGV[5]
else
  redis.call('SET', KEYS[2], kept, 'PX', ARGV[3])
end
redis.call('SET', KEYS[1], value, 'PX', ARGV[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the store keeps a key. `mark`: what the place holds while this very request makes the call."""

    name: str
    digest: bytes
    mark: bytes
    kept_bytes_name: str

    @classmethod
    def of(cls, team_id: int, key: str, call: Call) -> "Place":
        """The place of a team's key for one path and body. Whoever reads the store can confirm neither by guessing."""
        team = f"idem:{{{team_id}}}"
        name = f"{team}:{_keyed(key.encode()).hex()}"
        digest = _keyed(b"%b\n%b" % (call.path.encode(errors="surrogateescape"), call.body))
        mark = _RUNNING + digest + secrets.token_bytes(_DIGEST_BYTES)
        return cls(name, digest, mark, f"{team}:kept:{int(time.time()) // _DAY_S}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call was answered: `reason` is the x-gateway-reason of an error."""

    status: int
    body: bytes
    reason: str
    request_id: str

    @classmethod
    def of(cls, reply: Reply, trace: Trace) -> "Answer":
        """As it can be told again."""
        return cls(reply.status, reply.body, reply.headers.get("x-gateway-reason", ""), trace.id)

    def reply(self) -> Reply:
        """It, told again."""
        headers = {"x-gateway-idempotent-replay": "true", "x-gateway-replayed-request-id": self.request_id}
        if self.reason:
            headers["x-gateway-reason"] = self.reason
        return Reply(self.status, self.body, headers)


class IdempotencyStore:
    """The places of keys in the store. Opens connections when they are needed."""

    def __init__(self, redis_url: str) -> None:
        self._pool = redis.asyncio.BlockingConnectionPool.from_url(
            redis_url,
            max_connections=_MOST_CONNECTIONS,
            timeout=_STORE_S,
            socket_timeout=_STORE_S,
            socket_connect_timeout=_CONNECT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._store = redis.asyncio.Redis(connection_pool=self._pool)

    async def close(self) -> None:
        """Close the connections."""
        await self._store.aclose()
        await self._pool.aclose()

    async def take(self, place: Place) -> Answer | None:
        """Take the place; None when the call is ours to make, else what it was answered. Raises GatewayError."""
        ends = time.monotonic() + _WAIT_S
        waits = iter(_LOOK_AGAIN_S)
        while (held := await self._take(place)) is not None:
            if not hmac.compare_digest(held[1 : 1 + _DIGEST_BYTES], place.digest):
                raise idempotency_key_reused()
            if not held.startswith(_RUNNING):
                return await _unpack(place, held)
            if time.monotonic() >= ends:
                raise idempotency_in_progress()
            await asyncio.sleep(next(waits, _LOOK_AGAIN_S[-1]))
        return None

    async def keep_renewing(self, place: Place) -> None:
        """Hold the lease until cancelled."""
        while True:
            await asyncio.sleep(_LEASE_S / 3)
            try:
                if not await self._run(_RENEW, [place.name], [place.mark, _ms(_LEASE_S)]):
                    logger.warning("The place of an idempotency key was lost while its call goes on.")
                    return
            except GatewayError:
                continue  # said where it was raised

    async def end(self, place: Place, answer: Answer | None) -> None:
        """Keep the answer of the call; without one, free the place: who sends it again makes it again."""
        value = b"" if answer is None else await _pack(place, answer)
        arguments = [place.mark, value, _ms(_DAY_S), _MOST_TEAM_BYTES, _GONE + place.digest]
        try:
            if not await self._run(_END, [place.name, place.kept_bytes_name], arguments):
                logger.warning("An answer was not kept for its idempotency key: the place was lost.")
        except GatewayError:
            logger.error("An answer was not kept for its idempotency key: the store is away.")

    async def _take(self, place: Place) -> bytes | None:
        held = await self._ask(self._store.set(place.name, place.mark, nx=True, get=True, px=_ms(_LEASE_S)))
        return None if held is None else bytes(held)

    async def _run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        return await self._ask(self._store.eval(script, len(keys), *keys, *arguments))

    @staticmethod
    async def _ask(command: Any) -> Any:
        """The reply to a command. Raises GatewayError 503 when there is none in time, or an error."""
        try:
            return await command
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("The store of idempotency keys is away: %r", error)
            raise idempotency_unavailable() from None


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _keyed(data: bytes) -> bytes:
    key = hashlib.sha256(b"idempotency" + settings.SECRET_KEY.encode()).digest()
    return hashlib.blake2b(data, key=key, digest_size=_DIGEST_BYTES).digest()


_Packed = tuple[
    str, int, str, str, bytes
]  # the place's name, so that an answer opens nowhere else; the answer


async def _pack(place: Place, answer: Answer) -> bytes:
    """What the place is to hold; only a trace of an answer that is too large."""
    if len(answer.body) > _MOST_ANSWER_BYTES:
        return _GONE + place.digest

    def encrypt() -> bytes:
        packed: _Packed = (
            place.name, answer.status, answer.reason, answer.request_id, zlib.compress(answer.body, 1)
        )  # fmt: skip
        return field_cipher().encrypt(msgspec.msgpack.encode(packed))

    is_long = len(answer.body) > _IN_A_THREAD_BYTES
    try:
        return _ANSWERED + place.digest + (await asyncio.to_thread(encrypt) if is_long else encrypt())
    except CredentialError as error:
        logger.error("An answer was not kept for its idempotency key: %s", error)
        return _GONE + place.digest


async def _unpack(place: Place, held: bytes) -> Answer:
    """The answer in a place. Raises GatewayError 409: it was not kept, or opens with no key that we have."""

    def decrypt() -> Answer:
        packed = field_cipher().decrypt(held[1 + _DIGEST_BYTES :])
        name, status, reason, request_id, body = msgspec.msgpack.decode(packed, type=_Packed)
        if name != place.name:
            raise InvalidToken
        return Answer(status, zlib.decompress(body), reason, request_id)

    if not held.startswith(_ANSWERED):
        raise idempotency_answer_gone()
    try:
        return await asyncio.to_thread(decrypt) if len(held) > _IN_A_THREAD_BYTES else decrypt()
    except (InvalidToken, CredentialError, msgspec.DecodeError):
        logger.warning("An answer kept for an idempotency key cannot be read.")
        raise idempotency_answer_gone() from None
