"""The last use of a key: noted without waiting, written in batches, never set back."""

import asyncio
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection

from routing.snapshot import read_version
from teams import key_uses
from teams.key_changes import read_key_changes
from teams.key_uses import KeyUses, Uses, write_key_uses
from teams.models import ApiKey, ApiKeyUse
from teams.services import create_key
from tests.factories import make_team

NOW = datetime.now(UTC)
BEFORE, AFTER = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)


@pytest.fixture
def key() -> ApiKey:
    return create_key(make_team(), "A key", actor="tests").key


def use_of(key: ApiKey) -> tuple[datetime, str | None]:
    use = ApiKeyUse.objects.get(key=key)
    return use.last_used_at, use.last_used_ip


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1%eth0", "2001:db8::1"),
        ("", None),
        ("no address", None),
    ],
)
def test_a_use_is_stored_with_its_address(key: ApiKey, address: str, shown: str | None) -> None:
    write_key_uses({key.pk: (NOW, address)})
    assert use_of(key) == (NOW, shown)


def test_a_later_use_counts_in_whatever_order_they_come(key: ApiKey) -> None:
    write_key_uses({key.pk: (NOW, "192.0.2.1")})
    write_key_uses({key.pk: (BEFORE, "192.0.2.2")})
    assert use_of(key) == (NOW, "192.0.2.1")
    write_key_uses({key.pk: (AFTER, "192.0.2.3")})
    assert use_of(key) == (AFTER, "192.0.2.3")


def test_a_key_that_is_no_more_hinders_no_other(key: ApiKey) -> None:
    write_key_uses({0: (NOW, "192.0.2.1"), key.pk: (NOW, "192.0.2.1"), 2**60: (NOW, "")})
    assert use_of(key) == (NOW, "192.0.2.1")


def test_a_use_is_no_change_of_the_configuration(key: ApiKey) -> None:
    version, position = read_version(), read_key_changes(None).position
    write_key_uses({key.pk: (NOW, "192.0.2.1")})
    assert read_version() == version
    assert not read_key_changes(position)


def test_large_batches_go_in_parts(key: ApiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_uses, "_MOST_AT_ONCE", 2)
    keys = [key, *(create_key(make_team(), "A key", actor="tests").key for _ in range(4))]
    write_key_uses({one.pk: (NOW, "192.0.2.1") for one in keys})
    assert ApiKeyUse.objects.filter(key__in=keys, last_used_at=NOW).count() == 5


def test_workers_that_write_at_once_do_not_block_each_other_for_good() -> None:
    keys = [create_key(make_team(), "A key", actor="tests").key.pk for _ in range(10)]
    failures: list[Exception] = []

    def write(order: list[int], start: int) -> None:
        try:
            for step in range(20):
                at = NOW + timedelta(seconds=start + step)
                write_key_uses(dict.fromkeys(order, (at, "192.0.2.1")))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            failures.append(error)
        finally:
            connection.close()

    threads = [
        threading.Thread(target=write, args=(order, start))
        for start, order in enumerate((keys, keys[::-1], keys, keys[::-1]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


class Store:
    """Where uses go; fails on demand."""

    def __init__(self) -> None:
        self.written: list[Uses] = []
        self.is_away = False

    async def __call__(self, uses: Uses) -> None:
        if self.is_away:
            raise OperationalError("no route to host")
        self.written.append(uses)


async def test_many_uses_of_a_key_are_written_as_one() -> None:
    store = Store()
    uses = KeyUses(store)
    for _ in range(1000):
        uses.note(1, BEFORE, "192.0.2.1")
    uses.note(1, NOW, "192.0.2.2")
    await uses.flush()
    await uses.flush()
    assert store.written == [{1: (NOW, "192.0.2.2")}]


async def test_what_could_not_be_written_is_kept_unless_the_key_was_used_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store()
    uses = KeyUses(store)
    store.is_away = True
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            uses.note(1, BEFORE, "192.0.2.1")
            uses.note(2, BEFORE, "192.0.2.1")
            await uses.flush()
    assert caplog.text.count("cannot be written now") == 1
    store.is_away = False
    uses.note(1, NOW, "192.0.2.2")
    await uses.flush()
    assert store.written == [{1: (NOW, "192.0.2.2"), 2: (BEFORE, "192.0.2.1")}]


async def test_a_fault_of_ours_does_not_end_the_writing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_uses, "WRITE_EVERY_S", 0.001)
    has_failed, was_written = asyncio.Event(), asyncio.Event()

    async def write(uses: Uses) -> None:
        if 1 in uses:
            has_failed.set()
            raise RuntimeError("a fault")
        was_written.set()

    uses = KeyUses(write)
    running = asyncio.create_task(uses.run())
    uses.note(1, NOW, "")
    async with asyncio.timeout(5):
        await has_failed.wait()
        uses.note(2, NOW, "")
        await was_written.wait()
    running.cancel()
    await asyncio.wait([running])
    assert "were lost" in caplog.text


async def test_notes_are_bounded_and_those_that_are_there_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_uses, "_MOST_KEYS", 3)
    store = Store()
    uses = KeyUses(store)
    for key_id in range(10):
        uses.note(key_id, BEFORE, "")
    uses.note(1, NOW, "")
    await uses.flush()
    expected: dict[int, Any] = {0: (BEFORE, ""), 1: (NOW, ""), 2: (BEFORE, "")}
    assert store.written == [expected]
