"""The stage that spends: every call that a rule applies to is held in its counters before it is made."""

from dataclasses import replace
from datetime import UTC, datetime

from billing.admission.account import Admitted, AdmittedKind
from billing.admission.holds import Ask
from billing.admission.refusals import RefusalKind, Refused
from billing.admission.rules import Budget, Dimensions
from billing.estimate import Estimate
from routing.endpoints.base import Request
from routing.gateway import Gateway
from routing.refusals import refusal_error
from routing.snapshot import ServedModel
from routing.stages import bound_call, count_call
from routing.trace import Trace


async def admit(gateway: Gateway, request: Request, model: ServedModel, trace: Trace) -> Estimate:
    """Reserve the most that the call may come to in every limit and budget that applies, all or none.

    The prompt is bounded by its size first, and counted only where a budget refuses the bound. From here on the
    request's time is the store's. Refuses with 429 or 503; see routing/refusals.py.
    """
    estimate, caller = bound_call(gateway, request, model, trace), trace.caller
    if caller is None or not gateway.admissions.has_rules(caller.owner.department_id):
        return estimate
    call = Dimensions(
        department_id=caller.owner.department_id,
        team_id=caller.team_id,
        application_id=trace.application_id,
        api_key_id=caller.key_id,
        end_user=trace.end_user,
        model=trace.model,
    )
    ask = Ask(str(trace.request_id), call, estimate.most, estimate.rate_tokens)
    outcome = await _admit(gateway, ask, trace)
    if isinstance(outcome, Refused) and _may_fit(outcome, estimate):
        estimate = await count_call(gateway, request, model, trace, estimate)
        outcome = await _admit(gateway, replace(ask, most=estimate.most), trace)
    if outcome.kind is not AdmittedKind.FREE:
        gateway.metrics.count_admission(outcome.kind)
    if isinstance(outcome, Refused):
        raise refusal_error(outcome)
    return estimate


async def _admit(gateway: Gateway, ask: Ask, trace: Trace) -> Admitted | Refused:
    assert trace.caller is not None  # noqa: S101 - who is unknown spends nothing
    trace.is_held = True  # until we know better: if we are cancelled meanwhile, the end must be booked
    may_go_uncounted = trace.caller.owner.may_go_uncounted
    outcome = await gateway.admissions.admit(ask, may_go_uncounted=may_go_uncounted)
    if isinstance(outcome, Refused):
        trace.is_held = outcome.may_be_held
    else:
        trace.admitted = outcome
        trace.admitted_at = datetime.fromtimestamp(outcome.admitted_ms / 1000, UTC)
    return outcome


def _may_fit(refused: Refused, estimate: Estimate) -> bool:
    """Whether a count of the prompt could bring the call below the budget that refused its bound."""
    rule = refused.rule
    if not isinstance(rule, Budget) or estimate.is_counted:
        return False
    taken = refused.used + (refused.reserved if refused.kind is RefusalKind.HELD else 0)
    return taken + estimate.least.of(rule.unit) <= rule.amount
