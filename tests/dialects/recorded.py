"""Answers byte by byte, as the providers' public descriptions give them; names and ids are made up."""

import json
from typing import Any


def chat_stream(*chunks: dict[str, Any], crlf: bool = False) -> bytes:
    """Chunks of a chat completion, and the end."""
    end = b"\r\n\r\n" if crlf else b"\n\n"
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x"}
    frames = [b"data: " + json.dumps(head | chunk, ensure_ascii=False).encode() + end for chunk in chunks]
    return b"".join(frames) + b"data: [DONE]" + end


def choice(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None}


def piece(index: int, arguments: str, **begin: str) -> dict[str, Any]:
    """A piece of a tool call; `id` and `name` begin it."""
    function = {"arguments": arguments} | ({"name": begin["name"]} if begin else {})
    call = {"index": index, "function": function} | ({"id": begin["id"], "type": "function"} if begin else {})
    return choice(tool_calls=[call])


CHAT_USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
# Thinking, a text with newlines and quotes, and two calls whose pieces take turns.
CHAT = chat_stream(
    choice(role="assistant", content=""),
    choice(reasoning_content="Hm, "),
    choice(reasoning_content="\n\nindeed."),
    choice(content='Grüße: "data: [DONE]"\n\n'),
    choice(content="event: error"),
    piece(0, "", id="call_a", name="first"),
    piece(0, '{"ci'),
    piece(1, "", id="call_b", name="second"),
    piece(1, '{"x": '),
    piece(0, 'ty": "Ö"}'),
    piece(1, "1}"),
    choice("tool_calls"),
    {"choices": [], "usage": CHAT_USAGE},
)


def messages_stream(*events: dict[str, Any], crlf: bool = False) -> bytes:
    """Named events, each with its type."""
    newline = "\r\n" if crlf else "\n"
    frames = [
        f"event: {event['type']}{newline}data: {json.dumps(event, ensure_ascii=False)}{newline}{newline}"
        for event in events
    ]
    return "".join(frames).encode()


def block(index: int, begin: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": begin},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


MESSAGES_EVENTS: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
            "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": 12, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5,
                      "output_tokens": 1},
        },
    },
    {"type": "ping"},
    *block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Hm, "},
        {"type": "thinking_delta", "thinking": "\n\nindeed."},
        {"type": "signature_delta", "signature": "c2lnbmVk"},
    ),
    *block(1, {"type": "redacted_thinking", "data": "aGlkZGVu"}),
    *block(
        2,
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": 'Grüße: "event: message_stop"\n\n'},
        {"type": "text_delta", "text": "data: [DONE]"},
    ),
    *block(
        3,
        {"type": "tool_use", "id": "toolu_a", "name": "first", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"ci'},
        {"type": "input_json_delta", "partial_json": 'ty": "Ö"}'},
    ),
    *block(4, {"type": "tool_use", "id": "toolu_b", "name": "second", "input": {}}),
    {"type": "a_newer_event", "index": 1},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 2}},
    },
    {"type": "message_stop"},
]  # fmt: skip
MESSAGES = messages_stream(*MESSAGES_EVENTS)


_BODY = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-x", "output": [], "error": None}


def _response_events() -> list[dict[str, Any]]:
    text, arguments = 'Grüße: "response.completed"\n\n', '{"city": "Ö"}'
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": _BODY | {"status": "in_progress"}},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"id": "rs_1", "type": "reasoning"},
        },
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Hm, "},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "\n\nindeed."},
        {"type": "response.output_item.added", "output_index": 1, "item": {"id": "msg_1", "type": "message"}},
        {"type": "response.output_text.delta", "output_index": 1, "delta": text},
        {"type": "response.output_text.delta", "output_index": 1, "delta": "event: error"},
    ]
    for index, name in ((2, "first"), (3, "second")):
        item = {"id": f"fc_{index}", "type": "function_call", "call_id": f"call_{index}", "name": name}
        events += [
            {"type": "response.output_item.added", "output_index": index, "item": item | {"arguments": ""}},
            {"type": "response.function_call_arguments.delta", "output_index": index, "delta": arguments},
        ]
    usage = {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 3},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 29,
    }
    events.append({"type": "a.newer.event"})
    events.append({"type": "response.completed", "response": _BODY | {"status": "completed", "usage": usage}})
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


RESPONSES = messages_stream(*_response_events())
