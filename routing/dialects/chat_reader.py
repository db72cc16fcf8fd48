"""Answers of OpenAI-compatible chat completions."""

from typing import Any

import msgspec

from routing.dialects.events import (
    Began,
    Ended,
    Event,
    Refused,
    Reported,
    Stop,
    Text,
    Thought,
    ToolArguments,
    ToolBegan,
)
from routing.dialects.readers import NULL, as_text, decode, refuse_error
from routing.endpoints.usage import read_usage, texts_in
from routing.sse import data_of


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | int | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    """A message, or a delta of one. Servers of open models call thinking by either name."""

    content: str | list[Any] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


_completions = msgspec.json.Decoder(_Completion)
_CHAT_STOPS: dict[str, Stop] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class ChatReader:
    """See Reader. Reads the first choice: callers whose answers are translated can ask for no more."""

    def __init__(self) -> None:
        self.is_done = False
        self._has_begun = False
        self._calls: dict[int, int] = {}  # our numbers, by the backend's index

    def plain(self, body: bytes) -> list[Event]:
        """See Reader."""
        answer: _Completion = decode(_completions, body)
        refuse_error(answer.error)
        choice = next((choice for choice in answer.choices or () if choice.index == 0), None)
        if choice is None or choice.message is None:
            raise ValueError("the answer holds no message")
        events = self._begin(answer)
        events += self._message(choice.message)
        events.append(Ended(_CHAT_STOPS.get(choice.finish_reason or "", "stop")))
        events.append(Reported(read_usage(answer.usage)))
        return events

    def frame(self, frame: bytes) -> list[Event]:
        """See Reader."""
        data = data_of(frame)
        if not data:
            return []
        if data.startswith(b"[DONE]"):
            self.is_done = True
            return []
        chunk: _Completion = decode(_completions, data)
        refuse_error(chunk.error)
        events = self._begin(chunk)
        for choice in chunk.choices or ():
            if choice.index == 0:
                if choice.delta is not None:
                    events += self._message(choice.delta)
                if choice.finish_reason:
                    events.append(Ended(_CHAT_STOPS.get(choice.finish_reason, "stop")))
        if bytes(chunk.usage) != b"null":
            events.append(Reported(read_usage(chunk.usage), is_final=not chunk.choices))
        return events

    def _begin(self, answer: _Completion) -> list[Event]:
        if self._has_begun:
            return []
        self._has_begun = True
        return [Began(answer.model or "")]

    def _message(self, message: _Message) -> list[Event]:
        events: list[Event] = []
        if thought := message.reasoning_content or message.reasoning:
            events.append(Thought(thought))
        content = message.content
        if text := content if isinstance(content, str) else "".join(texts_in(content or [])):
            events.append(Text(text))
        if message.refusal:
            events.append(Refused(message.refusal))
        for place, call in enumerate(message.tool_calls or ()):
            events += self._call(call, place if call.index is None else call.index)
        return events

    def _call(self, call: _Call, index: int) -> list[Event]:
        function, events = call.function or _Function(), list[Event]()
        if index not in self._calls:
            number = self._calls[index] = len(self._calls)
            events.append(ToolBegan(number, str(call.id or f"call_{number}"), function.name or ""))
        if function.arguments:
            events.append(ToolArguments(self._calls[index], as_text(function.arguments)))
        return events
