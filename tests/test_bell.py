"""A bell wakes its one waiter: by news, at its time, and for nothing else."""

import asyncio
import time

import pytest

from outbound.bell import Bell


async def test_the_clock_wakes_at_its_time_again_and_again() -> None:
    bell = Bell()
    for wait_s in (0.05, 0.02, 0.1):
        started = time.monotonic()
        assert not await bell.wait(started + wait_s)
        assert wait_s - 0.002 <= time.monotonic() - started < wait_s + 0.5
    bell.close()


async def test_news_wakes_before_the_time() -> None:
    bell = Bell()
    asyncio.get_running_loop().call_later(0.02, bell.ring)
    started = time.monotonic()
    assert await bell.wait(started + 60)
    assert time.monotonic() - started < 5
    bell.close()


async def test_news_before_the_wait_is_heard_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert await bell.wait()
    assert not await bell.wait(time.monotonic() + 0.02)


async def test_a_later_or_earlier_time_counts_from_the_next_wait() -> None:
    bell = Bell()
    asyncio.get_running_loop().call_later(0.01, bell.ring)
    assert await bell.wait(time.monotonic() + 0.03)
    started = time.monotonic()
    assert not await bell.wait(started + 0.15), "the earlier time no longer counts"
    assert time.monotonic() - started >= 0.148
    asyncio.get_running_loop().call_later(0.01, bell.ring)
    assert await bell.wait(time.monotonic() + 60)
    started = time.monotonic()
    assert not await bell.wait(started + 0.02), "the later time no longer counts"
    assert time.monotonic() - started < 5


async def test_a_time_that_has_passed_does_not_wait_but_news_comes_first() -> None:
    bell = Bell()
    assert not await bell.wait(time.monotonic() - 1)
    bell.ring()
    assert await bell.wait(time.monotonic() - 1)


async def test_a_cancelled_wait_leaves_the_bell_in_order() -> None:
    bell = Bell()
    waiting = asyncio.ensure_future(bell.wait(time.monotonic() + 0.05))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bell.ring()
    assert await bell.wait(time.monotonic() + 1)
    bell.close()


async def test_a_closed_bell_holds_no_timer() -> None:
    bell = Bell()
    waiting = asyncio.ensure_future(bell.wait(time.monotonic() + 0.02))
    await asyncio.sleep(0)
    bell.close()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    bell.ring()
    assert await waiting
