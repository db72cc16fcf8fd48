"""How well each backend is, as this worker knows it: its breaker, the calls under way, and how fast it answers."""

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from outbound.breaker import Breaker, Outcome, State
from routing.health.quota import Load
from routing.snapshot import Target

_SMOOTHING = 0.3  # of the moving average: the weight of the newest call
_TOO_MUCH = frozenset({429, 503, 529})
_LATELY_S = 60.0  # how long people are shown how fast a backend was
_WELL = Outcome(200)
_PROBE_S = 30.0  # longest that a probe keeps others waiting; a backend's own time limit may be shorter


@dataclass(slots=True)
class Health:
    """One backend. `first_byte_s` is the moving average of the time to the first byte, of a plain answer the whole."""

    backend_id: int
    name: str = ""
    breaker: Breaker = field(default_factory=Breaker)
    load: Load = field(default_factory=Load)
    first_byte_s: float = 0.0
    answered_at: float = -math.inf

    @property
    def under_way(self) -> int:
        """Calls of this worker."""
        return self.load.under_way

    def learn(self, seconds: float, now: float) -> None:
        """A call was answered after so long."""
        self.answered_at, old = now, self.first_byte_s
        self.first_byte_s = seconds if not old else old + _SMOOTHING * (seconds - old)


@dataclass(frozen=True, slots=True)
class Change:
    """A backend was tripped or came back, by what this worker saw; `wait_s`: until it may be asked again."""

    health: Health
    state: State
    wait_s: float = 0.0
    reason: str = ""
    trips: int = 0  # in a row


