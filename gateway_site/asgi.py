"""The ASGI entry: `/v1` goes to the lean data-plane handler, health and metrics to theirs, all else to Django."""

import gc
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")
django_application = get_asgi_application()

from gateway_site.data_plane import DataPlane  # noqa: E402 - after Django is set up
from gateway_site.lifespan import run_lifespan  # noqa: E402
from gateway_site.monitor import MONITOR, Monitor  # noqa: E402
from gateway_site.operations import Operations  # noqa: E402
from routing.gateway import Gateway, GatewaySettings  # noqa: E402

# How many objects may be made before the collector looks for cycles. A thousand open streams are some hundred
# thousand live objects: at Python's default of 2,000 a sixth of the worker's time went into looking at them.
_YOUNG_OBJECTS = 50_000

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Application:
    """One worker: its gateway lives from the server's start-up to its shutdown."""

    def __init__(self) -> None:
        self._data_plane: DataPlane | None = None
        self._operations: Operations | None = None
        self._monitor: Monitor | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one connection scope."""
        if scope["type"] == "lifespan":
            await run_lifespan(self._start, self._stop, receive, send)
        elif scope["type"] != "http":
            raise ValueError(f"no {scope['type']} here")
        elif self._data_plane is not None and self._data_plane.serves(scope["path"]):
            await self._data_plane(scope, receive, send)
        elif self._operations is not None and self._operations.serves(scope["path"]):
            await self._operations(scope, send)
        else:
            await django_application({**scope, MONITOR: self._monitor}, receive, send)

    async def _start(self) -> None:
        gateway = Gateway(GatewaySettings.from_django())
        await gateway.start()
        self._monitor = Monitor(gateway)
        await self._monitor.start()
        self._data_plane, self._operations = DataPlane(gateway), Operations(self._monitor)
        gc.collect()
        gc.freeze()  # what was built at start stays: the collector need not look at it again
        gc.set_threshold(_YOUNG_OBJECTS)

    async def _stop(self) -> None:
        if self._monitor is not None and self._data_plane is not None:
            await self._monitor.close()
            await self._data_plane.gateway.close()


application = Application()
