"""What a worker remembers of keys: each looked up once, forgotten when it changes and not before."""

import asyncio
import gc
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from teams import keyring
from teams.key_changes import KeyChanges
from teams.key_holder import KeyHolder, KeyOwner
from teams.keyring import KeyRing
from teams.keys import KEY_LENGTH, Peppers, generate_key

PEPPERS = Peppers({1: b"a" * 32, 2: b"b" * 32})
NOW = datetime.now(UTC)


def make_owner(team_id: int = 1) -> KeyOwner:
    return KeyOwner(team_id, f"team-{team_id}", True, 1, "department", {"app": 7})


def make_holder(key_id: int = 1, owner: KeyOwner | None = None) -> KeyHolder:
    return KeyHolder(key_id, "sk-gw_...abcd", owner or make_owner(), None, "", False, None, None)


class LookUps:
    """A database that counts; `known` by digest under pepper 2, or 1 for keys from before it was rotated."""

    def __init__(self, known: dict[bytes, KeyHolder]) -> None:
        self.known, self.count = known, 0

    async def __call__(self, digests: list[bytes], owners: Mapping[int, KeyOwner]) -> KeyHolder | None:
        self.count += 1
        holder = next((self.known[digest] for digest in digests if digest in self.known), None)
        if holder is not None and (owner := owners.get(holder.team_id)) is not None:
            holder = replace(holder, owner=owner)
        return holder


def ring_of(*holders: KeyHolder) -> tuple[KeyRing, LookUps, list[str]]:
    """A ring, its database, and one key for each holder."""
    keys = [generate_key() for _ in holders]
    look_ups = LookUps({PEPPERS.digest(key, 2): holder for key, holder in zip(keys, holders, strict=True)})
    return KeyRing(PEPPERS, look_ups), look_ups, keys


def changed(**what: Any) -> KeyChanges:
    return KeyChanges("1:1:", **what)


async def test_a_known_key_is_looked_up_once_under_any_pepper() -> None:
    key, holder = generate_key(), make_holder()
    look_ups = LookUps({PEPPERS.digest(key, 1): holder})
    ring = KeyRing(PEPPERS, look_ups)
    assert [await ring.find(key) for _ in range(3)] == [holder] * 3
    look_ups.known.clear()
    assert await ring.find(key) is holder
    assert look_ups.count == 1


async def test_malformed_keys_cost_no_look_up_and_unknown_ones_one() -> None:
    ring, look_ups, _ = ring_of()
    for malformed in ("", "sk-gw_", "x" * KEY_LENGTH, generate_key() + "x", "\ud800"):
        assert await ring.find(malformed) is None
    assert look_ups.count == 0
    unknown = generate_key()
    assert [await ring.find(unknown) for _ in range(3)] == [None] * 3
    assert look_ups.count == 1


async def test_only_the_key_that_changed_is_looked_up_again() -> None:
    ring, look_ups, keys = ring_of(*(make_holder(key_id) for key_id in range(1, 101)))
    for key in keys:
        await ring.find(key)
    ring.forget(changed(keys=frozenset({5})))
    look_ups.known[PEPPERS.digest(keys[4], 2)] = replace(make_holder(5), is_stopped=True)
    holders = [await ring.find(key) for key in keys]
    assert look_ups.count == 101
    assert [holder.key_id for holder in holders if holder and holder.is_stopped] == [5]


async def test_a_new_key_makes_no_known_one_forgotten_but_all_unknown_ones() -> None:
    ring, look_ups, (known, later) = ring_of(make_holder(1), make_holder(2))
    stored = look_ups.known.pop(PEPPERS.digest(later, 2))
    assert (await ring.find(known), await ring.find(later)) == (make_known(look_ups, known), None)
    look_ups.known[PEPPERS.digest(later, 2)] = stored
    ring.forget(changed(created=True))
    assert await ring.find(known) is not None
    assert await ring.find(later) is not None
    assert look_ups.count == 3


def make_known(look_ups: LookUps, key: str) -> KeyHolder:
    return look_ups.known[PEPPERS.digest(key, 2)]


async def test_a_changed_team_is_read_again_for_each_of_its_keys_and_no_others() -> None:
    mine, other = make_owner(1), make_owner(2)
    ring, look_ups, keys = ring_of(make_holder(1, mine), make_holder(2, mine), make_holder(3, other))
    for key in keys:
        await ring.find(key)
    new = make_owner(1)
    for digest, holder in look_ups.known.items():
        if holder.team_id == 1:
            look_ups.known[digest] = replace(holder, owner=new)
    ring.forget(changed(teams=frozenset({1})))
    holders = [await ring.find(key) for key in keys]
    assert [holder.owner for holder in holders if holder] == [new, new, other]
    assert look_ups.count == 5
    assert [await ring.find(key) for key in keys] == holders
    assert look_ups.count == 5


async def test_keys_of_a_team_share_its_owner_even_when_looked_up_at_once() -> None:
    ring, look_ups, keys = ring_of(make_holder(1, make_owner(1)), make_holder(2, make_owner(1)))
    owners = set()
    for holder in await asyncio.gather(*(ring.find(key) for key in keys)):
        assert holder is not None
        owners.add(holder.owner)
    assert len(owners) == 1
    ring.forget(changed(teams=frozenset({1})))
    await asyncio.gather(*(ring.find(key) for key in keys))
    assert look_ups.count == 4


