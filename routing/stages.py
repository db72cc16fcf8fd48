"""The small stages of the pipeline: each takes and returns plain values, and says how it fails."""

from billing.ledger import clean_text
from billing.spool import SpoolFull
from billing.tokens import count_tokens
from billing.usage import MOST_TOKENS, Usage
from routing.call import Call
from routing.endpoints.base import Request
from routing.endpoints.bounds import check_max_tokens
from routing.endpoints.usage import has_text
from routing.gateway import Gateway
from routing.providers.base import backend_bad_answer
from routing.snapshot import ServedModel, Snapshot, Target
from routing.trace import Trace
from teams.errors import (
    GatewayError,
    key_model,
    ledger_unavailable,
    model_draining,
    model_not_granted,
    model_unavailable,
    model_unknown,
    model_unpriced,
)
from teams.key_holder import KeyHolder

_BYTES_PER_TOKEN = 4
_LONGEST_ANSWER = 4_096  # in tokens, of who sets no bound


def reserve_record(gateway: Gateway) -> None:
    """Make sure that the request can be recorded. Refuses with 503 when the spool is full: what cannot be
    accounted for is not done."""
    try:
        gateway.ledger.spool.admit()
    except SpoolFull:
        raise ledger_unavailable() from None


def find_granted_model(snapshot: Snapshot, caller: KeyHolder, name: str, trace: Trace) -> ServedModel:
    """The model a team asks for, by its name or an alias. Refuses with 404 when unknown, 403 when the team or the
    key may not use it."""
    trace.model = clean_text(name, 128)
    model = snapshot.models.get(name)
    if model is None:
        raise model_unknown(trace.model)
    if model.alias_of:
        trace.model, trace.model_alias = model.alias_of, name
    if caller.team_id not in model.granted_teams:
        raise model_not_granted(name)
    if not caller.may_use(model.catalogue_name):
        raise key_model(name)
    return model


def check_model_bounds(model: ServedModel, request: Request) -> None:
    """Refuse with 400 an answer that is asked to be longer than the model's can be."""
    check_max_tokens(request.max_tokens_field, request.max_tokens, model.max_output_tokens)


def choose_backend(model: ServedModel, trace: Trace) -> Target:
    """The first backend in the route's order that has a price in force. Refuses with 503 when there is none."""
    for target in model.targets:
        if (price := target.price_at(trace.admitted_at)) is not None:
            trace.target, trace.price = target, price
            return target
    if model.is_draining:
        raise model_draining(model.name)
    raise model_unpriced(model.name) if model.targets else model_unavailable(model.name)


def begin_call(gateway: Gateway, reserve: Usage, trace: Trace) -> None:
    """The last step before a backend is called: from here on the request has a record, whatever happens."""
    gateway.record_begin(trace, reserve)
    trace.call_begins()


def reserve_usage(call: Call, request: Request, model: ServedModel) -> Usage:
    """What a call may use, before it is made: a quarter of its body's bytes as prompt, and for every answer the
    longest it may be."""
    longest = request.max_tokens or min(model.max_output_tokens or _LONGEST_ANSWER, _LONGEST_ANSWER)
    return Usage(
        input_tokens=-(-len(call.body) // _BYTES_PER_TOKEN),
        output_tokens=min(longest * request.choices, MOST_TOKENS),
        estimated=True,
    )


async def call_plain(gateway: Gateway, request: Request, target: Target, trace: Trace) -> bytes:
    """The backend's whole answer, charged by its figures, or by our count when it gave none that can be true.

    A caller who leaves does not stop the call: it is finished within the backend's time limit and charged.
    A failure is raised; one that the backend may bill all the same is charged at our count of the prompt.
    """
    endpoint, body = request.endpoint, request.body_for(target.upstream_model)
    produced: list[str] = []
    try:
        provider = gateway.provider(target.provider)
        answer = await provider.complete(target, endpoint.path, body, str(trace.request_id))
        trace.first_byte_arrived()
        try:
            usage = endpoint.answer_usage(answer)
        except ValueError:
            raise backend_bad_answer() from None
        if usage is None or not usage.output_tokens:
            produced = endpoint.answer_texts(answer)
        if usage is None or has_text(produced):  # figures of no output beside a text cannot be true
            usage = await estimate(gateway, request, produced)
        trace.charge(usage)
    except BaseException as error:
        if not isinstance(error, GatewayError) or error.may_have_cost:
            trace.charge(await estimate(gateway, request, produced))
        raise
    return endpoint.finish(request, answer)


async def estimate(gateway: Gateway, request: Request, produced: list[str]) -> Usage:
    """Our own count of a call: its prompt, and the texts the backend is known to have produced."""
    prompt = request.endpoint.prompt(request)
    return Usage(
        input_tokens=await count_tokens(gateway.counter, prompt.texts) + prompt.tokens,
        output_tokens=await count_tokens(gateway.counter, produced),
        estimated=True,
    )
