"""Changes of keys reach who watches: logged with their transaction, none missed, none that did not happen."""

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import redis
from django.conf import settings
from django.db import IntegrityError, OperationalError, connection, transaction
from django.test import override_settings
from django.utils import timezone

from routing import key_watch
from routing.key_watch import KeyWatch
from teams.announcements import CHANNEL, announce_key_change
from teams.key_changes import KEPT, KeyChanges, prune_key_changes, read_key_changes
from teams.keyring import KeyRing
from teams.keys import Peppers
from teams.models import ApiKey, Application, KeyChange, Team
from teams.services import create_key, pause_key, revoke_key
from teams.tasks import prune_key_changes as prune_task
from tests.factories import make_team
from tests.processes import free_ports

Position = str


def position() -> Position:
    return read_key_changes(None).position


def make_key(team: Team | None = None) -> ApiKey:
    return create_key(team or make_team(), "A key", actor="tests").key


def test_a_position_alone_tells_of_no_change() -> None:
    make_key()
    changes = read_key_changes(None)
    assert not changes
    assert not read_key_changes(changes.position)


def test_a_change_is_told_once() -> None:
    key, since = make_key(), position()
    pause_key(key, actor="tests")
    changes = read_key_changes(since)
    assert changes == KeyChanges(changes.position, keys=frozenset({key.pk}))
    assert not read_key_changes(changes.position)


def test_a_new_key_is_told_without_naming_any() -> None:
    team, since = make_team(), position()
    make_key(team)
    changes = read_key_changes(since)
    assert changes == KeyChanges(changes.position, created=True)


def test_a_change_that_was_rolled_back_is_not_told() -> None:
    key, since = make_key(), position()

    def change_and_fail() -> None:
        with transaction.atomic():
            pause_key(key, actor="tests")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    assert not read_key_changes(since)


