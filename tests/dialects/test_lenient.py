"""Answers that servers write a little otherwise are read: they were paid."""

import json
from typing import Any

import pytest

from routing.dialects.chat_reader import ChatReader
from routing.dialects.events import Event, Text, ToolArguments, ToolBegan
from routing.dialects.messages_reader import MessagesReader
from routing.dialects.responses_reader import ResponsesReader


def tools(events: list[Event]) -> list[Any]:
    return [each for each in events if isinstance(each, ToolBegan | ToolArguments)]


def frame(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def test_chat() -> None:
    call = {"index": None, "id": 7, "function": {"name": "f", "arguments": {"a": 1}}}
    choice = {"index": None, "message": {"content": None, "tool_calls": [call]}, "finish_reason": None}
    events = ChatReader().plain(json.dumps({"model": None, "choices": [choice]}).encode())
    assert tools(events) == [ToolBegan(0, "7", "f"), ToolArguments(0, '{"a":1}')]


def test_messages() -> None:
    answer = {"type": "message", "model": None, "content": [{"type": "text", "text": "x", "signature": None}]}
    assert Text("x") in MessagesReader().plain(json.dumps(answer).encode())
    block = {"type": "tool_use", "id": "t", "name": "f", "text": None, "input": {"a": 1}}
    reader, events = MessagesReader(), list[Event]()
    for event in (
        {
            "type": "message_start",
            "message": {"type": "message", "model": None, "usage": {"input_tokens": "3"}},
        },
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_stop", "index": 0},
    ):
        events += reader.frame(frame(event))
    assert tools(events) == [ToolBegan(0, "t", "f"), ToolArguments(0, '{"a":1}')]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "tool_search_call", "call_id": None, "arguments": {"q": 1}},
        {"type": "mcp_call", "name": None, "arguments": None},
        {"type": "message", "content": [{"type": "output_text", "text": None}]},
    ],
)
def test_responses(item: Any) -> None:
    response = {"model": "m", "status": "completed", "output": [item]}
    assert ResponsesReader().plain(json.dumps(response).encode())
    completed = {"type": "response.completed", "response": response}
    assert ResponsesReader().frame(frame(completed)) is not None


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices":3}', b'{"error":{"message":"x"}}', b"\xff"])
def test_what_is_no_answer_is_none(body: bytes) -> None:
    for reader in (ChatReader(), MessagesReader(), ResponsesReader()):
        with pytest.raises(ValueError, match=r"answer|error|response"):
            reader.plain(body)


def test_null_is_a_value_in_what_a_tool_gets() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {"limit": None, "n": 1}}
    answer = {"type": "message", "content": [{"type": "text", "text": "x", "signature": None}, tool]}
    events = MessagesReader().plain(json.dumps(answer).encode())
    assert json.loads(tools(events)[1].json) == {"limit": None, "n": 1}
