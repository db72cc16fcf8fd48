"""Streams of every pair of forms: however the network cuts them, the caller gets the same, and what it should be."""

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import NOTHING_USED, Usage
from routing.dialects.base import Relay
from routing.dialects.chat_reader import ChatReader
from routing.dialects.messages_reader import MessagesReader
from routing.dialects.messages_writer import MessagesWriter
from routing.dialects.responses_writer import ResponsesWriter
from routing.dialects.translated import TranslatedRelay
from routing.dialects.writers import ChatWriter
from routing.endpoints.base import Request
from routing.endpoints.bounds import Bounds
from routing.endpoints.chat import ChatEndpoint
from routing.endpoints.messages import MessagesEndpoint
from routing.endpoints.responses import ResponsesEndpoint
from routing.frames import FrameRelay
from tests.dialects import recorded

BOUNDS = Bounds(messages=100, tools=100, choices=8, inputs=100, tokens=100_000)
ID = "01a2196e-4807-7d4a-a85c-0c5d9908318c"
HEX = ID.replace("-", "")
USAGE = Usage(20, 5, 3, 9, 2)


def chat_request() -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    return ChatEndpoint().read(
        json.dumps(body | {"stream_options": {"include_usage": True}}).encode(), BOUNDS, None
    )


def messages_request() -> Request:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "stream": True}
    return MessagesEndpoint().read(json.dumps(body).encode(), BOUNDS, None)


def responses_request() -> Request:
    return ResponsesEndpoint().read(
        json.dumps({"model": "m", "input": "x", "stream": True}).encode(), BOUNDS, None
    )


PAIRS: dict[str, tuple[bytes, Callable[[], Relay]]] = {
    "chat to chat": (recorded.CHAT, lambda: FrameRelay(wants_usage=True)),
    "messages to messages": (
        recorded.MESSAGES,
        lambda: messages_request().endpoint.relay(messages_request(), ID),
    ),
    "chat to messages": (
        recorded.CHAT,
        lambda: TranslatedRelay(ChatReader(), MessagesWriter(messages_request(), ID)),
    ),
    "chat to responses": (
        recorded.CHAT,
        lambda: TranslatedRelay(ChatReader(), ResponsesWriter(responses_request(), ID)),
    ),
    "messages to responses": (
        recorded.MESSAGES,
        lambda: TranslatedRelay(MessagesReader(), ResponsesWriter(responses_request(), ID)),
    ),
    "responses to responses": (
        recorded.RESPONSES,
        lambda: responses_request().endpoint.relay(responses_request(), ID),
    ),
    "messages to chat": (
        recorded.MESSAGES,
        lambda: TranslatedRelay(MessagesReader(), ChatWriter(chat_request(), ID)),
    ),
}
EVERY_PAIR = pytest.mark.parametrize("pair", PAIRS)


def feed(relay: Relay, data: bytes, cuts: list[int]) -> bytes:
    edges = sorted({0, len(data), *cuts})
    return b"".join(relay.feed(data[a:b]) for a, b in itertools.pairwise(edges))


def outcome(relay: Relay, passed: bytes) -> tuple[Any, ...]:
    frames = [without_time(frame) for frame in (passed + relay.closing(USAGE)).split(b"\n\n")]
    return frames, relay.texts(), relay.usage, relay.is_usage_final, relay.is_done, relay.is_faulty


def without_time(frame: bytes) -> bytes:
    return re.sub(rb'"created(_at)?":\d+', b"", frame)


@pytest.mark.slow
@EVERY_PAIR
def test_cut_at_every_byte_it_is_the_same_stream(pair: str) -> None:
    data, make = PAIRS[pair]
    whole = make()
    expected = outcome(whole, whole.feed(data))
    assert (whole.is_done, whole.is_faulty) == (True, False)
    for cut in range(len(data)):
        relay = make()
        assert outcome(relay, feed(relay, data, [cut])) == expected, cut
    relay = make()
    assert outcome(relay, feed(relay, data, list(range(len(data))))) == expected


@EVERY_PAIR
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 3000), max_size=20), crlf=st.booleans())
def test_cut_anywhere_it_is_the_same_stream(pair: str, cuts: list[int], crlf: bool) -> None:
    data, make = PAIRS[pair]
    if crlf and "to" in pair and pair.split(" to ")[0] != pair.split(" to ")[1]:
        data = data.replace(b"\n", b"\r\n")
    one, other = make(), make()
    assert outcome(other, feed(other, data, [cut % len(data) for cut in cuts])) == outcome(
        one, one.feed(data)
    )


@EVERY_PAIR
def test_whatever_is_passed_was_counted(pair: str) -> None:
    data, make = PAIRS[pair]
    relay = make()
    relay.feed(data)
    text = "".join(relay.texts())
    for said in ("Hm, ", "indeed.", "Grüße", "first", "second", "Ö"):
        assert said in text
    expected = Usage(20, 5, 3, 9, 2) if pair.startswith(("messages", "responses")) else Usage(20, 5, 0, 9, 2)
    assert (relay.usage, relay.is_usage_final) == (expected, True)


@EVERY_PAIR
def test_a_stream_that_stops_anywhere_is_not_done(pair: str) -> None:
    data, make = PAIRS[pair]
    for end in range(0, len(data) - 12, 7):
        relay = make()
        relay.feed(data[:end])
        assert not relay.is_done
        assert not relay.is_faulty


