"""A circuit breaker: when a backend is left alone, and how it comes back. Pure: it reads no clock and calls nobody.

Times are seconds of one clock that never goes back, passed in.
"""

import math
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

LEAST_TRIP_S = 1.0  # by then every worker has heard of it
RETURN_S = 5.0  # from the first good answer to all of its share
_LEAST_SHARE = 0.1
_THROTTLED = (429, 503, 529)
_LEAST_STATUS, _MOST_STATUS = 100, 599


class State(StrEnum):
    """CLOSED: calls flow. OPEN: none are made. PROBING: one is, to see. RETURNING: some are, more by and by."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"
    RETURNING = "returning"


@dataclass(frozen=True, slots=True)
class Rule:
    """Trips when within `interval_s` at least `failures` calls failed, and at least `percent` of all.

    `statuses` are the ranges of HTTP status, inclusive, that count as failures; no answer at all counts as 0.
    """

    failures: int = 5
    percent: int = 50
    interval_s: int = 10
    trip_s: float = 10.0
    statuses: tuple[tuple[int, int], ...] = (
        (0, 0),
        (401, 404),
        (407, 407),
        (429, 429),
        (500, 599),
    )

    def counts(self, status: int) -> bool:
        """Whether an answer of this status is a failure."""
        return any(first <= status <= last for first, last in self.statuses)


_RANGE = re.compile(r"\A(\d{1,3})(?:-(\d{1,3}))?\Z")


def parse_statuses(text: str) -> tuple[tuple[int, int], ...]:
    """Ranges of status, inclusive, as operators write them: `0, 429, 500-599`. Raises ValueError with what is wrong."""
    ranges = []
    for part in text.split(","):
        if (match := _RANGE.match(part.strip())) is None:
            raise ValueError(f"{part.strip()!r} is no status and no range; write 429, 500-599.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > _MOST_STATUS or (0 < first < _LEAST_STATUS):
            raise ValueError(f"{part.strip()!r}: use 0, or statuses from 100 to 599 in rising order.")
        ranges.append((first, last))
    return tuple(ranges)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call to a backend ended: its HTTP status, 0 for none, and when it says that it will take calls again."""

    status: int
    back_in_s: float | None = None


@dataclass(slots=True)
class _Window:
    """The calls of the last seconds, in buckets of a second."""

    rule: Rule
    buckets: deque[list[int]] = field(default_factory=deque)  # second, calls, failures
    failing: frozenset[int] = field(init=False)  # all statuses that count as failures

    def __post_init__(self) -> None:
        """Look statuses up instead of comparing ranges at each call."""
        self.failing = frozenset(filter(self.rule.counts, range(_MOST_STATUS + 1)))

    def add(self, now: float, *, failed: bool) -> bool:
        """Count one call; whether the rule trips."""
        second = int(now)
        if not self.buckets or self.buckets[-1][0] != second:
            self.buckets.append([second, 0, 0])
        self.buckets[-1][1] += 1
        self.buckets[-1][2] += failed
        while self.buckets[0][0] <= second - self.rule.interval_s:
            self.buckets.popleft()
        if not failed:
            return False
        calls, failures = sum(bucket[1] for bucket in self.buckets), sum(bucket[2] for bucket in self.buckets)
        return failures >= self.rule.failures and failures * 100 >= calls * self.rule.percent


USUAL: tuple[Rule, ...] = (Rule(),)


class Breaker:
    """One backend's, as one worker sees it. `longest_trip_s`: 0 for one that never trips."""

    def __init__(self, rules: tuple[Rule, ...] = USUAL, *, longest_trip_s: float = 300.0) -> None:
        self.state = State.CLOSED
        self.until = 0.0  # OPEN: when it may be asked again; PROBING: when the probe is given up
        self.trips = 0  # in a row
        self._opened_at = -math.inf
        self.longest_trip_s = longest_trip_s
        self._rules = rules
        self._windows = [_Window(rule) for rule in rules]
        self._since = 0.0  # RETURNING

    def take_rules(self, rules: tuple[Rule, ...]) -> None:
        """Go by these from now on; what a rule that stays has seen is kept."""
        if rules is self._rules:
            return
        if rules != self._rules:
            kept = {window.rule: window for window in self._windows}
            self._windows = [kept.get(rule) or _Window(rule) for rule in rules]
        self._rules = rules

    @property
    def is_away(self) -> bool:
        """Whether it gets no calls but probes."""
        return self.state in (State.OPEN, State.PROBING)

    def is_probe_due(self, now: float) -> bool:
        """Whether a call may be made to see whether the backend is back."""
        return self.is_away and now >= self.until

    def share(self, now: float) -> float:
        """Which part of its calls a backend gets: 0 while it is left alone."""
        if self.state is State.RETURNING:
            returned = (now - self._since) / RETURN_S
            if returned < 1:
                return max(_LEAST_SHARE, returned)
            self._close()
        return 1.0 if self.state is State.CLOSED else 0.0

    def begin_probe(self, now: float, *, within_s: float) -> None:
        """One call is made; if nothing is heard of it in time, another may be."""
        self.state, self.until = State.PROBING, now + within_s

    def drop_probe(self, now: float) -> None:
        """The probe ended and told nothing."""
        if self.state is State.PROBING:
            self.state, self.until = State.OPEN, now

    def record(
        self, outcome: Outcome, now: float, *, is_probe: bool = False, began: float | None = None
    ) -> bool:
        """Take note of a call that ended, and that `began` then; whether the breaker tripped now.

        What was called before the trip, and ends after it, changes nothing.
        """
        if began is not None and began < self._opened_at and not is_probe:
            return False
        status = outcome.status
        tripping = [window for window in self._windows if window.add(now, failed=status in window.failing)]
        failed = any(status in window.failing for window in self._windows)
        told = outcome.status in _THROTTLED and outcome.back_in_s is not None
        if not self.longest_trip_s:
            return False
        if is_probe and self.state is State.PROBING:
            if failed or told:
                self._trip(self._trip_s(self._windows), outcome, now)
                return True
            self.state, self._since = State.RETURNING, now
            return False
        if self.is_away:
            return False
        if tripping or told or (failed and (is_probe or self.state is State.RETURNING)):
            self._trip(self._trip_s(tripping or self._windows), outcome, now)
            return True
        self.share(now)  # a return that is complete closes
        return False

    def hear_open(self, until: float, trips: int, now: float) -> None:
        """Another worker tells that the backend is left alone until then."""
        if self.state is State.PROBING and until <= self.until:
            return
        if self.state is not State.OPEN or until > self.until:
            if self.state is not State.OPEN:
                self._opened_at = now
            self.state, self.until, self.trips = State.OPEN, until, max(trips, self.trips)

    def hear_return(self, since: float) -> None:
        """Another worker's probe was answered well at `since`."""
        if self.is_away and since >= self._opened_at:
            self.state, self._since = State.RETURNING, since

    def _trip_s(self, windows: "Sequence[_Window]") -> float:
        return max(window.rule.trip_s for window in windows) if windows else Rule().trip_s

    def _trip(self, trip_s: float, outcome: Outcome, now: float) -> None:
        self.trips += 1
        wait_s = trip_s * 2 ** min(self.trips - 1, 10) if outcome.back_in_s is None else outcome.back_in_s
        wait_s = min(max(wait_s, LEAST_TRIP_S), self.longest_trip_s)
        self.state, self.until, self._opened_at = State.OPEN, now + wait_s, now
        for window in self._windows:
            window.buckets.clear()

    def _close(self) -> None:
        self.state, self.trips = State.CLOSED, 0
