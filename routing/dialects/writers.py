"""Answers in the callers' forms, from events: what every writer does, and chat completions."""

import time
from typing import Any, Protocol

import msgspec

from billing.usage import Usage
from routing.dialects.events import (
    Began,
    Ended,
    Event,
    Hidden,
    Refused,
    Signed,
    Text,
    Thought,
    ToolArguments,
    ToolBegan,
)
from routing.dialects.parts import Calling, Saying, Thinking, Whole
from routing.endpoints.base import Request
from routing.errors import OPENAI
from routing.frames import DONE_FRAME
from teams.errors import GatewayError

encode = msgspec.json.Encoder().encode


class Writer(Protocol):
    """Of one answer, plain or streamed."""

    def plain(self, whole: Whole, usage: Usage) -> bytes:
        """The body of a plain answer."""
        ...

    def write(self, event: Event) -> bytes:
        """The frames for one event of a stream, maybe none."""
        ...

    def closing(self, usage: Usage) -> bytes:
        """The last frames of a stream that ended well."""
        ...

    def failing(self, error: GatewayError) -> bytes:
        """The last frame of a stream that failed."""
        ...


class ChatWriter:
    """See Writer. Thinking stands where servers of open models have it; what its provider wants back beside it is in
    `thinking_blocks`."""

    def __init__(self, request: Request, request_id: str) -> None:
        self._wants_usage = request.wants_usage
        self._id = "chatcmpl-" + request_id.replace("-", "")
        self._created = int(time.time())
        self._model = request.model
        self._has_begun = False
        self._finish_reason = "stop"
        self._thought: list[str] = []

    def plain(self, whole: Whole, usage: Usage) -> bytes:
        """See Writer."""
        said = "".join(part.text for part in whole.parts if isinstance(part, Saying) and not part.is_refusal)
        refused = "".join(part.text for part in whole.parts if isinstance(part, Saying) and part.is_refusal)
        calls = whole.calls()
        message: dict[str, Any] = {
            "role": "assistant",
            "content": said if said or not (calls or refused) else None,
            "refusal": refused or None,
        }
        if calls:
            message["tool_calls"] = [_call(call.id, call.name, call.text) for call in calls]
        if thought := "".join(part.text for part in whole.parts if isinstance(part, Thinking)):
            message["reasoning_content"] = thought
        if blocks := [block for part in whole.parts if (block := _thinking_block(part))]:
            message["thinking_blocks"] = blocks
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": whole.stop}
        head = self._head("chat.completion", whole.model)
        return encode({**head, "choices": [choice], "usage": chat_usage(usage)})

    def write(self, event: Event) -> bytes:
        """See Writer."""
        match event:
            case Began(model):
                self._model = model or self._model
                return self._begin()
            case Text(text):
                return self._delta({"content": text})
            case Refused(text):
                return self._delta({"refusal": text})
            case Thought(text):
                self._thought.append(text)
                return self._delta({"reasoning_content": text})
            case Signed(signature):
                block = {"type": "thinking", "thinking": "".join(self._thought), "signature": signature}
                self._thought.clear()
                return self._delta({"thinking_blocks": [block]})
            case Hidden(data):
                return self._delta({"thinking_blocks": [{"type": "redacted_thinking", "data": data}]})
            case ToolBegan(number, call_id, name):
                return self._delta({"tool_calls": [{"index": number, **_call(call_id, name, "")}]})
            case ToolArguments(number, json):
                return self._delta({"tool_calls": [{"index": number, "function": {"arguments": json}}]})
            case Ended(stop):
                self._finish_reason = stop
        return b""

    def closing(self, usage: Usage) -> bytes:
        """See Writer."""
        frames = self._begin() + self._chunk([self._choice({}, self._finish_reason)])
        if self._wants_usage:
            frames += _frame(
                {**self._head("chat.completion.chunk"), "choices": [], "usage": chat_usage(usage)}
            )
        return frames + DONE_FRAME

    def failing(self, error: GatewayError) -> bytes:
        """See Writer."""
        return OPENAI.error_frame(error, "")

    def _head(self, kind: str, model: str = "") -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": model or self._model}

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        return self._chunk([self._choice({"role": "assistant", "content": ""}, None)])

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._begin() + self._chunk([self._choice(delta, None)])

    @staticmethod
    def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        no_usage = {"usage": None} if self._wants_usage else {}
        return _frame({**self._head("chat.completion.chunk"), "choices": choices, **no_usage})


def chat_usage(usage: Usage) -> dict[str, Any]:
    """The figures as chat completions have them."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _frame(data: dict[str, Any]) -> bytes:
    return b"data: " + encode(data) + b"\n\n"


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _thinking_block(part: Thinking | Hidden | Saying | Calling) -> dict[str, Any] | None:
    if isinstance(part, Hidden):
        return {"type": "redacted_thinking", "data": part.data}
    if isinstance(part, Thinking) and part.signature:
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    return None
