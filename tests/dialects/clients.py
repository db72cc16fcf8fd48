"""The real client packages with one face: each asks in its own form, and says what it understood."""

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

import anthropic
import openai

from tests.factories import Caller
from tests.processes import Product
from tests.sdk import kept

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


@dataclass
class Call:
    """One call of a tool, as the client sees it."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass
class Said:
    """One answer, whatever its form. `input_tokens` are all of the prompt's."""

    text: str
    stop: str
    input_tokens: int
    output_tokens: int
    calls: list[Call] = field(default_factory=list)
    thinking: str = ""
    cached_tokens: int = 0
    written_tokens: int = 0
    request_id: str = ""
    dropped: str = ""
    turn: Any = None  # the answer as the client would send it back


class Client(Protocol):
    """A package that speaks one form."""

    def ask(self, prompt: Any, *, stream: bool = False, **options: Any) -> Said:
        """One call. `prompt`: a text, or earlier turns in the client's own form. Options of all forms:
        `tools` (names), `must_call`, `schema`, `stop`, `system`, `image`, `max_tokens`."""
        ...

    def result_turns(self, prompt: str, said: Said, results: dict[str, str]) -> list[Any]:
        """The conversation so far, with the results of the tools that were called."""
        ...


class OpenAIChat:
    """`openai`, chat completions."""

    name = "chat"

    def __init__(self, product: Product, caller: Caller) -> None:
        self.model = caller.model
        self.client = kept(openai.OpenAI(base_url=product.base_url, api_key=caller.secret, max_retries=0))

    def ask(self, prompt: Any, *, stream: bool = False, **options: Any) -> Said:
        sent: dict[str, Any] = {"model": self.model, "messages": self._messages(prompt, options)}
        if tools := options.pop("tools", None):
            sent["tools"] = [{"type": "function", "function": {"name": t, "parameters": CITY}} for t in tools]
        if options.pop("must_call", False):
            sent["tool_choice"] = "required"
        if schema := options.pop("schema", None):
            shape = {"name": "answer", "schema": schema}
            sent["response_format"] = {"type": "json_schema", "json_schema": shape}
        sent |= options
        if not stream:
            raw = self.client.chat.completions.with_raw_response.create(**sent)
            return self._said(raw.parse(), raw.headers)
        raw = self.client.chat.completions.with_raw_response.create(
            **sent, stream=True, stream_options={"include_usage": True}
        )
        return self._gathered(list(raw.parse()), raw.headers)

    def result_turns(self, prompt: str, said: Said, results: dict[str, str]) -> list[Any]:
        answers = [{"role": "tool", "tool_call_id": id, "content": text} for id, text in results.items()]
        return [{"role": "user", "content": prompt}, said.turn, *answers]

    @staticmethod
    def _messages(prompt: Any, options: dict[str, Any]) -> list[Any]:
        content: Any = prompt
        if image := options.pop("image", None):
            url = {"url": f"data:image/png;base64,{image}"}
            content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": url}]
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": content}]
        system = options.pop("system", None)
        return [{"role": "system", "content": system}, *turns] if system else turns

    @staticmethod
    def _said(answer: Any, headers: Any) -> Said:
        choice, usage = answer.choices[0], answer.usage
        calls = [
            Call(c.id, c.function.name, json.loads(c.function.arguments))
            for c in choice.message.tool_calls or []
        ]
        details = usage.prompt_tokens_details
        return Said(
            choice.message.content or "",
            choice.finish_reason,
            usage.prompt_tokens,
            usage.completion_tokens,
            calls,
            getattr(choice.message, "reasoning_content", None) or "",
            details.cached_tokens if details else 0,
            getattr(details, "cache_write_tokens", 0) or 0,
            headers["x-request-id"],
            headers.get("x-gateway-dropped", ""),
            choice.message.model_dump(exclude_none=True),
        )

    def _gathered(self, chunks: list[Any], headers: Any) -> Said:
        text, thinking, stop, parts = "", "", "", dict[int, dict[str, str]]()
        for chunk in chunks:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                thinking += getattr(choice.delta, "reasoning_content", None) or ""
                stop = choice.finish_reason or stop
                for piece in choice.delta.tool_calls or []:
                    part = parts.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                    part["id"] += piece.id or ""
                    part["name"] += piece.function.name or ""
                    part["arguments"] += piece.function.arguments or ""
        usage = chunks[-1].usage
        details = usage.prompt_tokens_details
        calls = [Call(p["id"], p["name"], json.loads(p["arguments"])) for p in parts.values()]
        tool_calls = [
            {"id": p["id"], "type": "function", "function": {"name": p["name"], "arguments": p["arguments"]}}
            for p in parts.values()
        ]
        turn = {"role": "assistant", "content": text or None} | ({"tool_calls": tool_calls} if calls else {})
        return Said(
            text, stop, usage.prompt_tokens, usage.completion_tokens, calls, thinking,
            details.cached_tokens if details else 0, getattr(details, "cache_write_tokens", 0) or 0,
            headers["x-request-id"], headers.get("x-gateway-dropped", ""), turn,
        )  # fmt: skip


