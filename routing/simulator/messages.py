"""Anthropic's shapes: what a Messages request asks, the bodies and stream events that answer it, and errors."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from routing.simulator.answers import Choice, ToolCall, Usage
from routing.simulator.faults import Plan
from routing.simulator.requests import ChatRequest, Positive, Refusal
from routing.simulator.tokens import split_tokens
from routing.simulator.wire import Frame, encode

VERSIONS = ("2023-06-01", "2026-10-21")
NO_SAMPLING_SINCE = "2026-10-21"
SIGNATURE = "signature-of-the-simulator"
WRONG_USAGE = {"input_tokens": -5, "output_tokens": 10**12}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_SHARE = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Turn(msgspec.Struct, frozen=True):
    """One message; whose blocks are `_blocks`."""

    role: Literal["user", "assistant"]
    content: str | list[dict[str, Any]]


class MessagesRequest(msgspec.Struct, frozen=True):
    """A Messages request; fields the simulator does not use are ignored."""

    model: str
    max_tokens: Positive
    messages: Annotated[list[Turn], msgspec.Meta(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: _SHARE | None = None
    top_p: _SHARE | None = None
    top_k: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    simulator: Any = None


def check(request: MessagesRequest, version: str) -> None:
    """Raise Refusal as the API does: for its version, and for results that follow no call of their tool."""
    if version not in VERSIONS:
        raise Refusal(400, f"anthropic-version: {version!r} is not a valid version")
    sampling = (request.temperature, request.top_p, request.top_k)
    if version >= NO_SAMPLING_SINCE and any(value is not None for value in sampling):
        raise Refusal(400, "temperature, top_p and top_k are not supported")
    called: set[str] = set()
    for number, turn in enumerate(request.messages):
        blocks = _blocks(turn)
        if not blocks or any(block.get("type") == "text" and not block.get("text") for block in blocks):
            raise Refusal(400, f"messages.{number}: text content blocks must be non-empty")
        answered = {block.get("tool_use_id") for block in blocks if block.get("type") == "tool_result"}
        if not answered <= called:
            raise Refusal(400, f"messages.{number}: unexpected `tool_use_id` in `tool_result` blocks")
        if called - answered:
            raise Refusal(400, f"messages.{number}: `tool_use` ids were found without `tool_result` blocks")
        called = {str(block.get("id")) for block in blocks if block.get("type") == "tool_use"}
        for block in blocks:
            if block.get("type") == "thinking" and block.get("signature") != SIGNATURE:
                raise Refusal(400, f"messages.{number}: Invalid `signature` in `thinking` block")
    if request.thinking and request.thinking.get("type") == "enabled":
        made = [_blocks(turn) for turn in request.messages if turn.role == "assistant"]
        if (
            made
            and any(block["type"] == "tool_use" for block in made[-1])
            and made[-1][0]["type"] != "thinking"
        ):
            raise Refusal(400, "Expected `thinking` before `tool_use`, when thinking is enabled")
        if not 1024 <= request.thinking.get("budget_tokens", 0) < request.max_tokens:
            raise Refusal(400, "thinking.budget_tokens: must be at least 1024 and less than max_tokens")
        if request.temperature not in (None, 1):
            raise Refusal(400, "`temperature` may only be set to 1 when thinking is enabled")


def as_chat(request: MessagesRequest) -> ChatRequest:
    """The same question as the simulator's answers are made from."""
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": _text(request.system)})
    for turn in request.messages:
        messages += _as_chat_messages(turn)
    choice = request.tool_choice or {}
    named = {"type": "function", "function": {"name": choice.get("name")}}
    choices: dict[str, str | dict[str, Any]] = {"any": "required", "tool": named, "none": "none"}
    shape = (request.output_config or {}).get("format")
    return ChatRequest(
        model=request.model,
        messages=messages,
        max_tokens=request.max_tokens,
        stop=request.stop_sequences,
        tools=[_function(tool) for tool in request.tools] if request.tools else None,
        tool_choice=choices.get(choice.get("type", ""), "auto"),
        parallel_tool_calls=not choice.get("disable_parallel_tool_use", False),
        response_format=shape and {"type": "json_schema", "json_schema": {"schema": shape.get("schema")}},
    )


def error_body(error: Refusal) -> dict[str, Any]:
    """Anthropic's error object."""
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    detail: dict[str, Any] = {
        "type": _TYPES.get(error.status, usual) if error.type is None else error.type,
        "message": str(error),
    }
    if error.code is not None:
        detail["details"] = {"error_code": error.code}
    return {"type": "error", "error": detail, "request_id": f"req_{secrets.token_hex(12)}"}


