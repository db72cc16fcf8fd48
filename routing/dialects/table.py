"""Which exchange a request and a backend have: the one place that knows every pair of forms."""

from collections.abc import Callable

from billing.estimate import longest_answer
from routing.dialects.base import Exchange
from routing.dialects.chat_reader import ChatReader
from routing.dialects.chat_to_messages import chat_to_messages, without_sampling
from routing.dialects.fields import Carried, Fields, decode_all
from routing.dialects.messages_reader import MessagesReader
from routing.dialects.messages_to_chat import messages_to_chat
from routing.dialects.messages_writer import MessagesWriter
from routing.dialects.passed import Passed, Retold
from routing.dialects.readers import Reader
from routing.dialects.responses_to_chat import responses_to_chat
from routing.dialects.responses_writer import ResponsesWriter
from routing.dialects.translated import Translated
from routing.dialects.writers import ChatWriter, Writer
from routing.endpoints.base import Request
from routing.providers.anthropic import NO_SAMPLING_VERSION
from routing.providers.apis import API
from routing.snapshot import ServedModel, Target
from routing.trace import Trace
from teams.errors import GatewayError, endpoint_unsupported

Carry = Callable[[Fields, int], Carried]

# How a request of one operation becomes another's; the number bounds the answer of who sets no bound.
_CARRY: dict[tuple[str, str], Carry] = {
    ("chat", "messages"): lambda fields, most: chat_to_messages(fields, most_tokens=most),
    ("messages", "chat"): lambda fields, _: messages_to_chat(fields),
    ("responses", "chat"): lambda fields, _: responses_to_chat(fields, keeps_thinking=False),
    ("responses", "messages"): lambda fields, most: _responses_to_messages(fields, most),
}
_PATHS = {"chat": "chat/completions", "messages": "messages"}
_READERS: dict[str, Callable[[], Reader]] = {"chat": ChatReader, "messages": MessagesReader}
_WRITERS: dict[str, Callable[[Request, str], Writer]] = {
    "chat": ChatWriter,
    "messages": MessagesWriter,
    "responses": ResponsesWriter,
}


def prepare(request: Request, model: ServedModel, *, most_tokens: int | None = None) -> ServedModel:
    """The model with those of its backends that can take the request; what it is in their forms is kept with it.
    `most_tokens`: the bound of its answer, for forms that need one, where the caller sets none.

    Raises GatewayError when none can: what the first of them has no place for.
    """
    operation = request.endpoint.operation
    forms = [_form(request, target) for target in model.targets]
    if forms.count(operation) == len(forms):
        return model
    refusals: dict[str, GatewayError] = {}
    for form in dict.fromkeys(forms):
        if form != operation and form not in request.carried:
            try:
                request.carried[form] = _carry(request, form, model, most_tokens)
            except GatewayError as error:
                refusals[form] = error
    if not refusals:
        return model
    left = [target for target, form in zip(model.targets, forms, strict=True) if form not in refusals]
    if not left:
        raise next(iter(refusals.values()))
    return model.only(left)


def make_writer(request: Request, trace: Trace) -> Writer:
    """Tells answers in the caller's form."""
    return _WRITERS[request.endpoint.operation](request, trace.id)


def find_exchange(request: Request, target: Target, trace: Trace, writer: Writer | None = None) -> Exchange:
    """How `request`, which was prepared, is put to `target`. `writer`: of a stream that may be continued by another
    backend, the one that tells all of it."""
    operation, request_id = request.endpoint.operation, trace.id
    form = _form(request, target)
    if form == operation:
        trace.dropped = ()
        if writer is not None and form in _READERS:
            return Retold(request, request_id, _READERS[form](), writer)
        return Passed(request, request_id)
    carried = request.carried[form]
    if form == "messages" and target.api_version >= NO_SAMPLING_VERSION:
        carried = without_sampling(carried)
    trace.dropped = tuple(carried.dropped)
    return Translated(
        path=_PATHS[form],
        fields=carried.fields,
        make_reader=_READERS[form],
        make_writer=lambda: writer or make_writer(request, trace),
    )


def _form(request: Request, target: Target) -> str:
    """The operation that the request comes to at a backend: its own where the backend has it."""
    operations, operation = API[target.provider].operations(target), request.endpoint.operation
    if operation in operations:
        return operation
    return next((form for form in operations if (operation, form) in _CARRY), "")


def _carry(request: Request, form: str, model: ServedModel, most_tokens: int | None) -> Carried:
    if (carry := _CARRY.get((request.endpoint.operation, form))) is None:
        raise endpoint_unsupported(model.name, request.endpoint.operation)
    most_tokens = most_tokens or longest_answer(None, model.max_output_tokens)
    carried = carry(decode_all(request.fields), most_tokens)
    if form == "chat" and request.stream:
        carried.fields["stream_options"] = {"include_usage": True}
    return carried


def _responses_to_messages(fields: Fields, most_tokens: int) -> Carried:
    chat = responses_to_chat(fields, keeps_thinking=True)
    carried = chat_to_messages(chat.fields, most_tokens=most_tokens)
    for name in chat.dropped:
        carried.drop(name)
    return carried
