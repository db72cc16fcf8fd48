"""The simulator's command line, and the process that serves it."""

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, NoReturn

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from routing.simulator.app import Simulator
from routing.simulator.faults import FaultError, Plan, fault_table, parse_flag
from routing.simulator.static import DEFAULT_STREAM_S, StaticServer

BACKLOG = 2048
KEEP_ALIVE_S = 75
SHUTDOWN_S = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the simulator's flags to a parser; every fault has one, `--first-byte-s` for `first_byte_s`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8900, help="port to listen on; 0 takes a free one")
    parser.add_argument("--api-key", help="refuse calls without this bearer token")
    parser.add_argument("--static", action="store_true", help="serve fixed bytes, fast, for benchmarks")
    parser.add_argument(
        "--stream-seconds",
        type=float,
        default=DEFAULT_STREAM_S,
        help="with --static: length of a stream",
    )
    parser.add_argument("--fault-table", action="store_true", help="print the faults as Markdown and exit")
    group = parser.add_argument_group("faults", "defaults for all calls; a request's own faults win")
    for fault in fields(Plan):
        kind, meaning = fault.metadata["kind"], fault.metadata["meaning"].replace("%", "%%")
        flag, dest = f"--{fault.name.replace('_', '-')}", f"fault_{fault.name}"
        if fault.type is bool:
            group.add_argument(flag, dest=dest, action="store_const", const=True, help=meaning)
        else:
            group.add_argument(flag, dest=dest, metavar=kind.name.replace(" ", "-"), help=meaning)


def run(options: Mapping[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT, then return.

    Exits with status 2 on flags that make no sense and with 1 when the address cannot be had.
    """
    if options["fault_table"]:
        print(fault_table())
        return
    faults = _read_faults(options)
    if options["static"] and (faults or options["api_key"] is not None):
        _exit(2, "--static serves fixed bytes and knows no faults and no --api-key")
    if options["stream_seconds"] < 0:
        _exit(2, "--stream-seconds must be at least 0")
    listener = open_listener(options["host"], options["port"])
    if options["static"]:
        uvloop.run(_serve_static(StaticServer(options["stream_seconds"]), listener))
    else:
        _serve_app(Simulator(Plan(**faults), options["api_key"]), listener)


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket; exits with status 1 when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        _exit(1, f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}")
    return listener


def _read_faults(options: Mapping[str, Any]) -> dict[str, Any]:
    given = {fault.name: options[f"fault_{fault.name}"] for fault in fields(Plan)}
    try:
        return {name: parse_flag(name, raw) for name, raw in given.items() if raw is not None}
    except FaultError as error:
        _exit(2, str(error))


def _exit(status: int, message: str) -> NoReturn:
    print(f"simulator: {message}", file=sys.stderr)
    sys.exit(status)


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    print(f"simulator listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also lets the application drop its connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["abort"] = self.transport.abort


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it listens and takes SIGTERM for an ordinary end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            _announce(listener)


def _serve_app(app: Simulator, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    _Server(config).run(sockets=[listener])


async def _serve_static(static: StaticServer, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = await loop.create_server(static.make_protocol, sock=listener, backlog=BACKLOG)
    _announce(listener)
    await ended.wait()
    server.close()
    static.close()
