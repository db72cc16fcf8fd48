"""A refusal of the counters as the error that the caller sees: which rule, whose it is, its figures, when to return."""

from datetime import UTC, datetime

from billing.admission.queue import Stay, StayEnd
from billing.admission.refusals import RefusalKind, Refused
from billing.admission.rules import Budget, Limit, Rate, Rule, Scope, Unit
from billing.money import decimal_usd
from teams.errors import GatewayError, unavailable

_OWNERS = {
    Scope.DEPARTMENT: "department",
    Scope.TEAM: "team",
    Scope.APPLICATION: "application",
    Scope.KEY: "API key",
}
_RATES = {
    Rate.REQUESTS: "requests per minute",
    Rate.TOKENS: "tokens per minute",
    Rate.CONCURRENCY: "requests at a time",
}
_WORTH_TELLING_S = 0.05
_AWAY = {
    "counters_unavailable": "The counters of budgets cannot be reached, so nothing is spent. Try again shortly.",
    "counters_rebuilding": "The counters of budgets are being made anew. Try again shortly.",
}


def refusal_error(refused: Refused, stay: Stay | None = None) -> GatewayError:
    """429 that ends (`insufficient_quota`) for a spent budget, 429 to retry for a rate or for money that open calls
    hold, 503 where the counters cannot be asked. `stay`: in the queue before, if it waited."""
    if refused.kind is RefusalKind.AWAY or refused.rule is None:
        return unavailable(refused.reason, _AWAY[refused.reason], _retry_after(refused))
    if refused.kind is RefusalKind.HARD:
        return GatewayError(
            429,
            "budget_spent",
            f"{describe_rule(refused.rule)} is spent: {_figures(refused)}."
            f" The window ends at {_moment(refused.reset_ms)}.",
            type="insufficient_quota",
            code="project_spend_limit_exceeded",
            headers={"x-should-retry": "false", **_retry_after(refused)},
        )
    if refused.kind is RefusalKind.HELD:
        reason, word = "budget_held", "is held by calls that are under way"
    else:
        reason, word = "rate_limited", "is reached"
    return GatewayError(
        429,
        reason,
        f"{describe_rule(refused.rule)} {word}: {_figures(refused)}.{_describe_stay(stay)}"
        f" Try again in {refused.wait_ms / 1000:.3g} s.",
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers=_retry_after(refused),
    )


def cut_error(refused: Refused) -> GatewayError:
    """Why a stream ends that was let in and holds no more than it has used: its budget, or that the counters cannot
    be asked for more."""
    if refused.rule is None:
        error = refusal_error(refused)
        error.may_have_cost = True
        return error
    return GatewayError(
        429,
        "budget_spent",
        f"{describe_rule(refused.rule)} has nothing left for the rest of this answer: {_figures(refused)}.",
        type="insufficient_quota",
        code="project_spend_limit_exceeded",
        may_have_cost=True,
    )


def _describe_stay(stay: Stay | None) -> str:
    if stay is None:
        return ""
    if stay.end is StayEnd.FULL:
        return " As many calls wait as may."
    if stay.waited_s < _WORTH_TELLING_S:
        return ""
    return f" There was no room within {stay.waited_s:.2g} s of waiting."


def describe_rule(rule: Rule) -> str:
    """For instance: The budget of 5.000000000 USD per month (team search, model large)."""
    if isinstance(rule, Budget):
        what = f"The budget of {_amount(rule, rule.amount)} per {rule.period}"
    else:
        what = f"The limit of {rule.amount} {_RATES[rule.rate]}"
    whose = [f"{_OWNERS[rule.owner.scope]} {rule.owner.name}"]
    if rule.end_user:
        whose.append("each end user" if rule.end_user == "*" else "this end user")
    if rule.model:
        whose.append(f"model {rule.model}")
    return f"{what} ({', '.join(whose)})"


def _figures(refused: Refused) -> str:
    rule = refused.rule
    assert rule is not None  # noqa: S101 - only what a rule refused has figures
    if isinstance(rule, Limit) and rule.rate is Rate.CONCURRENCY:
        return f"{refused.used} are running"
    figures = [f"{_amount(rule, refused.used)} used"]
    if refused.reserved:
        figures.append(f"{_amount(rule, refused.reserved)} held")
    figures.append(f"this call may need {_amount(rule, refused.asked)}")
    return ", ".join(figures)


def _amount(rule: Rule, amount: int) -> str:
    if isinstance(rule, Budget):
        return f"{decimal_usd(amount)} USD" if rule.unit is Unit.MONEY else f"{amount} tokens"
    return f"{amount} {'requests' if rule.rate is Rate.REQUESTS else 'tokens'}"


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _retry_after(refused: Refused) -> dict[str, str]:
    return {"retry-after": str(refused.retry_after_s), "retry-after-ms": str(max(1, refused.wait_ms))}
