"""The processes of one benchmark, in a temporary home of their own: they all end, and it goes, with the run."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import redis

from bench.cores import Cores, on_core
from bench.generators import BenchError
from gateway_site.embedded import APP_ROLE, OWNER_ROLE, EmbeddedPostgres, EmbeddedValkey
from gateway_site.home import BASE_DIR, Home, new_secrets
from gateway_site.run import is_port_free
from gateway_site.supervisor import Console, spawn

_START_S = 60.0
_STOP_S = 15.0
_SHIP_S = 600.0
_OURS = ("GATEWAY_", "DATABASE_", "REDIS_", "DJANGO_", "SIMULATOR_")  # nobody's settings but the defaults
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers chat completions. `process` is the proxy's, None for the backend itself; `key` is
    what callers send."""

    name: str
    port: int
    process: psutil.Process | None
    key: str

    @property
    def is_ours(self) -> bool:
        """Whether its calls are in the ledger."""
        return self.name.startswith("gateway")

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"http://{_LOOPBACK}:{self.port}/v1/chat/completions"

    def cpu_s(self) -> float:
        """CPU seconds the proxy has used so far, 0 for the backend."""
        if self.process is None:
            return 0.0
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def memory_bytes(self) -> int:
        """Resident memory of the proxy, 0 for the backend."""
        return 0 if self.process is None else int(self.process.memory_info().rss)


