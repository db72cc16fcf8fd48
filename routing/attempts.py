"""The calls that one request comes to: which backend it is sent to, and to which after that failed.

Another backend is asked only before the first byte of an answer. What a failed call may have cost is charged; it is
held beside what the next one may come to, or there is no next.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace

from billing.admission.account import AdmittedKind
from billing.admission.holds import Amounts
from billing.estimate import Estimate
from billing.usage import NOTHING_USED, Usage
from outbound.breaker import Outcome
from routing.dialects.table import prepare
from routing.endpoints.base import Request
from routing.gateway import Gateway
from routing.health.board import NOT_SENT, Attempt, End
from routing.providers.base import is_backends_fault
from routing.reach import Reach
from routing.resilience_models import FallbackCause
from routing.snapshot import Member, Target
from routing.trace import Trace
from teams.errors import (
    GatewayError,
    backends_away,
    backends_busy,
    model_draining,
    model_unavailable,
    model_unpriced,
)
from teams.models import Priority

_PAUSE_S = (0.05, 0.15)  # before a backend that failed is asked again: at random, lest all come back at once
_ANSWERED = Outcome(200)
# What the error of a backend calls a fault of the request that another model may not find.
_CAUSES = {
    "context_length_exceeded": FallbackCause.CONTEXT,
    "content_filter": FallbackCause.CONTENT,
    "content_policy_violation": FallbackCause.CONTENT,
}


def stream_limit_s(gateway: Gateway, target: Target) -> float:
    """How long a stream of this backend may last in all."""
    return min(target.total_timeout_s, gateway.options.max_stream_s)


def check_served(gateway: Gateway, reach: Reach, trace: Trace) -> None:
    """Whether any backend can be called now. Refuses with 503, before anything is held for the call."""
    model, targets = reach.model, [*reach.model.targets]
    targets += [target for other in reach.fallbacks.get(FallbackCause.ANY, ()) for target in other.targets]
    priced = [target for target in targets if target.price_at(trace.admitted_at) is not None]
    board = gateway.board
    if any(board.share(target) or board.is_probe_due(target) for target in priced):
        return
    if priced:
        raise backends_away(model.name, min(board.back_in_s(target) for target in priced))
    if model.is_draining:
        raise model_draining(model.name)
    raise model_unpriced(model.name) if model.targets else model_unavailable(model.name)


class Attempts:
    """One request's."""

    def __init__(self, gateway: Gateway, reach: Reach, trace: Trace) -> None:
        self._gateway = gateway
        self._reach = reach
        self._model = reach.model
        self._left = {cause: list(chain) for cause, chain in reach.fallbacks.items()}
        self._trace = trace
        self._tried: set[int] = set()
        self._has_repeated = False
        self._ends_at = time.monotonic() + gateway.options.retry_s
        self._attempt: Attempt | None = None
        self._tokens = 0  # of a call, about
        self._priority = trace.caller.owner.priority if trace.caller is not None else Priority.NORMAL.value
        self.target: Target

    async def begin(self, estimate: Estimate) -> None:
        """Choose the first backend and note the call: from here on the request has a record, whatever happens.

        Refuses with 503 when no backend can be called, or the spool cannot take it.
        """
        gateway, trace, self._tokens = self._gateway, self._trace, estimate.rate_tokens
        if (found := await self._choose() or await self._fall_back(FallbackCause.ANY)) is None:
            check_served(gateway, self._reach, trace)
            raise self._no_backend()
        target, is_probe = found
        trace.served_model = self._served_model()
        trace.target, trace.price = target, target.price_at(trace.admitted_at)
        assert trace.price is not None, "only what can be priced is chosen"  # noqa: S101
        trace.estimate = estimate
        attempt = gateway.board.begin(target, is_probe=is_probe, tokens=estimate.rate_tokens)
        try:
            gateway.record_begin(trace, estimate.usage_at(trace.price))
        except BaseException:
            attempt.end(NOT_SENT)
            raise
        self._goes_to(target, attempt)

    def _no_backend(self) -> GatewayError:
        """Why none was found although some are well: their quotas are used, or the one call that may be made to see
        whether a backend is back is somebody else's."""
        board, name = self._gateway.board, self._reach.model.name
        is_busy = any(board.share(target) for target in self._reach.targets)
        return backends_busy(name) if is_busy else backends_away(name, 1.0)

    @property
    def stream_limit_s(self) -> float:
        """How long a stream may last in all, whichever backends it is asked of."""
        gateway = self._gateway
        longest_s = max(stream_limit_s(gateway, target) for target in self._reach.targets)
        return longest_s + gateway.options.retry_s

    def begun(self) -> None:
        """The backend has begun to answer: where that is what was to be seen, it is back."""
        if self._attempt is not None:
            self._attempt.answered()

    def end(self, error: GatewayError | None, usage: Usage | None = None) -> None:
        """The present call ended: well, or with this error. Ends that say nothing of the backend are told as well.
        `usage`: what it used, where that is known and not charged yet."""
        if self._attempt is None:
            return
        trace, outcome, first_byte_s = self._trace, None, None
        if error is None:
            outcome = _ANSWERED
        elif is_backends_fault(error) or error.reason == "backend_rejected":
            outcome = Outcome(error.backend_status, error.back_in_s)
        if error is None and trace.first_byte_at is not None:
            first_byte_s = trace.first_byte_at - trace.attempt_at
        usage = usage or trace.usage
        self._attempt.end(
            End(
                outcome=outcome,
                first_byte_s=first_byte_s,
                is_stream=trace.streamed,
                reason="" if error is None else error.reason,
                tokens=usage.input_tokens + usage.output_tokens if usage != NOTHING_USED or error else None,
            )
        )

    async def go_on(self, error: GatewayError, *, said_tokens: int = 0) -> bool:
        """After the failure of the present call, charged by now: whether another is made, to `target` as it is then.
        `said_tokens`: of an answer that had begun, and that the other is to continue: it reads them.

        Never after an error of the caller's making, nor when the time or the number of calls is used up, nor when
        what the failed call may have cost leaves too little for another.
        """
        gateway, trace = self._gateway, self._trace
        self.end(error)
        cause = self._may_go_on(error, is_continued=said_tokens > 0)
        if cause is None or (found := await self._next(error, cause)) is None:
            return False
        target, is_probe = found
        attempt = gateway.board.begin(target, is_probe=is_probe, tokens=self._tokens)
        try:
            went_on = await self._fail_over(error, target, said_tokens)
        except BaseException:
            attempt.end(NOT_SENT)
            raise
        if not went_on:
            attempt.end(NOT_SENT)
            return False
        gateway.metrics.count_backend_error(trace.failed[-1].backend, error.reason)
        self._goes_to(target, attempt)
        return True

    def prepare(self, request: Request) -> None:
        """Make a request that continues another's ready for the present backend; in what it has of its own it is as
        the first, which was."""
        prepare(request, self._model)

    def _goes_to(self, target: Target, attempt: Attempt) -> None:
        self.target, self._attempt = target, attempt
        self._tried.add(target.backend_id)
        self._trace.call_begins()

    def _may_go_on(self, error: GatewayError, *, is_continued: bool) -> FallbackCause | None:
        """Why another call may be made; None when none may. A stream may be cut, and continued, at any time."""
        is_late = time.monotonic() >= self._ends_at and not is_continued
        if is_late or self._trace.attempts >= self._gateway.options.max_attempts:
            return None
        return FallbackCause.ANY if is_backends_fault(error) else _CAUSES.get(error.code or "")

    async def _next(self, error: GatewayError, cause: FallbackCause) -> tuple[Target, bool] | None:
        """Another backend of the model, unless all would say the same; else another model's; where all were tried,
        the last once more if it could not be reached."""
        if cause is FallbackCause.ANY and (found := await self._choose()) is not None:
            return found
        if (found := await self._fall_back(cause)) is not None:
            return found
        if (
            error.reason != "backend_unreachable"
            or self._has_repeated
            or not self._gateway.board.share(self.target)
        ):
            return None
        self._has_repeated = True
        await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - no secret
        return self.target, False

    async def _fall_back(self, cause: FallbackCause) -> tuple[Target, bool] | None:
        """A backend of the next model that serves for `cause`; the request is that model's from now on."""
        chain = self._left.get(cause, [])
        while chain:
            model = self._model
            self._model = chain.pop(0)
            if (found := await self._choose()) is not None:
                return found
            self._model = model
        return None

    async def _choose(self) -> tuple[Target, bool] | None:
        """One that was not tried, of the first group that has any; whether the call is a probe.

        A group that is only coming back leaves the rest of its calls to the next, if there is one.
        """
        board, trace = self._gateway.board, self._trace
        returning: Sequence[Member] = ()
        for group in self._model.groups:
            ready: list[Member] = []
            for member in group:
                target = member.target
                if target.backend_id in self._tried or target.price_at(trace.admitted_at) is None:
                    continue
                if board.share(target):
                    if board.has_room(target, self._tokens, self._priority):
                        ready.append(member)
                elif board.is_probe_due(target) and await board.begin_probe(target):
                    return target, True
            if willing := self._gateway.chooser.willing(ready):
                return self._draw(willing), False
            if ready and not returning:
                returning = ready
        return (self._draw(returning), False) if returning else None

    def _draw(self, willing: Sequence[Member]) -> Target:
        preferred = self._prefer(willing)
        return self._gateway.chooser.choose(self._model, preferred, self._trace.admitted_at).target

    def _prefer(self, ready: Sequence[Member]) -> Sequence[Member]:
        """Those that are good enough, where there are any; of them those in the first of the team's regions."""
        model, caller = self._model, self._trace.caller
        if model.quality_floor:
            ready = [member for member in ready if member.target.quality >= model.quality_floor] or ready
        for region in caller.owner.regions if caller is not None else ():
            if near := [member for member in ready if member.target.region == region]:
                return near
        return ready

    async def _fail_over(self, error: GatewayError, target: Target, said_tokens: int) -> bool:
        """Hold and note what the next call may come to beside the failed one, and move on to it."""
        trace, estimate, price = self._trace, self._trace.estimate, target.price_at(self._trace.admitted_at)
        assert estimate is not None, "the first call has begun"  # noqa: S101
        assert price is not None, "only what can be priced is chosen"  # noqa: S101
        if trace.usage != NOTHING_USED:
            again = Usage(input_tokens=said_tokens)
            cost_nanousd = trace.cost.total_nanousd + price.cost(again).total_nanousd
            if not await self._holds_more(trace.usage + again, cost_nanousd):
                return False
        ahead = replace(trace, served_model=self._served_model())
        ahead.fail_over(error, target, price, was_continued=said_tokens > 0)
        if not self._gateway.record_growth(ahead, estimate.usage_at(price), attempts=trace.attempts + 1):
            return False
        trace.fail_over(error, target, price, was_continued=said_tokens > 0)
        trace.served_model = ahead.served_model
        return True

    def _served_model(self) -> str | None:
        """The model that serves in place of the one that was asked for."""
        return None if self._model is self._reach.model else self._model.catalogue_name

    async def _holds_more(self, usage: Usage, cost_nanousd: int) -> bool:
        """Hold what the failed call may have cost, beside what is held for the next."""
        trace = self._trace
        if trace.admitted is None or trace.admitted.kind is AdmittedKind.FREE or trace.caller is None:
            return True
        owner = trace.caller.owner
        outcome = await self._gateway.admissions.extend(
            owner.department_id,
            trace.id,
            Amounts(cost_nanousd, usage.input_tokens + usage.output_tokens),
            may_go_uncounted=owner.may_go_uncounted,
        )
        return isinstance(outcome, bool)
