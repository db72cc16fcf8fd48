"""What is not well, decided from facts by pure functions; each fault has a stable code and a sentence for people.

The sentences go to strangers (`/readyz`): they name no address, no credential and no error text.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from billing.shipper_status import ShipperStatus
from routing.snapshot import LeftOut

SHIPPER_LAG_S = 60.0
KEEPER_LAG_S = 60.0
CLOSED_S = 1.0  # counters are closed for a moment whenever rules change
QUARANTINE_S = 7 * 86_400.0  # quarantine is never emptied: after a week it is no news
MOST_COPIES_BYTES = 200 * 1024**2
FILLING = 0.8  # of the store's memory
CELERY_SILENCE_S = 120.0  # after the last sign has lapsed (gateway_site/tasks.py)
GOOD_POLICY = "noeviction"

# Every code; docs/reference/health.md describes them (a test holds the two together).
CODES = (
    "spool_full",
    "spool_torn",
    "shipper_down",
    "shipper_lagging",
    "records_waiting",
    "records_quarantined",
    "copies_large",
    "keeper_lagging",
    "counters_away",
    "counters_closed",
    "database_away",
    "key_changes_unheard",
    "migrations_missing",
    "partition_missing",
    "partition_default_rows",
    "store_away",
    "store_evicts",
    "store_filling",
    "celery_worker_silent",
    "celery_beat_silent",
    "backend_left_out",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is not well. `detail` is for administrators only."""

    code: str
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The spool's folder and its shipper."""

    spool_bytes: int
    torn_segments: int
    shipper_is_alive: bool
    shipper: ShipperStatus


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What PostgreSQL was asked."""

    missing_migrations: tuple[str, ...]
    missing_partitions: tuple[str, ...]
    has_default_rows: bool
    quarantined_records: int
    quarantined_at: float | None = None  # the last of them, in seconds since 1970


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one server of Redis or Valkey. `max_bytes` is 0 where it has no bound."""

    eviction_policy: str
    used_bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What Redis or Valkey was asked. `celery_silence_s`: since the last sign of Celery lapsed; 0 while it stands.
    `max_bytes` is 0 where its memory has no bound."""

    eviction_policy: str
    celery_silence_s: float
    waiting_tasks: int
    used_bytes: int = 0
    max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CounterFacts:
    """This worker and the counters of limits and budgets. `closed_s`: of the department that is closed longest."""

    is_connected: bool
    closed_departments: int
    closed_s: float
    unbooked_ends: int


def spool_faults(*, has_room: bool) -> list[Fault]:
    """The one fault that makes a worker unready."""
    return (
        []
        if has_room
        else [Fault("spool_full", "The spool has no room for another record: no calls are made.")]
    )


def host_faults(facts: HostFacts, now: float) -> list[Fault]:
    """Of the spool's folder and the shipper; `now` is in seconds since 1970."""
    faults = []
    if facts.torn_segments:
        message = f"{facts.torn_segments} spool segments with an unreadable rest are kept as .torn."
        faults.append(Fault("spool_torn", message))
    if not facts.shipper_is_alive:
        faults.append(Fault("shipper_down", "No shipper is running on this host: records wait in the spool."))
    elif (last := facts.shipper.last_success_at) is not None and now - last > SHIPPER_LAG_S:
        message = f"The shipper has brought nothing to the ledger for {now - last:.0f} s."
        faults.append(Fault("shipper_lagging", message))
    if facts.shipper.backlog_records:
        age = (
            ""
            if facts.shipper.oldest_at is None
            else f", the oldest for {now - facts.shipper.oldest_at:.0f} s"
        )
        message = f"{facts.shipper.backlog_records} records wait in the spool for PostgreSQL{age}."
        detail = f"The spool takes {facts.spool_bytes // 1024**2} MiB."
        faults.append(Fault("records_waiting", message, detail))
    return faults + keeper_faults(facts, now)


def keeper_faults(facts: HostFacts, now: float) -> list[Fault]:
    """Of the shipper's second thread."""
    faults, keeper = [], facts.shipper.keeper
    if facts.shipper_is_alive and keeper.turn_at is not None and now - keeper.turn_at > KEEPER_LAG_S:
        message = (
            f"Holds and copies of workers that died have not been looked at for {now - keeper.turn_at:.0f} s."
        )
        faults.append(
            Fault("keeper_lagging", message, f"{keeper.waiting_spools} spools of dead workers wait.")
        )
    if keeper.copies_bytes > MOST_COPIES_BYTES:
        message = (
            f"{keeper.copies} records that are not in the ledger yet fill the memory of Redis or Valkey."
        )
        faults.append(Fault("copies_large", message, f"They take {keeper.copies_bytes // 1024**2} MiB."))
    return faults


