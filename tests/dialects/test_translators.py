"""Requests carried from one form to another: exactly what comes out, and that nothing that comes in breaks it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.dialects.chat_to_messages import chat_to_messages, without_sampling
from routing.dialects.fields import Carried, decode_all
from routing.dialects.messages_to_chat import messages_to_chat
from routing.dialects.responses_to_chat import responses_to_chat
from teams.errors import GatewayError

PNG = {"url": "data:image/png;base64,AAAA"}
SCHEMA = {"type": "object", "properties": {}}


def chat(messages: list[Any], **fields: Any) -> Carried:
    return chat_to_messages({"model": "m", "messages": messages, **fields}, most_tokens=4096)


def test_a_conversation_with_tools_becomes_messages() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    other = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": ""}}
    carried = chat(
        [
            {"role": "system", "content": "One."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": PNG}],
            },
            {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
            {"role": "assistant", "content": "", "tool_calls": [call, other]},
            {"role": "tool", "tool_call_id": "c1", "content": "r1"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "r2"}]},
            {"role": "user", "content": "And?"},
            {"role": "user", "content": [{"type": "text", "text": ""}]},
        ],
        tools=[{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
        stop=["x", " "],
        max_tokens=7,
        max_completion_tokens=5,
        user="u",
        seed=3,
    )
    assert carried.fields == {
        "max_tokens": 7,
        "system": "One.\nTwo.",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
                    {"type": "tool_use", "id": "c2", "name": "f", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "r1"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "r2"}]},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
        "stop_sequences": ["x"],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "metadata": {"user_id": "u"},
    }
    assert carried.dropped == ["seed", "stop"]


def test_messages_become_a_conversation() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    carried = messages_to_chat(
        {
            "model": "m",
            "max_tokens": 9,
            "system": [
                {"type": "text", "text": "One."},
                {"type": "text", "text": "Two.", "cache_control": {}},
            ],
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "t", "signature": "s"},
                        {"type": "text", "text": "Wait."},
                        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "So"},
                        {
                            "type": "tool_result",
                            "tool_use_id": "c1",
                            "is_error": True,
                            "content": [{"type": "text", "text": "r1"}, {"type": "image", "source": source}],
                        },
                    ],
                },
            ],
            "tools": [{"name": "f", "input_schema": SCHEMA, "strict": True}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "stop_sequences": ["x"],
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"},
            "metadata": {"user_id": "u"},
            "top_k": 4,
        }
    )
    assert carried.fields == {
        "messages": [
            {"role": "system", "content": "One.\nTwo."},
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": "Wait.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "r1"},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": PNG}, {"type": "text", "text": "So"}],
            },
        ],
        "max_completion_tokens": 9,
        "stop": ["x"],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
        "user": "u",
    }
    assert carried.dropped == [
        "cache_control", "messages.thinking", "output_config.effort", "tool_result.is_error", "top_k",
    ]  # fmt: skip


def test_a_response_becomes_a_conversation() -> None:
    given = {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_image", **image()}],
            },
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "t"}],
                "encrypted_content": "s",
            },
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "r1"},
        ],
        "max_output_tokens": 8,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "low"},
        "include": ["reasoning.encrypted_content"],
    }
    carried = responses_to_chat(given, keeps_thinking=True)
    thinking = [{"type": "thinking", "thinking": "t", "signature": "s"}]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert carried.fields["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": PNG}],
        },
        {"role": "assistant", "content": "Wait.", "thinking_blocks": thinking, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "r1"},
    ]
    rest = {name: value for name, value in carried.fields.items() if name != "messages"}
    assert rest == {
        "max_completion_tokens": 8,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    }
    assert carried.dropped == []
    plain = responses_to_chat(given, keeps_thinking=False)
    assert plain.dropped == ["input.reasoning"]
    assert "thinking_blocks" not in json.dumps(plain.fields)


def image() -> dict[str, str]:
    return {"image_url": PNG["url"]}


@pytest.mark.parametrize(
    ("effort", "most", "thinking"),
    [
        ("none", 4096, {"type": "disabled"}),
        ("low", 4096, {"type": "enabled", "budget_tokens": 1024}),
        ("high", 4096, {"type": "enabled", "budget_tokens": 4095}),
        ("high", 100_000, {"type": "enabled", "budget_tokens": 16_384}),
        ("low", 1024, None),
        ("strange", 4096, None),
        (5, 4096, None),
    ],
)
def test_an_effort_is_told_in_tokens_of_thinking(effort: Any, most: int, thinking: Any) -> None:
    carried = chat(
        [{"role": "user", "content": "x"}], reasoning_effort=effort, max_tokens=most, temperature=0.2
    )
    assert carried.fields.get("thinking") == thinking
    assert ("reasoning_effort" in carried.dropped) == (thinking is None)
    assert ("temperature" in carried.dropped) == (thinking is not None and thinking["type"] == "enabled")


def test_the_newer_version_gets_no_sampling_and_the_older_keeps_it() -> None:
    carried = chat([{"role": "user", "content": "x"}], temperature=0.5, top_p=0.5, top_k=5)
    newer = without_sampling(carried)
    assert not {"temperature", "top_p", "top_k"} & newer.fields.keys()
    assert newer.dropped == ["temperature", "top_p", "top_k"]
    assert carried.fields["temperature"] == 0.5


# --- whatever comes in -----------------------------------------------------------------------------

_WORDS = [
    "text", "image", "image_url", "tool_use", "tool_result", "document", "file", "function", "user", "assistant",
    "tool", "system", "developer", "thinking", "redacted_thinking", "base64", "url", "message", "function_call",
    "function_call_output", "reasoning", "input_text", "output_text", "input_image", "json_schema", "enabled", "auto",
    "required", "any", "data:image/png;base64,AAAA", "{}", "[", "", "\ud7ff", "x" * 100,
]  # fmt: skip
_NAMES = [
    "type", "text", "role", "content", "image_url", "url", "source", "data", "media_type", "id", "name", "input",
    "arguments", "function", "tool_calls", "tool_call_id", "tool_use_id", "call_id", "output", "summary",
    "encrypted_content", "thinking_blocks", "thinking", "signature", "refusal", "file", "file_data", "cache_control",
    "title", "citations", "format", "schema", "json_schema", "parameters", "input_schema", "effort", "verbosity",
    "user_id", "budget_tokens", "is_error", "strict",
]  # fmt: skip
scalars = st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats(0, 3) | st.sampled_from(_WORDS)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=6),
    max_leaves=20,
)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(_WORDS)}, optional={name: values for name in _NAMES if name != "type"}
)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system", "developer", "x"])},
    optional={
        "content": st.sampled_from(_WORDS) | st.lists(parts, max_size=3) | values,
        "tool_calls": st.lists(parts, max_size=2) | values,
        "tool_call_id": scalars,
        "thinking_blocks": values,
        "type": st.sampled_from(_WORDS),
        "refusal": scalars,
    },
)
FIELDS = [
    "system", "tools", "tool_choice", "response_format", "thinking", "reasoning_effort", "stop", "stop_sequences",
    "temperature", "top_p", "n", "user", "metadata", "output_config", "text", "reasoning", "include", "truncation",
    "parallel_tool_calls", "modalities", "stream", "instructions",
]  # fmt: skip
extras = st.dictionaries(st.sampled_from(FIELDS), values | st.lists(parts, max_size=2) | parts, max_size=4)


@pytest.mark.parametrize("blocks", [[{}], [{"type": "text"}], "x", [1], {"a": 1}])
def test_thinking_that_is_none_is_refused(blocks: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call], "thinking_blocks": blocks}
    with pytest.raises(GatewayError, match="thinking_blocks"):
        chat([turn, {"role": "tool", "tool_call_id": "c1", "content": ""}], reasoning_effort="low")


def carry(make: Any) -> None:
    """Nothing but an error for the caller may come of it; what was carried can be sent."""
    try:
        carried, refusal = make(), None
    except GatewayError as error:
        carried, refusal = Carried(), error
    assert refusal is None or (400 <= refusal.status < 500 and refusal.message.isprintable())
    msgspec.json.encode(carried.fields)
    assert all(name.isascii() and name.isprintable() for name in carried.dropped)


@settings(max_examples=20, deadline=None)
@given(messages=st.lists(turns, max_size=4), fields=extras, most=st.integers(1, 5000))
def test_any_chat_is_carried_or_refused(messages: list[Any], fields: dict[str, Any], most: int) -> None:
    given = {name: value for name, value in fields.items() if value is not None}
    carry(lambda: chat_to_messages({"model": "m", "messages": messages, **given}, most_tokens=most))


@settings(max_examples=20, deadline=None)
@given(messages=st.lists(turns, max_size=4), fields=extras)
def test_any_message_is_carried_or_refused(messages: list[Any], fields: dict[str, Any]) -> None:
    given = {name: value for name, value in fields.items() if value is not None}
    carry(lambda: messages_to_chat({"model": "m", "max_tokens": 5, "messages": messages, **given}))


@settings(max_examples=20, deadline=None)
@given(items=st.lists(turns | parts, max_size=4), fields=extras, keeps=st.booleans())
def test_any_response_is_carried_or_refused(items: list[Any], fields: dict[str, Any], keeps: bool) -> None:
    def make() -> Carried:
        given = {name: value for name, value in fields.items() if value is not None}
        as_chat = responses_to_chat({"model": "m", "input": items, **given}, keeps_thinking=keeps)
        return chat_to_messages(as_chat.fields, most_tokens=4096) if keeps else as_chat

    carry(make)


def test_what_cannot_be_decoded_is_the_callers_fault() -> None:
    with pytest.raises(GatewayError):
        decode_all({"seed": msgspec.Raw(b"1e999999")})
