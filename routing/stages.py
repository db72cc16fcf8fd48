"""The small stages of the pipeline: each takes and returns plain values, and says how it fails."""

from billing.estimate import Candidate, Estimate
from billing.images import image_tokens
from billing.ledger import clean_text
from billing.spool import SpoolFull
from billing.tokens import count_tokens
from billing.usage import Usage
from routing.attempts import Attempts
from routing.dialects.table import find_exchange
from routing.endpoints.base import Prompt, Request
from routing.endpoints.bounds import check_max_tokens
from routing.endpoints.usage import has_text
from routing.gateway import Gateway
from routing.providers.base import backend_bad_answer
from routing.reach import Reach
from routing.snapshot import ServedModel, Snapshot, Target
from routing.trace import Trace
from teams.errors import (
    GatewayError,
    internal_error,
    key_model,
    ledger_unavailable,
    model_not_granted,
    model_unknown,
)
from teams.key_holder import KeyHolder


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


def bound_call(gateway: Gateway, request: Request, reach: Reach, trace: Trace) -> Estimate:
    """The most a call may use and cost, by the size of its prompt: see billing/estimate.py."""
    longest = (request.max_tokens or reach.longest_answer) + request.predicted_bytes
    extent = request.endpoint.extent(request)
    return gateway.estimator.bound(
        trace.model, extent, longest * request.choices, list_candidates(reach, trace)
    )


async def count_call(
    gateway: Gateway, request: Request, reach: Reach, trace: Trace, bound: Estimate
) -> Estimate:
    """`bound` made sharper by counting the prompt: for a call that a budget refuses at its bound."""
    prompt = request.endpoint.prompt(request)
    count = prompt.tokens + await count_tokens(gateway.counter, prompt.texts)
    candidates = list_candidates(reach, trace)
    return gateway.estimator.counted(trace.model, bound, count, prompt.images, candidates)


def list_candidates(reach: Reach, trace: Trace) -> list[Candidate]:
    """The backends that may come to serve the call, with what they cost."""
    priced = ((target.upstream_model, target.price_at(trace.admitted_at)) for target in reach.targets)
    return [Candidate(upstream, price) for upstream, price in priced if price is not None]


async def call_plain(gateway: Gateway, request: Request, attempts: Attempts, trace: Trace) -> bytes:
    """The whole answer of the first backend that gives one."""
    while True:
        try:
            answer = await call_backend(gateway, request, attempts.target, trace)
        except GatewayError as error:
            if not await attempts.go_on(error):
                raise
        except BaseException:
            attempts.end(internal_error())
            raise
        else:
            attempts.end(None)
            return answer


async def call_backend(gateway: Gateway, request: Request, target: Target, trace: Trace) -> bytes:
    """One backend's whole answer, charged by its figures, or by our count when it gave none that can be true.

    A caller who leaves does not stop the call: it is finished within the backend's time limit and charged.
    A failure is raised; one that the backend may bill all the same is charged at our count of the prompt.
    """
    exchange, request_id = find_exchange(request, target, trace), trace.id
    produced: list[str] = []
    try:
        provider, body = gateway.provider(target.provider), exchange.body(target.upstream_model)
        received = await provider.complete(target, exchange.path, body, request_id)
        trace.first_byte_arrived()
        try:
            answer = exchange.read(received)
        except ValueError:
            raise backend_bad_answer() from None
        usage = answer.usage
        if usage is None or not usage.output_tokens:
            produced = answer.texts()
        if usage is None or has_text(produced):  # figures of no output beside a text cannot be true
            usage = await count_use(gateway, request, target, produced)
        trace.charge(usage)
    except BaseException as error:
        if not isinstance(error, GatewayError) or error.may_have_cost:
            trace.charge(await count_use(gateway, request, target, produced))
        raise
    return answer.body(trace.usage)


async def count_use(gateway: Gateway, request: Request, target: Target, produced: list[str]) -> Usage:
    """Our own count of a call: its prompt, and the texts the backend is known to have produced."""
    prompt = request.endpoint.prompt(request)
    images = sum_images(prompt, target.upstream_model)
    return Usage(
        input_tokens=await count_tokens(gateway.counter, prompt.texts) + prompt.tokens + images,
        output_tokens=await count_tokens(gateway.counter, produced),
        estimated=True,
    )


def sum_images(prompt: Prompt, upstream_model: str) -> int:
    """Tokens of a prompt's images for a provider's model."""
    return sum([image_tokens(image, upstream_model) for image in prompt.images])
