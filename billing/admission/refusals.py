"""Why a call was not admitted, in words and figures for the caller."""

from dataclasses import dataclass
from enum import StrEnum

from billing.admission.rules import Budget, Limit, Rule


class RefusalKind(StrEnum):
    """HARD: spent, until the window ends. HELD: it would fit once open calls end for less than they hold.
    RATE: too fast, or too many at a time. AWAY: the store or its counters cannot be asked now."""

    HARD = "hard"
    HELD = "held"
    RATE = "rate"
    AWAY = "away"


HELD_WAIT_MS = 1_000  # an open call may end at any moment; a second is what clients wait by themselves


@dataclass(frozen=True, slots=True)
class Refused:
    """The rule that refused, and its figures in the rule's unit; `reset_ms` is when its window ends or its rate
    has recovered, in milliseconds since 1970. Of several rules, the one that keeps the call out longest."""

    kind: RefusalKind
    rule: Rule | None = None
    used: int = 0
    reserved: int = 0
    asked: int = 0
    reset_ms: int = 0
    wait_ms: int = 0
    reason: str = ""
    place: int = 0  # in the queue of the rule, 1 for the first; 0: it does not stand there
    may_be_held: bool = (
        False  # the store may have carried out what it did not answer to: tell it the call's end
    )

    @property
    def is_away(self) -> bool:
        """Whether the counters could not be asked at all."""
        return self.kind is RefusalKind.AWAY

    @property
    def may_wait(self) -> bool:
        """Whether there may be room in a moment: what a queue is for."""
        return self.kind in (RefusalKind.RATE, RefusalKind.HELD)

    @property
    def may_retry(self) -> bool:
        """Whether the same call can succeed before the window ends."""
        return self.kind is not RefusalKind.HARD

    @property
    def retry_after_s(self) -> int:
        """`wait_ms` in whole seconds, rounded up, at least one: for the `retry-after` header."""
        return max(1, -(-self.wait_ms // 1000))


AWAY_STORE = Refused(RefusalKind.AWAY, wait_ms=1_000, reason="counters_unavailable")
AWAY_REBUILDING = Refused(RefusalKind.AWAY, wait_ms=2_000, reason="counters_rebuilding")


def refuse_budget(budget: Budget, *, is_hard: bool, now_ms: int, end_ms: int, figures: "Figures") -> Refused:
    """HARD until the window ends, or HELD for a moment."""
    return Refused(
        kind=RefusalKind.HARD if is_hard else RefusalKind.HELD,
        rule=budget,
        used=figures.used,
        reserved=figures.reserved,
        asked=figures.asked,
        reset_ms=end_ms,
        wait_ms=end_ms - now_ms if is_hard else HELD_WAIT_MS,
    )


def refuse_rate(limit: Limit, *, now_ms: int, wait_ms: int, figures: "Figures") -> Refused:
    """RATE, until the bucket has refilled or a running call may have ended."""
    return Refused(
        kind=RefusalKind.RATE,
        rule=limit,
        used=figures.used,
        reserved=figures.reserved,
        asked=figures.asked,
        reset_ms=now_ms + wait_ms,
        wait_ms=wait_ms,
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one counter at one moment, and what was asked of it."""

    used: int
    reserved: int
    asked: int
