"""What would become of a request, without calling anyone: the model, the backends and their order, the rules.

For operators, and for an API later. It goes the way of the pipeline over a configuration of its own, and holds nothing.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from billing.admission.rules import Budget, Dimensions, Rule
from billing.estimate import Estimator
from billing.money import decimal_usd
from guards.look import Noted, look
from guards.scanner import Scanner
from routing.content import Reading, read_content
from routing.dialects.table import prepare
from routing.endpoints.base import Endpoint, Request
from routing.endpoints.bounds import Bounds
from routing.endpoints.chat import ChatEndpoint
from routing.endpoints.completions import CompletionsEndpoint
from routing.endpoints.embeddings import EmbeddingsEndpoint
from routing.endpoints.messages import MessagesEndpoint
from routing.endpoints.responses import ResponsesEndpoint
from routing.guarding import read_texts, resume
from routing.health.seen import read_seen
from routing.pipeline import reach_of
from routing.reach import Reach
from routing.refusals import describe_rule
from routing.snapshot import ServedModel, Snapshot, Target
from routing.stages import find_granted_model, list_candidates
from routing.trace import Trace
from teams.errors import GatewayError
from teams.key_holder import KeyHolder

ENDPOINTS: dict[str, Endpoint] = {
    endpoint.operation: endpoint
    for endpoint in (
        ChatEndpoint(),
        CompletionsEndpoint(),
        EmbeddingsEndpoint(),
        MessagesEndpoint(),
        ResponsesEndpoint(),
    )
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and who sends it; `application_id`: the one it counts for."""

    operation: str
    body: bytes
    caller: KeyHolder
    application_id: int | None = None
    end_user: str = ""


class Way(msgspec.Struct):
    """One backend that the request may or may not go to. `group`: the priority's place among those of its model, from
    1; `cause`: of a fallback, when it serves; `obstacle`: why it does not, empty where it may."""

    model: str
    cause: str
    group: int
    backend: str
    provider: str
    upstream_model: str
    weight: int
    region: str
    quality: int
    tags: list[str]
    translated: bool
    dropped: list[str]
    obstacle: str


class Explanation(msgspec.Struct):
    """`refusal`: how the caller would be refused, None when a backend would be called. Money in USD; tokens are bounds
    of the prompt and of the answer, as they are reserved. `content`: where a model passes requests on, how it was
    read. `policy`: of the guards, None where nothing is looked for; `findings`: what they find."""

    asked_model: str
    model: str = ""
    refusal: str | None = None
    required_tags: list[str] = msgspec.field(default_factory=list)
    preferred_regions: list[str] = msgspec.field(default_factory=list)
    strategy: str = ""
    content: dict[str, float | str] | None = None
    policy: str | None = None
    findings: list[Noted] = msgspec.field(default_factory=list)
    rules: list[str] = msgspec.field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    most_usd: str = ""
    ways: list[Way] = msgspec.field(default_factory=list)


@dataclass(slots=True)
class _Case:
    snapshot: Snapshot
    asked: Asked
    request: Request
    trace: Trace = field(default_factory=lambda: Trace("explain"))


def _guard(case: _Case, bounds: Bounds, told: Explanation) -> Request:
    """The request as it would be sent. Raises GatewayError where the policy blocks it."""
    snapshot, asked, request = case.snapshot, case.asked, case.request
    policy = snapshot.guards.policy_of(asked.caller.team_id)
    if policy is None:
        return request
    told.policy = policy.name
    if not policy.request:
        return request
    texts, scanner = read_texts(request), Scanner(snapshot.guards.wanted, finds_names=True)
    looked = look(texts, policy.request, [scanner.scan(text.looked) for text in texts.all])
    told.findings = looked.noted
    case.trace.tags = looked.tags
    told.required_tags = sorted({*told.required_tags, *looked.tags})
    return resume(looked, texts, request, bounds, None)


