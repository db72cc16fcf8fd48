"""How our web processes listen: uvicorn on uvloop, set up once for the gateway and the benchmark's yardstick."""

import contextlib
import functools
import resource
from typing import Any

import uvicorn

from gateway_site.http_protocol import BoundedProtocol

_BACKLOG = 2048
# uvloop accepts one connection per listening handle and loop turn: on one handle 1,024 callers who connect at
# once to a busy worker waited up to 11 s, on 16 up to 3 s.
_LISTENING_HANDLES = 16


def run_server(application: Any, *, host: str, port: int, shutdown_s: int, head_s: float = 30.0) -> None:
    """Serve until SIGTERM or SIGINT; running answers get `shutdown_s` seconds to finish, a request's head `head_s`.

    A taken address ends the process with a message and status 1.
    """
    _raise_file_limit()
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        loop="uvloop",
        http=functools.partial(BoundedProtocol, head_s=head_s),  # type: ignore[arg-type]  # a class, but for one word
        lifespan="on",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # who may name a caller's address: routing/client_address.py
        timeout_keep_alive=75,
        timeout_graceful_shutdown=shutdown_s,
    )
    listener = config.bind_socket()
    listener.listen(_BACKLOG)
    copies = [listener.dup() for _ in range(_LISTENING_HANDLES - 1)]
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn sends itself the signal again once it has stopped
        uvicorn.Server(config).run(sockets=[listener, *copies])


def _raise_file_limit() -> None:
    """As many files as the system allows: an open stream takes two, and the usual soft limit is 1,024."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
