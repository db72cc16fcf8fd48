"""What is not well, decided from facts by pure functions; each fault has a stable code and a sentence for people.

The sentences go to strangers (`/readyz`): they name no address, no credential and no error text.
"""

from dataclasses import dataclass

from billing.shipper_status import ShipperStatus
from routing.snapshot import LeftOut

SHIPPER_LAG_S = 60.0
CELERY_SILENCE_S = 120.0  # after the last sign has lapsed (gateway_site/tasks.py)
GOOD_POLICY = "noeviction"

# Every code; docs/reference/health.md describes them (a test holds the two together).
CODES = (
    "spool_full",
    "spool_torn",
    "shipper_down",
    "shipper_lagging",
    "database_away",
    "key_changes_unheard",
    "migrations_missing",
    "partition_missing",
    "partition_default_rows",
    "store_away",
    "store_evicts",
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


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What Redis or Valkey was asked. `celery_silence_s`: since the last sign of Celery lapsed; 0 while it stands."""

    eviction_policy: str
    celery_silence_s: float
    waiting_tasks: int


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
        detail = f"{facts.shipper.backlog_records} records wait."
        faults.append(Fault("shipper_lagging", message, detail))
    return faults


def database_faults(facts: DatabaseFacts) -> list[Fault]:
    """Of a PostgreSQL that answers."""
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
    return faults


def store_faults(facts: StoreFacts) -> list[Fault]:
    """Of a Redis or Valkey that answers, and of Celery, which leaves its signs there."""
    faults = []
    if facts.eviction_policy != GOOD_POLICY:
        message = "Redis or Valkey may drop keys when its memory is full: set maxmemory-policy noeviction."
        faults.append(Fault("store_evicts", message, facts.eviction_policy))
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


STORE_AWAY = Fault("store_away", "Redis or Valkey does not answer.")