@EVERY_PAIR
def test_a_frame_beyond_all_bounds_is_a_fault(pair: str) -> None:
    relay = PAIRS[pair][1]()
    assert relay.feed(b"data: " + b"x" * (4 * 1024**2)) == b""
    assert relay.is_faulty


def events_of(passed: bytes) -> list[dict[str, Any]]:
    events = []
    for frame in passed.decode().strip().split("\n\n"):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def test_a_chat_told_as_a_message() -> None:
    relay = PAIRS["chat to messages"][1]()
    events = events_of(relay.feed(recorded.CHAT) + relay.closing(USAGE))
    start: dict[str, Any] = {
        "id": f"msg_{HEX}", "type": "message", "role": "assistant", "model": "gpt-x", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                  "output_tokens": 0},
    }  # fmt: skip
    assert events == [
        {"type": "message_start", "message": start},
        *recorded.block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Hm, "},
            {"type": "thinking_delta", "thinking": "\n\nindeed."},
        ),
        *recorded.block(
            1,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": 'Grüße: "data: [DONE]"\n\n'},
            {"type": "text_delta", "text": "event: error"},
        ),
        *recorded.block(
            2,
            {"type": "tool_use", "id": "call_a", "name": "first", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"ci'},
            {"type": "input_json_delta", "partial_json": 'ty": "Ö"}'},
        ),
        *recorded.block(
            3,
            {"type": "tool_use", "id": "call_b", "name": "second", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"x": '},
            {"type": "input_json_delta", "partial_json": "1}"},
        ),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"input_tokens": 12, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5,
                      "output_tokens": 9},
        },
        {"type": "message_stop"},
    ]  # fmt: skip


def test_a_message_told_as_a_chat() -> None:
    relay = PAIRS["messages to chat"][1]()
    *frames, done = (relay.feed(recorded.MESSAGES) + relay.closing(USAGE)).decode().strip().split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        (f"chatcmpl-{HEX}", "chat.completion.chunk", "claude-x")
    }
    assert chunks.pop()["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    signed = {"type": "thinking", "thinking": "Hm, \n\nindeed.", "signature": "c2lnbmVk"}

    def call(index: int, arguments: str, **begin: str) -> dict[str, Any]:
        function: dict[str, str] = {"arguments": arguments}
        if begin:
            function = {"name": begin["name"], **function}
            return {
                "tool_calls": [{"index": index, "id": begin["id"], "type": "function", "function": function}]
            }
        return {"tool_calls": [{"index": index, "function": function}]}

    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm, "},
        {"reasoning_content": "\n\nindeed."},
        {"thinking_blocks": [signed]},
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "aGlkZGVu"}]},
        {"content": 'Grüße: "event: message_stop"\n\n'},
        {"content": "data: [DONE]"},
        call(0, "", id="toolu_a", name="first"),
        call(0, '{"ci'),
        call(0, 'ty": "Ö"}'),
        call(1, "", id="toolu_b", name="second"),
        call(1, "{}"),
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 12 + ["tool_calls"]


def test_messages_are_passed_as_they_came() -> None:
    relay = PAIRS["messages to messages"][1]()
    assert relay.feed(recorded.MESSAGES) + relay.closing(NOTHING_USED) == recorded.MESSAGES


@pytest.mark.parametrize("kind", ["chat to messages", "messages to chat", "messages to messages"])
def test_an_error_on_the_way_ends_the_stream(kind: str) -> None:
    data, make = PAIRS[kind]
    error = (
        b'data: {"error": {"message": "secret words"}}\n\n'
        if kind.startswith("chat")
        else b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n'
    )
    frames = data.split(b"\n\n")
    relay = make()
    passed = relay.feed(b"\n\n".join(frames[:5]) + b"\n\n" + error + b"\n\n".join(frames[5:]))
    assert (relay.is_faulty, relay.is_done, b"secret" in passed) == (True, False, False)
    assert relay.feed(data) == b""


def test_a_chat_told_as_a_response() -> None:
    """The deltas of each item are its whole, events are numbered without a gap, and calls may take turns."""
    relay = PAIRS["chat to responses"][1]()
    events = events_of(relay.feed(recorded.CHAT) + relay.closing(USAGE))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [events[0]["type"], events[1]["type"]] == ["response.created", "response.in_progress"]
    final = events[-1]["response"]
    assert (final["status"], final["id"], final["model"]) == ("completed", f"resp_{HEX}", "gpt-x")
    assert final["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 3},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 29,
    }
    thinking, message, first, second = final["output"]
    assert thinking["summary"] == [{"type": "summary_text", "text": "Hm, \n\nindeed."}]
    text = 'Grüße: "data: [DONE]"\n\nevent: error'
    assert message["content"] == [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    assert [(call["call_id"], call["name"], call["arguments"]) for call in (first, second)] == [
        ("call_a", "first", '{"city": "Ö"}'),
        ("call_b", "second", '{"x": 1}'),
    ]
    for item in final["output"]:
        index = final["output"].index(item)
        of_it = [event for event in events if event.get("output_index") == index]
        assert of_it[0]["type"] == "response.output_item.added"
        assert of_it[-1] == {**of_it[-1], "type": "response.output_item.done", "item": item}
        deltas = "".join(event["delta"] for event in of_it if event["type"].endswith(".delta"))
        whole = item.get("arguments") or (item.get("content") or item.get("summary"))[0]["text"]
        assert deltas == whole


def test_responses_are_passed_as_they_came() -> None:
    relay = PAIRS["responses to responses"][1]()
    assert relay.feed(recorded.RESPONSES) + relay.closing(NOTHING_USED) == recorded.RESPONSES
