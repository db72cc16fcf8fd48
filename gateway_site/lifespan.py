"""The ASGI lifespan protocol."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

Hook = Callable[[], Awaitable[None]]


async def run_lifespan(
    start: Hook,
    stop: Hook,
    receive: Callable[[], Awaitable[Mapping[str, Any]]],
    send: Callable[[Mapping[str, Any]], Awaitable[None]],
) -> None:
    """Run `start` before the first request and `stop` after the last; a failed start stops the server."""
    await receive()
    try:
        await start()
    except Exception as error:
        logger.exception("The gateway cannot start.")
        await send({"type": "lifespan.startup.failed", "message": type(error).__name__})
        raise
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await stop()
    await send({"type": "lifespan.shutdown.complete"})
