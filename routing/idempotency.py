"""`Idempotency-Key`: a plain call that is sent again is not made again; its answer is told again.

A key belongs to a team and to one path and body. While the store of keys is away such calls are refused: who sends the
header has asked not to pay twice, and that could not be promised.
"""

import asyncio
from collections.abc import Awaitable, Callable

from routing.call import Call, Reply
from routing.endpoints.base import Request
from routing.errors import render_error
from routing.gateway import Gateway
from routing.idempotency_store import Answer, Place
from routing.trace import Trace
from teams.errors import GatewayError, idempotency_key_invalid, idempotency_streamed

HEADER = "idempotency-key"
_LONGEST_KEY = 255
_DEFINITE = frozenset({400, 413, 422})  # the same call can never end otherwise


async def answer_once(
    gateway: Gateway, call: Call, request: Request, trace: Trace, make: Callable[[], Awaitable[Reply]]
) -> Reply:
    """The reply of `make`, or, of a call that was made before, what it was answered.

    Raises GatewayError besides what `make` raises: 400 for a key that is none or on a stream, 409 while the first
    call goes on or when its answer was not kept, 422 for another body, 503 when the store is away.
    """
    if (key := call.headers.get(HEADER)) is None:
        return await make()
    if request.stream:
        raise idempotency_streamed()
    if not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise idempotency_key_invalid(_LONGEST_KEY)
    assert trace.caller is not None, "only callers that are known come here"  # noqa: S101
    place = Place.of(trace.caller.team_id, key, call)
    if (answer := await gateway.idempotency.take(place)) is not None:
        trace.replay(answer.status)
        return answer.reply()
    renewing = asyncio.create_task(gateway.idempotency.keep_renewing(place))
    try:
        reply = await make()
        answer = Answer.of(reply, trace)
        return reply
    except GatewayError as error:
        if error.status in _DEFINITE:
            answer = Answer.of(render_error(request.endpoint.wire, error, trace.id), trace)
        raise
    finally:
        renewing.cancel()
        await gateway.finish(gateway.idempotency.end(place, answer))