async def test_everything_can_be_forgotten() -> None:
    ring, look_ups, keys = ring_of(make_holder(1), make_holder(2))
    for _ in range(2):
        for key in (*keys, generate_key()):
            await ring.find(key)
        ring.forget(changed(everything=True))
    assert look_ups.count == 6


async def test_no_change_forgets_nothing() -> None:
    ring, look_ups, (key,) = ring_of(make_holder())
    await ring.find(key)
    ring.forget(changed())
    await ring.find(key)
    assert look_ups.count == 1


async def test_a_team_that_no_known_key_refers_to_is_not_remembered() -> None:
    ring, look_ups, (key,) = ring_of(make_holder())
    await ring.find(key)
    look_ups.known.clear()
    ring.forget(changed(keys=frozenset({1})))
    await asyncio.sleep(0)  # the loop's last step still holds the answer
    gc.collect()
    assert len(ring._owners) == 0


async def test_memory_is_bounded_and_guesses_push_out_no_known_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "MOST_KEYS", 10)
    monkeypatch.setattr(keyring, "MOST_UNKNOWN", 5)
    ring, look_ups, keys = ring_of(*(make_holder(key_id) for key_id in range(20)))
    for key in keys:
        await ring.find(key)
    for _ in range(50):
        await ring.find(generate_key())
    assert (len(ring._known), len(ring._names), len(ring._unknown)) == (10, 10, 5)
    assert set(ring._names) == set(range(10, 20))
    count = look_ups.count
    for key in keys[10:]:
        assert await ring.find(key) is not None
    assert look_ups.count == count
    ring.forget(changed(keys=frozenset(range(20))))
    assert (len(ring._known), len(ring._names)) == (0, 0)


class SlowLookUps(LookUps):
    """A database that has looked, and answers when told to."""

    def __init__(self, known: dict[bytes, KeyHolder]) -> None:
        super().__init__(known)
        self.was_asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def __call__(self, digests: list[bytes], owners: Mapping[int, KeyOwner]) -> KeyHolder | None:
        holder = await super().__call__(digests, owners)
        self.was_asked.set()
        await self.may_answer.wait()
        return holder


async def test_any_number_of_requests_wait_for_one_look_up_and_one_may_leave() -> None:
    key, holder = generate_key(), make_holder()
    look_ups = SlowLookUps({PEPPERS.digest(key, 2): holder})
    ring = KeyRing(PEPPERS, look_ups)
    waiting = [asyncio.create_task(ring.find(key)) for _ in range(1000)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    look_ups.may_answer.set()
    holders = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(holders[0], asyncio.CancelledError)
    assert holders[1:] == [holder] * 999
    assert look_ups.count == 1


@pytest.mark.parametrize(
    "change",
    [{"keys": frozenset({1})}, {"teams": frozenset({1})}, {"created": True}, {"everything": True}],
    ids=str,
)
async def test_an_answer_from_before_a_change_is_not_kept(change: dict[str, Any]) -> None:
    key, holder = generate_key(), make_holder()
    look_ups = SlowLookUps({PEPPERS.digest(key, 2): holder})
    ring = KeyRing(PEPPERS, look_ups)
    before = asyncio.create_task(ring.find(key))
    await look_ups.was_asked.wait()
    look_ups.known.clear()  # while the first look-up is under way
    ring.forget(changed(**change))
    after = asyncio.create_task(ring.find(key))
    await asyncio.sleep(0)
    look_ups.may_answer.set()
    assert (await before, await after) == (holder, None)
    assert await ring.find(key) is None
    assert look_ups.count == 2


async def test_a_key_that_became_known_as_unknown_under_way_is_found() -> None:
    key, holder = generate_key(), make_holder()
    look_ups = SlowLookUps({})
    ring = KeyRing(PEPPERS, look_ups)
    before = asyncio.create_task(ring.find(key))
    await look_ups.was_asked.wait()
    look_ups.known[PEPPERS.digest(key, 2)] = holder
    ring.forget(changed(created=True))
    look_ups.may_answer.set()
    assert (await before, await ring.find(key)) == (None, holder)


async def test_a_failed_look_up_is_tried_again() -> None:
    key, holder = generate_key(), make_holder()

    async def fail(digests: list[bytes], owners: Mapping[int, KeyOwner]) -> KeyHolder | None:
        raise RuntimeError

    ring = KeyRing(PEPPERS, fail)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await ring.find(key)
    ring._look_up = LookUps({PEPPERS.digest(key, 2): holder})
    assert await ring.find(key) is holder


@pytest.mark.parametrize(
    ("fields", "is_active", "usable"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"is_stopped": True}, True, False),
        ({"expires_at": NOW + timedelta(microseconds=1)}, True, True),
        ({"expires_at": NOW}, True, False),
    ],
)
def test_when_a_key_is_usable(fields: dict[str, Any], is_active: bool, usable: bool) -> None:
    owner = replace(make_owner(), is_active=is_active)
    assert replace(make_holder(owner=owner), **fields).is_usable_at(NOW) is usable
