"""The stage that spends: every call that a rule applies to is held in its counters before it is made."""

from datetime import UTC, datetime

from billing.admission.account import Admitted
from billing.admission.holds import Amounts, Ask
from billing.admission.rules import Dimensions
from billing.usage import Usage
from routing.gateway import Gateway
from routing.refusals import refusal_error
from routing.snapshot import ServedModel
from routing.trace import Trace


async def admit(gateway: Gateway, model: ServedModel, reserve: Usage, trace: Trace) -> None:
    """Reserve the most that the call may come to in every limit and budget that applies, all or none.

    From here on the request's time is the store's. Refuses with 429 or 503; see routing/refusals.py.
    """
    admissions, caller = gateway.admissions, trace.caller
    if caller is None or not admissions.has_rules(caller.owner.department_id):
        return
    ask = Ask(
        rid=str(trace.request_id),
        call=Dimensions(
            caller.owner.department_id,
            caller.team_id,
            trace.application_id,
            caller.key_id,
            trace.end_user,
            trace.model,
        ),
        most=dearest(model, reserve, trace.admitted_at),
        rate_tokens=reserve.input_tokens + reserve.output_tokens,
    )
    trace.is_held = True  # until we know better: if we are cancelled meanwhile, the end must be booked
    outcome = await admissions.admit(ask, may_go_uncounted=caller.owner.may_go_uncounted)
    if isinstance(outcome, Admitted):
        trace.admitted = outcome
        trace.admitted_at = datetime.fromtimestamp(outcome.admitted_ms / 1000, UTC)
        return
    trace.is_held = outcome.may_be_held
    raise refusal_error(outcome)


def dearest(model: ServedModel, usage: Usage, moment: datetime) -> Amounts:
    """What `usage` comes to at the dearest price that the route can reach."""
    prices = [price for target in model.targets if (price := target.price_at(moment)) is not None]
    money = max((price.cost(usage).total_nanousd for price in prices), default=0)
    return Amounts(money, usage.input_tokens + usage.output_tokens)
