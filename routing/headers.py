"""What an answer's headers tell of how it came about."""

from dataclasses import dataclass

from billing.money import decimal_usd
from routing.trace import Trace


@dataclass(frozen=True, slots=True)
class Shown:
    """What callers may see; the settings GATEWAY_SHOW_... of the same names."""

    backend: bool
    cost: bool


def describe(trace: Trace, shown: Shown) -> dict[str, str]:
    """The id of the request; once a backend was called also the model, the backend, the calls made, the
    gateway's own time before the first of them in ms, and, where it is known before the body, the cost in USD."""
    headers = {"x-request-id": str(trace.request_id)}
    if trace.called_at is None or trace.target is None:
        return headers
    headers["x-gateway-model"] = trace.model
    headers["x-gateway-attempts"] = str(trace.attempts)
    headers["x-gateway-overhead-ms"] = f"{(trace.called_at - trace.started) * 1000:.3f}"
    if shown.backend:
        headers["x-gateway-backend"] = trace.target.name
    if shown.cost and not trace.streamed:
        headers["x-gateway-cost-usd"] = decimal_usd(trace.cost.total_nanousd)
    return headers
