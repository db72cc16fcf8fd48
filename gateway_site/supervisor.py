"""Starts the parts of the product, shows their output, restarts what dies and stops everything in order.

One thread and one selector: output, deaths (SIGCHLD), signals and due restarts all wake the same loop. That
also keeps `PR_SET_PDEATHSIG` right, which is tied to the thread that started the child.
"""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, BinaryIO

_PR_SET_PDEATHSIG = 1
_LONGEST_LINE_BYTES = 16_384
_LONGEST_LOG_BYTES = 10_000_000
_COLOURS = (36, 32, 33, 35, 34)
STOP_WITHIN_S = 9.6  # the whole stop, leaving a little of the promised 10 s for the kernel


class GaveUp(Exception):
    """A part cannot be kept alive, or did not become ready; the message is for people."""


class StopRequested(Exception):
    """Ctrl-C, SIGTERM or a closed terminal asked for the end."""


@dataclass(frozen=True, slots=True)
class Part:
    """One program of the product, and how to stop it.

    Stages stop in ascending order, each part by `stop_by_s` seconds after the stop began; then it is killed.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] | None = None
    user: str | None = None
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_stage: int = 1
    stop_by_s: float = STOP_WITHIN_S
    on_console: bool = True
    before_start: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a part that died is started again."""

    most_deaths: int = 5
    window_s: float = 60.0
    first_delay_s: float = 0.5
    longest_delay_s: float = 8.0

    def decide(self, deaths_s: Sequence[float]) -> float | None:
        """Seconds to wait before the next start, or None to give up.

        `deaths_s` are the times of all deaths, ascending, the last being now. Recent ones double the wait.
        """
        recent = sum(1 for death in deaths_s if deaths_s[-1] - death < self.window_s)
        if recent >= self.most_deaths:
            return None
        return float(min(self.first_delay_s * 2 ** (recent - 1), self.longest_delay_s))


class LineSplitter:
    """Cuts a byte stream into lines; a line past 16 KiB comes out in pieces, so memory stays bounded."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        step = _LONGEST_LINE_BYTES
        return [line[at : at + step].rstrip(b"\r") for line in lines for at in range(0, len(line) or 1, step)]

    def flush(self) -> list[bytes]:
        """What remains when the stream has ended."""
        return self.feed(b"\n") if self._rest else []


class RotatingLog:
    """A log file of at most 10 MB (mode 0600); the one before it is kept as `<name>.log.1`."""

    def __init__(self, path: Path, longest_bytes: int = _LONGEST_LOG_BYTES) -> None:
        self.path, self._longest_bytes = path, longest_bytes
        self._file = self._open()

    def _open(self) -> BinaryIO:
        if self.path.exists():
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        self._size_bytes = 0
        return os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0)

    def write(self, line: bytes) -> None:
        """Append one line; a full disk loses log lines but stops nothing."""
        with suppress(OSError):
            if self._size_bytes > self._longest_bytes:
                self._file.close()
                self._file = self._open()
            self._size_bytes += self._file.write(line + b"\n")

    def tail(self, lines: int = 15) -> str:
        """The last lines of at most 64 kB."""
        text = self.path.read_bytes()[-65_536:].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Close the file; later lines are lost."""
        self._file.close()


