"""The stage that looks: what a team's policy wants found in a request is found before anything is spent or sent."""

import logging
from dataclasses import replace

from guards.look import Looked, Noted, look
from guards.policy import Policy
from guards.runner import GuardsAway
from guards.texts import Texts, Unreadable
from routing.call import Call
from routing.endpoints.base import Request
from routing.endpoints.bounds import Bounds
from routing.gateway import Gateway
from routing.trace import Trace
from teams.errors import field_invalid, guard_blocked, guards_unavailable

logger = logging.getLogger(__name__)

UNAVAILABLE = "unavailable"  # as the action of a note: the guard could not look, and the call went on


async def guard(gateway: Gateway, call: Call, request: Request, trace: Trace) -> Request:
    """The request as it may be sent: with placeholders where the team's policy wants them.

    Findings are noted in the trace. Refuses with 400 what the policy blocks, with 503 where a guard cannot look.
    """
    caller = trace.caller
    policy = None if caller is None else gateway.guards.book.policy_of(caller.team_id)
    if policy is None:
        return request
    texts = read_texts(request)
    try:
        found = await gateway.guards.scan([text.text for text in texts.all])
    except GuardsAway as error:
        _let_pass(policy, str(error), trace)
        _note(gateway, [Noted(name, "", "", "", UNAVAILABLE, 0.0) for name in policy.rules], trace)
        return request
    looked = look(texts, policy, found)
    _note(gateway, looked.noted, trace)
    trace.vault = looked.vault
    return resume(looked, texts, request, gateway.options.bounds, call.path_model)


def read_texts(request: Request) -> Texts:
    """All texts of a request. Raises GatewayError."""
    try:
        return Texts(request.fields)
    except Unreadable as error:
        raise field_invalid(None, str(error)) from None


def resume(looked: Looked, texts: Texts, request: Request, bounds: Bounds, path_model: str | None) -> Request:
    """The request with its texts as they are now. Raises GatewayError for what is blocked."""
    if looked.blocked:
        raise guard_blocked(looked.blocked[0].guard, sorted({each.type for each in looked.blocked}))
    try:
        body = texts.encode()
    except Unreadable as error:
        raise field_invalid(None, str(error)) from None
    sent = request.endpoint.read(body, bounds, path_model)
    return replace(sent, end_user=request.end_user)


def _note(gateway: Gateway, noted: list[Noted], trace: Trace) -> None:
    trace.findings += tuple(noted)
    for each in noted:
        gateway.metrics.count_finding(each.guard, each.type, each.act, each.count)


def _let_pass(policy: Policy, why: str, trace: Trace) -> None:
    """Unseen, where every rule of the policy says so. Raises GatewayError otherwise."""
    if not all(rule.fails_open for rule in policy.rules.values()):
        logger.warning("A guard cannot look: %s.", why, extra={"request_id": str(trace.request_id)})
        raise guards_unavailable()
