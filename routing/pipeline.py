"""The way of one request, whole. Each stage is a call into its own module; a refusal is a GatewayError."""

from billing.ledger import clean_text
from billing.tokens import count_tokens
from routing.admission import admit, hold_dearer
from routing.answer_guarding import AnswerGuard, guard_answers
from routing.attempts import Attempts, check_served
from routing.authentication import authenticate, authenticate_again
from routing.call import Call, Reply
from routing.endpoints.base import Endpoint, Request, encode
from routing.endpoints.models import render_model, render_models
from routing.gateway import Gateway
from routing.guarding import guard
from routing.idempotency import answer_once
from routing.reach import Reach, find_reach, suit_model
from routing.restoring import restore
from routing.snapshot import ServedModel, Snapshot
from routing.stages import (
    call_plain,
    check_model_bounds,
    find_granted_model,
    sum_images,
)
from routing.streaming import relay_stream
from routing.trace import Trace
from teams.key_holder import KeyHolder

_SLACK_S = 5  # so that the backend's own time limit comes first, with its error event
_STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


async def complete(gateway: Gateway, call: Call, endpoint: Endpoint, trace: Trace) -> Reply:
    """POST to an endpoint: authenticate -> read -> find the model -> guard -> answer it, once -> restore. What guards
    the answer is part of answering.

    `GatewayView` records the request, however this function ends. A plain answer is priced before it is sent.
    Of a stream the first piece is awaited here, while the status is still open; `relay_stream` prices and
    records the rest when it ends.
    """
    snapshot = gateway.configuration.snapshot
    caller = await authenticate(gateway, call, trace)
    request = endpoint.read(call.body, gateway.options.bounds, call.path_model)
    trace.streamed = request.stream
    trace.end_user = clean_text(call.headers.get("x-user-id") or request.end_user)
    model = find_granted_model(snapshot, caller, request.model, trace)
    request = await guard(gateway, call, request, trace)
    answers = await guard_answers(gateway, request, trace)
    reach = reach_of(snapshot, caller, request, model, trace)
    reply = await answer_once(
        gateway, call, request, trace, lambda: answer(gateway, call, request, reach, answers, trace)
    )
    return reply if trace.vault is None else await restore(reply, endpoint.operation, trace.vault)


async def answer(
    gateway: Gateway, call: Call, request: Request, reach: Reach, answers: AnswerGuard | None, trace: Trace
) -> Reply:
    """What the model answers: route -> admit -> call and charge, another backend where one fails -> guard."""
    check_served(gateway, reach, trace)
    estimate = await admit(gateway, call, request, reach, trace)
    if trace.stay is not None:
        reach = await find_again(gateway, call, request, reach, trace)
        estimate = await hold_dearer(gateway, reach, trace, estimate)
    attempts = Attempts(gateway, reach, trace)
    await attempts.begin(estimate)
    if not request.stream:
        body = await call_plain(gateway, request, attempts, trace)
        return Reply(body=body if answers is None else await answers.check(body, trace))
    call.client.cancel_when_gone()
    stream = relay_stream(gateway, call, request, attempts, answers, trace)
    first_piece, limit_s = await anext(stream), attempts.stream_limit_s + _SLACK_S
    return Reply(headers=dict(_STREAM_HEADERS), first_piece=first_piece, stream=stream, send_within_s=limit_s)


async def find_again(gateway: Gateway, call: Call, request: Request, reach: Reach, trace: Trace) -> Reach:
    """What a call that has waited can reach, by its key, its grants and backends as they are now, of the model whose
    counters hold it."""
    caller, snapshot = await authenticate_again(gateway, call, trace), gateway.configuration.snapshot
    model = find_granted_model(snapshot, caller, reach.model.catalogue_name, trace)
    return reach_by(snapshot, caller, request, model, trace)


def reach_of(
    snapshot: Snapshot, caller: KeyHolder, request: Request, model: ServedModel, trace: Trace
) -> Reach:
    """All that may serve this very request of the granted model that is asked for."""
    if (suited := suit_model(snapshot, caller, request, model, trace)) is not model:
        trace.model, trace.model_alias = suited.name, clean_text(request.model, 128)
    return reach_by(snapshot, caller, request, suited, trace)


def reach_by(
    snapshot: Snapshot, caller: KeyHolder, request: Request, model: ServedModel, trace: Trace
) -> Reach:
    """What may serve this request of `model`. Refuses with 400 or 503 what none can serve."""
    check_model_bounds(model, request)
    return find_reach(
        snapshot, caller, request, model, caller.required_tags(trace.application_id) | trace.tags
    )


async def count_prompt(gateway: Gateway, call: Call, endpoint: Endpoint, trace: Trace) -> Reply:
    """POST /v1/messages/count_tokens: the tokens of a prompt by our own count, which calls no backend."""
    caller = await authenticate(gateway, call, trace)
    request = endpoint.read(call.body, gateway.options.bounds, call.path_model)
    model = find_granted_model(gateway.configuration.snapshot, caller, request.model, trace)
    prompt, upstream_models = endpoint.prompt(request), {target.upstream_model for target in model.targets}
    images = max([sum_images(prompt, name) for name in upstream_models or {model.name}])
    tokens = await count_tokens(gateway.counter, prompt.texts)
    return Reply(body=encode({"input_tokens": tokens + prompt.tokens + images}))


async def list_models(gateway: Gateway, call: Call, trace: Trace) -> Reply:
    """GET /v1/models: the models that the caller's team has been granted and its key may use."""
    snapshot = gateway.configuration.snapshot
    caller = await authenticate(gateway, call, trace)
    granted = (model for model in snapshot.models.values() if caller.team_id in model.granted_teams)
    return Reply(body=render_models(model for model in granted if caller.may_use(model.catalogue_name)))


async def show_model(gateway: Gateway, call: Call, trace: Trace) -> Reply:
    """GET /v1/models/{id}: one of them."""
    snapshot = gateway.configuration.snapshot
    caller = await authenticate(gateway, call, trace)
    return Reply(body=render_model(find_granted_model(snapshot, caller, call.path_model or "", trace)))
