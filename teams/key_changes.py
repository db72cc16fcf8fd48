"""What has changed of the keys since a worker last looked; the log is written by triggers (key_change_log.py).

A worker remembers a position, a snapshot of PostgreSQL, and asks for what that snapshot did not see. So nothing
is missed, in whatever order transactions end, and changes of keys wait for nobody (docs/adr/0009).
"""

from dataclasses import dataclass
from datetime import timedelta

from django.db import connection
from django.utils import timezone

from teams.models import KeyChange

KEPT = timedelta(days=1)  # a worker that has not looked for half as long forgets all keys

# A restored database may hold lines of a life in which it had counted further: no snapshot of this one sees them.
_POSITION = "SELECT pg_current_snapshot()::text, NULL, NULL"
_SINCE = """
    SELECT pg_current_snapshot()::text, change.kind, change.object_id
    FROM (VALUES (1)) AS always LEFT JOIN teams_keychange AS change
        ON change.xact >= pg_snapshot_xmin(%(since)s::pg_snapshot)::text::bigint
        AND change.xact < pg_snapshot_xmax(pg_current_snapshot())::text::bigint
        AND NOT pg_visible_in_snapshot(change.xact::text::xid8, %(since)s::pg_snapshot)
"""


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What has changed up to `position`: keys and teams by id; `created`: keys that were not there before."""

    position: str
    created: bool = False
    everything: bool = False
    keys: frozenset[int] = frozenset()
    teams: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return self.created or self.everything or bool(self.keys) or bool(self.teams)


def read_key_changes(since: str | None) -> KeyChanges:
    """The changes since a position; without one only the position now. One cheap query."""
    with connection.cursor() as cursor:
        cursor.execute(_POSITION if since is None else _SINCE, {"since": since})
        rows = cursor.fetchall()
    position: str = rows[0][0]
    named: dict[str, set[int]] = {"created": set(), "everything": set(), "key": set(), "team": set()}
    kinds = {kind for _, kind, _ in rows}
    for _, kind, object_id in rows:
        if object_id is not None:
            named[kind].add(object_id)
    return KeyChanges(
        position=position,
        created="created" in kinds,
        everything="everything" in kinds or (since is not None and _went_back(since, position)),
        keys=frozenset(named["key"]),
        teams=frozenset(named["team"]),
    )


def _went_back(since: str, position: str) -> bool:
    """Whether this is another database than before, restored or promoted: then nothing known can be relied on."""
    return int(position.split(":")[1]) < int(since.split(":")[1])


def prune_key_changes() -> int:
    """Delete what every worker has long read; returns how many rows."""
    return KeyChange.objects.filter(at__lt=timezone.now() - KEPT).delete()[0]
