"""The shapes of OpenAI's Responses API: what a request asks, and the bodies and stream events that answer it."""

import secrets
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from routing.simulator.answers import Choice, ToolCall, Usage
from routing.simulator.faults import Plan
from routing.simulator.requests import ChatRequest, Positive, Refusal
from routing.simulator.tokens import split_tokens
from routing.simulator.wire import Frame, encode, error_body

WRONG_USAGE = {"input_tokens": -5, "output_tokens": 10**12, "total_tokens": 7}


class ResponsesRequest(msgspec.Struct, frozen=True):
    """A Responses request; fields the simulator does not use are ignored."""

    model: str
    input: str | Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    simulator: Any = None


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """The same question as the simulator's answers are made from. Raises Refusal for a chain: nothing is kept."""
    if request.previous_response_id is not None:
        message = f"Previous response with id {request.previous_response_id!r} not found."
        raise Refusal(400, message, param="previous_response_id", code="previous_response_not_found")
    messages = [{"role": "system", "content": request.instructions}] if request.instructions else []
    items = [{"role": "user", "content": request.input}] if isinstance(request.input, str) else request.input
    for item in items:
        messages += _as_chat_messages(item)
    shape = (request.text or {}).get("format") or {}
    choice = request.tool_choice
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return ChatRequest(
        model=request.model,
        messages=messages,
        max_completion_tokens=request.max_output_tokens,
        tools=[{"type": "function", "function": tool} for tool in request.tools or ()] or None,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format={**shape, "json_schema": shape} if shape else None,
    )


def _as_chat_messages(item: dict[str, Any]) -> list[dict[str, Any]]:
    match item.get("type", "message"):
        case "message":
            content = item.get("content")
            if isinstance(content, list):
                content = [{**part, "type": _PARTS.get(part.get("type"), "text")} for part in content]
            return [{"role": item.get("role"), "content": content}]
        case "function_call":
            return [{"role": "assistant", "tool_calls": [{"function": {"arguments": item.get("arguments")}}]}]
        case "function_call_output":
            return [{"role": "tool", "content": item.get("output")}]
    return []


_PARTS = {"input_image": "image_url"}


def told_usage(usage: Usage, plan: Plan) -> dict[str, Any] | None:
    """The `usage` the client is told: None when it is to be missing."""
    if plan.usage == "missing":
        return None
    if plan.usage == "wrong":
        return WRONG_USAGE
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens or 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def response_body(
    request: ResponsesRequest, choice: Choice, usage: dict[str, Any] | None, plan: Plan
) -> dict[str, Any]:
    """A plain response."""
    items = [item for item, _ in _items(choice, plan)]
    return _response(request, choice, items, usage)


def stream_events(
    request: ResponsesRequest, choice: Choice, usage: dict[str, Any] | None, plan: Plan
) -> Iterator[Frame]:
    """The events of a streamed response, a token each."""
    number = 0

    def event(kind: str, tokens: int = 0, *, is_last: bool = False, **fields: Any) -> Frame:
        nonlocal number
        data = encode({"type": kind, "sequence_number": number, **fields})
        number += 1
        return Frame(data, tokens, event=kind, is_last=is_last)

    begun = _response(request, choice, [], None) | {"status": "in_progress", "incomplete_details": None}
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    whole = _response(request, choice, [], usage) | {"id": begun["id"], "created_at": begun["created_at"]}
    for index, (item, deltas) in enumerate(_items(choice, plan)):
        yield event("response.output_item.added", output_index=index, item=_emptied(item))
        place: dict[str, Any] = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            place["content_index"] = 0
            part = {**item["content"][0], "text": ""}
            yield event("response.content_part.added", part=part, **place)
        elif item["type"] == "reasoning":
            place["summary_index"] = 0
            part = {**item["summary"][0], "text": ""}
            yield event("response.reasoning_summary_part.added", part=part, **place)
        for kind, piece, tokens in deltas:
            yield event(f"response.{kind}.delta", tokens, delta=piece, **place)
        yield event("response.output_item.done", output_index=index, item=item)
        whole["output"].append(item)
    yield event(f"response.{whole['status']}", is_last=True, response=whole)


def error_event(error: Refusal) -> dict[str, Any]:
    """What a stream that fails ends with."""
    told = error_body(error)["error"]
    return {
        "type": "error",
        "sequence_number": 0,
        "code": told["code"],
        "message": told["message"],
        "param": None,
    }


def _response(
    request: ResponsesRequest, choice: Choice, items: list[dict[str, Any]], usage: dict[str, Any] | None
) -> dict[str, Any]:
    is_cut = choice.finish_reason == "length"
    body = {
        "id": f"resp_{secrets.token_hex(24)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if is_cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": request.instructions,
        "model": request.model,
        "output": items,
        "parallel_tool_calls": True,
        "store": request.store is not False,
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "metadata": {},
    }
    return body if usage is None else {**body, "usage": usage}


def _items(choice: Choice, plan: Plan) -> Iterator[tuple[dict[str, Any], list[tuple[str, str, int]]]]:
    """The output's items, each with its pieces: the kind of the event, the text, its tokens."""
    if plan.thinking is not None:
        summary = [{"type": "summary_text", "text": plan.thinking}]
        item: dict[str, Any] = {"id": f"rs_{secrets.token_hex(24)}", "type": "reasoning", "summary": summary}
        yield item, [("reasoning_summary_text", piece, 0) for piece in split_tokens(plan.thinking)]
    if choice.text:
        content = [{"type": "output_text", "text": choice.text, "annotations": [], "logprobs": []}]
        item = {"id": f"msg_{secrets.token_hex(24)}", "type": "message", "role": "assistant"}
        pieces = split_tokens(choice.text)
        yield (
            {**item, "status": "completed", "content": content},
            [("output_text", piece, 1 if piece.strip() else 0) for piece in pieces],
        )
    for call in choice.calls:
        pieces = split_tokens(call.arguments)
        yield _call(call), [("function_call_arguments", piece, 1) for piece in pieces]


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"fc_{secrets.token_hex(24)}",
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _emptied(item: dict[str, Any]) -> dict[str, Any]:
    """As it stands when it begins."""
    empty = {"content": [], "summary": [], "arguments": "", "status": "in_progress"}
    return {name: empty.get(name, value) for name, value in item.items()}
