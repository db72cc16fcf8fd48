"""What the forms of a chat have in common: how large a prompt is, and reading a plain answer by its events."""

from collections.abc import Callable
from typing import Annotated, Protocol

import msgspec

from billing.estimate import Extent
from billing.usage import Usage
from routing.dialects.events import Event, Reported, text_of
from routing.endpoints.base import Prompt, Request
from routing.endpoints.media import measure_media
from routing.endpoints.reading import is_null
from routing.endpoints.usage import decode_leniently, texts_in

TOKENS_PER_MESSAGE = 3  # OpenAI's framing of a message, and as much once for the answer
PROMPT_OVERHEAD = 3
# Text that the caller does not send: what chat templates of open models put first, and what Anthropic documents as
# the most that tools add. OpenAI's own framing has fewer tokens than its JSON has bytes.
TEMPLATE_TOKENS = 64
TOOLS_TOKENS = 530
_TOOLS = ("tools", "functions")

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class Message(msgspec.Struct):
    """As far as the gateway looks: the content may be of any kind."""

    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")


class Conversation:
    """An endpoint whose prompt is the field `turns`, and beside it what the model reads of other fields: the texts
    of `texts_beside`, and `sent_beside` as they are sent."""

    turns = "messages"
    texts_beside: tuple[str, ...] = ()
    sent_beside: tuple[str, ...]

    def extent(self, request: Request) -> Extent:
        """See base.Endpoint. The bytes as they were sent, names and braces and all, but for what is no text."""
        media = measure_media(request.media) if request.media else Extent()
        sent = _present(request, (self.turns, *self.texts_beside, *self.sent_beside))
        text_bytes = sum([len(memoryview(raw)) for raw in sent]) + media.text_bytes
        hidden = TEMPLATE_TOKENS + (TOOLS_TOKENS if _present(request, _TOOLS) else 0)
        return Extent(max(text_bytes, 0), media.tokens + hidden, media.images)

    def prompt(self, request: Request) -> Prompt:
        """See base.Endpoint: the texts of the turns, and what is read beside them."""
        turns = decode_leniently(request.fields[self.turns])
        texts = texts_in(turns, is_prompt=True)
        for raw in _present(request, self.texts_beside):
            texts += texts_in(decode_leniently(raw), is_prompt=True)
        texts += [bytes(raw).decode("utf-8", "replace") for raw in _present(request, self.sent_beside)]
        media = measure_media(request.media) if request.media else Extent()
        framing = TOKENS_PER_MESSAGE * (len(turns) if isinstance(turns, list) else 1) + PROMPT_OVERHEAD
        return Prompt(texts, framing + media.tokens, media.images)

    def finish(self, request: Request, answer: bytes) -> bytes:
        """As it came."""
        return answer


class _Reader(Protocol):
    def plain(self, answer: bytes) -> list[Event]: ...


class EventConversation(Conversation):
    """One whose plain answers are read by their events."""

    reader: Callable[[], _Reader]

    def answer_usage(self, answer: bytes) -> Usage | None:
        """See base.Endpoint."""
        return [event.usage for event in self._events(answer) if isinstance(event, Reported)][-1]

    def answer_texts(self, answer: bytes) -> list[str]:
        """See base.Endpoint."""
        return [text for event in self._events(answer) if (text := text_of(event))]

    def _events(self, answer: bytes) -> list[Event]:
        return type(self).reader().plain(answer)


def _present(request: Request, names: tuple[str, ...]) -> list[msgspec.Raw]:
    return [request.fields[name] for name in names if not is_null(request.fields, name)]
