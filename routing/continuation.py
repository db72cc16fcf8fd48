"""A stream whose backend dies after its first byte, continued by another: for teams that chose so.

Only a text can be continued: the model is told what it has said so far and to go on. What is cut in the middle of a
tool call, of thinking, or of a shape that was asked for, ends with an error as ever.
"""

from dataclasses import replace
from typing import Any

import msgspec

from routing.endpoints.base import Request, encode
from routing.endpoints.reading import is_null

GO_ON = (
    "Your answer was cut off. Continue it exactly where it stops: begin with the very next character, repeat nothing, "
    "and do not mention this."
)
_LISTS = {"chat": "messages", "messages": "messages", "responses": "input"}
_BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_SHAPES = ("response_format", "output_config", "text")
# A stream that may be continued is read and written anew: of these something would be lost.
_NOT_RETOLD = ("logprobs", "top_logprobs", "functions", "include", "audio", "modalities")


def may_be_continued(request: Request) -> bool:
    """Whether another model could go on with a cut answer to it."""
    if request.endpoint.operation not in _LISTS or request.choices != 1:
        return False
    return all(is_null(request.fields, name) for name in (*_SHAPES, *_NOT_RETOLD)) and not _has_server_tools(
        request
    )


def _has_server_tools(request: Request) -> bool:
    """Whether a provider's own tools may put blocks into the answer for which there is no place when it is retold."""
    raw = request.fields.get("tools")
    if raw is None or bytes(raw) == b"null":
        return False
    tools = msgspec.json.decode(raw)
    kinds = ("function", "custom", None)
    return any(isinstance(tool, dict) and tool.get("type") not in kinds for tool in tools)


def continue_request(request: Request, said: str, tokens: int) -> Request | None:
    """The same question after the model has said so much, so many tokens; None where its bound leaves none."""
    name = _LISTS[request.endpoint.operation]
    given = msgspec.json.decode(request.fields[name])
    turns: list[Any] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    turns = [*turns, {"role": "assistant", "content": said}, {"role": "user", "content": GO_ON}]
    fields = {**request.fields, name: msgspec.Raw(encode(turns))}
    left = None if request.max_tokens is None else request.max_tokens - tokens
    if left is not None:
        if left < 1:
            return None
        fields |= {bound: msgspec.Raw(encode(left)) for bound in _BOUNDS if not is_null(fields, bound)}
    return replace(request, fields=fields, max_tokens=left, carried={})
