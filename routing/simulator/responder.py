"""Sends one answer as its plan says, and writes down what was truly served."""

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from routing.simulator import messages, responses
from routing.simulator.answers import Choice, Usage
from routing.simulator.completions import text_body, text_frames
from routing.simulator.exchange import Exchange
from routing.simulator.faults import Plan
from routing.simulator.messages import MessagesRequest
from routing.simulator.requests import ChatRequest, CompletionRequest
from routing.simulator.responses import ResponsesRequest
from routing.simulator.served import ServedCall
from routing.simulator.wire import (
    End,
    ErrorBody,
    Frame,
    completion_body,
    encode,
    faulty_frames,
    new_identity,
    planned_error,
    stream_frames,
    told_usage,
)


class Responder:
    """One call's way out: `get_through`, then one of the `send_` methods if that said yes."""

    def __init__(self, exchange: Exchange, call: ServedCall, plan: Plan, make_error: ErrorBody) -> None:
        self.exchange = exchange
        self.call = call
        self.plan = plan
        self.make_error = make_error
        self.started = time.monotonic()

    async def get_through(self) -> bool:
        """Wait as long as told, then make the faults that replace an answer; True if there was none."""
        if self.plan.hang:
            await self.exchange.hang()
        if self.plan.first_byte_s:
            await self.exchange.pause(self.plan.first_byte_s)
        if self.plan.drop:
            await self.exchange.drop()
            return False
        if self.plan.redirect is not None:
            self.call.outcome = "failed"
            await self.exchange.answer(302, b"", {**self._headers(), "location": self.plan.redirect})
            return False
        if self.plan.status is not None:
            self.call.outcome = "failed"
            body = encode(self.make_error(planned_error(self.plan, self.plan.status)))
            wait = {} if self.plan.retry_after is None else {"retry-after": self.plan.retry_after}
            await self.exchange.answer(self.plan.status, body, self._headers() | wait)
            return False
        return True

    async def send_chat(self, request: ChatRequest, choices: Sequence[Choice], usage: Usage) -> None:
        """Send a chat completion, streamed if the request says so."""
        identity = new_identity(request.model)
        told = told_usage(usage, self.plan)
        logprobs = bool(request.logprobs)
        if not request.stream:
            self._count(usage)
            await self._send_plain(completion_body(identity, choices, told, logprobs, self.plan.thinking))
            return
        frames = stream_frames(
            identity,
            choices,
            told,
            asked_usage=request.wants_usage,
            logprobs=logprobs,
            thinking=self.plan.thinking,
        )
        await self._send_stream(frames, usage)

    async def send_message(self, request: MessagesRequest, choice: Choice, usage: Usage) -> None:
        """Send a message in Anthropic's form, streamed if the request says so."""
        told = messages.told_usage(usage, self.plan)
        if not request.stream:
            self._count(usage)
            await self._send_plain(messages.message_body(request.model, choice, told, self.plan))
            return
        await self._send_stream(messages.stream_events(request.model, choice, told, self.plan), usage)

    async def send_response(self, request: ResponsesRequest, choice: Choice, usage: Usage) -> None:
        """Send a response, streamed if the request says so."""
        told = responses.told_usage(usage, self.plan)
        if not request.stream:
            self._count(usage)
            await self._send_plain(responses.response_body(request, choice, told, self.plan))
            return
        self.make_error = responses.error_event
        await self._send_stream(responses.stream_events(request, choice, told, self.plan), usage)

    async def send_completion(
        self, request: CompletionRequest, choices: Sequence[Choice], usage: Usage
    ) -> None:
        """Send a completion of the older form, streamed if the request says so."""
        identity = new_identity(request.model)
        told = told_usage(usage, self.plan)
        if not request.stream:
            self._count(usage)
            await self._send_plain(text_body(identity, choices, told))
            return
        await self._send_stream(text_frames(identity, choices, told, asked_usage=request.wants_usage), usage)

    async def send_embeddings(self, model: str, data: Sequence[Mapping[str, Any]], tokens: int) -> None:
        """Send vectors; the plan's usage counts as for chat."""
        forced = self.plan.usage if isinstance(self.plan.usage, dict) else {}
        usage = Usage(**{"prompt_tokens": tokens, **forced, "completion_tokens": 0})
        self._count(usage)
        told = told_usage(usage, self.plan)
        body: dict[str, Any] = {"object": "list", "data": data, "model": model}
        if told is not None:
            body["usage"] = {name: told[name] for name in ("prompt_tokens", "total_tokens")}
        await self._send_plain(body)

    async def _send_plain(self, body: Mapping[str, Any]) -> None:
        whole = encode(body)
        headers = self._headers() | self._content_type("application/json")
        half = whole[: len(whole) // 2]
        if self.plan.break_after_frames is not None:
            await self.exchange.start(200, {**headers, "content-length": str(len(whole))})
            await self.exchange.write(half, more=True)
            return
        if not self.plan.bad_json:
            self.call.outcome = "complete"
        await self.exchange.answer(200, half if self.plan.bad_json else whole, headers)

    async def _send_stream(self, frames: Iterable[Frame], usage: Usage) -> None:
        content_type = self._content_type("text/event-stream; charset=utf-8")
        await self.exchange.start(200, {"cache-control": "no-cache"} | self._headers() | content_type)
        self.call.prompt_tokens = usage.prompt_tokens
        self.call.cached_tokens = usage.cached_tokens
        waiting: list[Frame] = []
        for step in faulty_frames(frames, self.plan, self.make_error):
            if isinstance(step, End):
                await self._end_stream(step, waiting, usage)
                return
            waiting.append(step)
            if len(waiting) == self.plan.frames_per_write:
                await self._write_frames(waiting)

    async def _end_stream(self, end: End, waiting: list[Frame], usage: Usage) -> None:
        if waiting:
            await self._write_frames(waiting)
        if end is End.HANG:
            await self.exchange.hang()
        if end is End.CUT:
            return
        if end is not End.ERROR:
            self._count(usage)
        if end is End.COMPLETE:
            self.call.outcome = "complete"
        await self.exchange.write(b"", more=False)

    async def _write_frames(self, waiting: list[Frame]) -> None:
        await self.exchange.pause(self.plan.between_chunks_s if self.call.frames_sent else 0)
        end = b"\r\n\r\n" if self.plan.crlf else b"\n\n"
        await self.exchange.write(b"".join(frame.encode(end) for frame in waiting), more=True)
        self.call.frames_sent += len(waiting)
        self.call.completion_tokens += sum(frame.tokens for frame in waiting)
        waiting.clear()

    def _count(self, usage: Usage) -> None:
        self.call.prompt_tokens = usage.prompt_tokens
        self.call.completion_tokens = usage.completion_tokens
        self.call.cached_tokens = usage.cached_tokens

    def _content_type(self, usual: str) -> dict[str, str]:
        return {"content-type": usual if self.plan.content_type is None else self.plan.content_type}

    def _headers(self) -> dict[str, str]:
        return {
            "x-request-id": f"req_{secrets.token_hex(12)}",
            "openai-version": "2020-10-01",
            "openai-processing-ms": str(round((time.monotonic() - self.started) * 1000)),
            **(self.plan.headers or {}),
        }