class Board:
    """All of them. `on_change` is told of what this worker decided, not of what it heard from others."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[int, Health] = {}
        self.on_change: Callable[[Change], None] = lambda change: None
        # A probe told nothing: another may be made.
        self.on_drop: Callable[[int], None] = lambda backend_id: None
        # Whether this worker may probe a backend now, rather than another one.
        self.may_probe: Callable[[int, float], Awaitable[bool]] = _always

    def of(self, target: Target) -> Health:
        """The backend's."""
        health = self.hear_of(target.backend_id)
        health.name, health.breaker.longest_trip_s = target.name, target.longest_trip_s
        health.breaker.take_rules(target.breaker_rules)
        return health

    def hear_of(self, backend_id: int) -> Health:
        """A backend's that was perhaps never called."""
        if (health := self._known.get(backend_id)) is None:
            health = self._known[backend_id] = Health(backend_id)
        return health

    def list_known(self) -> Iterable[Health]:
        """All that were called or heard of."""
        return self._known.values()

    def share(self, target: Target) -> float:
        """Which part of its calls a backend is to get now, 0 to 1."""
        health = self._known.get(target.backend_id)
        return 1.0 if health is None or not target.longest_trip_s else health.breaker.share(self._clock())

    def has_room(self, target: Target, tokens: int, priority: str) -> bool:
        """Whether the backend's quota has room for a call of so many tokens by a caller of this priority."""
        if target.quota.is_none or (health := self._known.get(target.backend_id)) is None:
            return True
        return health.load.has_room(target.quota, self._clock(), tokens, priority)

    def tell_loads(self) -> dict[int, tuple[int, int, float]]:
        """Of each backend that this worker called lately: calls under way, tokens of the last minute where its quota
        counts them, and seconds to the first byte, 0 where none came lately."""
        now = self._clock()
        loads = {
            health.backend_id: (
                health.load.under_way,
                health.load.tokens(now),
                health.first_byte_s if health.answered_at > now - _LATELY_S else 0.0,
            )
            for health in self._known.values()
        }
        return {number: load for number, load in loads.items() if any(load)}

    def hear_loads(self, others: Iterable[Mapping[int, tuple[int, int]]]) -> None:
        """What every other worker told."""
        sums: dict[int, tuple[int, int]] = {}
        for loads in others:
            for number, (calls, tokens) in loads.items():
                known_calls, known_tokens = sums.get(number, (0, 0))
                sums[number] = known_calls + calls, known_tokens + tokens
        for number in sums.keys() | self._known.keys():
            load = self.hear_of(number).load
            load.others_calls, load.others_tokens = sums.get(number, (0, 0))

    def is_probe_due(self, target: Target) -> bool:
        """Whether the next call may go there to see whether it is back."""
        health = self._known.get(target.backend_id)
        return health is not None and health.breaker.is_probe_due(self._clock())

    def back_in_s(self, target: Target) -> float:
        """How long the backend is left alone."""
        return max(0.0, self.of(target).breaker.until - self._clock())

    async def begin_probe(self, target: Target) -> bool:
        """Whether the call that is to be made now is the one probe of all workers."""
        breaker, within_s = self.of(target).breaker, min(_PROBE_S, target.total_timeout_s)
        breaker.begin_probe(self._clock(), within_s=within_s)  # before others of this worker come
        try:
            is_ours = await self.may_probe(target.backend_id, within_s)
        except BaseException:  # the caller left meanwhile, and the right to probe may be ours
            breaker.drop_probe(self._clock())
            self.on_drop(target.backend_id)
            raise
        if is_ours:
            return True
        breaker.begin_probe(self._clock(), within_s=1.0)  # another worker's; its news will be here sooner
        return False

    def begin(self, target: Target, *, is_probe: bool = False, tokens: int = 0) -> "Attempt":
        """A call of about so many tokens goes out."""
        attempt = Attempt(self, self.of(target), self._clock(), is_probe)
        attempt.adapts = target.quota.adapts
        if target.quota.tokens_per_minute:
            attempt.tokens = tokens
            attempt.health.load.add_tokens(attempt.began, tokens)
        return attempt

    def answered(self, attempt: "Attempt") -> None:
        """A probe was answered, though it goes on: the backend is back, unless the probe fails after all."""
        attempt.is_answered = True
        health = attempt.health
        health.breaker.record(_WELL, self._clock(), is_probe=True, began=attempt.began)
        if health.breaker.state is State.RETURNING:
            self.on_change(Change(health, State.RETURNING))

    def end(self, attempt: "Attempt", end: "End") -> None:
        """A call ended; see Attempt.end."""
        health, now, outcome, reason = attempt.health, self._clock(), end.outcome, end.reason
        load = health.load
        if attempt.tokens and end.tokens is not None:
            load.correct_tokens(attempt.began, end.tokens - attempt.tokens)
        if attempt.adapts:
            if outcome is not None and (outcome.status in _TOO_MUCH or reason == "backend_timeout"):
                load.tide.throttled(now, load.under_way)
            elif end.first_byte_s is not None:
                load.tide.answered(now, load.under_way, end.first_byte_s if end.is_stream else None)
        load.under_way -= 1
        if end.first_byte_s is not None:
            health.learn(end.first_byte_s, now)
        breaker = health.breaker
        if outcome is None:
            if attempt.is_probe:
                breaker.drop_probe(now)
                self.on_drop(health.backend_id)
            return
        before = breaker.state
        if breaker.record(outcome, now, is_probe=attempt.is_probe, began=attempt.began):
            self.on_change(Change(health, State.OPEN, breaker.until - now, reason, breaker.trips))
        elif breaker.state is State.RETURNING and before is not State.RETURNING:
            self.on_change(Change(health, State.RETURNING))


class Attempt:
    """One call under way."""

    __slots__ = ("_board", "_has_ended", "adapts", "began", "health", "is_answered", "is_probe", "tokens")

    def __init__(self, board: Board, health: Health, began: float, is_probe: bool) -> None:
        self._board = board
        self._has_ended = False
        self.health = health
        self.began = began
        self.is_probe = is_probe
        self.is_answered = False
        self.tokens = 0  # that were counted when it began
        self.adapts = False
        health.load.under_way += 1

    def answered(self) -> None:
        """It has begun to answer."""
        if self.is_probe and not self.is_answered and not self._has_ended:
            self._board.answered(self)

    def end(self, end: "End") -> None:
        """How the backend did. Only the first end counts."""
        if not self._has_ended:
            self._has_ended = True
            self._board.end(self, end)


class End(msgspec.Struct, frozen=True):
    """How a call ended. `outcome`: None when that cannot be said, as when the caller left; `first_byte_s`: of a call
    that was answered; `tokens`: that it came to, None where that is not known."""

    outcome: Outcome | None = None
    first_byte_s: float | None = None
    is_stream: bool = False
    reason: str = ""
    tokens: int | None = None


NOT_SENT = End(tokens=0)


async def _always(backend_id: int, within_s: float) -> bool:
    return True
