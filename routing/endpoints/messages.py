"""POST /v1/messages, Anthropic's form of a chat."""

import msgspec

from routing.dialects.base import Relay
from routing.dialects.messages_reader import MessagesReader
from routing.dialects.passed_relay import PassedRelay
from routing.endpoints.base import Request, encode
from routing.endpoints.bounds import Bounds, beyond, check_max_tokens
from routing.endpoints.conversation import AtLeastOne, EventConversation, Message
from routing.endpoints.reading import Checked, end_user_of, model_of, read_json
from routing.errors import ANTHROPIC
from teams.errors import field_invalid

_TELLING = (b'"usage"', b"message_stop", b'"error"')


class _Messages(Checked):
    messages: list[Message] = msgspec.field(default_factory=list)
    max_tokens: AtLeastOne | None = None
    tools: list[msgspec.Raw] | None = None


_decoder = msgspec.json.Decoder(_Messages)


class MessagesEndpoint(EventConversation):
    """See base.Endpoint."""

    operation = "messages"
    path = "messages"
    wire = ANTHROPIC
    texts_beside = ("system",)
    sent_beside = ("tools", "output_config")
    reader = MessagesReader
    needs_max_tokens = True

    def read(self, body: bytes, bounds: Bounds, path_model: str | None) -> Request:
        """See base.Endpoint."""
        messages, fields = read_json(body, _decoder)
        if "messages" not in fields:
            raise field_invalid("messages", "messages: Field required.")
        if not messages.messages:
            raise field_invalid("messages", "messages: at least one message is required.")
        if len(messages.messages) > bounds.messages:
            raise beyond("messages", "there may be", bounds.messages)
        if messages.tools is not None and len(messages.tools) > bounds.tools:
            raise beyond("tools", "there may be", bounds.tools)
        if messages.max_tokens is None and self.needs_max_tokens:
            raise field_invalid("max_tokens", "max_tokens: Field required.")
        check_max_tokens("max_tokens", messages.max_tokens, bounds.tokens)
        return Request(
            endpoint=self,
            model=model_of(messages, path_model),
            stream=bool(messages.stream),
            wants_usage=True,
            end_user=end_user_of(messages, fields),
            choices=1,
            max_tokens=messages.max_tokens,
            max_tokens_field="max_tokens",
            fields=fields,
            media=tuple(m.content for m in messages.messages if bytes(m.content).startswith(b"[")),
        )

    def body_for(self, request: Request, upstream_model: str) -> bytes:
        """See base.Endpoint."""
        return encode({**request.fields, "model": upstream_model})

    def relay(self, request: Request, request_id: str) -> Relay:
        """See base.Endpoint."""
        return PassedRelay(
            MessagesReader, _TELLING, lambda error, _: self.wire.error_frame(error, request_id)
        )


class CountTokensEndpoint(MessagesEndpoint):
    """POST /v1/messages/count_tokens: what of the above has the prompt."""

    path = "messages/count_tokens"
    needs_max_tokens = False