class Services:
    """What is running, and what it has counted."""

    def __init__(self, cores: Cores, home: Home, console: Console) -> None:
        self.cores = cores
        self.home = home
        self.model = ""
        self._keys: dict[str, str] = {}
        self.targets: dict[str, Target] = {}
        self._console = console
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._postgres = EmbeddedPostgres(home.postgres)
        self._valkey = EmbeddedValkey(home.valkey)
        self._environment: dict[str, str] = {}

    def start(self, stream_s: float) -> None:
        """Start everything; a stream of the simulator takes `stream_s` seconds."""
        simulator_port, yardstick_port, gateway_port = _free_ports(3)
        backend = f"http://{_LOOPBACK}:{simulator_port}/v1"
        self._console.progress("Starting PostgreSQL and Valkey ...")
        with on_core(self.cores.others):
            self._postgres.start()
            self._valkey.start()
        self._environment = self._make_environment(simulator_port)
        self._load_demo(backend)
        self._console.progress("Starting simulator, shipper, yardstick and gateway ...")
        manage, others, proxy = str(BASE_DIR / "manage.py"), self.cores.others, self.cores.proxy
        static = ("--static", "--stream-seconds", str(stream_s))
        self._spawn("simulator", others, manage, "simulator", "--port", str(simulator_port), *static)
        self._spawn("shipper", others, manage, "ship")
        completions = f"{backend}/chat/completions"
        posts_to = ("--port", str(yardstick_port), "--backend-url", completions)
        yardstick = self._spawn("yardstick", proxy, "-m", "bench.yardstick", *posts_to)
        gateway = self._spawn("gateway", proxy, manage, "serve", "--port", str(gateway_port))
        self._wait_until(lambda: _answers(simulator_port, "/v1/models"), "the simulator")
        self._wait_until(lambda: not is_port_free(yardstick_port), "the yardstick")
        self._wait_until(lambda: _answers(gateway_port, "/readyz"), "the gateway")
        self.targets = {
            "direct": Target("direct", simulator_port, None, self._keys["free"]),
            "yardstick": Target(
                "yardstick", yardstick_port, psutil.Process(yardstick.pid), self._keys["free"]
            ),
            "gateway": Target("gateway", gateway_port, psutil.Process(gateway.pid), self._keys["free"]),
            "gateway, ruled": Target(
                "gateway, ruled", gateway_port, psutil.Process(gateway.pid), self._keys["ruled"]
            ),
        }

    def stop(self) -> None:
        """End what was started, the last first; Ctrl-C does not interrupt this."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _, process in self._processes:
            process.terminate()
        for _, process in reversed(self._processes):
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._valkey.stop()
        self._postgres.stop()
        # A start that was interrupted halfway has a server that nobody remembers.
        self._valkey.stop_leftover()
        self._postgres.stop_leftover()

    def start_load(self, command: list[str], body: str, key: str) -> "subprocess.Popen[bytes]":
        """A load generator on the others' core; its report comes on its standard output."""
        environment = {**os.environ, "BENCH_BODY": body, "BENCH_KEY": key}
        with on_core(self.cores.others):
            process = spawn(
                command, env=environment, cwd=BASE_DIR, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        self._processes.append(("load generator", process))
        return process

    def end_load(self, process: "subprocess.Popen[bytes]") -> str:
        """Stop a load generator and return what it said. Raises BenchError when it does not end."""
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=_START_S)
        except subprocess.TimeoutExpired:
            raise BenchError("The load generator does not stop.") from None
        self._processes.remove(("load generator", process))
        return output.decode(errors="replace")

    def backend_calls(self) -> int:
        """How many chat completions the simulator has received so far."""
        body = _get(self.targets["direct"].port, "/simulator/served")
        return int(json.loads(body)["count"])

    def ledger_rows(self) -> tuple[int, int]:
        """How many rows the ledger holds, and how many of them did not succeed."""
        query = (
            "SELECT count(*), count(*) FILTER (WHERE status NOT IN ('completed', 'client_left'))"
            " FROM billing_usagerecord"
        )
        with psycopg.connect(self._postgres.url(APP_ROLE)) as connection:
            rows, failed = connection.execute(query).fetchone() or (0, 0)
        return int(rows), int(failed)

    def store_bytes(self) -> int:
        """What the counter store has allocated."""
        with redis.Redis.from_url(self._valkey.url()) as store:
            return int(store.info("memory")["used_memory"])

    def measure_shipper(self, records: int) -> dict[str, float]:
        """Ship the records of a dead worker on the others' core, as the shipper does. Raises BenchError."""
        arguments = ("-m", "bench.shipper", "--records", str(records))
        process = self._spawn("shipper's measure", self.cores.others, *arguments)
        if process.wait(_SHIP_S):
            self.check_alive()
        self._processes.remove(("shipper's measure", process))
        found: dict[str, float] = json.loads(self._log("shipper's measure").read_text().splitlines()[-1])
        return found

    def check_alive(self) -> None:
        """Raises BenchError, with the end of its log, when a process has ended."""
        for name, process in self._processes:
            if process.poll() is not None and name != "load generator":
                tail = self._log(name).read_text(errors="replace")[-2000:]
                raise BenchError(f"The {name} ended with code {process.returncode}:\n{tail}")

    def _make_environment(self, simulator_port: int) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        return {
            **kept,
            **new_secrets(),
            "GATEWAY_HOME": str(self.home.root),
            "GATEWAY_SPOOL_DIR": str(self.home.spool),
            "GATEWAY_PRIVATE_BACKENDS": f"{_LOOPBACK}:{simulator_port}",
            "DATABASE_URL": self._postgres.url(APP_ROLE),
            "DATABASE_OWNER_URL": self._postgres.url(OWNER_ROLE),
            "REDIS_URL": self._valkey.url(),
        }

    def _load_demo(self, backend: str) -> None:
        self._console.progress("Making the schema and the demo data ...")
        self._manage("migrate", "--noinput")
        self._manage("load_demo", "--write", str(self.home.demo), "--simulator-url", backend)
        demo = json.loads(self.home.demo.read_text())
        self.model = demo["model"]
        keys = self.home.root / "callers.json"
        self._run_to_end("callers", "-m", "bench.callers", self.model, str(keys))
        self._keys = json.loads(keys.read_text())

    def _manage(self, *arguments: str) -> None:
        self._run_to_end(arguments[0], str(BASE_DIR / "manage.py"), *arguments)

    def _run_to_end(self, name: str, *arguments: str) -> None:
        process = self._spawn(name, None, *arguments)
        if process.wait(300):
            self.check_alive()
        self._processes.remove((name, process))

    def _spawn(self, name: str, core: int | None, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, *arguments]
        with on_core(core), self._log(name).open("wb") as log:
            process = spawn(
                command, env=self._environment, cwd=BASE_DIR, stdout=log, stderr=subprocess.STDOUT
            )
        self._processes.append((name, process))
        return process

    def _log(self, name: str) -> Path:
        return self.home.logs / f"{name}.log"

    def _wait_until(self, check: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_S
        while not check():
            self.check_alive()
            if time.monotonic() > deadline:
                raise BenchError(f"Waited {_START_S:.0f} s for {what}.")
            time.sleep(0.05)


@contextmanager
def running_services(cores: Cores, console: Console, stream_s: float) -> Iterator[Services]:
    """Services that run, until the end of the block however it comes."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="gw-bench-"))
        stack.callback(_remove, folder)
        home = Home(folder)
        home.create()
        services = Services(cores, home, console)
        stack.callback(services.stop)
        services.start(stream_s)
        yield services


def _remove(folder: Path) -> None:
    """Remove `folder`, also when a program that is just ending still writes there."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((_LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(_LOOPBACK, port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise BenchError(f"GET {path} was answered with {response.status}.")
        return body
    finally:
        connection.close()


def _answers(port: int, path: str) -> bool:
    with suppress(OSError, http.client.HTTPException, BenchError):
        _get(port, path)
        return True
    return False
