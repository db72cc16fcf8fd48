"""POST /v1/messages, Anthropic's form of a chat."""

import msgspec

from billing.estimate import Extent
from billing.usage import Usage
from routing.dialects.base import Relay
from routing.dialects.events import Event, Reported, text_of
from routing.dialects.messages_reader import MessagesReader
from routing.dialects.passed_relay import PassedRelay
from routing.endpoints.base import Prompt, Request, encode
from routing.endpoints.bounds import Bounds, beyond, check_max_tokens
from routing.endpoints.chat import (
    PROMPT_OVERHEAD,
    TEMPLATE_TOKENS,
    TOKENS_PER_MESSAGE,
    TOOLS_TOKENS,
    AtLeastOne,
    Message,
)
from routing.endpoints.media import measure_media
from routing.endpoints.reading import Checked, end_user_of, is_null, model_of, read_json
from routing.endpoints.usage import decode_leniently, texts_in
from routing.errors import ANTHROPIC
from teams.errors import field_invalid

_READ_BESIDE = ("system", "tools", "output_config")
_TELLING = (b'"usage"', b"message_stop", b'"error"')


class _Messages(Checked):
    messages: list[Message] = msgspec.field(default_factory=list)
    max_tokens: AtLeastOne | None = None
    tools: list[msgspec.Raw] | None = None


_decoder = msgspec.json.Decoder(_Messages)


class MessagesEndpoint:
    """See base.Endpoint."""

    operation = "messages"
    path = "messages"
    wire = ANTHROPIC
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

    def extent(self, request: Request) -> Extent:
        """See base.Endpoint. The bytes as they were sent, names and braces and all, but for what is no text."""
        media = measure_media(request.media) if request.media else Extent()
        sent = [request.fields[name] for name in _READ_BESIDE if not is_null(request.fields, name)]
        text_bytes = sum([len(memoryview(raw)) for raw in (request.fields["messages"], *sent)])
        hidden = TEMPLATE_TOKENS + (0 if is_null(request.fields, "tools") else TOOLS_TOKENS)
        return Extent(max(text_bytes + media.text_bytes, 0), media.tokens + hidden, media.images)

    def prompt(self, request: Request) -> Prompt:
        """See base.Endpoint: the texts of the messages and of the system, and the tools as they are sent."""
        messages = decode_leniently(request.fields["messages"])
        texts = texts_in(messages, is_prompt=True)
        if not is_null(request.fields, "system"):
            texts += texts_in(decode_leniently(request.fields["system"]), is_prompt=True)
        texts += [
            bytes(request.fields[name]).decode("utf-8", "replace")
            for name in ("tools", "output_config")
            if not is_null(request.fields, name)
        ]
        count = len(messages) if isinstance(messages, list) else 1
        media = measure_media(request.media) if request.media else Extent()
        return Prompt(texts, TOKENS_PER_MESSAGE * count + PROMPT_OVERHEAD + media.tokens, media.images)

    def body_for(self, request: Request, upstream_model: str) -> bytes:
        """See base.Endpoint."""
        return encode({**request.fields, "model": upstream_model})

    def answer_usage(self, answer: bytes) -> Usage | None:
        """See base.Endpoint."""
        reports = [event.usage for event in _events(answer) if isinstance(event, Reported)]
        return reports[-1]

    def answer_texts(self, answer: bytes) -> list[str]:
        """See base.Endpoint."""
        return [text for event in _events(answer) if (text := text_of(event))]

    def finish(self, request: Request, answer: bytes) -> bytes:
        """As it came."""
        return answer

    def relay(self, request: Request, request_id: str) -> Relay:
        """See base.Endpoint."""
        return PassedRelay(
            MessagesReader, _TELLING, lambda error, _: self.wire.error_frame(error, request_id)
        )


class CountTokensEndpoint(MessagesEndpoint):
    """POST /v1/messages/count_tokens: what of the above has the prompt."""

    path = "messages/count_tokens"
    needs_max_tokens = False


def _events(answer: bytes) -> list[Event]:
    return MessagesReader().plain(answer)
