"""Answers of OpenAI's Responses API."""

from typing import Any

import msgspec

from billing.usage import UnusableUsage, Usage
from routing.dialects.events import Began, Event, Refused, Reported, Text, Thought, ToolArguments, ToolBegan
from routing.dialects.readers import NULL, as_text, decode, refuse_error
from routing.sse import data_of


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _ResponsesUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def normalised(self) -> Usage | None:
        told, made = self.input_tokens_details, self.output_tokens_details
        try:
            usage = Usage(
                input_tokens=self.input_tokens,
                cached_input_tokens=(told.cached_tokens or 0) if told else 0,
                cache_write_tokens=(told.cache_write_tokens or 0) if told else 0,
                output_tokens=self.output_tokens,
                reasoning_tokens=(made.reasoning_tokens or 0) if made else 0,
            )
        except UnusableUsage:
            return None
        return usage if usage.input_tokens else None


class _ItemPart(msgspec.Struct):
    text: str = ""
    refusal: str = ""


class _Item(msgspec.Struct):
    type: str = ""
    content: list[_ItemPart] | None = None
    summary: list[_ItemPart] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str | dict[str, Any] = ""


class _Response(msgspec.Struct):
    model: str = ""
    status: str = ""
    output: list[_Item] | None = None
    error: msgspec.Raw = NULL
    usage: msgspec.Raw = NULL


class _ResponseEvent(msgspec.Struct):
    type: str
    output_index: int = 0
    delta: str | dict[str, Any] = ""
    item: _Item | None = None
    response: _Response | None = None


_responses = msgspec.json.Decoder(_Response)
_response_events = msgspec.json.Decoder(_ResponseEvent)
_response_usage = msgspec.json.Decoder(_ResponsesUsage)


class ResponsesReader:
    """See Reader. Made for counting what is passed on: no caller of another form is answered from this one."""

    def __init__(self) -> None:
        self.is_done = False
        self._calls: dict[int, int] = {}  # our numbers, by the index of their items

    def plain(self, body: bytes) -> list[Event]:
        """See Reader."""
        answer: _Response = decode(_responses, body)
        refuse_error(answer.error)
        if answer.output is None or answer.status == "failed":
            raise ValueError("the answer is no response")
        events: list[Event] = [Began(answer.model)]
        for index, item in enumerate(answer.output):
            events += [Thought(part.text) for part in item.summary or ()]
            events += [
                Refused(part.refusal) if part.refusal else Text(part.text) for part in item.content or ()
            ]
            if item.type == "function_call":
                events += [
                    *self._begin_call(index, item),
                    ToolArguments(self._calls[index], as_text(item.arguments)),
                ]
        return [*events, Reported(_figures(answer.usage))]

    def frame(self, frame: bytes) -> list[Event]:
        """See Reader."""
        if not (data := data_of(frame)) or data.startswith(b"[DONE]"):
            return []
        event: _ResponseEvent = decode(_response_events, data)
        delta = event.delta if isinstance(event.delta, str) else ""
        match event.type:
            case "error" | "response.failed":
                raise ValueError("the backend reports an error")
            case "response.created" if event.response is not None:
                return [Began(event.response.model)]
            case "response.output_text.delta":
                return [Text(delta)]
            case "response.refusal.delta":
                return [Refused(delta)]
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return [Thought(delta)]
            case "response.output_item.added" if (
                event.item is not None and event.item.type == "function_call"
            ):
                return self._begin_call(event.output_index, event.item)
            case "response.function_call_arguments.delta" if event.output_index in self._calls:
                return [ToolArguments(self._calls[event.output_index], delta)]
            case "response.completed" | "response.incomplete":
                self.is_done = True
                return [] if event.response is None else [Reported(_figures(event.response.usage))]
        return []

    def _begin_call(self, index: int, item: _Item) -> list[Event]:
        number = self._calls[index] = len(self._calls)
        return [ToolBegan(number, item.call_id, item.name)]


def _figures(raw: msgspec.Raw) -> Usage | None:
    try:
        return _response_usage.decode(raw).normalised()
    except msgspec.DecodeError:
        return None
