"""The simulator's own tokenizer, made to be counted by hand.

A token is one run of letters, digits and underscores, or one other character that is not white space:
`"Hello, big world!"` has five.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

IMAGE_TOKENS = 85

_TOKEN = re.compile(r"\w+|[^\w\s]")
_PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")


def count_tokens(text: str) -> int:
    """Tokens in a text."""
    return len(_TOKEN.findall(text))


def split_tokens(text: str) -> list[str]:
    """The text in pieces of one token each, white space kept before it; joined they are the text again."""
    pieces = _PIECE.findall(text)
    rest = text[sum(map(len, pieces)) :]
    if rest and pieces:
        pieces[-1] += rest
    return pieces or ([text] if text else [])


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message: its content, or its text parts joined by newlines."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(text for text in parts if isinstance(text, str))


def count_prompt_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of the messages' texts, images and tool calls; roles and tool definitions are free."""
    return sum(
        count_tokens(message_text(message)) + _image_tokens(message) + _tool_call_tokens(message)
        for message in messages
    )


def _image_tokens(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return IMAGE_TOKENS * len(
        [part for part in parts if isinstance(part, dict) and part.get("type") == "image_url"]
    )


def _tool_call_tokens(message: Mapping[str, Any]) -> int:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return 0
    functions = (call.get("function") for call in calls if isinstance(call, dict))
    arguments = [str(function.get("arguments")) for function in functions if isinstance(function, dict)]
    return len(arguments) + sum(map(count_tokens, arguments))
