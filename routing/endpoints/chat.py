"""POST /v1/chat/completions."""

from typing import Annotated

import msgspec

from billing.usage import Usage
from routing.endpoints.base import Prompt, Request
from routing.endpoints.bounds import Bounds, beyond, check_max_tokens
from routing.endpoints.reading import Checked, end_user_of, is_null, model_of, read_json
from routing.endpoints.usage import (
    choice_texts,
    count_images,
    decode_answer,
    decode_leniently,
    read_usage,
    texts_in,
)
from teams.errors import field_invalid

_TOKENS_PER_MESSAGE = 3  # OpenAI's framing of a message, and as much once for the answer
_PROMPT_OVERHEAD = 3
_TOKENS_PER_IMAGE = 85  # the least that OpenAI counts for one
_READ_BESIDE = ("tools", "functions", "response_format", "prediction")
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class _Message(msgspec.Struct):
    role: str


class _Chat(Checked):
    messages: list[_Message] = msgspec.field(default_factory=list)
    n: AtLeastOne | None = None
    max_tokens: AtLeastOne | None = None
    max_completion_tokens: AtLeastOne | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None


_decoder = msgspec.json.Decoder(_Chat)


class ChatEndpoint:
    """See base.Endpoint."""

    operation = "chat"
    path = "chat/completions"

    def read(self, body: bytes, bounds: Bounds, path_model: str | None) -> Request:
        """See base.Endpoint."""
        chat, fields = read_json(body, _decoder)
        _check_bounds(chat, "messages" in fields, bounds)
        named = "max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens"
        return Request(
            endpoint=self,
            model=model_of(chat, path_model),
            stream=bool(chat.stream),
            wants_usage=bool(chat.stream_options and chat.stream_options.include_usage),
            end_user=end_user_of(chat, fields),
            choices=chat.n or 1,
            max_tokens=chat.max_tokens if named == "max_tokens" else chat.max_completion_tokens,
            max_tokens_field=named,
            fields=fields,
        )

    def prompt(self, request: Request) -> Prompt:
        """The texts of the messages and, as they are sent, of what the model reads beside them."""
        messages = decode_leniently(request.fields["messages"])
        texts = texts_in(messages, is_prompt=True)
        texts += [
            bytes(request.fields[name]).decode("utf-8", "replace")
            for name in _READ_BESIDE
            if not is_null(request.fields, name)
        ]
        count = len(messages) if isinstance(messages, list) else 1
        images = _TOKENS_PER_IMAGE * count_images(messages)
        return Prompt(texts, _TOKENS_PER_MESSAGE * count + _PROMPT_OVERHEAD + images)

    def answer_usage(self, answer: bytes) -> Usage | None:
        """See base.Endpoint."""
        return read_usage(decode_answer(answer, "choices").usage)

    def answer_texts(self, answer: bytes) -> list[str]:
        """See base.Endpoint."""
        return choice_texts(answer)

    def finish(self, request: Request, answer: bytes) -> bytes:
        """As it came."""
        return answer


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
