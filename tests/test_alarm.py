"""The alarm rings when its time comes, only then, and is never mistaken for another cancellation."""

import asyncio
import time

import pytest

from routing.alarm import Alarm


async def wait_for_ring(alarm: Alarm, longest_s: float = 5) -> bool:
    """True when the alarm rang, False when the time passed."""
    try:
        await asyncio.sleep(longest_s)
    except asyncio.CancelledError:
        if not alarm.was_heard():
            raise
        return True
    finally:
        alarm.rest()
    return False


async def test_it_rings_at_its_time_again_and_again() -> None:
    alarm = Alarm()
    for wait_s in (0.05, 0.02, 0.1):
        started = time.monotonic()
        alarm.set(started + wait_s)
        assert await wait_for_ring(alarm)
        assert wait_s - 0.002 <= time.monotonic() - started < wait_s + 0.5
    alarm.close()


async def test_setting_it_later_or_earlier_moves_it() -> None:
    alarm = Alarm()
    started = time.monotonic()
    alarm.set(started + 0.05)
    alarm.set(started + 0.15)
    assert await wait_for_ring(alarm)
    assert time.monotonic() - started >= 0.148
    alarm.set(time.monotonic() + 60)
    alarm.set(time.monotonic() + 0.02)
    assert await wait_for_ring(alarm, 1)


async def test_at_rest_or_closed_it_is_silent() -> None:
    alarm = Alarm()
    alarm.set(time.monotonic() + 0.02)
    alarm.rest()
    assert not await wait_for_ring(alarm, 0.06)
    alarm.set(time.monotonic() + 0.02)
    alarm.close()
    assert not await wait_for_ring(alarm, 0.06)


async def test_a_cancellation_from_elsewhere_passes_through() -> None:
    heard = []

    async def sleeper() -> None:
        alarm = Alarm()
        alarm.set(time.monotonic() + 60)
        heard.append(await wait_for_ring(alarm))

    task = asyncio.create_task(sleeper())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == []


async def test_both_at_once_is_the_other_cancellation() -> None:
    async def sleeper(alarm_at: float) -> None:
        alarm = Alarm()
        alarm.set(alarm_at)
        await wait_for_ring(alarm)

    task = asyncio.create_task(sleeper(time.monotonic() + 0.03))
    await asyncio.sleep(0.01)
    time.sleep(0.05)  # noqa: ASYNC251 - both become due in one turn of the loop
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