class Console:
    """Progress lines with the time since the start, and the parts' lines under their names."""

    def __init__(self, stream: BinaryIO | None = None, *, colour: bool | None = None) -> None:
        self._stream = stream or sys.stdout.buffer
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._colour = self._stream.isatty() and not plain if colour is None else colour
        self._began_s, self._names = time.monotonic(), dict[str, int]()

    def say(self, text: str) -> None:
        """Show `text` as it is."""
        self._write(f"{text}\n".encode())

    def progress(self, text: str) -> None:
        """Show `text` after the seconds since the start."""
        self.say(f"[{time.monotonic() - self._began_s:5.1f} s] {text}")

    def shout(self, text: str) -> None:
        """Show `text` so that it is not missed."""
        self.say(self._paint(31, f"!!! {text}"))

    def part_line(self, name: str, line: bytes) -> None:
        """Show one line of a part's output."""
        colour = _COLOURS[self._names.setdefault(name, len(self._names)) % len(_COLOURS)]
        self._write(self._paint(colour, f"{name:<9} |").encode() + b" " + line + b"\n")

    def _paint(self, colour: int, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text

    def _write(self, data: bytes) -> None:
        with suppress(OSError, ValueError):  # the reader of a pipe, or the terminal, may be gone
            self._stream.write(data)
            self._stream.flush()


@dataclass(eq=False, slots=True)
class _Running:
    part: Part
    log: RotatingLog
    process: subprocess.Popen[bytes] | None = None
    lines: LineSplitter = field(default_factory=LineSplitter)
    deaths_s: list[float] = field(default_factory=list)
    restart_at_s: float | None = None
    once: bool = False
    returncode: int | None = None


def spawn(
    command: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGTERM,
    user: str | None = None,
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start a child in its own session, which on Linux gets `death_signal` when this process dies in any way.

    Call it from the main thread: the kernel watches the thread that started the child. `options` go to Popen.
    """
    parent, libc = os.getpid(), ctypes.CDLL(None) if sys.platform == "linux" else None

    def follow_parent() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:  # it died before the line above took effect
                os.kill(os.getpid(), signal.SIGKILL)

    if user is not None:
        options |= {"user": user, "group": user, "extra_groups": []}
    with warnings.catch_warnings():
        # follow_parent takes no lock, so it is safe even when a caller (a test) has other threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=follow_parent, **options
        )


class Supervisor:
    """Owns the running parts. Use it as a context: leaving it, for whatever reason, stops them all."""

    def __init__(self, logs: Path, console: Console, policy: RestartPolicy | None = None) -> None:
        self._logs, self._console, self._policy = logs, console, policy or RestartPolicy()
        self._runs: list[_Running] = []
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._old_handlers: dict[int, Any] = {}
        self._old_wakeup, self._stopping = -1, False
        self._signals: list[int] = []

    def __enter__(self) -> "Supervisor":
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)
        self._old_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started under nohup: it is meant to outlive its terminal
            self._old_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            signal.set_wakeup_fd(self._old_wakeup)
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)

    # --- Starting and watching --------------------------------------------------------------------------

    def start(self, part: Part) -> None:
        """Start `part` and keep it alive from now on."""
        run = _Running(part, RotatingLog(self._logs / f"{part.name}.log"))
        self._runs.append(run)
        self._launch(run)

    def run_once(self, part: Part, timeout_s: float) -> int:
        """Run `part` to its end and return its exit code; raises `GaveUp` when it takes longer."""
        run = _Running(part, RotatingLog(self._logs / f"{part.name}.log"), once=True)
        self._runs.append(run)
        self._launch(run)
        self.wait_until(lambda: run.returncode is not None, f"{part.name} to finish", timeout_s)
        self._runs.remove(run)
        run.log.close()
        return run.returncode or 0

    def wait_until(self, check: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Keep everything going until `check` holds; raises `GaveUp` after `timeout_s` seconds without it."""
        deadline = time.monotonic() + timeout_s
        while not check():
            if time.monotonic() > deadline:
                raise GaveUp(f"Waited {timeout_s:.0f} s for {what}.")
            self._turn(0.1)

    def watch(self) -> None:
        """Keep everything going until `StopRequested` or `GaveUp` is raised."""
        while True:
            self._turn(60.0)

    def all_alive(self) -> bool:
        """Whether every part runs at this moment."""
        return all(run.process is not None for run in self._runs)

    def _launch(self, run: _Running) -> None:
        part = run.part
        if part.before_start is not None:
            part.before_start()
        run.restart_at_s, run.lines = None, LineSplitter()
        try:
            run.process = spawn(
                part.command,
                death_signal=part.stop_signal,
                user=part.user,
                env=part.env,
                cwd=part.cwd,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise GaveUp(f"{part.name} cannot be started: {error}") from error
        os.set_blocking(_output_of(run.process).fileno(), False)
        self._selector.register(_output_of(run.process), selectors.EVENT_READ, run)

    def _turn(self, longest_s: float) -> None:
        due = [run.restart_at_s for run in self._runs if run.restart_at_s is not None]
        self._wait_and_handle(max(0.0, min([longest_s, *(at - time.monotonic() for at in due)])))
        if self._signals:
            raise StopRequested
        for run in self._runs:
            if run.restart_at_s is not None and run.restart_at_s <= time.monotonic():
                self._launch(run)

    def _wait_and_handle(self, longest_s: float) -> None:
        for key, _ in self._selector.select(longest_s):
            if key.data is None:
                with suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            else:
                self._read(key.data)
        for run in self._runs:
            if run.process is not None and (code := run.process.poll()) is not None:
                self._bury(run, run.process, code)

    def _read(self, run: _Running) -> bool:
        """Take what the part has written; False when nothing more is there now."""
        process = run.process
        if process is None:
            return False
        try:
            data = os.read(_output_of(process).fileno(), 65_536)
        except BlockingIOError:
            return False
        if not data:  # it closed its output but may live on
            with suppress(KeyError):
                self._selector.unregister(_output_of(process))
            return False
        self._show(run, run.lines.feed(data))
        return True

    def _show(self, run: _Running, lines: Sequence[bytes]) -> None:
        for line in lines:
            run.log.write(line)
            if run.part.on_console:
                self._console.part_line(run.part.name, line)

    def _bury(self, run: _Running, process: subprocess.Popen[bytes], code: int) -> None:
        _kill_group(process.pid)  # what it had started and left behind
        for _ in range(64):  # bounded: something in another session may go on writing
            if not self._read(run):
                break
        self._show(run, run.lines.flush())
        with suppress(KeyError, ValueError):
            self._selector.unregister(_output_of(process))
        _output_of(process).close()
        run.process, run.returncode = None, code
        if not self._stopping and not run.once:
            self._decide(run, code)

    def _decide(self, run: _Running, code: int) -> None:
        run.deaths_s.append(time.monotonic())
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        delay_s = self._policy.decide(run.deaths_s)
        if not run.part.on_console:
            self._console.say(run.log.tail())
        if delay_s is None:
            raise GaveUp(
                f"{run.part.name} died {self._policy.most_deaths} times within {self._policy.window_s:.0f} s "
                f"(last: {how}). Its log: {run.log.path}"
            )
        self._console.shout(f"{run.part.name} died ({how}); starting it again in {delay_s:g} s")
        run.restart_at_s = time.monotonic() + delay_s

    # --- Stopping ---------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop every part, stage by stage, within 10 s; one more Ctrl-C meanwhile kills the rest at once."""
        self._stopping = True
        began_s, interrupts = time.monotonic(), self._signals.count(signal.SIGINT)
        for stage in sorted({run.part.stop_stage for run in self._runs}):
            runs = [run for run in self._runs if run.part.stop_stage == stage]
            for run in runs:
                if run.process is not None and run.process.poll() is None:
                    run.process.send_signal(run.part.stop_signal)
            while any(run.process is not None for run in runs):
                # make passes SIGTERM on and a terminal SIGINT does not: only SIGINT counts as impatience.
                urgent = self._signals.count(signal.SIGINT) > interrupts
                self._kill_late(runs, time.monotonic() - began_s, urgent=urgent)
                self._wait_and_handle(0.05)
        for run in self._runs:
            run.log.close()
        self._runs.clear()

    def _kill_late(self, runs: Sequence[_Running], elapsed_s: float, *, urgent: bool) -> None:
        for run in runs:
            if run.process is not None and (urgent or elapsed_s > run.part.stop_by_s):
                _kill_group(run.process.pid)


def _output_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None  # noqa: S101 - started with a pipe, told to the type checker
    return process.stdout


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
