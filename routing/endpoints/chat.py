"""POST /v1/chat/completions."""

import msgspec

from billing.usage import Usage
from routing.dialects.base import Relay
from routing.endpoints.base import Request, body_asking_usage
from routing.endpoints.bounds import Bounds, beyond, check_max_tokens
from routing.endpoints.conversation import AtLeastOne, Conversation, Message
from routing.endpoints.reading import Checked, end_user_of, is_null, model_of, read_json
from routing.endpoints.usage import (
    choice_texts,
    decode_answer,
    read_usage,
)
from routing.errors import OPENAI
from routing.frames import FrameRelay
from teams.errors import field_invalid


class _Chat(Checked):
    messages: list[Message] = msgspec.field(default_factory=list)
    n: AtLeastOne | None = None
    max_tokens: AtLeastOne | None = None
    max_completion_tokens: AtLeastOne | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    prediction: msgspec.Raw = msgspec.Raw(b"null")


_decoder = msgspec.json.Decoder(_Chat)


class ChatEndpoint(Conversation):
    """See base.Endpoint."""

    operation = "chat"
    path = "chat/completions"
    wire = OPENAI
    sent_beside = ("tools", "functions", "response_format", "prediction")

    def read(self, body: bytes, bounds: Bounds, path_model: str | None) -> Request:
        """See base.Endpoint."""
        chat, fields = read_json(body, _decoder)
        _check_bounds(chat, "messages" in fields, bounds)
        # A backend may know only one of the two: the larger is what the answer can come to.
        max_tokens, named = max(
            (chat.max_tokens or 0, "max_tokens"), (chat.max_completion_tokens or 0, "max_completion_tokens")
        )
        return Request(
            endpoint=self,
            model=model_of(chat, path_model),
            stream=bool(chat.stream),
            wants_usage=bool(chat.stream_options and chat.stream_options.include_usage),
            end_user=end_user_of(chat, fields),
            choices=chat.n or 1,
            max_tokens=max_tokens or None,
            max_tokens_field=named,
            fields=fields,
            predicted_bytes=0 if is_null(fields, "prediction") else len(bytes(chat.prediction)),
            media=tuple(m.content for m in chat.messages if bytes(m.content).startswith(b"[")),
        )

    def body_for(self, request: Request, upstream_model: str) -> bytes:
        """See base.Endpoint."""
        return body_asking_usage(request, upstream_model)

    def answer_usage(self, answer: bytes) -> Usage | None:
        """See base.Endpoint."""
        return read_usage(decode_answer(answer, "choices").usage)

    def answer_texts(self, answer: bytes) -> list[str]:
        """See base.Endpoint."""
        return choice_texts(answer)

    def relay(self, request: Request, request_id: str) -> Relay:
        """See base.Endpoint."""
        return FrameRelay(wants_usage=request.wants_usage)


def _check_bounds(chat: _Chat, has_messages: bool, bounds: Bounds) -> None:
    if not has_messages:
        raise field_invalid("messages", "Missing required field: 'messages'.")
    if not chat.messages:
        raise field_invalid("messages", "'messages' must hold at least one message.")
    if len(chat.messages) > bounds.messages:
        raise beyond("messages", "there may be", bounds.messages)
    for name, tools in (("tools", chat.tools), ("functions", chat.functions)):
        if tools is not None and len(tools) > bounds.tools:
            raise beyond(name, "there may be", bounds.tools)
    if chat.n is not None and chat.n > bounds.choices:
        raise beyond("n", "it may be", bounds.choices)
    check_max_tokens("max_tokens", chat.max_tokens, bounds.tokens)
    check_max_tokens("max_completion_tokens", chat.max_completion_tokens, bounds.tokens)
