"""The small stages of the pipeline: each takes and returns plain values, and says how it fails."""

from billing.ledger import clean_text
from billing.money import price_at
from billing.spool import SpoolFull
from billing.tokens import count_tokens
from billing.usage import Usage
from routing.chat import ChatRequest, answer_texts, prompt_texts, read_answer_usage
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

_TOKENS_PER_MESSAGE = 3  # OpenAI's framing of a message, and as much once for the answer
_PROMPT_OVERHEAD = 3


def reserve_record(gateway: Gateway) -> None:
    """Make sure that the request can be recorded. Refuses with 503 when the spool is full: what cannot be
    accounted for is not done."""
    try:
        gateway.ledger.spool.admit()
    except SpoolFull:
        raise ledger_unavailable() from None


def find_granted_model(snapshot: Snapshot, caller: KeyHolder, name: str, trace: Trace) -> ServedModel:
    """The model a team asks for. Refuses with 404 when unknown, 403 when the team or the key may not use it."""
    trace.model = clean_text(name, 128)
    model = snapshot.models.get(name)
    if model is None:
        raise model_unknown(trace.model)
    if caller.team_id not in model.granted_teams:
        raise model_not_granted(name)
    if not caller.may_use(name):
        raise key_model(name)
    return model


def choose_backend(model: ServedModel, trace: Trace) -> Target:
    """The first backend in the route's order that has a price in force. Refuses with 503 when there is none."""
    for target in model.targets:
        if (price := price_at(target.prices, trace.admitted_at)) is not None:
            trace.target, trace.price = target, price
            return target
    if model.is_draining:
        raise model_draining(model.name)
    raise model_unpriced(model.name) if model.targets else model_unavailable(model.name)


async def call_plain(gateway: Gateway, request: ChatRequest, target: Target, trace: Trace) -> bytes:
    """The backend's whole answer, charged by its figures, or by our count when it gave none that can be true.

    A caller who leaves does not stop the call: it is finished within the backend's time limit and charged.
    A failure is raised; one that the backend may bill all the same is charged at our count of the prompt.
    """
    body = request.body_for(target.upstream_model)
    produced: list[str] = []
    try:
        answer = await gateway.provider(target.provider).complete(target, body, str(trace.request_id))
        trace.first_byte_arrived()
        try:
            usage = read_answer_usage(answer)
        except ValueError:
            raise backend_bad_answer() from None
        if usage is None:
            produced = answer_texts(answer)
            usage = await estimate(gateway, request, produced)
        trace.charge(usage)
    except BaseException as error:
        if not isinstance(error, GatewayError) or error.may_have_cost:
            trace.charge(await estimate(gateway, request, produced))
        raise
    return answer


async def estimate(gateway: Gateway, request: ChatRequest, produced: list[str]) -> Usage:
    """Our own count of a call: its prompt, and the texts the backend is known to have produced."""
    texts, messages = prompt_texts(request)
    return Usage(
        input_tokens=await count_tokens(gateway.counter, texts)
        + _TOKENS_PER_MESSAGE * messages
        + _PROMPT_OVERHEAD,
        output_tokens=await count_tokens(gateway.counter, produced),
        estimated=True,
    )
