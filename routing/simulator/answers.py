"""What the simulator answers: a pure function of the request and the plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import msgspec

from routing.simulator.faults import Plan
from routing.simulator.requests import ChatRequest, Refusal
from routing.simulator.schemas import value_for
from routing.simulator.tokens import count_prompt_tokens, count_tokens, message_text, split_tokens

DEFAULT_OUTPUT_TOKENS = 16
WORDS = """
    able about across after again air also answer any apple area around ask away back base
    because before begin best blue book both bring build call carry case cause change city clear
    close cloud cold come common cost count cover cross day deep door down draw early earth
    east easy edge end enough even every fact far fast field fine first floor form free full
""".split()  # noqa: SIM905 - a list literal takes a word per line


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function the model wants called; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: a text or tool calls, why it ended and its completion tokens."""

    text: str | None
    calls: tuple[ToolCall, ...]
    finish_reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one call; cached ones are part of the prompt's, reasoning of the completion's."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int | None = None
    total_tokens: int | None = None


def make_choices(request: ChatRequest, plan: Plan) -> tuple[Choice, ...]:
    """The answer's choices; raises Refusal for a tool choice that cannot be."""
    return tuple(_make_choice(request, plan, index) for index in range(request.n or 1))


def make_usage(request: ChatRequest, choices: Iterable[Choice], plan: Plan) -> Usage:
    """The true usage: what the tokenizer counts, save for the numbers the plan gives."""
    forced = plan.usage if isinstance(plan.usage, dict) else {}
    counted = Usage(count_prompt_tokens(request.messages), sum(choice.tokens for choice in choices))
    return replace(counted, **forced)


def make_text(seed: bytes, tokens: int) -> str:
    """A sentence of exactly so many tokens, the same for the same seed."""
    if tokens < 1:
        return ""
    words = [WORDS[(seed[i % len(seed)] + i // len(seed)) % len(WORDS)] for i in range(max(tokens - 1, 1))]
    return " ".join(words).capitalize() + ("." if tokens > 1 else "")


def _make_choice(request: ChatRequest, plan: Plan, index: int) -> Choice:
    seed = _digest(request, index)
    free_text = last_user_text(request.messages) if plan.echo else None
    functions = _functions_to_call(request) if plan.text is None else []
    if functions:
        return _make_calls(functions, seed, free_text, request.most_tokens)
    text, finish_reason = _cut(_whole_text(request, plan, seed, free_text), request)
    return Choice(text, (), finish_reason, count_tokens(text))


def _digest(request: ChatRequest, index: int) -> bytes:
    told = (request.model, request.messages, request.seed, index)
    return blake2b(msgspec.json.encode(told, order="deterministic")).digest()


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last message a user sent, empty if there is none."""
    return next(
        (message_text(message) for message in reversed(messages) if message.get("role") == "user"), ""
    )


def _whole_text(request: ChatRequest, plan: Plan, seed: bytes, free_text: str | None) -> str:
    if plan.text is not None:
        return plan.text
    shape = request.response_format or {}
    if shape.get("type") == "json_schema":
        return _json(value_for((shape.get("json_schema") or {}).get("schema") or {}, free_text=free_text))
    if shape.get("type") == "json_object":
        return _json({"answer": make_text(seed, DEFAULT_OUTPUT_TOKENS) if free_text is None else free_text})
    if free_text is not None:
        return free_text
    if plan.output_tokens is None and request.messages[-1].get("role") == "tool":
        return f"The tool answered: {message_text(request.messages[-1])}"
    return make_text(seed, DEFAULT_OUTPUT_TOKENS if plan.output_tokens is None else plan.output_tokens)


def _cut(text: str, request: ChatRequest) -> tuple[str, str]:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    text = text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=None)]
    if request.most_tokens is None or count_tokens(text) <= request.most_tokens:
        return text, "stop"
    return "".join(split_tokens(text)[: request.most_tokens]), "length"


def _functions_to_call(request: ChatRequest) -> list[Mapping[str, Any]]:
    choice = request.tool_choice if request.tool_choice is not None else "auto"
    tools = request.tools or []
    functions = [tool["function"] for tool in tools if isinstance(tool.get("function"), dict)]
    if isinstance(choice, dict):
        named = choice.get("function")
        name = named.get("name") if isinstance(named, dict) else None
        functions = [function for function in functions if function.get("name") == name]
        if not functions:
            raise Refusal(400, f"Tool choice {name!r} not found in 'tools' parameter.", param="tool_choice")
    elif choice not in ("none", "auto", "required"):
        raise Refusal(400, f"Invalid value: {choice!r}.", param="tool_choice")
    if choice == "none" or request.messages[-1].get("role") != "user":
        return []
    parallel = choice == "required" and request.parallel_tool_calls is not False
    return functions[: 2 if parallel else 1]


def _make_calls(
    functions: Iterable[Mapping[str, Any]], seed: bytes, free_text: str | None, most_tokens: int | None
) -> Choice:
    calls: list[ToolCall] = []
    tokens = 0
    for index, function in enumerate(functions):
        if most_tokens is not None and tokens >= most_tokens:
            return Choice(None, tuple(calls), "length", tokens)
        arguments = _json(value_for(function.get("parameters") or {"type": "object"}, free_text=free_text))
        pieces = split_tokens(arguments)
        kept = pieces if most_tokens is None else pieces[: most_tokens - tokens - 1]
        call_id = "call_" + blake2b(seed + bytes([index]), digest_size=12).hexdigest()
        calls.append(ToolCall(call_id, str(function.get("name")), "".join(kept)))
        tokens += 1 + len(kept)
        if len(kept) < len(pieces):
            return Choice(None, tuple(calls), "length", tokens)
    return Choice(None, tuple(calls), "tool_calls", tokens)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
