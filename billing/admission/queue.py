"""Waiting for room: when a call that stands in a queue asks again, and when it gives up.

The queues are the store's, and so is the order in them (scripts/admit.lua): every try of a waiting call is an
admission, which also renews its tickets. A call that waits holds nothing.
"""

import asyncio
import itertools
import random
import time
from bisect import insort
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

from billing.admission.account import Admitted
from billing.admission.holds import Patience
from billing.admission.refusals import Refused
from billing.admission.rules import Limit, Rate, Rule

_PAUSE_S = (0.05, 0.1)
# With an answer of the store within its 250 ms, well below the two seconds of a ticket.
_LONGEST_PAUSE_S = 0.8
_PLACES_PER_STEP = 8  # who stands further behind asks less often
_PAUSE_WHILE_AWAY_S = 0.25


class StayEnd(StrEnum):
    """How a stay in the queue ended. FULL: there was no place. REFUSED: the budget was spent meanwhile."""

    ADMITTED = "admitted"
    TIMED_OUT = "timed_out"
    LEFT = "left"
    FULL = "full"
    REFUSED = "refused"


@dataclass(slots=True)
class Stay:
    """One call in the queue. `place` is where it stood first, 1 for the first of all; times are monotonic seconds."""

    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    place: int = 0
    end: StayEnd = StayEnd.LEFT  # unless we learn better

    def close(self, end: StayEnd) -> None:
        """It is over."""
        self.end, self.ended = end, time.monotonic()

    @property
    def waited_s(self) -> float:
        """How long it was, or is by now."""
        return (self.ended or time.monotonic()) - self.began


class Line:
    """The waiting calls of one worker in one department that sleep until their next try, by the rule that refused
    them; those are in front whose turn is next."""

    def __init__(self) -> None:
        self._asleep: dict[Rule | None, list[tuple[int, int, asyncio.Future[None]]]] = {}
        self._numbers = itertools.count()

    def wake(self) -> None:
        """Something was given back: the first at each rule may try at once."""
        for sleepers in self._asleep.values():
            while sleepers:
                *_, woken = sleepers.pop(0)
                if not woken.done():  # else its time has just come, or it leaves
                    woken.set_result(None)
                    break

    async def sleep(self, refused: Refused) -> None:
        """Until it is time for another try after `refused`, or somebody wakes us."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sleeper = (refused.place, next(self._numbers), woken)
        sleepers = self._asleep.setdefault(refused.rule, [])
        insort(sleepers, sleeper)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s(refused)):
                    await woken
        finally:
            with suppress(ValueError):  # who was woken is out already
                sleepers.remove(sleeper)
            if not sleepers and self._asleep.get(refused.rule) is sleepers:
                del self._asleep[refused.rule]


def pause_s(refused: Refused) -> float:
    """How long to sleep before the next try."""
    if refused.is_away:
        return _PAUSE_WHILE_AWAY_S
    pause = random.uniform(*_PAUSE_S) * (1 + refused.place // _PLACES_PER_STEP)  # noqa: S311 - to spread them
    if isinstance(refused.rule, Limit) and refused.rule.rate is not Rate.CONCURRENCY:
        pause = max(pause, refused.wait_ms / 1000)  # a bucket fills by the clock
    return min(pause, _LONGEST_PAUSE_S)


async def wait_in_line(
    line: Line,
    try_again: Callable[[], Awaitable[Admitted | Refused]],
    refused: Refused,
    patience: Patience,
    stay: Stay,
) -> Admitted | Refused:
    """Try until the call is admitted, cannot be, or its time is over; `stay` tells which, and LEFT while it goes on.

    A store that is away, or counters that are being made anew, are waited for as everything else. A refusal is the
    last there was, and says that the call may be held if any try may have held it.
    """
    may_be_held = is_trying = False
    try:
        async with asyncio.timeout(patience.wait_ms / 1000 - stay.waited_s):
            while True:
                is_trying = True
                outcome = await try_again()
                is_trying = False
                if isinstance(outcome, Admitted):
                    stay.close(StayEnd.ADMITTED)
                    line.wake()  # there may be room for more
                    return outcome
                may_be_held |= outcome.may_be_held
                refused = outcome
                stay.place = stay.place or outcome.place
                if (end := _end_after(outcome, patience, stay)) is not None:
                    stay.close(end)
                    break
                await line.sleep(outcome)
    except TimeoutError:
        stay.close(StayEnd.TIMED_OUT)
    return replace(refused, may_be_held=may_be_held or is_trying)


def _end_after(outcome: Refused, patience: Patience, stay: Stay) -> StayEnd | None:
    """Why there is no use in waiting longer, if there is none."""
    if outcome.is_away:
        return None
    if not outcome.may_wait:
        return StayEnd.REFUSED
    if not outcome.place:
        return StayEnd.FULL
    is_sure = isinstance(outcome.rule, Limit) and outcome.rule.rate is Rate.REQUESTS  # nothing is given back
    if is_sure and stay.waited_s * 1000 + outcome.wait_ms > patience.wait_ms:
        return StayEnd.TIMED_OUT
    return None
