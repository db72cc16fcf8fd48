"""The questions behind the health of a worker, each under a time limit of its caller's."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import redis.asyncio
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from billing.shipper_status import is_shipper_alive, read_shipper_status
from billing.spool import used_bytes
from gateway_site.celery_life import QUEUE, SIGN
from gateway_site.faults import DatabaseFacts, HostFacts, Memory

_DEFAULT_ROWS = "SELECT EXISTS (SELECT 1 FROM billing_usagerecord_default)"
_QUARANTINED = "SELECT count(*), max(at) FROM billing_quarantinedframe"


def probe_host(spool_dir: Path) -> HostFacts:
    """Look at the spool's folder; some file calls. Raises OSError."""
    return HostFacts(
        spool_bytes=used_bytes(spool_dir),
        torn_segments=sum(1 for _ in spool_dir.glob("*.torn")),
        shipper_is_alive=is_shipper_alive(spool_dir),
        shipper=read_shipper_status(spool_dir),
    )


class DatabaseProbe:
    """Asks PostgreSQL; used from one thread."""

    def __init__(self) -> None:
        self._ours: frozenset[tuple[str, str]] = frozenset()

    def ask(self) -> DatabaseFacts:
        """Four small queries. Raises DatabaseError when PostgreSQL is away."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT app, name FROM django_migrations")
            applied = set(cursor.fetchall())
            missing_partitions = []
            for month in _months():
                cursor.execute("SELECT to_regclass(%s)", [f"billing_usagerecord_{month:%Y%m}"])
                if cursor.fetchone() == (None,):
                    missing_partitions.append(f"{month:%Y-%m}")
            cursor.execute(_DEFAULT_ROWS)
            (has_default_rows,) = cursor.fetchone()
            cursor.execute(_QUARANTINED)
            quarantined_records, quarantined_at = cursor.fetchone()
        return DatabaseFacts(
            missing_migrations=tuple(sorted(".".join(key) for key in self._migrations() - applied)),
            missing_partitions=tuple(missing_partitions),
            has_default_rows=has_default_rows,
            quarantined_records=quarantined_records,
            quarantined_at=None if quarantined_at is None else quarantined_at.timestamp(),
        )

    def _migrations(self) -> frozenset[tuple[str, str]]:
        """Every migration of this release; read from disk once."""
        if not self._ours:
            self._ours = frozenset(MigrationLoader(None).graph.nodes)
        return self._ours


def _months() -> list[datetime]:
    """The first days of this month and the next, UTC."""
    this = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return [this, this.replace(year=this.year + this.month // 12, month=this.month % 12 + 1)]


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """What Redis or Valkey says of itself; `has_sign`: whether Celery's stands. `max_bytes` is 0 without a bound."""

    eviction_policy: str
    used_bytes: int
    max_bytes: int
    has_sign: bool
    waiting_tasks: int


def read_memory(info: bytes) -> Memory:
    """What INFO says of a server's memory."""
    said = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    return Memory(
        eviction_policy=said.get(b"maxmemory_policy", b"unknown").decode(),
        used_bytes=int(said.get(b"used_memory", 0)),
        max_bytes=int(said.get(b"maxmemory", 0)),
    )


async def probe_store(store: "redis.asyncio.Redis") -> StoreAnswer:
    """One round trip. Raises RedisError or OSError."""
    async with store.pipeline(transaction=False) as pipeline:
        pipeline.info("memory")
        pipeline.exists(SIGN)
        pipeline.llen(QUEUE)
        memory, sign, waiting = await pipeline.execute()
    return StoreAnswer(
        eviction_policy=str(memory.get("maxmemory_policy", "unknown")),
        used_bytes=int(memory.get("used_memory", 0)),
        max_bytes=int(memory.get("maxmemory", 0)),
        has_sign=bool(sign),
        waiting_tasks=int(waiting),
    )
