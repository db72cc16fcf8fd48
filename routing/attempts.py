"""The calls that one request comes to: where a backend fails before its first byte, another is asked.

What the failed ones may have cost is charged; it is held beside what the next one may come to, or there is no next.
"""

import asyncio
import random
import time
from dataclasses import replace

from billing.admission.account import AdmittedKind
from billing.admission.holds import Amounts
from billing.estimate import Estimate
from billing.usage import NOTHING_USED, Usage
from routing.gateway import Gateway
from routing.providers.base import is_backends_fault
from routing.snapshot import ServedModel, Target
from routing.trace import Trace
from teams.errors import GatewayError


def stream_limit_s(gateway: Gateway, target: Target) -> float:
    """How long a stream of this backend may last in all."""
    return min(target.total_timeout_s, gateway.options.max_stream_s)


_PAUSE_S = (0.05, 0.15)  # before a backend that failed is asked again: at random, lest all come back at once


class Attempts:
    """Which backend a request is sent to, and to which after it failed."""

    def __init__(self, gateway: Gateway, model: ServedModel, target: Target, trace: Trace) -> None:
        """Begin with `target`, one of the model's."""
        self.target = target
        self._gateway = gateway
        self._model = model
        self._trace = trace
        self._tried = {target.backend_id}
        self._has_repeated = False
        self._ends_at = time.monotonic() + gateway.options.retry_s

    def begin(self, estimate: Estimate) -> None:
        """The first call goes out: from here on the request has a record, whatever happens."""
        trace = self._trace
        assert trace.price is not None, "a call is only made when it can be priced"  # noqa: S101
        self._gateway.record_begin(trace, estimate.usage_at(trace.price))
        trace.estimate = estimate
        trace.call_begins()

    @property
    def stream_limit_s(self) -> float:
        """How long a stream may last in all, whichever backends it is asked of."""
        gateway = self._gateway
        longest_s = max(stream_limit_s(gateway, target) for target in self._model.targets)
        return longest_s + gateway.options.retry_s

    async def go_on(self, error: GatewayError) -> bool:
        """After the failure of the present call, charged by now: whether another is made, to `target` as it is then.

        Never after an error of the caller's making, nor when the time or the number of calls is used up, nor when
        what the failed call may have cost leaves too little for another.
        """
        trace, target = self._trace, self._next(error)
        if target is None or (price := target.price_at(trace.admitted_at)) is None:
            return False
        if trace.usage != NOTHING_USED and not await self._holds_more(trace.usage, trace.cost.total_nanousd):
            return False
        if target is self.target:
            self._has_repeated = True
            await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - no secret
        ahead, estimate = replace(trace), trace.estimate
        assert estimate is not None, "the first call has begun"  # noqa: S101
        ahead.fail_over(error, target, price)
        if not self._gateway.record_growth(ahead, estimate.usage_at(price), attempts=trace.attempts + 1):
            return False
        self._gateway.metrics.count_backend_error(self.target.name, error.reason)
        trace.fail_over(error, target, price)
        self._tried.add(target.backend_id)
        self.target = target
        trace.call_begins()
        return True

    def _next(self, error: GatewayError) -> Target | None:
        """Another backend that can serve; where all were tried, the last once more if it could not be reached."""
        trace = self._trace
        if not is_backends_fault(error) or trace.attempts >= self._gateway.options.max_attempts:
            return None
        if time.monotonic() >= self._ends_at:
            return None
        for target in self._model.targets:
            if target.backend_id not in self._tried and target.price_at(trace.admitted_at) is not None:
                return target
        may_repeat = error.reason == "backend_unreachable" and not self._has_repeated
        return self.target if may_repeat else None

    async def _holds_more(self, usage: Usage, cost_nanousd: int) -> bool:
        """Hold what the failed call may have cost, beside what is held for the next."""
        trace = self._trace
        if trace.admitted is None or trace.admitted.kind is AdmittedKind.FREE or trace.caller is None:
            return True
        owner = trace.caller.owner
        outcome = await self._gateway.admissions.extend(
            owner.department_id,
            str(trace.request_id),
            Amounts(cost_nanousd, usage.input_tokens + usage.output_tokens),
            may_go_uncounted=owner.may_go_uncounted,
        )
        return isinstance(outcome, bool)
