"""What an answer's headers tell of how it came about."""

from dataclasses import dataclass

from billing.admission.account import Admitted, Level
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
    headers = {"x-request-id": trace.id}
    if trace.admitted is not None:
        headers |= describe_levels(trace.admitted, shown)
    if trace.stay is not None:
        headers["x-gateway-queue-wait-ms"] = str(round(trace.stay.waited_s * 1000))
        if trace.stay.place:
            headers["x-gateway-queue-position"] = str(trace.stay.place)
    if trace.called_at is None or trace.target is None:
        return headers
    headers["x-gateway-model"] = trace.served_model or trace.model
    if trace.reading is not None:
        headers["x-gateway-content"] = f"{trace.reading.suit}; score={trace.reading.score}"
    if trace.dropped:
        headers["x-gateway-dropped"] = ", ".join(trace.dropped)
    headers["x-gateway-attempts"] = _tell_attempts(trace, shown)
    headers["x-gateway-overhead-ms"] = f"{trace.overhead_s * 1000:.3f}"
    if shown.backend:
        headers["x-gateway-backend"] = trace.target.name
    if shown.cost and not trace.streamed:
        headers["x-gateway-cost-usd"] = decimal_usd(trace.cost.total_nanousd)
    return headers


def _tell_attempts(trace: Trace, shown: Shown) -> str:
    """How many calls were made, and which of them failed: `2; failed="primary=backend_timeout"`."""
    if not trace.failed:
        return str(trace.attempts)
    told = ", ".join(
        f"{each.backend}={each.reason}" if shown.backend else each.reason for each in trace.failed
    )
    return f'{trace.attempts}; failed="{told}"'


def describe_levels(admitted: Admitted, shown: Shown) -> dict[str, str]:
    """What the tightest limit of each kind leaves, and the tightest hard budget of money."""
    headers: dict[str, str] = {}
    for name, level in (("requests", admitted.requests), ("tokens", admitted.tokens)):
        if level is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(level.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(level.left)
            headers[f"x-ratelimit-reset-{name}"] = _duration(level)
    if shown.cost and admitted.money is not None:
        headers["x-gateway-budget-remaining-usd"] = decimal_usd(admitted.money.left)
    return headers


def _duration(level: Level) -> str:
    """As OpenAI writes it: 6m0s, 1.5s, 20ms."""
    if level.reset_ms < 1000:
        return f"{level.reset_ms}ms"
    minutes, rest_ms = divmod(level.reset_ms, 60_000)
    seconds = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
