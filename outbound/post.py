"""One small question over HTTP, and its whole answer. No redirect is followed, and no proxy of the environment used."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from outbound.bell import Bell
from outbound.place import Place
from outbound.pool import Pool


class Answered(NamedTuple):
    """Headers have lower-case names."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


async def post(
    pool: Pool,
    place: Place,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    within_s: float,
    most_bytes: int,
) -> Answered:
    """POST `body` to `path`, which is quoted, at `place`. Raises UpstreamFailure, TimeoutError."""
    deadline = time.monotonic() + within_s
    named = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {place.host}\r\nUser-Agent: llm-gateway\r\nAccept: application/json\r\n"
        f"Accept-Encoding: identity\r\n{named}Content-Length: {len(body)}\r\n\r\n"
    )
    connection = await pool.acquire(place.origin, within_s)
    bell = Bell()
    try:
        connection.begin(head.encode("ascii") + body, bell.ring, most_bytes=most_bytes)
        if not await bell.wait(deadline):
            raise TimeoutError
        whole = connection.take_whole()
        return Answered(connection.status, dict(connection.headers), whole)
    finally:
        bell.close()
        pool.give_back(connection)