def told_usage(usage: Usage, plan: Plan) -> dict[str, Any] | None:
    """The `usage` the client is told: its input leaves out what was cached."""
    if plan.usage == "missing":
        return None
    if plan.usage == "wrong":
        return WRONG_USAGE
    written = usage.cache_write_tokens or 0
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "service_tier": "standard",
    }


def message_body(model: str, choice: Choice, usage: dict[str, Any] | None, plan: Plan) -> dict[str, Any]:
    """A plain message."""
    content: list[dict[str, Any]] = []
    if plan.thinking is not None:
        content.append({"type": "thinking", "thinking": plan.thinking, "signature": SIGNATURE})
    if choice.text:
        content.append({"type": "text", "text": choice.text})
    content += [_tool_use(call, msgspec.json.decode(call.arguments or "{}")) for call in choice.calls]
    body = {**_head(model), "content": content, **_stopped(choice)}
    return body if usage is None else {**body, "usage": usage}


def stream_events(model: str, choice: Choice, usage: dict[str, Any] | None, plan: Plan) -> Iterator[Frame]:
    """The events of a streamed message, a token each."""
    start = {**_head(model), "content": [], "stop_reason": None, "stop_sequence": None}
    if usage is not None:
        start["usage"] = {**usage, "output_tokens": 1}
    yield _event("message_start", {"message": start})
    yield _event("ping", {})
    for index, (block, deltas) in enumerate(_blocks_of(choice, plan)):
        yield _event("content_block_start", {"index": index, "content_block": block})
        for delta, tokens in deltas:
            yield _event("content_block_delta", {"index": index, "delta": delta}, tokens)
        yield _event("content_block_stop", {"index": index})
    told = {} if usage is None else {"usage": usage}
    yield _event("message_delta", {"delta": _stopped(choice), **told})
    yield Frame(encode({"type": "message_stop"}), event="message_stop", is_last=True)


def _blocks_of(
    choice: Choice, plan: Plan
) -> Iterator[tuple[dict[str, Any], list[tuple[dict[str, Any], int]]]]:
    if plan.thinking is not None:
        thoughts: list[tuple[dict[str, Any], int]] = [
            ({"type": "thinking_delta", "thinking": piece}, 0) for piece in split_tokens(plan.thinking)
        ]
        thoughts.append(({"type": "signature_delta", "signature": SIGNATURE}, 0))
        yield {"type": "thinking", "thinking": "", "signature": ""}, thoughts
    if choice.text:
        pieces = split_tokens(choice.text)
        yield (
            {"type": "text", "text": ""},
            [({"type": "text_delta", "text": piece}, 1 if piece.strip() else 0) for piece in pieces],
        )
    for call in choice.calls:
        pieces = split_tokens(call.arguments)
        yield (
            _tool_use(call, {}),
            [({"type": "input_json_delta", "partial_json": piece}, 1) for piece in pieces],
        )


def _event(kind: str, data: Mapping[str, Any], tokens: int = 0) -> Frame:
    return Frame(encode({"type": kind, **data}), tokens, event=kind)


def _head(model: str) -> dict[str, Any]:
    return {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": model}


def _stopped(choice: Choice) -> dict[str, Any]:
    return {"stop_reason": _STOPS[choice.finish_reason], "stop_sequence": None}


def _tool_use(call: ToolCall, arguments: Any) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": call.id.replace("call_", "toolu_"),
        "name": call.name,
        "input": arguments,
    }


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": tool.get("name"), "parameters": tool.get("input_schema")},
    }


def _blocks(turn: Turn) -> Sequence[dict[str, Any]]:
    return [{"type": "text", "text": turn.content}] if isinstance(turn.content, str) else turn.content


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(block["text"]) for block in content if block.get("type") == "text")


def _as_chat_messages(turn: Turn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in _blocks(turn):
        match block.get("type"):
            case "tool_result":
                messages.append({"role": "tool", "content": _text(block.get("content") or "")})
            case "text":
                parts.append(block)
            case "image":
                parts.append({"type": "image_url"})
            case "tool_use":
                calls.append({"function": {"arguments": encode(block.get("input")).decode()}})
    if parts or calls:
        messages.append({"role": turn.role, "content": parts, "tool_calls": calls})
    return messages
