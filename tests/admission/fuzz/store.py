"""A store of the simulation's own, and connections to it on which things go wrong."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

from redis.exceptions import ConnectionError as NotConnected

from billing.admission.commands import Command, pack
from billing.admission.links import Reply, ServerLink, StoreLost
from billing.admission.scripts import Scripts
from gateway_site.embedded import EmbeddedValkey
from gateway_site.supervisor import spawn
from tests.admission.desk import CLOCK


class Fault(Enum):
    """What becomes of one round trip; the client always learns nothing."""

    UNSENT = auto()
    UNANSWERED = auto()
    LATER = auto()  # carried out after the client gave up


class Store(EmbeddedValkey):
    """A server that keeps nothing on disk but what `save` wrote."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._raw = ServerLink(self.url(), Scripts({}))
        self.now_ms = 0
        self.is_paused = False
        self.delayed: list[tuple[bytes, int]] = []

    def command(self) -> list[str]:
        return [*super().command(), "--appendonly", "no", "--save", ""]

    def raw(self, *words: str | bytes) -> Any:
        """The reply to an ordinary command."""
        (reply,) = self._raw.send(pack(*words), 1)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def set_clock(self, now_ms: int) -> None:
        """What the scripts take for the time."""
        self.now_ms = now_ms
        self.raw("HSET", CLOCK, "s", str(now_ms // 1000), "us", str(now_ms % 1000 * 1000))

    def flush(self) -> None:
        """All is gone."""
        self.raw("FLUSHALL")
        self.set_clock(self.now_ms)

    def save(self) -> None:
        """What a restart will come back with."""
        self.raw("SAVE")

    def crash(self, *, forget: bool) -> None:
        """Killed, and started again with what was saved last, or with nothing."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._raw.close()
        if forget:
            (self.data / "dump.rdb").unlink(missing_ok=True)
        self._start_at_once()
        self.set_clock(self.now_ms)

    def begin_run(self, now_ms: int) -> None:
        """Empty, as a new one."""
        (self.data / "dump.rdb").unlink(missing_ok=True)
        self.delayed, self.is_paused, self.now_ms = [], False, now_ms
        self.flush()

    def deliver(self, count: int | None = None) -> None:
        """Carry out what clients gave up, the oldest first."""
        due, self.delayed = self.delayed[:count], self.delayed[len(self.delayed[:count]) :]
        for payload, commands in due:
            self._raw.send(payload, commands)

    def _start_at_once(self) -> None:
        with self.log_file.open("ab") as log:
            self._process = spawn(
                self.command(), death_signal=self.stop_signal, user=None, stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(NotConnected, OSError):
                if self._raw.send(pack("PING"), 1) == [b"PONG"]:
                    return
            self._raw.close()
            os.sched_yield()
            time.sleep(0.001)
        raise AssertionError("the store did not come back")


class Channel:
    """An Exchange: one process's connection. `fault` befalls the next round trip, `interrupt_before` names one."""

    def __init__(self, store: Store, scripts: Scripts) -> None:
        self._store = store
        self._link = ServerLink(store.url(), scripts)
        self.fault: Fault | None = None
        self._interrupt: Callable[[], None] | None = None
        self._interrupt_after = 0

    def interrupt_before(self, round_trip: int, interrupt: Callable[[], None]) -> None:
        """Something happens before one of the next round trips; 0 is the next."""
        self._interrupt, self._interrupt_after = interrupt, round_trip

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self.fault = self._interrupt = None

    def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """See Exchange."""
        if self._interrupt is not None:
            self._interrupt_after -= 1
            if self._interrupt_after < 0:
                interrupt, self._interrupt = self._interrupt, None
                interrupt()
        fault, self.fault = self.fault, None
        if self._store.is_paused:
            fault = Fault.LATER
        if fault is None:
            return self._link.exchange(commands)
        if fault is Fault.UNANSWERED:
            self._link.exchange(commands)
        elif fault is Fault.LATER:
            self._link.exchange([])  # so that it is connected
            run = self._link._run
            assert run is not None
            self._store.delayed.append((b"".join(command.packed(run) for command in commands), len(commands)))
        self._link.close()
        raise StoreLost(f"made up: {fault.name}", was_sent=True)

    def close(self) -> None:
        self._link.close()