def database_faults(facts: DatabaseFacts, now: float) -> list[Fault]:
    """Of a PostgreSQL that answers; `now` is in seconds since 1970."""
    faults = []
    if facts.missing_migrations:
        message = f"{len(facts.missing_migrations)} migrations have not been applied: run manage.py migrate."
        faults.append(Fault("migrations_missing", message, ", ".join(facts.missing_migrations)))
    if facts.missing_partitions:
        message = f"The ledger has no partition for {' and '.join(facts.missing_partitions)}."
        faults.append(Fault("partition_missing", message))
    if facts.has_default_rows:
        message = "Ledger rows lie in the default partition, for the partition of their month was missing."
        faults.append(Fault("partition_default_rows", message))
    if facts.quarantined_at is not None and now - facts.quarantined_at < QUARANTINE_S:
        message = "Records came into quarantine within the last week: they are in no total."
        faults.append(Fault("records_quarantined", message, f"{facts.quarantined_records} lie there in all."))
    return faults


def memory_faults(memories: Iterable[Memory]) -> list[Fault]:
    """Of the memory of all servers together: one that drops keys, and the fullest."""
    faults, memories = [], list(memories)
    if bad := [memory for memory in memories if memory.eviction_policy != GOOD_POLICY]:
        message = "Redis or Valkey may drop keys when its memory is full: set maxmemory-policy noeviction."
        faults.append(Fault("store_evicts", message, bad[0].eviction_policy))
    if full := [memory for memory in memories if is_filling(memory.used_bytes, memory.max_bytes)]:
        message = (
            "The memory of Redis or Valkey is nearly full; then no call can be counted before it is made."
        )
        worst = max(full, key=lambda memory: memory.used_bytes / memory.max_bytes)
        faults.append(
            Fault("store_filling", message, f"{worst.used_bytes} of {worst.max_bytes} bytes are used.")
        )
    return faults


def store_faults(facts: StoreFacts, others: Iterable[Memory] = ()) -> list[Fault]:
    """Of a Redis or Valkey that answers, and of Celery, which leaves its signs there. `others`: the servers of the
    counters, where those have a store of their own."""
    faults = memory_faults([Memory(facts.eviction_policy, facts.used_bytes, facts.max_bytes), *others])
    if facts.celery_silence_s > CELERY_SILENCE_S:
        # Beat sends and the worker takes: tasks that wait are the worker's silence, none is beat's.
        if facts.waiting_tasks:
            message = f"No Celery worker takes tasks; {facts.waiting_tasks} wait."
            faults.append(Fault("celery_worker_silent", message))
        else:
            message = "Celery beat sends no tasks: nothing is done in the background."
            faults.append(Fault("celery_beat_silent", message))
    return faults


def configuration_faults(
    left_out: tuple[LeftOut, ...], *, is_current: bool, are_keys_current: bool
) -> list[Fault]:
    """Of the configuration and the keys in force."""
    faults = []
    if not is_current:
        message = "The database does not answer: known keys are served by the last configuration."
        faults.append(Fault("database_away", message))
    if not are_keys_current:
        message = "Changes of keys are not heard of: known keys are served as they were."
        faults.append(Fault("key_changes_unheard", message))
    if left_out:
        message = f"{len(left_out)} backends are left out: their credentials or addresses cannot be used."
        detail = " ".join(f"{backend.backend}: {backend.reason}" for backend in left_out)
        faults.append(Fault("backend_left_out", message, detail))
    return faults


def counter_faults(facts: CounterFacts) -> list[Fault]:
    """Of the counters of limits and budgets, which matter where there are any."""
    if not facts.is_connected:
        message = (
            "The counters of limits and budgets cannot be reached: calls under hard budgets are refused, or let in "
            "and counted afterwards, as each team's policy says."
        )
        return [Fault("counters_away", message, f"{facts.unbooked_ends} ends of calls wait to be counted.")]
    if facts.closed_s > CLOSED_S:
        message = (
            f"Departments whose counters are being made anew from the ledger: {facts.closed_departments}, for "
            f"{facts.closed_s:.0f} s. Their calls wait for seconds, then it is as if the counters were away."
        )
        return [Fault("counters_closed", message)]
    return []


def is_filling(used_bytes: int, max_bytes: int) -> bool:
    """Whether a store's memory, if it has a bound, is nearly full."""
    return 0 < FILLING * max_bytes < used_bytes


STORE_AWAY = Fault(
    "store_away",
    "Redis or Valkey does not answer: background tasks wait, and calls with an Idempotency-Key are refused.",
)
