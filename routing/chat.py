"""The OpenAI chat dialect: reads what the gateway must know of a request and an answer, and nothing more.

Bodies are kept as their raw fields, so whatever the caller or the backend adds passes through untouched.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from billing.usage import UnusableUsage, Usage
from routing.snapshot import ServedModel
from teams.errors import GatewayError, body_invalid_json, field_invalid

CHAT_PATH = "chat/completions"
_MOST_MESSAGES = 10_000


class _Message(msgspec.Struct):
    role: str


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Checked(msgspec.Struct):
    """The fields whose type decides what we do; the backend judges the rest."""

    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """`usage` as OpenAI-compatible backends report it."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    def normalised(self) -> Usage:
        """Our form of it; OpenAI's prompt tokens include the cached ones. Raises UnusableUsage.

        Completion tokens include the reasoning ones, but for backends that report them beside: then
        reasoning can be the larger figure, and both count.
        """
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        reasoning = (completion.reasoning_tokens or 0) if completion else 0
        is_beside = reasoning > self.completion_tokens >= 0
        return Usage(
            input_tokens=self.prompt_tokens,
            cached_input_tokens=(prompt.cached_tokens or 0) if prompt else 0,
            cache_write_tokens=(prompt.cache_write_tokens or 0) if prompt else 0,
            output_tokens=self.completion_tokens + (reasoning if is_beside else 0),
            reasoning_tokens=reasoning,
        )


class _Answer(msgspec.Struct):
    choices: msgspec.Raw = msgspec.Raw(b"null")
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_checked = msgspec.json.Decoder(_Checked).decode
_decode_usage = msgspec.json.Decoder(WireUsage).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked request. `fields` are the raw top-level fields as sent."""

    model: str
    stream: bool
    wants_usage: bool
    end_user: str
    fields: dict[str, msgspec.Raw]

    def body_for(self, upstream_model: str) -> bytes:
        """The body for a backend: its own model name, and usage always asked for on streams."""
        fields: dict[str, Any] = {**self.fields, "model": upstream_model}
        if self.stream:
            options = _decode_fields(self.fields["stream_options"]) if self.sent_options else {}
            fields["stream_options"] = {**options, "include_usage": True}
        return _encode(fields)

    @property
    def sent_options(self) -> bool:
        """Whether the caller sent a `stream_options` object."""
        return bytes(self.fields.get("stream_options", b"null")) != b"null"


def read_chat_request(body: bytes) -> ChatRequest:
    """Check `body`. Raises GatewayError: invalid JSON, or a field that is missing or of the wrong type."""
    try:
        body.decode()  # raw fields are passed on unread, so their UTF-8 is checked here
        checked = _decode_checked(body)
        fields = _decode_fields(body)
    except msgspec.ValidationError as error:
        raise _explain(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise body_invalid_json() from None
    if not checked.model:
        raise field_invalid("model", "'model' must not be empty.")
    if not 0 < len(checked.messages) <= _MOST_MESSAGES:
        raise field_invalid("messages", f"'messages' must hold 1 to {_MOST_MESSAGES} messages.")
    options = checked.stream_options
    return ChatRequest(
        model=checked.model,
        stream=bool(checked.stream),
        wants_usage=bool(options and options.include_usage),
        end_user=checked.safety_identifier or checked.user or "",
        fields=fields,
    )


def _explain(error: msgspec.ValidationError) -> GatewayError:
    """msgspec says `Expected ..., got ... - at `$.messages[0].role``; the path becomes `param`."""
    problem, _, place = str(error).partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    if not path and "required field" in problem:
        path = problem.rsplit("`", 2)[-2]
        return field_invalid(path, f"Missing required field: {path!r}.")
    where = f"in {path!r}" if path else "in the body"
    return field_invalid(path or None, f"Invalid type {where}: {problem[:1].lower()}{problem[1:]}.")


def read_usage(raw: msgspec.Raw | bytes) -> Usage | None:
    """The figures of a `usage` object, or None when they are absent or cannot be true."""
    try:
        return _decode_usage(raw).normalised()
    except (msgspec.DecodeError, UnusableUsage):
        return None


def read_answer_usage(body: bytes) -> Usage | None:
    """The usage of a plain answer, None when it is missing or unusable.

    Raises ValueError when the body is not the JSON of an answer: broken, without choices, or an error.
    """
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("the answer is not valid JSON") from None
    if bytes(answer.error) != b"null" or not bytes(answer.choices).startswith(b"["):
        raise ValueError("the answer holds no choices")
    return read_usage(answer.usage)


def decode_leniently(raw: bytes | msgspec.Raw) -> Any:
    """JSON for counting: invalid UTF-8 is replaced, and what cannot be read is the text it is."""
    text = bytes(raw).decode("utf-8", "replace")
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def prompt_texts(request: ChatRequest) -> tuple[list[str], int]:
    """The texts of the messages and, as they are sent, of the tools; and the number of messages."""
    messages = decode_leniently(request.fields["messages"])
    tools = bytes(request.fields.get("tools", b"null"))
    texts = texts_in(messages, _PROMPT_FIELDS) + (
        [tools.decode("utf-8", "replace")] if tools != b"null" else []
    )
    return texts, len(messages) if isinstance(messages, list) else 1


def answer_texts(body: bytes) -> list[str]:
    """The texts of a plain answer's choices; the whole of it when it cannot be read."""
    answer = decode_leniently(body)
    return texts_in(answer.get("choices") if isinstance(answer, dict) else answer)


_ANSWER_FIELDS = frozenset(
    {
        "content",
        "text",
        "refusal",
        "reasoning_content",
        "name",
        "arguments",
        "tool_calls",
        "function",
        "message",
        "delta",
    }
)
_PROMPT_FIELDS = _ANSWER_FIELDS | {"role"}


def texts_in(value: Any, fields: frozenset[str] = _ANSWER_FIELDS) -> list[str]:
    """Every text a token count must cover, from decoded messages or choices; images count nothing here."""
    texts, rest = [], [value]
    while rest:  # no recursion: a caller may nest as deep as the parser allows
        item = rest.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, list):
            rest.extend(reversed(item))
        elif isinstance(item, dict):
            rest.extend(reversed([inner for name, inner in item.items() if name in fields]))
    return texts


def render_models(models: Iterable[ServedModel]) -> bytes:
    """The body of GET /v1/models."""
    data = [
        {
            "id": model.name,
            "object": "model",
            "created": int(model.created_at.timestamp()),
            "owned_by": "gateway",
        }
        for model in sorted(models, key=lambda model: model.name)
    ]
    return _encode({"object": "list", "data": data})
