"""POST /v1/responses, OpenAI's newer form of a chat, as far as it goes without state."""

import msgspec

from routing.dialects.base import Relay
from routing.dialects.passed_relay import PassedRelay
from routing.dialects.responses_reader import ResponsesReader
from routing.endpoints.base import Request, encode
from routing.endpoints.bounds import Bounds, beyond, check_max_tokens
from routing.endpoints.conversation import AtLeastOne, EventConversation
from routing.endpoints.reading import Checked, end_user_of, is_null, model_of, read_json
from routing.errors import RESPONSES, responses_error
from teams.errors import GatewayError, field_invalid, parameter_unsupported

_TELLING = (b"response.completed", b"response.incomplete", b"response.failed", b'"error"')


class _Item(msgspec.Struct):
    """As far as the gateway looks: an item of any type."""


class _Responses(Checked):
    input: str | list[_Item] | None = None
    instructions: str | None = None
    max_output_tokens: AtLeastOne | None = None
    tools: list[msgspec.Raw] | None = None
    store: bool | None = None
    background: bool | None = None


_decoder = msgspec.json.Decoder(_Responses)


class ResponsesEndpoint(EventConversation):
    """See base.Endpoint."""

    operation = "responses"
    path = "responses"
    wire = RESPONSES
    turns = "input"
    sent_beside = ("instructions", "tools", "text")
    reader = ResponsesReader

    def read(self, body: bytes, bounds: Bounds, path_model: str | None) -> Request:
        """See base.Endpoint. What would need an earlier call's state, or leave some behind, is refused."""
        asked, fields = read_json(body, _decoder)
        _refuse_state(asked, fields)
        if asked.input is None:
            raise field_invalid("input", "Missing required field: 'input'.")
        if not asked.input:
            raise field_invalid("input", "'input' must not be empty.")
        if isinstance(asked.input, list) and len(asked.input) > bounds.messages:
            raise beyond("input", "there may be", bounds.messages)
        if asked.tools is not None and len(asked.tools) > bounds.tools:
            raise beyond("tools", "there may be", bounds.tools)
        check_max_tokens("max_output_tokens", asked.max_output_tokens, bounds.tokens)
        return Request(
            endpoint=self,
            model=model_of(asked, path_model),
            stream=bool(asked.stream),
            wants_usage=True,
            end_user=end_user_of(asked, fields),
            choices=1,
            max_tokens=asked.max_output_tokens,
            max_tokens_field="max_output_tokens",
            fields=fields,
            media=() if isinstance(asked.input, str) else (fields["input"],),
        )

    def body_for(self, request: Request, upstream_model: str) -> bytes:
        """See base.Endpoint. The provider is told to keep nothing: by itself it would."""
        return encode({**request.fields, "model": upstream_model, "store": False})

    def relay(self, request: Request, request_id: str) -> Relay:
        """See base.Endpoint."""
        return PassedRelay(ResponsesReader, _TELLING, responses_error)


def _refuse_state(asked: _Responses, fields: dict[str, msgspec.Raw]) -> None:
    if asked.store:
        raise _stateful("store", "Responses are not kept here: leave 'store' out, or set it to false.")
    if asked.background:
        raise _stateful("background", "Responses are not made in the background here.")
    for name in ("previous_response_id", "conversation", "prompt"):
        if not is_null(fields, name):
            message = (
                f"Nothing is kept here that {name!r} could name: send the whole input with each request."
            )
            raise _stateful(name, message)


def _stateful(param: str, message: str) -> GatewayError:
    return parameter_unsupported(param, message)
