"""The scenes: what is done to the product while it serves, and which errors callers may see of it."""

import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.chaos.stage import WORKERS, Stage

# What a caller may be told in any scene. "no answer" and "cut" come only where a gateway or all is killed.
HEALTHY = frozenset({"200", "left", "429 budget_spent", "429 budget_held", "429 rate_limited"})
# On a busy machine a call of the store may take longer than its 250 ms in any scene.
ALWAYS = HEALTHY | {"503 counters_unavailable"}
KILLED = {"no answer", "late", "cut", "503 gateway_stopped"}
COUNTERS_AWAY = {"503 counters_unavailable", "503 counters_rebuilding"}


@dataclass(frozen=True)
class Scene:
    """`play` does the damage and undoes what a supervisor or an operator would not; it returns when recovery may
    be measured from. `allowed`: outcomes beside ALWAYS. `recovery_s`: within which every gateway serves again."""

    name: str
    play: Callable[[Stage], None]
    allowed: frozenset[str]
    recovery_s: float = 5.0


def _kill_a_worker(stage: Stage) -> None:
    stage.kill(WORKERS[0])


def _kill_the_shipper(stage: Stage) -> None:
    for _ in range(3):
        stage.kill("shipper")
        time.sleep(1.0)


def _empty_the_store(stage: Stage) -> None:
    with redis.Redis.from_url(stage.valkey.url()) as store:
        store.flushall()


def _kill_a_worker_and_empty_the_store(stage: Stage) -> None:
    stage.kill(WORKERS[0])
    _empty_the_store(stage)


def _restore_an_old_snapshot(stage: Stage) -> None:
    with redis.Redis.from_url(stage.valkey.url()) as store:
        store.bgrewriteaof()
        while store.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.05)
        old = stage.folder / "old"
        shutil.copytree(stage.valkey.data, old, ignore=shutil.ignore_patterns("*.sock"))
    time.sleep(2.0)
    process = stage.valkey._process
    assert process is not None
    process.kill()
    process.wait()
    shutil.rmtree(stage.valkey.data)
    shutil.copytree(old, stage.valkey.data)
    shutil.rmtree(old)
    stage.valkey.start()


def _pause_the_store(stage: Stage) -> None:
    process = stage.valkey._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(5.0)
    os.kill(process.pid, signal.SIGCONT)


def _stop_the_database(stage: Stage) -> None:
    stage.postgres.stop()
    time.sleep(20.0)
    stage.postgres.start()


def _fill_the_spool(stage: Stage) -> None:
    """A file takes the whole of what the spool may take."""
    filler = Path(stage.spool, f"{uuid.uuid4()}-000000.spool")
    with filler.open("wb") as file:
        file.truncate(4 * 1024**3)
    time.sleep(25.0)  # in which each gateway fills its segment and needs another
    with suppress(FileNotFoundError):
        filler.unlink()


def _restart_everything(stage: Stage) -> None:
    for name in (*WORKERS, "shipper"):
        stage.kill(name)
    process = stage.valkey._process
    assert process is not None
    process.kill()
    process.wait()
    stage.postgres.stop()
    stage.postgres.start()
    stage.valkey.start()
    stage.wait_until_up()


def _pause_a_worker(stage: Stage) -> None:
    """Longer than its lease: others end its calls meanwhile."""
    stage.kill(WORKERS[0], signal.SIGSTOP)
    time.sleep(22.0)
    stage.kill(WORKERS[0], signal.SIGCONT)


SCENES = (
    Scene("nothing happens", lambda _: time.sleep(2.0), frozenset()),
    Scene("kill -9 a worker", _kill_a_worker, frozenset(KILLED)),
    Scene("kill -9 the shipper, three times", _kill_the_shipper, frozenset()),
    Scene("empty the store", _empty_the_store, frozenset(COUNTERS_AWAY)),
    Scene(
        "kill -9 a worker and empty the store",
        _kill_a_worker_and_empty_the_store,
        frozenset(KILLED | COUNTERS_AWAY),
    ),
    Scene("old snapshot of the store", _restore_an_old_snapshot, frozenset(COUNTERS_AWAY)),
    Scene("pause the store for 5 s", _pause_the_store, frozenset(COUNTERS_AWAY)),
    Scene("pause a worker for 22 s", _pause_a_worker, frozenset(KILLED | COUNTERS_AWAY)),
    Scene("stop PostgreSQL for 20 s", _stop_the_database, frozenset()),
    Scene("no room for the spool", _fill_the_spool, frozenset({"503 ledger_unavailable"})),
    Scene("everything is killed", _restart_everything, frozenset(KILLED | COUNTERS_AWAY), 8.0),
)
