"""The stage that spends: every call that a rule applies to is held in its counters before it is made."""

import asyncio
from datetime import UTC, datetime

import msgspec

from billing.admission.account import Admitted, AdmittedKind
from billing.admission.holds import Ask, Patience
from billing.admission.queue import Stay, StayEnd
from billing.admission.refusals import RefusalKind, Refused
from billing.admission.rules import Budget, Dimensions
from billing.estimate import Estimate, dearest_of
from billing.steps import GrowingReserve, first_step
from routing.call import Call, Client
from routing.endpoints.base import Request
from routing.gateway import Gateway
from routing.reach import Reach
from routing.refusals import refusal_error
from routing.stages import bound_call, count_call, list_candidates
from routing.trace import Trace
from teams.key_holder import KeyOwner
from teams.models import Priority

_WEIGHTS = {Priority.LOW: 1, Priority.NORMAL: 4, Priority.HIGH: 16}


async def admit(gateway: Gateway, call: Call, request: Request, reach: Reach, trace: Trace) -> Estimate:
    """Reserve the most that the call may come to in every limit and budget that applies, all or none; of a stream
    only what such answers typically are, where its team chose so (routing/growth.py).

    The prompt is bounded by its size first, and counted only where a budget refuses the bound. From here on the
    request's time is the store's. A call that is refused for now waits, if its team wants that. Refuses with 429 or
    503; see routing/refusals.py.
    """
    estimate, caller = bound_call(gateway, request, reach, trace), trace.caller
    if caller is None or not gateway.admissions.has_rules(caller.owner.department_id, caller.team_id):
        return estimate
    dimensions = Dimensions(
        department_id=caller.owner.department_id,
        team_id=caller.team_id,
        application_id=trace.application_id,
        api_key_id=caller.key_id,
        end_user=trace.end_user,
        model=trace.model,
    )
    grows = caller.owner.reserves_typical and _may_grow(gateway, request, trace)
    most_tokens = estimate.output_tokens
    if grows:
        typical_tokens = gateway.estimator.typical_answer(trace.model)
        estimate = first_step(estimate, typical_tokens, request.choices)
    ask = Ask(trace.id, dimensions, estimate.most, estimate.rate_tokens)
    outcome = await _admit(gateway, ask, trace)
    while isinstance(outcome, Refused):
        if _may_fit(outcome, estimate):
            estimate = await count_call(gateway, request, reach, trace, estimate)
            ask = msgspec.structs.replace(ask, most=estimate.most)
            outcome = await _admit(gateway, ask, trace)
        elif outcome.may_wait and caller.owner.max_queue_s and trace.stay is None:
            outcome = await _wait(gateway, ask, outcome, call.client, trace)
        else:
            gateway.metrics.count_admission(outcome.kind)
            raise refusal_error(outcome, trace.stay)
    if outcome.kind is not AdmittedKind.FREE:
        gateway.metrics.count_admission(outcome.kind)
    if grows:
        end = None if request.max_tokens is None else most_tokens
        trace.reserve = GrowingReserve(estimate, estimate.output_tokens, end)
    return estimate


async def hold_dearer(gateway: Gateway, reach: Reach, trace: Trace, estimate: Estimate) -> Estimate:
    """After a wait: hold besides what the call may cost more by the backends and prices of now. Refuses with 429 or
    503 where that cannot be held."""
    prices = [candidate.price for candidate in list_candidates(reach, trace)]
    dearer = msgspec.structs.replace(estimate, dearest=estimate.dearest.or_more(dearest_of(prices)))
    more, owner = dearer.most - estimate.most, _owner(trace)
    if not more.money:
        return estimate
    outcome = await gateway.admissions.extend(
        owner.department_id, trace.id, more, may_go_uncounted=owner.may_go_uncounted
    )
    if isinstance(outcome, Refused):
        raise refusal_error(outcome, trace.stay)
    if trace.reserve is not None:
        trace.reserve.estimate = dearer
    return dearer


async def _admit(gateway: Gateway, ask: Ask, trace: Trace) -> Admitted | Refused:
    owner, was_held = _owner(trace), trace.is_held
    trace.is_held = True  # until we know better: if we are cancelled meanwhile, the end must be booked
    outcome = await gateway.admissions.admit(
        ask, may_go_uncounted=owner.may_go_uncounted, patience=_patience(owner)
    )
    return _note(outcome, trace, was_held=was_held)


async def _wait(
    gateway: Gateway, ask: Ask, refused: Refused, client: Client, trace: Trace
) -> Admitted | Refused:
    """Wait for room; who leaves meanwhile cancels the task, also of a plain call."""
    owner, stay, was_held = _owner(trace), Stay(), trace.is_held
    trace.stay, trace.is_held = stay, True
    patience = msgspec.structs.replace(
        _patience(owner), wait_ms=owner.max_queue_s * 1000, places=gateway.options.queue_team
    )
    client.cancel_when_gone()
    try:
        outcome = await gateway.admissions.wait(
            ask, refused, patience, stay, may_go_uncounted=owner.may_go_uncounted
        )
    except asyncio.CancelledError:
        stay.close(StayEnd.LEFT)
        if client.has_left:
            trace.leave()
        raise
    finally:
        client.stop_watching()
        gateway.metrics.count_stay(owner.team, stay)
    return _note(outcome, trace, was_held=was_held)


def _patience(owner: KeyOwner) -> Patience:
    """Of a call that does not wait, which still stands behind those of more weight that do."""
    return Patience(weight=_WEIGHTS[Priority(owner.priority)])


def _owner(trace: Trace) -> KeyOwner:
    assert trace.caller is not None  # noqa: S101 - who is unknown spends nothing
    return trace.caller.owner


def _note(outcome: Admitted | Refused, trace: Trace, *, was_held: bool) -> Admitted | Refused:
    if isinstance(outcome, Refused):
        trace.is_held = outcome.may_be_held or was_held
    else:
        trace.admitted = outcome
        trace.admitted_at = datetime.fromtimestamp(outcome.admitted_ms / 1000, UTC)
    return outcome


def _may_grow(gateway: Gateway, request: Request, trace: Trace) -> bool:
    """Whether a call's answer can be watched as it flows. That of a plain call cannot, nor hidden reasoning."""
    return request.stream and not request.reasons and not gateway.estimator.reasons(trace.model)


def _may_fit(refused: Refused, estimate: Estimate) -> bool:
    """Whether a count of the prompt could bring the call below the budget that refused its bound."""
    rule = refused.rule
    if not isinstance(rule, Budget) or estimate.is_counted:
        return False
    taken = refused.used + (refused.reserved if refused.kind is RefusalKind.HELD else 0)
    return taken + estimate.least.of(rule.unit) <= rule.amount
