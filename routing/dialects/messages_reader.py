"""Answers of Anthropic's Messages API."""

from collections.abc import Iterable

import msgspec

from billing.usage import UnusableUsage, Usage
from routing.dialects.events import (
    Began,
    Ended,
    Event,
    Hidden,
    Reported,
    Signed,
    Stop,
    Text,
    Thought,
    ToolArguments,
    ToolBegan,
)
from routing.dialects.readers import decode
from routing.sse import data_of


class _ThinkingDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class MessagesUsage(msgspec.Struct):
    """Anthropic's figures, of which a stream's later ones may leave out those that did not change."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: _ThinkingDetails | None = None

    def updated(self, later: "MessagesUsage") -> "MessagesUsage":
        """With what `later` says."""
        told = {name: value for name, value in msgspec.structs.asdict(later).items() if value is not None}
        return msgspec.structs.replace(self, **told)

    def normalised(self) -> Usage | None:
        """Our form of it: Anthropic's input leaves out what was written to and read from a cache. None where it
        cannot be true."""
        written, read = self.cache_creation_input_tokens or 0, self.cache_read_input_tokens or 0
        details = self.output_tokens_details
        try:
            usage = Usage(
                input_tokens=(self.input_tokens or 0) + written + read,
                cached_input_tokens=read,
                cache_write_tokens=written,
                output_tokens=self.output_tokens or 0,
                reasoning_tokens=(details.thinking_tokens or 0) if details else 0,
            )
        except UnusableUsage:
            return None
        return usage if usage.input_tokens and (self.input_tokens or 0) >= 0 else None


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Answer(msgspec.Struct):
    type: str = ""
    model: str = ""
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessagesUsage | None = None


class _BlockDelta(msgspec.Struct):
    type: str | None = None
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _StreamEvent(msgspec.Struct):
    type: str
    index: int = 0
    message: _Answer | None = None
    content_block: _Block | None = None
    delta: _BlockDelta | None = None
    usage: MessagesUsage | None = None


_answers = msgspec.json.Decoder(_Answer)
_stream_events = msgspec.json.Decoder(_StreamEvent)
_MESSAGES_STOPS: dict[str, Stop] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class MessagesReader:
    """See Reader. Blocks that the callers' forms have no place for, as of the provider's own tools, are left out."""

    def __init__(self) -> None:
        self.is_done = False
        self._usage = MessagesUsage()
        self._calls: dict[int, int] = {}  # our numbers, by the index of their blocks
        self._has_arguments: set[int] = set()
        self._inputs: dict[int, str] = {}

    def plain(self, body: bytes) -> list[Event]:
        """See Reader."""
        answer: _Answer = decode(_answers, body)
        if answer.type == "error" or answer.content is None:
            raise ValueError("the answer is no message")
        events: list[Event] = [Began(answer.model)]
        for index, block in enumerate(answer.content):
            events += self._begin_block(index, block)
            if block.type == "tool_use":
                events.append(ToolArguments(self._calls[index], bytes(block.input).decode()))
        events.append(_ended(answer.stop_reason, answer.stop_sequence))
        events.append(Reported(None if answer.usage is None else answer.usage.normalised()))
        return events

    def frame(self, frame: bytes) -> list[Event]:
        """See Reader."""
        if not (data := data_of(frame)):
            return []
        event: _StreamEvent = decode(_stream_events, data)
        match event.type:
            case "error":
                raise ValueError("the backend reports an error")
            case "message_start" if event.message is not None:
                return [Began(event.message.model), *self._report(event.message.usage, is_final=False)]
            case "content_block_start" if event.content_block is not None:
                return self._begin_block(event.index, event.content_block)
            case "content_block_delta" if event.delta is not None:
                return self._delta(event.index, event.delta)
            case "content_block_stop":
                return self._end_block(event.index)
            case "message_delta":
                ended = (
                    []
                    if event.delta is None
                    else [_ended(event.delta.stop_reason, event.delta.stop_sequence)]
                )
                return [*ended, *self._report(event.usage, is_final=True)]
            case "message_stop":
                self.is_done = True
        return []

    def _begin_block(self, index: int, block: _Block) -> list[Event]:
        match block.type:
            case "text":
                return [Text(block.text)] if block.text else []
            case "thinking":
                thought: list[Event] = [Thought(block.thinking)] if block.thinking else []
                return [*thought, Signed(block.signature)] if block.signature else thought
            case "redacted_thinking":
                return [Hidden(block.data)]
            case "tool_use":
                number = self._calls[index] = len(self._calls)
                self._inputs[index] = bytes(block.input).decode()
                return [ToolBegan(number, block.id, block.name)]
        return []

    def _delta(self, index: int, delta: _BlockDelta) -> list[Event]:
        match delta.type:
            case "text_delta":
                return [Text(delta.text)] if delta.text else []
            case "thinking_delta":
                return [Thought(delta.thinking)] if delta.thinking else []
            case "signature_delta":
                return [Signed(delta.signature)]
            case "input_json_delta" if index in self._calls and delta.partial_json:
                self._has_arguments.add(index)
                return [ToolArguments(self._calls[index], delta.partial_json)]
        return []

    def _end_block(self, index: int) -> list[Event]:
        """A call whose arguments did not come in pieces has those that it began with."""
        if index not in self._calls or index in self._has_arguments:
            return []
        return [ToolArguments(self._calls[index], self._inputs[index])]

    def _report(self, usage: MessagesUsage | None, *, is_final: bool) -> Iterable[Event]:
        if usage is None:
            return ()
        self._usage = self._usage.updated(usage)
        return (Reported(self._usage.normalised(), is_final=is_final),)


def _ended(reason: str | None, sequence: str | None) -> Event:
    return Ended(_MESSAGES_STOPS.get(reason or "", "stop"), sequence)