def explain(snapshot: Snapshot, bounds: Bounds, asked: Asked) -> Explanation:
    """What would become of the request now. Breakers are as workers told the store last."""
    told = Explanation(asked_model="")
    try:
        request = ENDPOINTS[asked.operation].read(asked.body, bounds, None)
        told.asked_model = request.model
    except GatewayError as error:
        told.refusal = str(error)
        return told
    case = _Case(snapshot, asked, request)
    case.trace.caller, case.trace.application_id = asked.caller, asked.application_id
    told.required_tags = sorted(asked.caller.required_tags(asked.application_id))
    told.preferred_regions = list(asked.caller.owner.regions)
    if (first := snapshot.models.get(request.model)) is not None and first.content_routes:
        told.content = _tell_content(read_content(request))
    try:
        model = find_granted_model(snapshot, asked.caller, request.model, case.trace)
        case.request = request = _guard(case, bounds, told)
        reach = reach_of(snapshot, asked.caller, request, model, case.trace)
    except GatewayError as error:
        told.refusal = str(error)
        told.model = case.trace.model
        told.ways = _list_ways(case, snapshot.models.get(case.trace.model), told)
        return told
    told.model, told.strategy = case.trace.model, reach.model.strategy
    told.rules = [_tell_rule(rule) for rule in _list_rules(case)]
    told.ways = _list_ways(case, snapshot.models[case.trace.model], told)
    _estimate(case, reach, told)
    if not any(not way.obstacle for way in told.ways):
        told.refusal = "503: no backend can be called now."
    return told


def _tell_content(reading: Reading) -> dict[str, float | str]:
    parts: dict[str, float | str] = {
        name: value for name, value in msgspec.structs.asdict(reading).items() if name != "is_trivial"
    }
    return {**parts, "score": reading.score, "suit": str(reading.suit)}


def _list_rules(case: _Case) -> tuple[Rule, ...]:
    caller = case.asked.caller
    book = case.snapshot.rule_books.get(caller.owner.department_id)
    if book is None:
        return ()
    call = Dimensions(
        department_id=caller.owner.department_id,
        team_id=caller.team_id,
        application_id=case.asked.application_id,
        api_key_id=caller.key_id,
        end_user=case.asked.end_user or case.request.end_user,
        model=case.trace.model,
    )
    return book.applying(call)


def _tell_rule(rule: Rule) -> str:
    is_soft = isinstance(rule, Budget) and not rule.is_hard
    return describe_rule(rule) + (", which only counts" if is_soft else "")


def _estimate(case: _Case, reach: Reach, told: Explanation) -> None:
    request = case.request
    longest = (request.max_tokens or reach.longest_answer) + request.predicted_bytes
    candidates = list_candidates(reach, case.trace)
    if not candidates:
        return
    extent = request.endpoint.extent(request)
    estimate = Estimator().bound(case.trace.model, extent, longest * request.choices, candidates)
    told.input_tokens, told.output_tokens = estimate.input_tokens, estimate.output_tokens
    told.most_usd = decimal_usd(estimate.most.money)


def _list_ways(case: _Case, model: ServedModel | None, told: Explanation) -> list[Way]:
    """The model's own backends in the order of their groups, then those of its fallbacks."""
    if model is None:
        return []
    ways = _ways_of(case, model, "", "", told)
    for cause, name in model.fallbacks:
        if (other := case.snapshot.models.get(name)) is None:
            continue
        caller = case.asked.caller
        is_granted = caller.team_id in other.granted_teams and caller.may_use(name)
        ways += _ways_of(case, other, cause, "" if is_granted else "the caller may not use this model", told)
    return ways


def _ways_of(case: _Case, model: ServedModel, cause: str, obstacle: str, told: Explanation) -> list[Way]:
    return [
        _way(case, model, cause, number, member.target, member.weight, obstacle, told)
        for number, group in enumerate(model.groups, start=1)
        for member in group
    ]


def _way(
    case: _Case,
    model: ServedModel,
    cause: str,
    group: int,
    target: Target,
    weight: int,
    obstacle: str,
    told: Explanation,
) -> Way:
    request = case.request
    dropped: list[str] = []
    translated = False
    request.carried.clear()
    try:
        prepare(request, model.only([target]))
        for carried in request.carried.values():
            translated, dropped = True, list(carried.dropped)
    except GatewayError as error:
        obstacle = obstacle or error.message
    if missing := set(told.required_tags) - target.tags:
        obstacle = obstacle or f"it lacks {', '.join(sorted(missing))}"
    if target.price_at(datetime.now(UTC)) is None:
        obstacle = obstacle or "it has no price in force"
    if (until := read_seen(target.backend_id).left_alone_until) is not None:
        obstacle = obstacle or f"it is left alone until {until:%H:%M:%S} UTC"
    return Way(
        model=model.catalogue_name,
        cause=cause,
        group=group,
        backend=target.name,
        provider=target.provider,
        upstream_model=target.upstream_model,
        weight=weight,
        region=target.region,
        quality=target.quality,
        tags=sorted(target.tags),
        translated=translated,
        dropped=dropped,
        obstacle=obstacle,
    )
