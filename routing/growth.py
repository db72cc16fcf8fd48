"""The reservation of a stream that is held in steps: extended while its text flows, or the end of the stream."""

from billing.admission.holds import Amounts
from billing.steps import GrowingReserve, OutputGauge, tokens_of
from routing.gateway import Gateway
from routing.refusals import cut_error
from routing.trace import Trace
from teams.errors import GatewayError


class Growth:
    """One stream's. Nothing but `is_due` is done for a piece while there is enough."""

    def __init__(self, gateway: Gateway, trace: Trace, reserve: GrowingReserve) -> None:
        self._gateway = gateway
        self._trace = trace
        self._reserve = reserve
        self._gauge = OutputGauge()
        self._produced_tokens = self._texts_seen = 0
        self._look_at = reserve.due_at  # in tokens on the gauge
        self._is_over = reserve.is_whole

    def is_due(self, piece: bytes) -> bool:
        """Whether `extend` has something to do, now that `piece` came."""
        return not self._is_over and self._gauge.feed(piece) >= self._look_at

    async def extend(self, texts: list[str]) -> GatewayError | None:
        """Look at what was truly produced, `texts` from the beginning, and hold another step if that nears what is
        held.

        Returns the error to end the stream with when there is no more, and what was held is used.
        """
        self._produced_tokens += tokens_of(texts[self._texts_seen :])
        self._texts_seen = len(texts)
        self._gauge.restart()
        more = self._reserve.next_step(self._produced_tokens)
        cut = await self._ask(more) if more else None
        self._is_over = self._is_over or self._reserve.is_whole
        self._look_at = self._reserve.due_at - self._produced_tokens
        return cut

    async def _ask(self, more: Amounts) -> GatewayError | None:
        trace, reserve = self._trace, self._reserve
        assert trace.caller is not None  # noqa: S101 - who is unknown holds nothing
        owner = trace.caller.owner
        outcome = await self._gateway.admissions.extend(
            owner.department_id, trace.id, more, may_go_uncounted=owner.may_go_uncounted
        )
        if outcome is True:
            reserve.extended(more)
            assert trace.price is not None  # noqa: S101 - a call is only made when it can be priced
            usage = reserve.now.usage_at(trace.price)
            self._gateway.record_growth(trace, usage, attempts=trace.attempts)
        elif outcome is False:
            self._is_over = True
        elif not reserve.refused(self._produced_tokens):
            return cut_error(outcome)
        return None
