"""`make run`: PostgreSQL, Valkey, migrations, demo data and every part of the product, in one command.

Embedded services are used for what `DATABASE_URL` and `REDIS_URL` do not name. Exit codes: 0 when stopped on
request, 1 when something does not start or cannot be kept alive.
"""

import argparse
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from gateway_site.embedded import APP_ROLE, OWNER_ROLE, EmbeddedError, EmbeddedPostgres, EmbeddedValkey
from gateway_site.home import BASE_DIR, Home, HomeError, is_set, locked, read_environment, update_environment
from gateway_site.supervisor import Console, GaveUp, Part, StopRequested, Supervisor

# Seconds after the stop began; the services then have the time up to supervisor.STOP_WITHIN_S.
_WEB_STOPS_BY_S = 7.0
_REST_STOPS_BY_S = 8.4
_CELERY_AS_ROOT = "You're running the worker with superuser privileges"  # said at every start in a container
_LOOPBACK = "127.0.0.1"


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ports of a run just stopped are free
        try:
            probe.bind((_LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose_simulator_port(first: int, web_port: int, is_free: Callable[[int], bool]) -> int:
    """The first free port from `first` upwards that is not the web's."""
    for port in range(first, min(first + 200, 65_536)):
        if port != web_port and is_free(port):
            return port
    raise HomeError(f"No free port for the simulator from {first} on. Name one: SIMULATOR_PORT=18001")


def read_port(name: str, default: int) -> int:
    """The port number in the environment variable `name`; raises `HomeError` for anything else."""
    raw = os.environ.get(name) or str(default)
    if not raw.isdecimal() or not 0 < int(raw) < 65_536:
        raise HomeError(f"{name} must be a port number, not {raw!r}.")
    return int(raw)


def prepare_environment(home: Home, web_port: int, embedded: Mapping[str, str]) -> dict[str, str]:
    """Update the environment file and return what every part gets; what is set in our own environment wins.

    The simulator keeps its port over restarts as long as it is free, for the demo's backend names it.
    """
    stored = read_environment(home.environment)
    old_port = stored.get("GATEWAY_SIMULATOR_PORT", "")
    first = read_port("SIMULATOR_PORT", int(old_port) if old_port.isdecimal() else min(web_port + 1, 65_000))
    port = str(choose_simulator_port(first, web_port, is_port_free))
    backends = stored.get("GATEWAY_PRIVATE_BACKENDS", "").split(",")
    others = [item for item in backends if item and item != f"{_LOOPBACK}:{old_port}"]
    changes = {
        "GATEWAY_SIMULATOR_PORT": port,
        "GATEWAY_PRIVATE_BACKENDS": ",".join([f"{_LOOPBACK}:{port}", *others]),
        "GATEWAY_SPOOL_DIR": str(home.spool),
        **embedded,
    }
    values = update_environment(home.environment, changes)
    given = {name for name in values if is_set(name, os.environ)}
    ours = {name: value for name, value in values.items() if name not in given}
    if "DATABASE_URL" in given:
        ours.pop("DATABASE_OWNER_URL", None)  # the file's is the embedded one's
    defaults = {"PYTHONUNBUFFERED": "1"}
    if not is_set("GATEWAY_SHUTDOWN_S", os.environ):
        defaults["GATEWAY_SHUTDOWN_S"] = "4"
    forced = {"GATEWAY_HOME": str(home.root), "GATEWAY_SIMULATOR_PORT": port}
    return {**defaults, **os.environ, **ours, **forced}


def product_parts(home: Home, port: int, environment: Mapping[str, str]) -> list[Part]:
    """The parts besides the services, in the order of their start."""
    python, simulator_port = sys.executable, environment["GATEWAY_SIMULATOR_PORT"]
    celery = (python, "-W", f"ignore:{_CELERY_AS_ROOT}", "-m", "celery", "--quiet", "-A", "gateway_site")
    worker = ("worker", "--concurrency", "1", "--loglevel", "WARNING")
    beat = ("beat", "--schedule", str(home.beat_schedule), "--loglevel", "WARNING")
    web = _part("web", _manage("serve", "--port", str(port)), environment)
    return [
        _part("simulator", _manage("simulator", "--port", simulator_port), environment),
        # Stops first: it finishes streams while everything they need still runs.
        replace(web, stop_stage=0, stop_by_s=_WEB_STOPS_BY_S),
        _part("shipper", _manage("ship"), environment),
        _part("worker", (*celery, *worker), environment),
        _part("beat", (*celery, *beat), environment),
    ]


def _manage(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(BASE_DIR / "manage.py"), *arguments)


def _part(name: str, command: tuple[str, ...], environment: Mapping[str, str]) -> Part:
    return Part(name, command, env=environment, cwd=BASE_DIR, stop_by_s=_REST_STOPS_BY_S)


class Run:
    """One `make run`, from the empty folder to the ready product."""

    def __init__(self, home: Home, port: int, console: Console) -> None:
        self._home, self._port, self._console = home, port, console
        self._postgres = None if is_set("DATABASE_URL", os.environ) else EmbeddedPostgres(home.postgres)
        self._valkey = None if is_set("REDIS_URL", os.environ) else EmbeddedValkey(home.valkey)

    def go(self) -> int:
        """Run until stopped; returns the exit code."""
        with Supervisor(self._home.logs, self._console) as supervisor:
            try:
                self._start(supervisor)
                supervisor.watch()
            except StopRequested:
                self._console.progress("Stopping ...")
                code = 0
            except (GaveUp, EmbeddedError) as error:
                self._console.shout(str(error))
                code = 1
            self._home.demo.unlink(missing_ok=True)
        self._console.progress("Stopped.")
        return code

    def _start(self, supervisor: Supervisor) -> None:
        self._start_services(supervisor)
        environment = prepare_environment(self._home, self._port, self._embedded_urls())
        self._command(supervisor, "migrate", _manage("migrate", "--noinput"), environment)
        self._command(supervisor, "load_prices", _manage("load_prices"), environment)
        self._console.progress("Database schema and list prices are up to date")
        fresh = self._home.demo.with_name("demo.json.new")
        _make_private(fresh)
        load = _manage("load_demo", "--write", str(fresh), "--base-url", f"http://{_LOOPBACK}:{self._port}")
        self._command(supervisor, "load_demo", load, environment)
        self._console.progress("Demo data is loaded")
        for part in product_parts(self._home, self._port, environment):
            supervisor.start(part)
        simulator_port = int(environment["GATEWAY_SIMULATOR_PORT"])
        supervisor.wait_until(
            lambda: supervisor.all_alive() and _accepts(simulator_port) and _answers_readyz(self._port),
            f"http://{_LOOPBACK}:{self._port}/readyz to answer 200 (see {self._home.logs})",
            120,
        )
        fresh.chmod(0o600)
        fresh.replace(self._home.demo)
        self._console.progress("Everything is ready")
        self._console.say(welcome(self._home, self._port))

    def _start_services(self, supervisor: Supervisor) -> None:
        if self._postgres is not None:
            if not (self._postgres.data / "PG_VERSION").exists():
                self._console.progress("Making a PostgreSQL database ...")
            self._postgres.prepare()
            supervisor.start(_service_part("postgres", self._postgres, self._postgres.clear_leftovers))
            supervisor.wait_until(self._postgres.is_ready, "PostgreSQL", 60)
            self._postgres.create_database()
            self._console.progress(f"PostgreSQL is up (data in {self._home.postgres})")
        if self._valkey is not None:
            self._valkey.prepare()
            supervisor.start(_service_part("valkey", self._valkey, self._valkey.stop_leftover))
            supervisor.wait_until(self._valkey.is_ready, "Valkey", 60)
            self._console.progress(f"Valkey is up (data in {self._home.valkey})")

    def _embedded_urls(self) -> dict[str, str]:
        urls = {}
        if self._postgres is not None:
            urls["DATABASE_URL"] = self._postgres.url(APP_ROLE)
            urls["DATABASE_OWNER_URL"] = self._postgres.url(OWNER_ROLE)
        if self._valkey is not None:
            urls["REDIS_URL"] = self._valkey.url()
        return urls

    def _command(
        self, supervisor: Supervisor, name: str, command: tuple[str, ...], environment: Mapping[str, str]
    ) -> None:
        part = replace(_part(name, command, environment), on_console=False)
        code = supervisor.run_once(part, 300)
        if code:
            log = self._home.logs / f"{name}.log"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise GaveUp(f"{name} failed with exit code {code}:\n{tail}")


def _service_part(name: str, service: EmbeddedPostgres | EmbeddedValkey, before: Callable[[], None]) -> Part:
    return Part(
        name,
        service.command(),
        user=service.user,
        cwd=Path("/"),
        stop_signal=service.stop_signal,
        stop_stage=2,
        on_console=False,
        before_start=before,
    )


def _make_private(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _accepts(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((_LOOPBACK, port)) == 0


def _answers_readyz(port: int) -> bool:
    connection = http.client.HTTPConnection(_LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def welcome(home: Home, port: int) -> str:
    """What to do next, with a first call to paste; the demo's key is in it, its passwords are not."""
    demo = json.loads(home.demo.read_text(encoding="utf-8"))
    body = json.dumps({"model": demo["model"], "messages": [{"role": "user", "content": "Say hello."}]})
    return f"""
  Portal       http://{_LOOPBACK}:{port}/
  API          {demo["base_url"]}
  Demo model   {demo["model"]}
  Users        names and passwords are in {home.demo}
  Logs         {home.logs}

  First call:

    curl {shlex.quote(demo["base_url"] + "/chat/completions")} \\
      -H {shlex.quote("Authorization: Bearer " + demo["api_key"])} \\
      -H 'Content-Type: application/json' \\
      -d {shlex.quote(body)}

  Ctrl-C stops everything; the data stays. `make demo-reset` removes it.
"""


def reset(home: Home, console: Console) -> int:
    """Remove the data of `make run`; files that are not ours stay."""
    for service in (EmbeddedPostgres(home.postgres), EmbeddedValkey(home.valkey)):
        service.stop_leftover()
    for folder in (home.postgres, home.valkey, home.spool, home.logs):
        shutil.rmtree(folder, ignore_errors=True)
    files = [home.demo, home.demo.with_name("demo.json.new"), *home.root.glob(f"{home.beat_schedule.name}*")]
    for file in (*files, home.environment, home.lock):
        file.unlink(missing_ok=True)
    if any(home.root.iterdir()):
        console.say(f"Removed the data of `make run`; other files remain in {home.root}.")
    else:
        home.root.rmdir()
        console.say(f"Removed {home.root}.")
    return 0


def main() -> int:
    """Start everything, or with `--reset` remove the data; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gateway_site.run", description=__doc__)
    parser.add_argument("--reset", action="store_true", help="remove the data of earlier runs instead")
    arguments, console, home = parser.parse_args(), Console(), Home.locate()
    if arguments.reset and not home.environment.exists():
        console.say(f"There is nothing to remove in {home.root}.")
        return 0
    try:
        home.create()
        with locked(home.lock) as ours:
            if not ours:
                console.shout(f"`make run` is already running on {home.root}. Stop it first (Ctrl-C there).")
                return 1
            return reset(home, console) if arguments.reset else _run(home, console)
    except (HomeError, EmbeddedError, OSError) as error:
        console.shout(str(error))
        return 1
    except KeyboardInterrupt:  # before the supervisor handles signals: nothing has been started
        return 128 + signal.SIGINT


def _run(home: Home, console: Console) -> int:
    port = read_port("PORT", 8000)
    if not is_port_free(port):
        other = 9000 if port != 9000 else 9100
        console.shout(f"Port {port} is taken by another program. Choose another: PORT={other} make run")
        return 1
    home.demo.unlink(missing_ok=True)
    return Run(home, port, console).go()


if __name__ == "__main__":
    sys.exit(main())
