"""What the scenes play on: two gateway processes, a shipper, a simulator, PostgreSQL and Valkey, all of their own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from gateway_site.embedded import APP_ROLE, OWNER_ROLE, EmbeddedPostgres, EmbeddedValkey
from gateway_site.home import BASE_DIR, new_secrets
from tests.processes import Simulator, answers, free_ports, wait_for

WORKERS = ("web-1", "web-2")
_OURS = ("GATEWAY_", "DATABASE_", "REDIS_", "DJANGO_", "SIMULATOR_")
_LOOK_S = 0.1
_SEGMENT_BYTES = 4 * 1024**2  # small, so that a scene can use one up


@dataclass
class _Program:
    """A command of `manage.py` that is to run, and its process while it does."""

    arguments: tuple[str, ...]
    log: Path
    is_wanted: bool = True
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0


@dataclass
class Stage:
    """Everything that runs. What dies is started again, as a supervisor would, unless a scene keeps it down."""

    folder: Path
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    urls: dict[str, str] = field(default_factory=dict)
    simulator: Simulator = field(default_factory=lambda: Simulator(""))
    _programs: dict[str, _Program] = field(default_factory=dict)
    _keeper: threading.Thread | None = None
    _is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def run(self, name: str, *arguments: str) -> None:
        """Start a program, and keep it running."""
        with self._lock:
            self._programs[name] = _Program(arguments, self.folder / f"{name}.log")
            self._spawn(self._programs[name])
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, daemon=True)
            self._keeper.start()

    def kill(self, name: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a program; one that dies of it is started again."""
        process = self._programs[name].process
        assert process is not None
        process.send_signal(sign)

    def stop(self, name: str, sign: signal.Signals = signal.SIGTERM) -> None:
        """End a program and keep it down."""
        program = self._programs[name]
        with self._lock:
            program.is_wanted = False
            if program.process is not None:
                program.process.send_signal(sign)
                program.process.wait(30)

    def start(self, name: str) -> None:
        """Let a program run again."""
        with self._lock:
            program = self._programs[name]
            program.is_wanted = True
            self._spawn(program)

    def starts(self, name: str) -> int:
        """How often a program was started."""
        return self._programs[name].starts

    def manage(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of `manage.py` to its end."""
        return subprocess.run(
            [sys.executable, str(BASE_DIR / "manage.py"), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def wait_until_up(self) -> None:
        """Until both gateways answer."""
        for name, url in self.urls.items():
            wait_for(partial(answers, f"{url}/livez"), name, 60)

    def wait_for_configuration(self) -> None:
        """Until both serve by what is in the database now."""
        from routing.snapshot import read_version

        wanted = read_version()
        for url in self.urls.values():
            wait_for(partial(_serves_by, url, wanted), "the configuration")

    def end(self) -> None:
        """Stop everything."""
        self._is_over = True
        for name in reversed(list(self._programs)):
            self.stop(name)
        self.valkey.stop()
        self.postgres.stop()

    def _spawn(self, program: _Program) -> None:
        with program.log.open("ab") as log:
            program.process = subprocess.Popen(
                [sys.executable, str(BASE_DIR / "manage.py"), *program.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        program.starts += 1

    def _keep(self) -> None:
        while not self._is_over:
            time.sleep(_LOOK_S)
            with self._lock:
                for program in self._programs.values():
                    if (
                        program.is_wanted
                        and program.process is not None
                        and program.process.poll() is not None
                    ):
                        self._spawn(program)


@contextmanager
def built_stage(say: Callable[[str], Any]) -> Iterator[Stage]:
    """A stage on which everything runs; it is gone afterwards. Sets this process's environment, and Django up."""
    folder = Path(tempfile.mkdtemp(prefix="gw-chaos-"))
    stage = Stage(folder, EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey"))
    try:
        say("Starting PostgreSQL and Valkey ...")
        stage.postgres.start()
        stage.valkey.start()
        _set_environment(stage)
        _set_up_django()
        say("Starting the simulator, two gateways and the shipper ...")
        simulator_port, *ports = free_ports(1 + len(WORKERS))
        os.environ["GATEWAY_PRIVATE_BACKENDS"] = f"127.0.0.1:{simulator_port}"
        stage.simulator = Simulator(f"http://127.0.0.1:{simulator_port}")
        stage.run("simulator", "simulator", "--port", str(simulator_port))
        for name, port in zip(WORKERS, ports, strict=True):
            stage.urls[name] = f"http://127.0.0.1:{port}"
            stage.run(name, "serve", "--port", str(port))
        stage.run("shipper", "ship")
        stage.wait_until_up()
        yield stage
    finally:
        stage.end()
        shutil.rmtree(folder, ignore_errors=True)


def _serves_by(url: str, version: int) -> bool:
    return bool(httpx.get(f"{url}/readyz").json()["configuration_version"] >= version)


def _set_environment(stage: Stage) -> None:
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]
    os.environ.update(
        new_secrets()
        | {
            "GATEWAY_HOME": str(stage.folder),
            "DATABASE_URL": stage.postgres.url(APP_ROLE),
            "DATABASE_OWNER_URL": stage.postgres.url(OWNER_ROLE),
            "REDIS_URL": stage.valkey.url(),
            "GATEWAY_SPOOL_DIR": str(stage.spool),
            "GATEWAY_SPOOL_SEGMENT_BYTES": str(_SEGMENT_BYTES),
            "DJANGO_SETTINGS_MODULE": "gateway_site.settings",
        }
    )


def _set_up_django() -> None:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
