"""How much a backend may be given at once: calls under way and tokens per minute, known of all workers, with what is
left at the end kept for those of higher priority. Pure: it reads no clock and calls nobody.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from teams.models import Priority

# Which part of a backend's quota calls of a class may fill; the rest is for the classes above.
_FILLS: Mapping[str, float] = {
    Priority.HIGH.value: 1.0,
    Priority.NORMAL.value: 0.9,
    Priority.LOW.value: 0.7,
}
_MINUTE_S = 60
_SHRINK, _SLOW_SHRINK = 0.7, 0.9
_SHRINK_EVERY_S = 1.0  # a burst of refusals is one piece of news
_SLOW = 3.0  # times the usual time to the first byte
_QUICKLY, _SLOWLY = 0.3, 0.02  # weights of the newest figure


@dataclass(frozen=True, slots=True)
class Quota:
    """What a backend can take; 0 where it has no such bound. `adapts`: calls under way are bounded by what it shows."""

    most_calls: int = 0
    tokens_per_minute: int = 0
    adapts: bool = False

    @property
    def is_none(self) -> bool:
        """Whether nothing bounds it."""
        return not (self.most_calls or self.tokens_per_minute or self.adapts)


NO_QUOTA = Quota()


class Tide:
    """How many calls at once a backend takes well, as it shows: one more for as many as were answered well, and less
    after it throttles, or when its first bytes come three times as late as they usually do."""

    def __init__(self) -> None:
        self.most = math.inf
        self._shrunk_at = -math.inf
        self._recent_s = self._usual_s = 0.0

    def answered(self, now: float, under_way: int, first_byte_s: float | None) -> None:
        """A call was answered well; `first_byte_s`: of a stream."""
        if self.most < math.inf:
            self.most += 1 / self.most
        if first_byte_s is None:
            return
        if not self._usual_s:
            self._recent_s = self._usual_s = first_byte_s
        self._recent_s += _QUICKLY * (first_byte_s - self._recent_s)
        if self._recent_s > _SLOW * self._usual_s:
            self._shrink(now, under_way, _SLOW_SHRINK)
        self._usual_s += _SLOWLY * (first_byte_s - self._usual_s)

    def throttled(self, now: float, under_way: int) -> None:
        """A call was refused because of too many, or was late."""
        self._shrink(now, under_way, _SHRINK)

    def _shrink(self, now: float, under_way: int, by: float) -> None:
        if now - self._shrunk_at < _SHRINK_EVERY_S:
            return
        self._shrunk_at = now
        self.most = max(1.0, min(self.most, under_way) * by)


@dataclass(slots=True)
class Load:
    """What one worker gives a backend, and what others were heard to give it."""

    under_way: int = 0
    others_calls: int = 0
    others_tokens: int = 0
    tide: Tide = field(default_factory=Tide)
    _minute: deque[list[int]] = field(default_factory=deque)  # second, tokens

    def add_tokens(self, now: float, tokens: int) -> None:
        """Count tokens that go to it now."""
        second = int(now)
        if not self._minute or self._minute[-1][0] != second:
            self._minute.append([second, 0])
        self._minute[-1][1] += tokens

    def correct_tokens(self, began: float, tokens: int) -> None:
        """A call that began then used so many more than were counted, or fewer; after a minute it counts no more."""
        for bucket in self._minute:
            if bucket[0] == int(began):
                bucket[1] += tokens

    def tokens(self, now: float) -> int:
        """Those of this worker in the last minute."""
        while self._minute and self._minute[0][0] <= now - _MINUTE_S:
            self._minute.popleft()
        return max(0, sum(tokens for _, tokens in self._minute))

    def has_room(self, quota: Quota, now: float, tokens: int, priority: str) -> bool:
        """Whether a call of so many tokens may be given to it now."""
        fills = _FILLS[priority]
        if quota.most_calls or quota.adapts:
            calls = self.under_way + self.others_calls
            if calls and quota.most_calls and calls + 1 > quota.most_calls * fills:
                return False  # a single one is always let through
            if self.under_way and quota.adapts and self.under_way + 1 > self.tide.most * fills:
                return False  # what a worker learned is how many of its own the backend takes
        if quota.tokens_per_minute:
            taken = self.tokens(now) + self.others_tokens
            if taken and taken + tokens > quota.tokens_per_minute * fills:
                return False
        return True
