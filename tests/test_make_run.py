"""`make run` and the `.gateway/` folder, on a copy of the machinery with small stand-ins for the parts."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from gateway_site.home import (
    BASE_DIR,
    Home,
    HomeError,
    load_environment,
    locked,
    read_environment,
    update_environment,
)
from gateway_site.run import choose_simulator_port, is_port_free, prepare_environment

MANAGE = """
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
import psycopg, redis

class Ok(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

command, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if command == "migrate":
    with psycopg.connect(os.environ["DATABASE_OWNER_URL"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS migrated (id int)")
    redis.Redis.from_url(os.environ["REDIS_URL"]).ping()
    sys.exit(int(os.environ.get("MIGRATE_EXIT", "0")))
elif command == "load_prices":
    sys.exit(0)
elif command == "load_demo":
    demo = {"base_url": options["--base-url"] + "/v1", "api_key": "demo-key", "model": "demo"}
    demo["password"] = "hush"
    with open(options["--write"], "w") as file:
        json.dump(demo, file)
elif command in ("serve", "simulator"):
    HTTPServer(("127.0.0.1", int(options["--port"])), Ok).serve_forever()
else:
    time.sleep(600)
"""
CELERY = "import sys, time; print(sys.argv, flush=True); time.sleep(600)"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


class TestEnvironmentFile:
    def test_secrets_are_made_once_and_are_private(self, home: Home) -> None:
        first = update_environment(home.environment, {"REDIS_URL": "one"})
        second = update_environment(home.environment, {"REDIS_URL": "two"})
        assert second == {**first, "REDIS_URL": "two"} == read_environment(home.environment)
        assert home.environment.stat().st_mode & 0o777 == 0o600
        assert len(urlsafe_b64decode(first["GATEWAY_FIELD_KEYS"])) == 32
        assert re.fullmatch(r"1:[0-9a-f]{64}", first["GATEWAY_KEY_PEPPERS"])

    def test_comments_survive_an_update(self, home: Home) -> None:
        home.environment.write_text("# mine\nEXTRA=a=b\n")
        assert update_environment(home.environment, {"REDIS_URL": "one"})["EXTRA"] == "a=b"
        assert home.environment.read_text().startswith("# mine\n")

    def test_other_lines_are_refused_without_showing_them(self, home: Home) -> None:
        home.environment.write_text("A=1\nsecret\n")
        with pytest.raises(HomeError, match=r"line 2: expected KEY=VALUE") as error:
            read_environment(home.environment)
        assert "secret" not in str(error.value)

    def test_the_real_environment_wins(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        home.environment.write_text("T_A=file\nT_B=file\nT_C=file\n")
        monkeypatch.setenv("T_A", "ours")
        monkeypatch.setenv("T_B_FILE", "/run/secrets/b")
        monkeypatch.setenv("T_C", "to be put back")
        monkeypatch.delenv("T_C")
        load_environment(home.environment)
        assert (os.environ["T_A"], os.environ.get("T_B"), os.environ["T_C"]) == ("ours", None, "file")

    def test_owner_url_is_taken_only_with_its_database_url(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home.environment.write_text("DATABASE_URL=embedded\nDATABASE_OWNER_URL=embedded\n")
        monkeypatch.setenv("DATABASE_URL", "external")
        monkeypatch.setenv("DATABASE_OWNER_URL", "to be put back")
        monkeypatch.delenv("DATABASE_OWNER_URL")
        load_environment(home.environment)
        assert "DATABASE_OWNER_URL" not in os.environ

    def test_missing_file_means_nothing(self, home: Home) -> None:
        load_environment(home.environment)


class TestSimulatorPort:
    @pytest.fixture(autouse=True)
    def _without_the_tests_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GATEWAY_PRIVATE_BACKENDS", raising=False)
        monkeypatch.delenv("SIMULATOR_PORT", raising=False)

    def test_takes_the_next_free_port_that_is_not_the_webs(self) -> None:
        assert choose_simulator_port(8001, 8000, lambda port: True) == 8001
        assert choose_simulator_port(8000, 8000, lambda port: True) == 8001
        assert choose_simulator_port(8001, 8000, lambda port: port > 8003) == 8004

    def test_says_when_there_is_none(self) -> None:
        with pytest.raises(HomeError, match="SIMULATOR_PORT"):
            choose_simulator_port(8001, 8000, lambda port: False)

    def test_stays_the_same_when_the_web_moves(self, home: Home) -> None:
        port = free_ports(1)[0]
        home.environment.write_text(f"GATEWAY_SIMULATOR_PORT={port}\n")
        environment = prepare_environment(home, port - 10, {})
        assert environment["GATEWAY_SIMULATOR_PORT"] == str(port)
        assert environment["GATEWAY_PRIVATE_BACKENDS"] == f"127.0.0.1:{port}"

    def test_moves_when_it_is_taken_and_other_private_backends_stay(self, home: Home) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            home.environment.write_text(
                f"GATEWAY_SIMULATOR_PORT={port}\nGATEWAY_PRIVATE_BACKENDS=127.0.0.1:{port},10.0.0.5:80\n"
            )
            environment = prepare_environment(home, port - 10, {})
        moved = int(environment["GATEWAY_SIMULATOR_PORT"])
        assert moved > port
        assert environment["GATEWAY_PRIVATE_BACKENDS"] == f"127.0.0.1:{moved},10.0.0.5:80"


def test_lock_is_for_one_process_and_ends_with_it(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from gateway_site.home import locked\n"
        "with locked(Path(sys.argv[1])) as ours: print(ours, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, home.lock],
        cwd=BASE_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with locked(home.lock) as ours:
            assert not ours
        other.kill()
    with locked(home.lock) as ours:
        assert ours


# --- The whole command ----------------------------------------------------------------------------------


class Project:
    """A folder with the real Makefile and machinery, and stand-ins for what it starts."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, Home(root / ".gateway")
        self.port, self.simulator_port = free_ports(2)
        for name in ("home", "supervisor", "embedded", "run"):
            target = root / "gateway_site" / f"{name}.py"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(BASE_DIR / "gateway_site" / f"{name}.py", target)
        (root / "gateway_site" / "__init__.py").touch()
        (root / "manage.py").write_text(MANAGE)
        (root / "celery.py").write_text(CELERY)  # `python -m celery` finds it first
        shutil.copy(BASE_DIR / "Makefile", root)
        for name in ("requirements.txt", ".venv/installed-requirements.txt"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).touch()
        python = root / ".venv" / "bin" / "python"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)

    def make(self, target: str, **variables: str) -> subprocess.Popen[str]:
        """Start `make target` in a process group of its own, as a terminal does."""
        ours = ("DATABASE_", "REDIS_", "GATEWAY_", "MAKE")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        ports = {"PORT": str(self.port), "SIMULATOR_PORT": str(self.simulator_port)}
        return subprocess.Popen(
            ["make", target],  # noqa: S607 - whichever make the developer uses
            cwd=self.root,
            env={**environment, **ports, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    root = Path(tempfile.mkdtemp(prefix="gw-"))
    yield Project(root)
    shutil.rmtree(root)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += str(line)
        if text in line:
            return seen
    raise AssertionError(f"ended without {text!r}:\n{seen}")


def interrupt(process: subprocess.Popen[str]) -> str:
    """Ctrl-C: SIGINT for the whole process group."""
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=15)
    return str(rest)


def processes_of(project: Project) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(project.root) in line:
            found.append(line)
    return found


def test_run_starts_everything_and_ctrl_c_stops_it(project: Project) -> None:
    process = project.make("run")
    try:
        seen = read_until(process, "demo-reset")
        assert project.home.demo.stat().st_mode & 0o777 == 0o600
        assert json.loads(project.home.demo.read_text())["base_url"] == f"http://127.0.0.1:{project.port}/v1"
        assert f"curl http://127.0.0.1:{project.port}/v1/chat/completions" in seen
        assert "Bearer demo-key" in seen
        assert "hush" not in seen
        assert secrets_of(project).isdisjoint(seen.split())

        second = project.make("run")
        said, _ = second.communicate(timeout=15)
        assert "already running" in said
        assert second.returncode == 2  # make's own code for a failed recipe
        assert project.home.demo.exists()
        reset, _ = project.make("demo-reset").communicate(timeout=15)
        assert "already running" in reset
    finally:
        rest = interrupt(process)
    assert "Stopped." in rest
    assert "Error" not in rest
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert not project.home.demo.exists()
    assert processes_of(project) == []


def secrets_of(project: Project) -> set[str]:
    values = read_environment(project.home.environment)
    return {values[name] for name in ("GATEWAY_SECRET_KEY", "GATEWAY_KEY_PEPPERS", "GATEWAY_FIELD_KEYS")}


def test_second_run_on_another_port_keeps_data_and_simulator(project: Project) -> None:
    before, port = read_environment(project.home.environment), free_ports(1)[0]
    process = project.make("run", PORT=str(port), SIMULATOR_PORT="")
    try:
        read_until(process, "demo-reset")
        assert read_environment(project.home.environment) == before
        assert json.loads(project.home.demo.read_text())["base_url"] == f"http://127.0.0.1:{port}/v1"
    finally:
        interrupt(process)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell children")
def test_killed_run_leaves_nothing_and_does_not_prevent_the_next(project: Project) -> None:
    process = project.make("run")
    read_until(process, "demo-reset")
    os.killpg(process.pid, signal.SIGKILL)  # make and the supervisor; the parts have groups of their own
    process.communicate(timeout=15)
    again = project.make("run")
    try:
        read_until(again, "demo-reset")
    finally:
        interrupt(again)
    assert processes_of(project) == []


def test_failed_migration_stops_everything_and_shows_why(project: Project) -> None:
    process = project.make("run", MIGRATE_EXIT="7")
    said, _ = process.communicate(timeout=30)
    assert "migrate failed with exit code 7" in said
    assert process.returncode == 2
    assert processes_of(project) == []


def test_taken_port_names_the_remedy_and_starts_nothing(project: Project) -> None:
    with socket.create_server(("127.0.0.1", project.port)):
        assert not is_port_free(project.port)
        process = project.make("run")
        said, _ = process.communicate(timeout=15)
    assert f"Port {project.port} is taken" in said
    assert "PORT=9000 make run" in said
    assert "PostgreSQL" not in said
    assert process.returncode == 2


@pytest.mark.parametrize("port", ["abc", "0", "70000"])
def test_wrong_port_is_refused(project: Project, port: str) -> None:
    said, _ = project.make("run", PORT=port).communicate(timeout=15)
    assert "PORT must be a port number" in said


def test_demo_reset_removes_the_data_and_nothing_else(project: Project) -> None:
    mine = project.home.root / "mine"
    project.home.create()
    update_environment(project.home.environment, {})
    mine.touch()
    said, _ = project.make("demo-reset").communicate(timeout=15)
    assert "other files remain" in said
    assert list(project.home.root.iterdir()) == [mine]


def test_unchanged_requirements_install_nothing(project: Project) -> None:
    said, _ = project.make("packages").communicate(timeout=15)
    assert said == ""


def test_help_lists_the_targets(project: Project) -> None:
    said, _ = project.make("help").communicate(timeout=15)
    for target in ("run", "test", "lint", "format", "bench", "migrate", "demo-reset", "lock", "clean"):
        assert re.search(rf"^{target} +\w", said, re.MULTILINE)


class TestFindPython:
    script = BASE_DIR / "scripts" / "find-python"

    def find(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(self.script)], env=environment, capture_output=True, text=True, check=False
        )

    def fake(self, folder: Path, name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    def test_newest_that_really_runs_is_taken(self, tmp_path: Path) -> None:
        self.fake(tmp_path, "python3.13", "exit 127")  # what pyenv leaves for versions not selected
        self.fake(tmp_path, "python3.12", "echo /found/3.12")
        self.fake(tmp_path, "python3.11", "echo /found/3.11")
        assert self.find(PATH=str(tmp_path), HOME=str(tmp_path)).stdout == "/found/3.12\n"

    def test_pyenv_is_asked_for_the_version(self, tmp_path: Path) -> None:
        self.fake(tmp_path, "python3.13", '[ "$PYENV_VERSION" = 3.13 ] && echo /found/3.13')
        assert self.find(PATH=str(tmp_path), HOME=str(tmp_path)).stdout == "/found/3.13\n"

    def test_named_python_is_taken_or_refused(self) -> None:
        assert self.find(PATH="/usr/bin:/bin", PYTHON=sys.executable).returncode == 0
        refused = self.find(PATH="/usr/bin:/bin", PYTHON="/nonexistent/python")
        assert refused.returncode == 1
        assert "PYTHON=/nonexistent/python is not" in refused.stderr

    def test_none_is_explained(self, tmp_path: Path) -> None:
        none = self.find(PATH=str(tmp_path), HOME=str(tmp_path))
        assert none.returncode == 1
        assert "No Python 3.11, 3.12 or 3.13" in none.stderr
