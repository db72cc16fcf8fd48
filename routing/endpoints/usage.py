"""`usage` as OpenAI-compatible backends report it, and texts to count where they do not."""

from collections.abc import Iterable
from typing import Any

import msgspec

from billing.usage import UnusableUsage, Usage


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """The figures on the wire."""

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
    data: msgspec.Raw = msgspec.Raw(b"null")
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode_usage = msgspec.json.Decoder(WireUsage).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


def read_usage(raw: msgspec.Raw | bytes) -> Usage | None:
    """The figures of a `usage` object, or None when they are absent or cannot be true: no prompt has no token."""
    try:
        usage = _decode_usage(raw).normalised()
    except (msgspec.DecodeError, UnusableUsage):
        return None
    return usage if usage.input_tokens else None


def decode_answer(body: bytes, content: str) -> _Answer:
    """A plain answer whose field `content` is a list. Raises ValueError: broken JSON, another thing, an error."""
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("the answer is not valid JSON") from None
    if bytes(answer.error) != b"null" or not bytes(getattr(answer, content)).startswith(b"["):
        raise ValueError(f"the answer holds no {content}")
    return answer


def decode_leniently(raw: bytes | msgspec.Raw) -> Any:
    """JSON for counting: invalid UTF-8 is replaced, and what cannot be read is the text it is."""
    text = bytes(raw).decode("utf-8", "replace")
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


# Strings that are no tokens of the model's: names of things, addresses, encoded bytes, and what repeats a text.
_NO_TEXT = frozenset(
    {
        "id", "type", "index", "tool_call_id", "finish_reason", "logprobs", "annotations", "image_url", "url",
        "detail", "file", "data", "format", "cache_control", "obfuscation", "media_type", "signature",
        "tool_use_id", "call_id", "encrypted_content", "file_data",
    }
)  # fmt: skip
_NO_ANSWER_TEXT = _NO_TEXT | {"role"}


def texts_in(value: Any, *, is_prompt: bool = False) -> list[str]:
    """Every text a token count must cover, from decoded messages or choices: all strings but a few known ones, so
    that newer kinds of text count too. The role is one of them in a prompt."""
    skipped = _NO_TEXT if is_prompt else _NO_ANSWER_TEXT
    texts, rest = [], [value]
    while rest:  # no recursion: a caller may nest as deep as the parser allows
        item = rest.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, list):
            rest.extend(reversed(item))
        elif isinstance(item, dict):
            rest.extend(reversed([inner for name, inner in item.items() if name not in skipped]))
    return texts


def has_text(texts: Iterable[str]) -> bool:
    """Whether anything was said."""
    return any(texts)


def choice_texts(answer: bytes) -> list[str]:
    """The texts of a plain answer's choices; the whole of it when it cannot be read."""
    decoded = decode_leniently(answer)
    return texts_in(decoded.get("choices") if isinstance(decoded, dict) else decoded)