CHANGES: dict[str, Callable[[ApiKey, Application], Any]] = {
    "the team": lambda key, application: Team.objects.filter(pk=key.team_id).update(is_active=False),
    "an application": lambda key, application: Application.objects.filter(pk=application.pk).update(
        slug="new"
    ),
    "a new application": lambda key, application: Application.objects.create(
        team=key.team, slug="second", name="Second"
    ),
    "an application that is gone": lambda key, application: application.delete(),
    "the department": lambda key, application: (
        type(key.team.department).objects.filter(pk=key.team.department_id).update(slug=f"moved-{key.pk}")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_holder_is_made_of_is_told_for_the_whole_team(change: str) -> None:
    key = make_key()
    application = Application.objects.create(team=key.team, slug="app", name="App")
    since = position()
    CHANGES[change](key, application)
    changes = read_key_changes(since)
    assert changes == KeyChanges(changes.position, teams=frozenset({key.team_id}))


def test_an_application_that_moves_is_told_to_both_teams() -> None:
    mine, other = make_team(), make_team()
    application = Application.objects.create(team=mine, slug="app", name="App")
    since = position()
    Application.objects.filter(pk=application.pk).update(team=other)
    assert read_key_changes(since).teams == {mine.pk, other.pk}


def test_a_deleted_key_is_told() -> None:
    key, since = make_key(), position()
    key_id = key.pk
    key.delete()
    assert read_key_changes(since).keys == {key_id}


def test_a_statement_that_changes_very_many_keys_says_everything() -> None:
    team = make_team()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO teams_apikey (team_id, name, digest, pepper_version, hint, created_by, created_at)"
            " SELECT %s, 'A key', sha256(('very many ' || number)::bytea), 1, 'sk-gw_...AbC1', 'tests', now()"
            " FROM generate_series(1, 1001) AS number",
            [team.pk],
        )
    since = position()
    some = ApiKey.objects.filter(team=team).order_by("id")[:1000]
    assert ApiKey.objects.filter(pk__in=some).update(name="Another") == 1000
    changes = read_key_changes(since)
    assert (len(changes.keys), changes.everything) == (1000, False)
    assert ApiKey.objects.filter(team=team).update(name="A third") == 1001
    changes = read_key_changes(changes.position)
    assert (len(changes.keys), changes.everything) == (0, True)


def test_a_statement_that_changes_nothing_tells_nothing() -> None:
    since = position()
    ApiKey.objects.filter(pk=0).update(name="Another")
    assert not read_key_changes(since)


def test_a_transaction_that_began_first_and_ends_last_is_not_missed() -> None:
    first, second = make_key(), make_key()

    with psycopg.connect(os.environ["DATABASE_URL"]) as slow:
        slow.execute("UPDATE teams_apikey SET paused_at = now() WHERE id = %s", [first.pk])
        since = position()
        pause_key(second, actor="tests")
        changes = read_key_changes(since)
        assert changes.keys == {second.pk}
        slow.commit()
    changes = read_key_changes(changes.position)
    assert changes.keys == {first.pk}
    assert not read_key_changes(changes.position)


def test_another_database_under_our_feet_means_everything() -> None:
    assert read_key_changes("9000000000:9000000000:").everything


def test_lines_from_another_life_of_the_database_are_not_told_again_and_again() -> None:
    since = position()
    KeyChange.objects.create(kind="everything", xact=2**40, at=timezone.now())
    assert not read_key_changes(since)


@pytest.mark.parametrize(
    "row", [{"kind": "key"}, {"kind": "created", "object_id": 1}, {"kind": "nonsense", "object_id": 1}]
)
def test_the_log_holds_no_nonsense(row: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        KeyChange.objects.create(xact=1, at=timezone.now(), **row)


def test_the_log_is_pruned_after_a_day() -> None:
    old = timezone.now() - KEPT - timedelta(seconds=1)
    row = KeyChange.objects.create(kind="created", xact=1, at=old)
    key = make_key()
    pause_key(key, actor="tests")
    assert prune_key_changes() >= 1
    assert not KeyChange.objects.filter(pk=row.pk).exists()
    assert KeyChange.objects.filter(kind="key", object_id=key.pk).exists()
    assert prune_task() == 0


# --- Announcements --------------------------------------------------------------------------------------


def test_a_transaction_is_announced_once_when_it_commits() -> None:
    with redis.Redis.from_url(settings.REDIS_URL) as store, store.pubsub() as channel:
        channel.subscribe(CHANNEL)
        assert channel.get_message(timeout=5)
        with transaction.atomic():
            key = make_key()
            pause_key(key, actor="tests")
            assert channel.get_message(timeout=0.05) is None
        assert channel.get_message(timeout=5)
        assert channel.get_message(timeout=0.05) is None


def test_what_is_rolled_back_to_a_savepoint_does_not_swallow_the_announcement() -> None:
    with redis.Redis.from_url(settings.REDIS_URL) as store, store.pubsub() as channel:
        channel.subscribe(CHANNEL)
        assert channel.get_message(timeout=5)
        with transaction.atomic():
            try:
                with transaction.atomic():
                    announce_key_change()
                    raise RuntimeError
            except RuntimeError:
                announce_key_change()
        assert channel.get_message(timeout=5)


def test_a_store_that_is_away_hinders_no_change(caplog: pytest.LogCaptureFixture) -> None:
    key, (port,) = make_key(), free_ports(1)
    with override_settings(REDIS_URL=f"redis://127.0.0.1:{port}/0"), caplog.at_level(logging.WARNING):
        assert revoke_key(key, actor="tests")
    assert "workers find it by themselves" in caplog.text


def test_pages_that_save_a_team_announce_it() -> None:
    team = make_team()
    with redis.Redis.from_url(settings.REDIS_URL) as store, store.pubsub() as channel:
        channel.subscribe(CHANNEL)
        assert channel.get_message(timeout=5)
        team.save()
        assert channel.get_message(timeout=5)


# --- The worker's watch ---------------------------------------------------------------------------------


@pytest.fixture
def key() -> ApiKey:
    return make_key()


async def act(change: Callable[[], Any]) -> None:
    """Run `change` as somebody else would: in a thread, on a connection of its own."""

    def run() -> None:
        try:
            change()
        finally:
            connection.close()

    await asyncio.to_thread(run)


class Ring(KeyRing):
    """Says what it was told to forget."""

    def __init__(self) -> None:
        async def look_up(*_: Any) -> None:
            return None

        super().__init__(Peppers({1: b"a" * 32}), look_up)
        self.told: asyncio.Queue[KeyChanges] = asyncio.Queue()

    def forget(self, changes: KeyChanges) -> None:
        super().forget(changes)
        if changes:
            self.told.put_nowait(changes)

    async def hear_of(self, key: ApiKey) -> None:
        """Until this key is among what is to be forgotten."""
        async with asyncio.timeout(5):
            while key.pk not in (await self.told.get()).keys:
                pass


async def start_watch(redis_url: str, poll_s: float) -> tuple[KeyWatch, Ring]:
    ring = Ring()
    watch = KeyWatch(ring, redis_url, poll_s=poll_s)
    await watch.start()
    assert (await ring.told.get()).everything  # what is known from before counts for nothing
    return watch, ring


async def test_an_announced_change_does_not_wait_for_the_next_look(key: ApiKey) -> None:
    watch, ring = await start_watch(settings.REDIS_URL, poll_s=3600)
    try:
        await act(lambda: pause_key(key, actor="tests"))
        await ring.hear_of(key)
    finally:
        await watch.close()


async def test_without_announcements_changes_are_found_by_looking(
    key: ApiKey, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    with caplog.at_level(logging.WARNING, logger="routing.key_watch"):
        watch, ring = await start_watch(f"redis://127.0.0.1:{port}/0", poll_s=0.05)
        try:
            await act(lambda: pause_key(key, actor="tests"))
            await ring.hear_of(key)
        finally:
            await watch.close()
    assert caplog.text.count("found by looking") == 1


async def test_an_announcement_that_was_lost_is_made_up_for_on_return(
    key: ApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_watch, "_LISTEN_AGAIN_S", 0.05)
    watch, ring = await start_watch(settings.REDIS_URL, poll_s=3600)
    try:
        with redis.Redis.from_url(settings.REDIS_URL) as store:
            await act(
                lambda: ApiKey.objects.filter(pk=key.pk).update(name="By somebody who announces nothing")
            )
            store.client_kill_filter(_type="pubsub")
        await ring.hear_of(key)
    finally:
        await watch.close()


async def test_a_worker_that_has_not_looked_for_long_forgets_everything() -> None:
    watch, ring = await start_watch(settings.REDIS_URL, poll_s=3600)
    try:
        watch._looked_at -= KEPT
        await watch.look()
        assert (await ring.told.get()).everything
    finally:
        await watch.close()


async def test_a_database_that_is_away_leaves_what_is_known(
    key: ApiKey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter(range(3))

    def read(since: str | None) -> KeyChanges:
        if next(failures, None) is not None:
            raise OperationalError("no route to host")
        return read_key_changes(since)

    with caplog.at_level(logging.ERROR, logger="routing.key_watch"):
        watch, ring = await start_watch(settings.REDIS_URL, poll_s=0.02)
        try:
            monkeypatch.setattr(key_watch, "read_key_changes", read)
            await act(lambda: pause_key(key, actor="tests"))
            await ring.hear_of(key)
            assert watch.is_current
            assert next(failures, None) is None
        finally:
            await watch.close()
    assert caplog.text.count("changes of keys are not heard of") == 1
