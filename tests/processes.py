"""The product's processes as tests start them: the real commands, on free ports, ended with the session."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_site.home import BASE_DIR

PATIENCE_S = 20.0
_START_S = 60.0  # a busy machine takes long to import everything twice


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_for(check: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """The first true result of `check`; fails with `what` after the time."""
    ends = time.monotonic() + timeout_s
    while not (result := check()):
        assert time.monotonic() < ends, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)
    return result


def manage(arguments: list[str], environment: Mapping[str, str], *, code: int = 0) -> str:
    """What `manage.py` with `arguments` wrote, to both streams; it must end with `code`."""
    done = subprocess.run(
        [sys.executable, str(BASE_DIR / "manage.py"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    return output


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass(frozen=True)
class Simulator:
    """A running simulator and its record of what it served."""

    url: str

    @property
    def base_url(self) -> str:
        """What a backend's base_url is set to."""
        return f"{self.url}/v1"

    def served(self, request_id: str, *, wait: int = 1) -> list[dict[str, Any]]:
        """The calls that arrived with this x-request-id; waits up to 10 s for `wait` of them to end."""
        ends = time.monotonic() + 10
        while True:  # the simulator itself waits for a number of calls in all, whoever made them
            response = httpx.get(
                f"{self.url}/simulator/served", params={"request_id": request_id}, timeout=15
            )
            calls: list[dict[str, Any]] = response.json()["calls"]
            if len(calls) >= wait or time.monotonic() > ends:
                return calls
            time.sleep(0.02)

    def open_calls(self) -> int:
        """How many calls are under way."""
        return int(httpx.get(f"{self.url}/simulator/served", timeout=15).json()["open"])


@dataclass(frozen=True)
class Product:
    """A running web process (with a shipper for its spool)."""

    url: str
    web: "subprocess.Popen[bytes]"
    log: Path

    @property
    def base_url(self) -> str:
        """The API's base URL, as clients are given it."""
        return f"{self.url}/v1"

    def wait_for_configuration(self) -> None:
        """Until this process serves by what is in the database now."""
        from routing.snapshot import read_version

        wanted = read_version()

        def in_force() -> bool:
            return bool(httpx.get(f"{self.url}/readyz").json()["configuration_version"] >= wanted)

        wait_for(in_force, f"configuration version {wanted}")


class Processes:
    """Starts processes and ends those it started."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[subprocess.Popen[bytes]] = []
        self._kept: set[subprocess.Popen[bytes]] = set()
        self._told: set[subprocess.Popen[bytes]] = (
            set()
        )  # to end; told twice, they would not finish their work
        self._is_keeping = False
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.end(reversed(self._started))
        for process in reversed(self._started):
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """What is started here runs to the end of the session."""
        self._is_keeping = True
        try:
            yield
        finally:
            self._is_keeping = False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Those that are kept stand still meanwhile."""
        paused = [process for process in self._kept if process.poll() is None]
        for process in paused:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in paused:
                process.send_signal(signal.SIGCONT)

    def list_running(self) -> "list[subprocess.Popen[bytes]]":
        """Those that need not be kept, and were not told to end."""
        running = (process for process in self._started if process not in self._kept | self._told)
        return [process for process in running if process.poll() is None]

    def end(self, processes: "Iterable[subprocess.Popen[bytes]]") -> None:
        """Tell them to end; they are waited for at the end of the session."""
        for process in processes:
            if process not in self._told and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                self._told.add(process)

    def start(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> "tuple[subprocess.Popen[bytes], Path]":
        """Run `manage.py` with `arguments`; its output goes to a log file."""
        log = self._logs / f"{name}-{len(self._started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(BASE_DIR / "manage.py"), *arguments],
                env={**os.environ, **(environment or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        if self._is_keeping:
            self._kept.add(process)
        return process, log

    def start_simulator(self, port: int, *flags: str) -> Simulator:
        """A simulator that answers."""
        process, log = self.start("simulator", "simulator", "--port", str(port), *flags)
        simulator = Simulator(f"http://127.0.0.1:{port}")
        self.wait_until_up(process, log, f"{simulator.url}/v1/models")
        return simulator

    def start_product(self, *, with_shipper: bool = True, **environment: str) -> Product:
        """A web process that is ready, on a free port; one of the running ones needs a shipper."""
        (port,) = free_ports(1)
        web, log = self.start("web", "serve", "--port", str(port), environment=environment)
        if with_shipper:
            self.start("shipper", "ship", environment=environment)
        product = Product(f"http://127.0.0.1:{port}", web, log)
        self.wait_until_up(web, log, f"{product.url}/readyz")
        return product

    @staticmethod
    def wait_until_up(process: "subprocess.Popen[bytes]", log: Path, url: str) -> None:
        def up() -> bool:
            assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()[-3000:]}"
            return answers(url)

        wait_for(up, url, _START_S)


PROCESSES = pytest.StashKey[Processes]()  # of the session, once there are any
