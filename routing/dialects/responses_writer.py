"""Answers as OpenAI's Responses API has them."""

import time
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
from routing.dialects.parts import Calling, Saying, Thinking, Whole
from routing.dialects.responses_to_chat import HIDDEN
from routing.dialects.writers import encode
from routing.endpoints.base import Request
from routing.errors import responses_error
from teams.errors import GatewayError

_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
}
_INCOMPLETE: dict[Stop, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _Item(msgspec.Struct):
    """An item of the output that is under way: `kind` is its type, `fields` what stands beside it."""

    index: int
    id: str
    kind: str
    fields: dict[str, Any]
    part: str = ""  # the type of the content part that is open
    parts: list[dict[str, Any]] = msgspec.field(default_factory=list)
    pieces: list[str] = msgspec.field(default_factory=list)

    def render(self, status: str) -> dict[str, Any]:
        """As it stands in the output."""
        if self.kind == "reasoning":
            return {"id": self.id, "type": self.kind, "summary": self.parts, **self.fields}
        if self.kind == "message":
            return {
                "id": self.id,
                "type": self.kind,
                "status": status,
                "role": "assistant",
                "content": self.parts,
            }
        text = "".join(self.pieces)
        return {"id": self.id, "type": self.kind, "status": status, **self.fields, "arguments": text}


class ResponsesWriter:
    """See writers.Writer. Calls of tools may be under way side by side; everything else ends when the next begins."""

    def __init__(self, request: Request, request_id: str) -> None:
        self._hex = request_id.replace("-", "")
        self._fields = request.fields
        self._model = request.model
        self._created_at = int(time.time())
        self._has_begun = False
        self._stop: Stop = "stop"
        self._numbered = 0  # events so far
        self._output: dict[int, dict[str, Any]] = {}
        self._items = 0
        self._open: _Item | None = None  # a message or thinking
        self._calls: dict[int, _Item] = {}

    def plain(self, whole: Whole, usage: Usage) -> bytes:
        """See writers.Writer: the same items that a stream would have."""
        self._model = whole.model or self._model
        for number, part in enumerate(whole.parts):
            match part:
                case Saying(is_refusal=is_refusal) if part.text:
                    self.write(Refused(part.text) if is_refusal else Text(part.text))
                case Thinking(signature=signature):
                    self.write(Thought(part.text))
                    if signature:
                        self.write(Signed(signature))
                case Hidden():
                    self.write(part)
                case Calling(id=call_id, name=name):
                    self.write(ToolBegan(number, call_id, name))
                    self.write(ToolArguments(number, part.text))
        self._stop = whole.stop
        self._close_all()
        return encode(self._response(self._status(), usage))

    def write(self, event: Event) -> bytes:
        """See writers.Writer."""
        match event:
            case Began(model):
                self._model = model or self._model
                return self._begin()
            case Text(text):
                return self._say("output_text", text)
            case Refused(text):
                return self._say("refusal", text)
            case Thought(text):
                return self._think(text)
            case Signed(signature):
                return self._seal(signature)
            case Hidden(data):
                return self._close() + self._seal(HIDDEN + data)
            case ToolBegan(number, call_id, name):
                return self._call(number, call_id, name)
            case ToolArguments(number, json):
                item = self._calls[number]
                item.pieces.append(json)
                return self._of(item, "response.function_call_arguments.delta", delta=json)
            case Ended(stop):
                self._stop = stop
        return b""

    def closing(self, usage: Usage) -> bytes:
        """See writers.Writer."""
        frames = self._begin() + self._close_all()
        status = self._status()
        return frames + self._event(f"response.{status}", response=self._response(status, usage))

    def failing(self, error: GatewayError) -> bytes:
        """See writers.Writer."""
        return responses_error(error, self._numbered)

    # --- items -------------------------------------------------------------------------------------

    def _say(self, kind: str, text: str) -> bytes:
        frames = self._begin()
        item = self._open
        if item is None or item.kind != "message":
            frames += self._close()
            item, added = self._add("message", "msg")
            frames += added
            self._open = item
        if item.part != kind:
            frames += self._close_part(item)
            item.part = kind
            item.parts.append(_content(kind, ""))
            frames += self._of(
                item, "response.content_part.added", content_index=len(item.parts) - 1, part=item.parts[-1]
            )
        item.pieces.append(text)
        logprobs: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        return frames + self._of(
            item, f"response.{kind}.delta", content_index=len(item.parts) - 1, delta=text, **logprobs
        )

    def _think(self, text: str) -> bytes:
        frames = self._begin()
        item = self._open
        if item is None or item.kind != "reasoning":
            frames += self._close()
            item, added = self._add("reasoning", "rs")
            self._open, item.part = item, "summary_text"
            item.parts.append({"type": "summary_text", "text": ""})
            frames += added + self._of(
                item, "response.reasoning_summary_part.added", summary_index=0, part=item.parts[0]
            )
        item.pieces.append(text)
        return frames + self._of(item, "response.reasoning_summary_text.delta", summary_index=0, delta=text)

    def _seal(self, sealed: str) -> bytes:
        """Thinking that may come back: with the text before it, if any."""
        frames = self._begin()
        if self._open is None or self._open.kind != "reasoning":
            frames += self._close()
            self._open, added = self._add("reasoning", "rs")
            frames += added
        self._open.fields["encrypted_content"] = sealed
        return frames + self._close()

    def _call(self, number: int, call_id: str, name: str) -> bytes:
        frames = self._begin() + self._close()
        item, added = self._add("function_call", "fc", call_id=call_id, name=name)
        self._calls[number] = item
        return frames + added

    def _add(self, kind: str, prefix: str, **fields: Any) -> tuple[_Item, bytes]:
        item = _Item(self._items, f"{prefix}_{self._hex}{self._items}", kind, fields)
        self._items += 1
        added = self._event(
            "response.output_item.added", output_index=item.index, item=item.render("in_progress")
        )
        return item, added

    def _close_part(self, item: _Item) -> bytes:
        if not item.part:
            return b""
        kind, text = item.part, "".join(item.pieces)
        item.part = ""
        item.pieces.clear()
        if kind == "summary_text":
            item.parts[-1] = {"type": kind, "text": text}
            done = self._of(item, "response.reasoning_summary_text.done", summary_index=0, text=text)
            return done + self._of(
                item, "response.reasoning_summary_part.done", summary_index=0, part=item.parts[-1]
            )
        item.parts[-1] = _content(kind, text)
        at = len(item.parts) - 1
        told = {"text": text, "logprobs": []} if kind == "output_text" else {"refusal": text}
        done = self._of(item, f"response.{kind}.done", content_index=at, **told)
        return done + self._of(item, "response.content_part.done", content_index=at, part=item.parts[-1])

    def _close(self) -> bytes:
        """End the message or the thinking that is under way."""
        item, self._open = self._open, None
        return b"" if item is None else self._close_part(item) + self._done(item)

    def _close_all(self) -> bytes:
        frames = self._close()
        for item in self._calls.values():
            arguments = "".join(item.pieces) or "{}"
            item.pieces = [arguments]
            frames += self._of(
                item, "response.function_call_arguments.done", name=item.fields["name"], arguments=arguments
            )
            frames += self._done(item)
        self._calls.clear()
        return frames

    def _done(self, item: _Item) -> bytes:
        self._output[item.index] = rendered = item.render("completed")
        return self._event("response.output_item.done", output_index=item.index, item=rendered)

    # --- frames ------------------------------------------------------------------------------------

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        response = self._response("in_progress", None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _of(self, item: _Item, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=item.id, output_index=item.index, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._numbered, **fields}
        self._numbered += 1
        return b"event: " + kind.encode() + b"\ndata: " + encode(event) + b"\n\n"

    def _status(self) -> str:
        return "incomplete" if self._stop in _INCOMPLETE else "completed"

    def _response(self, status: str, usage: Usage | None) -> dict[str, Any]:
        echoed = {name: self._fields.get(name, usual) for name, usual in _ECHOED.items()}
        reason = {"reason": _INCOMPLETE[self._stop]} if status == "incomplete" else None
        return {
            "id": f"resp_{self._hex}",
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": reason,
            "model": self._model,
            "output": [item for _, item in sorted(self._output.items())],
            "previous_response_id": None,
            "store": False,
            **echoed,
            "usage": None if usage is None else responses_usage(usage),
        }


def responses_usage(usage: Usage) -> dict[str, Any]:
    """The figures as this API has them."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _content(kind: str, text: str) -> dict[str, Any]:
    if kind == "refusal":
        return {"type": kind, "refusal": text}
    return {"type": kind, "text": text, "annotations": [], "logprobs": []}