class AnthropicMessages:
    """`anthropic`, messages. Its stop reasons are told by chat's names."""

    name = "messages"
    _STOPS = {
        "end_turn": "stop",
        "tool_use": "tool_calls",
        "max_tokens": "length",
        "refusal": "content_filter",
    }

    def __init__(self, product: Product, caller: Caller) -> None:
        self.model = caller.model
        self.client = kept(anthropic.Anthropic(base_url=product.url, api_key=caller.secret, max_retries=0))

    def ask(self, prompt: Any, *, stream: bool = False, **options: Any) -> Said:
        content: Any = prompt
        if image := options.pop("image", None):
            source = {"type": "base64", "media_type": "image/png", "data": image}
            content = [{"type": "text", "text": prompt}, {"type": "image", "source": source}]
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": content}]
        sent: dict[str, Any] = {"model": self.model, "messages": turns, "max_tokens": 4000}
        if tools := options.pop("tools", None):
            sent["tools"] = [{"name": tool, "input_schema": CITY} for tool in tools]
        if options.pop("must_call", False):
            sent["tool_choice"] = {"type": "any"}
        if schema := options.pop("schema", None):
            sent["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        if stop := options.pop("stop", None):
            sent["stop_sequences"] = [stop]
        sent |= options
        if not stream:
            raw = self.client.messages.with_raw_response.create(**sent)
            return self._said(raw.parse(), raw.headers)
        with self.client.messages.stream(**sent) as events:
            return self._said(events.get_final_message(), events.response.headers)

    def result_turns(self, prompt: str, said: Said, results: dict[str, str]) -> list[Any]:
        answers = [
            {"type": "tool_result", "tool_use_id": id, "content": text} for id, text in results.items()
        ]
        return [{"role": "user", "content": prompt}, said.turn, {"role": "user", "content": answers}]

    def _said(self, message: Any, headers: Any) -> Said:
        usage = message.usage
        cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        blocks = message.content
        return Said(
            "".join(b.text for b in blocks if b.type == "text"),
            self._STOPS[message.stop_reason],
            usage.input_tokens + cached + written,
            usage.output_tokens,
            [Call(b.id, b.name, dict(b.input)) for b in blocks if b.type == "tool_use"],
            "".join(b.thinking for b in blocks if b.type == "thinking"),
            cached,
            written,
            headers["x-request-id"],
            headers.get("x-gateway-dropped", ""),
            {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in blocks]},
        )


class OpenAIResponses:
    """`openai`, responses. Its ends are told by chat's names."""

    name = "responses"

    def __init__(self, product: Product, caller: Caller) -> None:
        self.model = caller.model
        self.client = kept(openai.OpenAI(base_url=product.base_url, api_key=caller.secret, max_retries=0))

    def ask(self, prompt: Any, *, stream: bool = False, **options: Any) -> Said:
        turns = prompt
        if image := options.pop("image", None):
            url = f"data:image/png;base64,{image}"
            parts = [{"type": "input_text", "text": prompt}, {"type": "input_image", "image_url": url}]
            turns = [{"role": "user", "content": parts}]
        sent: dict[str, Any] = {"model": self.model, "input": turns}
        if system := options.pop("system", None):
            sent["instructions"] = system
        if tools := options.pop("tools", None):
            sent["tools"] = [
                {"type": "function", "name": tool, "parameters": CITY, "strict": False} for tool in tools
            ]
        if options.pop("must_call", False):
            sent["tool_choice"] = "required"
        if schema := options.pop("schema", None):
            sent["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": schema}}
        if bound := options.pop("max_tokens", None):
            sent["max_output_tokens"] = bound
        sent |= options
        if not stream:
            raw = self.client.responses.with_raw_response.create(**sent)
            return self._said(raw.parse(), raw.headers)
        with self.client.responses.stream(**sent) as events:
            pieces: list[Any] = list(events)
            told = "".join(event.delta for event in pieces if event.type == "response.output_text.delta")
            final = pieces[-1].response
            assert told == final.output_text
            return self._said(final, events._response.headers)

    def result_turns(self, prompt: str, said: Said, results: dict[str, str]) -> list[Any]:
        outputs = [
            {"type": "function_call_output", "call_id": id, "output": text} for id, text in results.items()
        ]
        return [{"role": "user", "content": prompt}, *said.turn, *outputs]

    @staticmethod
    def _said(response: Any, headers: Any) -> Said:
        usage = response.usage
        calls = [
            Call(item.call_id, item.name, json.loads(item.arguments))
            for item in response.output
            if item.type == "function_call"
        ]
        thinking = [
            part.text for item in response.output if item.type == "reasoning" for part in item.summary
        ]
        stop = "tool_calls" if calls else "stop"
        if response.status == "incomplete":
            stop = "length" if response.incomplete_details.reason == "max_output_tokens" else "content_filter"
        return Said(
            response.output_text,
            stop,
            usage.input_tokens,
            usage.output_tokens,
            calls,
            "".join(thinking),
            usage.input_tokens_details.cached_tokens,
            getattr(usage.input_tokens_details, "cache_write_tokens", 0) or 0,
            headers["x-request-id"],
            headers.get("x-gateway-dropped", ""),
            [item.model_dump(exclude_none=True) for item in response.output],
        )
