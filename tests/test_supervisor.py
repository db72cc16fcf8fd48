"""The supervisor with tiny child programs, and its pure decisions."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from gateway_site.home import BASE_DIR
from gateway_site.supervisor import (
    Console,
    GaveUp,
    LineSplitter,
    Part,
    RestartPolicy,
    RotatingLog,
    StopRequested,
    Supervisor,
)

QUICK = RestartPolicy(first_delay_s=0.01)
SLEEPS = "import time; print('up', flush=True); time.sleep(600)"
# On SIGTERM: says so in a file of its own, then ends.
NOTES_ITS_END = """
import signal, sys, time
def end(*_):
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(600)
"""
IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPS


class Screen(io.BytesIO):
    """A console that can be read."""

    def shows(self, text: str) -> bool:
        return text in self.getvalue().decode()


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def supervisor(tmp_path: Path, screen: Screen) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, Console(screen, colour=False), QUICK) as supervisor:
        yield supervisor


def part(name: str, code: str, *arguments: str, stop_stage: int = 1, stop_by_s: float = 9) -> Part:
    return Part(name, (sys.executable, "-c", code, *arguments), stop_stage=stop_stage, stop_by_s=stop_by_s)


class TestRestartPolicy:
    def test_each_recent_death_doubles_the_wait(self) -> None:
        policy = RestartPolicy(first_delay_s=0.5)
        assert [policy.decide([0.0] * count) for count in (1, 2, 3, 4)] == [0.5, 1, 2, 4]

    def test_gives_up_at_the_fifth_death_within_a_minute(self) -> None:
        assert RestartPolicy().decide([0, 10, 20, 30, 59]) is None

    def test_old_deaths_are_forgotten(self) -> None:
        assert RestartPolicy().decide([0, 10, 20, 30, 60]) is not None
        assert RestartPolicy().decide([0, 1, 2, 3, 1000]) == RestartPolicy().first_delay_s

    def test_wait_has_a_bound(self) -> None:
        assert RestartPolicy(most_deaths=50).decide([0.0] * 49) == RestartPolicy().longest_delay_s


class TestLineSplitter:
    def test_lines_come_out_whole_however_they_arrive(self) -> None:
        lines = LineSplitter()
        assert lines.feed(b"one\ntw") == [b"one"]
        assert lines.feed(b"o\r\n\nthree") == [b"two", b""]
        assert lines.flush() == [b"three"]
        assert lines.flush() == []

    def test_endless_line_comes_out_in_pieces(self) -> None:
        lines = LineSplitter()
        pieces = [piece for _ in range(100) for piece in lines.feed(b"x" * 1000)] + lines.flush()
        assert b"".join(pieces) == b"x" * 100_000
        assert max(map(len, pieces)) <= 16_384


class TestRotatingLog:
    def test_is_bounded_and_keeps_the_one_before(self, tmp_path: Path) -> None:
        log = RotatingLog(tmp_path / "web.log", longest_bytes=100)
        for number in range(50):
            log.write(f"line {number}".encode())
        log.close()
        assert "line 49" in log.tail()
        assert [path.name for path in sorted(tmp_path.iterdir())] == ["web.log", "web.log.1"]
        assert all(path.stat().st_size < 200 for path in tmp_path.iterdir())

    def test_starts_anew_and_is_private(self, tmp_path: Path) -> None:
        (tmp_path / "web.log").write_text("before\n")
        log = RotatingLog(tmp_path / "web.log")
        log.close()
        assert (tmp_path / "web.log.1").read_text() == "before\n"
        assert log.path.stat().st_mode & 0o777 == 0o600


class TestOutput:
    def test_lines_appear_under_the_name_of_their_part(
        self, supervisor: Supervisor, screen: Screen, tmp_path: Path
    ) -> None:
        supervisor.start(part("web", "import sys; print('out'); print('err', file=sys.stderr); " + SLEEPS))
        supervisor.wait_until(lambda: screen.shows("web       | up"), "output", 10)
        assert screen.shows("web       | err\n")
        assert "err\n" in (tmp_path / "web.log").read_text()

    def test_long_lines_are_shown_whole(self, supervisor: Supervisor, screen: Screen) -> None:
        supervisor.start(part("web", "print('x' * 1_000_000); " + SLEEPS))
        supervisor.wait_until(lambda: screen.shows("| up"), "output", 10)
        assert screen.getvalue().count(b"x") == 1_000_000

    def test_names_are_coloured_on_a_terminal(self) -> None:
        screen = Screen()
        Console(screen, colour=True).part_line("web", b"hello")
        assert screen.getvalue() == b"\x1b[36mweb       |\x1b[0m hello\n"

    def test_gone_reader_is_no_error(self) -> None:
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb", buffering=0) as stream:
            Console(stream, colour=False).say("hello")


class TestRestarts:
    def test_part_that_dies_is_started_again_loudly(
        self, supervisor: Supervisor, screen: Screen, tmp_path: Path
    ) -> None:
        once = f"import os, pathlib, sys; p = pathlib.Path({str(tmp_path / 'seen')!r})\n"
        once += "if not p.exists(): p.touch(); sys.exit(3)\n" + SLEEPS
        supervisor.start(part("web", once))
        supervisor.wait_until(lambda: screen.shows("| up"), "second start", 10)
        assert screen.shows("!!! web died (exit code 3); starting it again in 0.01 s")
        assert supervisor.all_alive()

    def test_gives_up_after_five_deaths(self, supervisor: Supervisor, screen: Screen) -> None:
        supervisor.start(part("web", "import os; os.kill(os.getpid(), 11)"))
        with pytest.raises(GaveUp, match=r"web died 5 times within 60 s \(last: signal SIGSEGV\)"):
            supervisor.watch()
        assert screen.getvalue().count(b"starting it again") == 4

    def test_what_a_dead_part_had_started_goes_with_it(self, supervisor: Supervisor, screen: Screen) -> None:
        child = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SLEEPS!r}])\n"
        supervisor.start(part("web", child + "print('child', p.pid, flush=True); sys.exit(1)"))
        supervisor.wait_until(lambda: screen.shows("web died"), "the death", 10)
        text = screen.getvalue().decode()
        assert is_gone(int(text.split("child ")[1].split()[0]))

    def test_program_that_does_not_exist_is_said(self, supervisor: Supervisor) -> None:
        with pytest.raises(GaveUp, match="web cannot be started"):
            supervisor.start(Part("web", ("/nonexistent/program",)))

    def test_run_once_returns_the_exit_code(self, supervisor: Supervisor, tmp_path: Path) -> None:
        assert supervisor.run_once(part("migrate", "print('done'); raise SystemExit(4)"), 10) == 4
        assert (tmp_path / "migrate.log").read_text() == "done\n"

    def test_waiting_has_an_end(self, supervisor: Supervisor) -> None:
        with pytest.raises(GaveUp, match="Waited 0 s for the moon"):
            supervisor.wait_until(lambda: False, "the moon", 0)


class TestStop:
    def test_stages_stop_in_order(self, tmp_path: Path, screen: Screen) -> None:
        note = tmp_path / "ends"
        with Supervisor(tmp_path, Console(screen, colour=False)) as supervisor:
            for name, stage in (("service", 2), ("worker", 1), ("web", 0)):
                supervisor.start(part(name, NOTES_ITS_END, str(note), name, stop_stage=stage))
            supervisor.wait_until(lambda: screen.getvalue().count(b"| up") == 3, "all", 10)
        assert note.read_text().split() == ["web", "worker", "service"]

    def test_part_that_ignores_the_signal_is_killed_in_time(self, tmp_path: Path, screen: Screen) -> None:
        with Supervisor(tmp_path, Console(screen, colour=False)) as supervisor:
            supervisor.start(part("web", IGNORES_SIGTERM, stop_by_s=0.3))
            supervisor.wait_until(lambda: screen.shows("| up"), "start", 10)
            began = time.monotonic()
        assert 0.3 < time.monotonic() - began < 3

    def test_signal_ends_the_watch(self, supervisor: Supervisor) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            supervisor._signals.clear()
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            with pytest.raises(StopRequested):
                supervisor.watch()

    def test_second_ctrl_c_stops_at_once(self, tmp_path: Path, screen: Screen) -> None:
        with Supervisor(tmp_path, Console(screen, colour=False)) as supervisor:
            supervisor.start(part("web", IGNORES_SIGTERM))
            supervisor.wait_until(lambda: screen.shows("| up"), "start", 10)
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            began = time.monotonic()
        assert time.monotonic() - began < 3

    def test_handlers_are_put_back(self, tmp_path: Path, screen: Screen) -> None:
        before = signal.getsignal(signal.SIGINT)
        with Supervisor(tmp_path, Console(screen, colour=False)):
            assert signal.getsignal(signal.SIGINT) != before
        assert signal.getsignal(signal.SIGINT) == before


SAYS_ITS_PID = "import os; print(os.getpid(), flush=True)\n" + SLEEPS
SUPERVISES = f"""
import sys
from pathlib import Path
from gateway_site.supervisor import Console, Part, Supervisor
with Supervisor(Path(sys.argv[1]), Console(colour=False)) as supervisor:
    for name in ("one", "two"):
        supervisor.start(Part(name, (sys.executable, "-c", {SAYS_ITS_PID!r})))
    supervisor.watch()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell children")
def test_kill_9_of_the_supervisor_leaves_no_children(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISES, tmp_path], cwd=BASE_DIR, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        children = [int(line.split()[2]) for line in lines if line.split()[2].isdecimal()]
        assert len(children) == 2
        process.kill()
    assert all(is_gone(child) for child in children)


def is_gone(pid: int) -> bool:
    """Whether the process ends within five seconds."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            process.wait(5)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return True
    except psutil.TimeoutExpired:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True
