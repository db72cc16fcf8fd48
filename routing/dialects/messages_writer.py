"""Answers as Anthropic's Messages API has them."""

from typing import Any

import msgspec

from billing.usage import Usage
from routing.dialects.events import (
    Began,
    Ended,
    Event,
    Hidden,
    Refused,
    Signed,
    Stop,
    Text,
    Thought,
    ToolArguments,
    ToolBegan,
)
from routing.dialects.parts import Calling, Part, Saying, Thinking, Whole
from routing.dialects.writers import encode
from routing.endpoints.base import Request
from routing.errors import ANTHROPIC
from teams.errors import GatewayError

_STOPS: dict[Stop, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_NO_ARGUMENTS = msgspec.Raw(b"{}")


class MessagesWriter:
    """See writers.Writer. A message's blocks follow each other: while one call of a tool is open, what comes of others
    waits."""

    def __init__(self, request: Request, request_id: str) -> None:
        self._request_id = request_id
        self._id = "msg_" + request_id.replace("-", "")
        self._model = request.model
        self._has_begun = False
        self._stop: Stop = "stop"
        self._sequence: str | None = None
        self._blocks = 0
        self._open = ""  # the type of the block that is open
        self._called = -1  # the number of the call that is open
        self._waiting: dict[int, list[ToolBegan | ToolArguments]] = {}

    def plain(self, whole: Whole, usage: Usage) -> bytes:
        """See writers.Writer."""
        content = [_block(part) for part in whole.parts if not (isinstance(part, Saying) and not part.text)]
        stop, sequence = _stopped(whole.stop, whole.sequence, has_calls=bool(whole.calls()))
        return encode(
            {
                "id": self._id,
                "type": "message",
                "role": "assistant",
                "model": whole.model or self._model,
                "content": content,
                "stop_reason": stop,
                "stop_sequence": sequence,
                "usage": messages_usage(usage),
            }
        )

    def write(self, event: Event) -> bytes:
        """See writers.Writer."""
        match event:
            case Began(model):
                self._model = model or self._model
                return self._begin()
            case Text(text) | Refused(text):
                return self._piece("text", {"text": ""}, {"type": "text_delta", "text": text})
            case Thought(text):
                return self._think({"type": "thinking_delta", "thinking": text})
            case Signed(signature):
                return self._think({"type": "signature_delta", "signature": signature}) + self._close_block()
            case Hidden(data):
                return (
                    self._close_all()
                    + self._open_block("redacted_thinking", {"data": data})
                    + self._close_block()
                )
            case ToolBegan(number) | ToolArguments(number):
                return self._tool(number, event)
            case Ended(stop, sequence):
                self._stop, self._sequence = stop, sequence
        return b""

    def closing(self, usage: Usage) -> bytes:
        """See writers.Writer."""
        frames = self._begin() + self._close_all()
        stop, sequence = _stopped(self._stop, self._sequence, has_calls=self._called >= 0)
        delta = {"stop_reason": stop, "stop_sequence": sequence}
        frames += _frame("message_delta", {"delta": delta, "usage": messages_usage(usage)})
        return frames + _frame("message_stop", {})

    def failing(self, error: GatewayError) -> bytes:
        """See writers.Writer."""
        return ANTHROPIC.error_frame(error, self._request_id)

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": messages_usage(Usage()),  # the figures follow at the end
        }
        return _frame("message_start", {"message": message})

    def _think(self, delta: dict[str, Any]) -> bytes:
        return self._piece("thinking", {"thinking": "", "signature": ""}, delta)

    def _piece(self, kind: str, empty: dict[str, Any], delta: dict[str, Any]) -> bytes:
        opening = b"" if self._open == kind else self._close_all() + self._open_block(kind, empty)
        return opening + self._delta(delta)

    def _tool(self, number: int, event: ToolBegan | ToolArguments) -> bytes:
        if self._open == "tool_use" and number != self._called:
            self._waiting.setdefault(number, []).append(event)
            return b""
        if isinstance(event, ToolArguments):
            return self._delta({"type": "input_json_delta", "partial_json": event.json})
        closing = self._close_all()
        self._called = number
        block = {"id": event.id, "name": event.name, "input": {}}
        return closing + self._open_block("tool_use", block)

    def _open_block(self, kind: str, block: dict[str, Any]) -> bytes:
        self._open = kind
        content = {"type": kind, **block}
        return self._begin() + _frame(
            "content_block_start", {"index": self._blocks, "content_block": content}
        )

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _frame("content_block_delta", {"index": self._blocks, "delta": delta})

    def _close_block(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        self._blocks += 1
        return _frame("content_block_stop", {"index": self._blocks - 1})

    def _close_all(self) -> bytes:
        """Close the open block, and tell of the calls that had to wait for it."""
        frames = self._close_block()
        waiting, self._waiting = self._waiting, {}
        for number, events in waiting.items():
            frames += b"".join([self._tool(number, event) for event in events]) + self._close_block()
        return frames


def messages_usage(usage: Usage) -> dict[str, Any]:
    """The figures as Anthropic has them."""
    return {
        "input_tokens": usage.plain_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }


def _frame(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **data}) + b"\n\n"


def _stopped(stop: Stop, sequence: str | None, *, has_calls: bool) -> tuple[str, str | None]:
    """Some servers end a call of a tool like an answer."""
    if sequence is not None:
        return "stop_sequence", sequence
    return _STOPS["tool_calls" if has_calls and stop == "stop" else stop], None


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Thinking(signature=signature):
            return {"type": "thinking", "thinking": part.text, "signature": signature}
        case Hidden(data):
            return {"type": "redacted_thinking", "data": data}
        case Calling(id=call_id, name=name):
            return {"type": "tool_use", "id": call_id, "name": name, "input": _arguments(part.text)}
        case Saying():
            return {"type": "text", "text": part.text}
    raise AssertionError(part)


def _arguments(text: str) -> msgspec.Raw | dict[str, str]:
    """The model's JSON as it is; what is none is told as text, since this form has place for an object only."""
    try:
        msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {"unreadable_arguments": text}
    return msgspec.Raw(text.encode()) if text else _NO_ARGUMENTS
