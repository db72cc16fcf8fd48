"""The stage that looks: what a team's policy wants found in a request is found before anything is spent or sent."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from guards.external.asking import ExternalAway
from guards.finding import Finding, Guard
from guards.look import Looked, Noted, look
from guards.policy import Rules, Side
from guards.process import GuardsAway
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

    Findings are noted in the trace, with the tags that they require of backends. Refuses with 400 what the policy
    blocks, with 503 where a guard cannot look.
    """
    caller = trace.caller
    policy = None if caller is None else gateway.guards.book.policy_of(caller.team_id)
    if policy is None or not policy.request:
        return request
    texts = read_texts(request)
    if texts.holds_tokens:
        _refuse_tokens(gateway, policy.request, trace)
    found = await scan_or_pass(gateway, policy.request, [text.looked for text in texts.all], trace)
    looked = look(texts, policy.request, [its or () for its in found])
    note(gateway, looked.noted, trace)
    trace.vault, trace.tags = looked.vault, looked.tags
    if not looked.blocked:  # what is refused, and what is redacted, is nobody else's business
        looked = await look_elsewhere(gateway, texts, policy.request, Side.REQUEST, trace)
        trace.tags |= looked.tags
    return resume(looked, texts, request, gateway.options.bounds, call.path_model)


def read_texts(request: Request) -> Texts:
    """All texts of a request. Raises GatewayError."""
    try:
        return Texts.of_request(request.fields)
    except Unreadable as error:
        raise field_invalid(None, str(error)) from None


def resume(looked: Looked, texts: Texts, request: Request, bounds: Bounds, path_model: str | None) -> Request:
    """The request with its texts as they are now. Raises GatewayError for what is blocked."""
    if looked.blocked:
        raise guard_blocked(looked.blocked[0].guard, [each.type for each in looked.blocked], Side.REQUEST)
    try:
        body = texts.encode()
    except Unreadable as error:
        raise field_invalid(None, str(error)) from None
    sent = request.endpoint.read(body, bounds, path_model)
    return replace(sent, end_user=request.end_user)


async def scan_or_pass(
    gateway: Gateway, rules: Rules, texts: list[str], trace: Trace, *, keeps: bool = True
) -> list[Sequence[Finding] | None]:
    """What is in each text; None where the guards cannot look and each of the rules lets that pass, which is noted.
    `keeps`: texts that may come again. Raises GatewayError."""
    if not rules.types:
        return [()] * len(texts)
    try:
        if rules.missing:
            raise GuardsAway(f"nothing finds {', '.join(sorted(rules.missing))}")
        return [*await gateway.guards.scan(texts, keeps=keeps)]
    except GuardsAway as error:
        away = [name for name in rules.by_guard if name != Guard.EXTERNAL]
        pass_unseen(gateway, away, str(error), trace, passes=rules.fail_open)
        return [None] * len(texts)


async def look_elsewhere(gateway: Gateway, texts: Texts, rules: Rules, side: Side, trace: Trace) -> Looked:
    """What the external guards that the rules name find in texts as they are now; noted. What the application itself
    says is not told to them. Raises GatewayError where one cannot be asked and its rule does not let that pass."""
    if not rules.externals:
        return Looked([], [])
    told = [text for text in texts.all if not text.is_own]
    found: dict[int, list[Finding]] = {id(text): [] for text in texts.all}
    for name in sorted(rules.externals) if told else ():
        said = await ask_elsewhere(gateway, name, rules, [text.looked for text in told], side, trace)
        for text, its in zip(told, said, strict=True):
            found[id(text)] += its
    looked = look(texts, rules, [found[id(text)] for text in texts.all])
    note(gateway, looked.noted, trace)
    return looked


async def ask_elsewhere(
    gateway: Gateway, name: str, rules: Rules, texts: list[str], side: Side, trace: Trace
) -> list[list[Finding]]:
    """What one external guard finds in each text; nothing, noted, where it cannot be asked and its rule lets that pass.
    Raises GatewayError."""
    try:
        if (external := gateway.guards.book.externals.get(name)) is None:
            raise ExternalAway(f"{name} is not there, or not active")
        return await gateway.externals.find(external, texts, side)
    except ExternalAway as error:
        passes = rules.by_guard[Guard.EXTERNAL].fails_open
        pass_unseen(gateway, [Guard.EXTERNAL], str(error), trace, passes=passes, kind=name)
        return [[] for _ in texts]


def _refuse_tokens(gateway: Gateway, rules: Rules, trace: Trace) -> None:
    """Raises GatewayError, unless each rule lets pass what cannot be looked through; which is noted."""
    if not all(rule.fails_open for rule in rules.by_guard.values()):
        message = "Send texts: tokens cannot be looked through, as your team's policy wants."
        raise field_invalid(None, message)
    pass_unseen(gateway, rules.by_guard, "its input is tokens", trace, passes=True)


def pass_unseen(
    gateway: Gateway, guards: Iterable[str], why: str, trace: Trace, *, passes: bool, kind: str = ""
) -> None:
    """Note which guards could not look, once for a call however often they cannot. Raises GatewayError unless that
    `passes`."""
    unseen = [Noted(name, kind, "", "", UNAVAILABLE, 0.0) for name in guards]
    fresh = [each for each in unseen if each not in trace.findings]
    if fresh or not passes:
        logger.warning("A guard cannot look: %s.", why, extra={"request_id": trace.id})
    if not passes:
        raise guards_unavailable()
    note(gateway, fresh, trace)


def note(gateway: Gateway, noted: Sequence[Noted], trace: Trace) -> None:
    """In the trace and in metrics."""
    trace.findings += tuple(noted)
    for each in noted:
        gateway.metrics.count_finding(each.guard, each.type, each.act, each.count)
