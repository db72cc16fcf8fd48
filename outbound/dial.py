"""Opens connections to backends, at addresses that the gateway may call and at no others."""

import asyncio
import socket
import ssl
import time
from collections.abc import Collection, Sequence
from ipaddress import ip_address

from outbound.addresses import check_address, is_private_allowed
from outbound.connection import Connection, Origin, Unreachable

_RESOLVED_S = 10.0  # how long a resolved name is believed


class Dialer:
    """Resolves, checks and connects; each name is resolved once for any number of connections at a time.

    `private`: the host:port pairs that may be plain http, loopback or private.
    """

    def __init__(self, private: Collection[str]) -> None:
        self._private = private
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._resolved: dict[Origin, tuple[float, asyncio.Task[Sequence[str]]]] = {}

    async def open(self, origin: Origin, timeout_s: float) -> Connection:
        """A new connection to `origin`, within `timeout_s` in all. Raises Unreachable."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connect(origin, await self._resolve(origin), time.monotonic() + timeout_s)
        except (OSError, UnicodeError) as error:  # a TimeoutError and an SSLError are OSErrors
            raise Unreachable(type(error).__name__) from None

    async def _connect(self, origin: Origin, addresses: Sequence[str], deadline: float) -> Connection:
        """One address after another; each gets its share of the time left."""
        tls = self._tls if origin.scheme == "https" else None
        for left in range(len(addresses), 0, -1):
            address = addresses[len(addresses) - left]
            try:
                async with asyncio.timeout((deadline - time.monotonic()) / left):
                    _, connection = await asyncio.get_running_loop().create_connection(
                        lambda: Connection(origin),
                        address,
                        origin.port,
                        ssl=tls,
                        server_hostname=origin.host if tls else None,
                    )
                    return connection
            except OSError:
                if left == 1:
                    raise
        raise OSError("the name has no address")

    async def _resolve(self, origin: Origin) -> Sequence[str]:
        """The addresses of `origin`, each checked. Raises ForbiddenAddress, OSError."""
        believed_until, task = self._resolved.get(origin, (0.0, None))
        if task is None or believed_until < time.monotonic() or _has_failed(task):
            task = asyncio.ensure_future(self._look_up(origin))
            task.add_done_callback(_has_failed)  # looked at, so that a failure nobody waits for is no warning
            self._resolved[origin] = time.monotonic() + _RESOLVED_S, task
        return await asyncio.shield(task)

    async def _look_up(self, origin: Origin) -> Sequence[str]:
        found = await asyncio.get_running_loop().getaddrinfo(
            origin.host, origin.port, type=socket.SOCK_STREAM
        )
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = is_private_allowed(origin.host, origin.port, self._private)
        for address in addresses:  # one forbidden address among them refuses the name
            check_address(ip_address(address.partition("%")[0]), private_allowed=allowed)
        return addresses


def _has_failed(task: "asyncio.Task[Sequence[str]]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
