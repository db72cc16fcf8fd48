"""OpenAI's shapes: bodies, stream frames and errors."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import msgspec

from routing.simulator.answers import Choice, ToolCall, Usage
from routing.simulator.faults import Plan
from routing.simulator.requests import Refusal
from routing.simulator.tokens import split_tokens

FINGERPRINT = "fp_simulator"
MODELS = ("sim-small", "sim-large", "sim-code", "sim-embedding")
WRONG_USAGE = {"prompt_tokens": -5, "completion_tokens": 10**12, "total_tokens": 7}
DONE = b"[DONE]"

_ERROR_TYPES = {
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("service_unavailable_error", "server_is_overloaded"),
}

encode = msgspec.json.encode
ErrorBody = Callable[[Refusal], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What every frame of one answer repeats."""

    id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One stream frame: its data, the completion tokens it carries, its name where the form names frames."""

    data: bytes
    tokens: int = 0
    event: str = ""
    is_last: bool = False

    def encode(self, end: bytes) -> bytes:
        """As it is sent."""
        named = b"event: %b%b" % (self.event.encode(), end[: len(end) // 2]) if self.event else b""
        return b"%bdata: %b%b" % (named, self.data, end)


class End(Enum):
    """How a stream ends: SPOILT has all its tokens, but not all its marks; ERROR has not all."""

    COMPLETE = "complete"
    SPOILT = "spoilt"
    ERROR = "error"
    CUT = "cut"
    HANG = "hang"


def new_identity(model: str) -> Identity:
    """A fresh id and the time now."""
    return Identity(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), model)


def error_body(error: Refusal) -> dict[str, Any]:
    """OpenAI's error object; type and code follow from the status if the refusal gives none."""
    plain = "invalid_request_error" if error.status < 500 else "server_error"
    type_, code = _ERROR_TYPES.get(error.status, (plain, None))
    return {
        "error": {
            "message": str(error),
            "type": error.type if error.type is not None else type_,
            "param": error.param,
            "code": error.code if error.code is not None else code,
        }
    }


def usage_body(usage: Usage) -> dict[str, Any]:
    """A chat completion's `usage`."""
    total = (
        usage.prompt_tokens + usage.completion_tokens if usage.total_tokens is None else usage.total_tokens
    )
    written = {} if usage.cache_write_tokens is None else {"cache_write_tokens": usage.cache_write_tokens}
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0, **written},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def told_usage(usage: Usage, plan: Plan) -> dict[str, Any] | None:
    """The `usage` the client is told: None when it is to be missing."""
    if plan.usage == "missing":
        return None
    return WRONG_USAGE if plan.usage == "wrong" else usage_body(usage)


def completion_body(
    identity: Identity,
    choices: Sequence[Choice],
    usage: dict[str, Any] | None,
    logprobs: bool,
    thinking: str | None = None,
) -> dict[str, Any]:
    """A plain chat completion."""
    body = _head(identity, "chat.completion")
    body["choices"] = [
        {
            "index": index,
            "message": _message(choice, thinking),
            "logprobs": _logprobs(split_tokens(choice.text or "")) if logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(choices)
    ]
    return body if usage is None else {**body, "usage": usage}


def stream_frames(
    identity: Identity,
    choices: Sequence[Choice],
    usage: dict[str, Any] | None,
    *,
    asked_usage: bool,
    logprobs: bool,
    thinking: str | None = None,
) -> Iterator[Frame]:
    """The frames of a streamed chat completion; choices take turns, a token each."""
    head = _head(identity, "chat.completion.chunk")
    no_usage = {"usage": None} if asked_usage else {}
    waiting = [_choice_deltas(index, choice, logprobs, thinking) for index, choice in enumerate(choices)]
    while waiting:
        for deltas in tuple(waiting):
            delta = next(deltas, None)
            if delta is None:
                waiting.remove(deltas)
            else:
                yield Frame(encode({**head, "choices": [delta[0]], **no_usage}), delta[1])
    if asked_usage and usage is not None:
        yield Frame(encode({**head, "choices": [], "usage": usage}))
    yield Frame(DONE, is_last=True)


def faulty_frames(frames: Iterable[Frame], plan: Plan, make_error: ErrorBody) -> Iterator[Frame | End]:
    """The frames as the plan spoils them, and then how the stream ends: stop at the first `End`."""
    sent = 0
    for frame in frames:
        if sent == plan.break_after_frames:
            yield End.CUT
        if sent == plan.hang_after_frames:
            yield End.HANG
        if sent == plan.error_frame_after_frames:
            event = "error" if frame.event else ""
            yield Frame(encode(make_error(planned_error(plan, 500))), event=event)
            yield End.ERROR
        if plan.no_done and frame.is_last:
            yield End.SPOILT
        spoilt = plan.bad_json and sent == 1
        yield replace(frame, data=frame.data[: len(frame.data) // 2]) if spoilt else frame
        sent += 1
    if sent == plan.break_after_frames:
        yield End.CUT
    yield End.SPOILT if plan.bad_json else End.COMPLETE


def planned_error(plan: Plan, status: int) -> Refusal:
    """The error a plan describes."""
    message = plan.message if plan.message is not None else "The simulator was told to fail."
    return Refusal(status, message, type=plan.type, code=plan.code)


def model_body(model: str) -> dict[str, Any]:
    """One model of `GET /v1/models`."""
    return {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": "simulator"}


def _head(identity: Identity, kind: str) -> dict[str, Any]:
    return {
        "id": identity.id,
        "object": kind,
        "created": identity.created,
        "model": identity.model,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _message(choice: Choice, thinking: str | None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text,
        "refusal": None,
        "annotations": [],
    }
    if thinking is not None:
        message["reasoning_content"] = thinking
    if choice.calls:
        message["tool_calls"] = [_tool_call(call, call.arguments) for call in choice.calls]
    return message


def _tool_call(call: ToolCall, arguments: str) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _choice_deltas(
    index: int, choice: Choice, logprobs: bool, thinking: str | None
) -> Iterator[tuple[dict[str, Any], int]]:
    def wrap(delta: dict[str, Any], finish: str | None = None, pieces: Sequence[str] = ()) -> dict[str, Any]:
        told = _logprobs(pieces) if logprobs and pieces else None
        return {"index": index, "delta": delta, "logprobs": told, "finish_reason": finish}

    yield wrap({"role": "assistant", "content": None if choice.calls else "", "refusal": None}), 0
    for piece in split_tokens(thinking or ""):
        yield wrap({"reasoning_content": piece}), 0
    for piece in split_tokens(choice.text or ""):
        yield wrap({"content": piece}, pieces=[piece]), 1 if piece.strip() else 0
    for number, call in enumerate(choice.calls):
        yield wrap({"tool_calls": [{"index": number, **_tool_call(call, "")}]}), 1
        for piece in split_tokens(call.arguments):
            yield wrap({"tool_calls": [{"index": number, "function": {"arguments": piece}}]}), 1
    yield wrap({}, choice.finish_reason), 0


def _logprobs(pieces: Iterable[str]) -> dict[str, Any]:
    content = [
        {"token": piece, "logprob": -0.125, "bytes": list(piece.encode()), "top_logprobs": []}
        for piece in pieces
    ]
    return {"content": content, "refusal": None}
