"""The simulated provider as an ASGI application."""

import sys
import traceback
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from routing.simulator import azure, messages, responses
from routing.simulator.answers import make_choices, make_usage
from routing.simulator.completions import count_completions, make_completions, read_prompts
from routing.simulator.embeddings import DEFAULT_DIMENSIONS, embed, encode_vector, read_inputs
from routing.simulator.exchange import ClientLeft, Exchange, Receive, Scope, Send
from routing.simulator.faults import Counters, FaultError, Plan, parse_faults
from routing.simulator.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Refusal,
    decode_request,
)
from routing.simulator.responder import Responder
from routing.simulator.served import ServedCall, ServedLog
from routing.simulator.wire import MODELS, ErrorBody, encode, error_body, model_body

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
EMBEDDINGS_PATH = "/v1/embeddings"
MESSAGES_PATH = "/v1/messages"
RESPONSES_PATH = "/v1/responses"
MODELS_PATH = "/v1/models"
SERVED_PATH = "/simulator/served"
_POST_PATHS = (CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH, MESSAGES_PATH, RESPONSES_PATH)
LONGEST_WAIT_S = 10.0


class Simulator:
    """Answers as OpenAI or Anthropic would, as told by its default plan, by the path `/with/{faults}/v1/...`, and by
    each request.

    `api_key`: if given, calls under /v1/ need it as bearer token.
    """

    def __init__(self, defaults: Plan | None = None, api_key: str | None = None) -> None:
        self.defaults = defaults or Plan()
        self.api_key = api_key
        self.served = ServedLog()
        self.counters = Counters()
        self.tokens = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        exchange = Exchange(scope, receive, send)
        try:
            if exchange.path == SERVED_PATH:
                await self._serve_log(exchange)
            elif exchange.method == "POST" and (place := azure.TOKEN_PATH.fullmatch(exchange.path)):
                self.tokens += 1
                token = azure.make_token(place[1], await exchange.read_body(), self.tokens)
                await exchange.answer(200, encode(token), {})
            elif exchange.method == "POST" and exchange.path.startswith("/v1/"):
                await self._serve_call(exchange)
            else:
                await self._serve_models(exchange)
        except Refusal as refusal:
            await exchange.answer(refusal.status, encode(_error_form(exchange)(refusal)), {})
        finally:
            exchange.close()

    async def _serve_log(self, exchange: Exchange) -> None:
        if exchange.method == "DELETE":
            self.served.clear()
            self.counters = Counters()
        elif exchange.method != "GET":
            raise _wrong_method(exchange)
        query = dict(parse_qsl(exchange.scope["query_string"].decode("latin-1")))
        try:
            since, count = int(query.get("since", 0)), int(query.get("wait", 0))
        except ValueError:
            raise Refusal(400, "'since' and 'wait' must be whole numbers.") from None
        await self.served.wait_for(count, LONGEST_WAIT_S)
        await exchange.answer(200, encode(self.served.report(since, query.get("request_id"))), {})

    async def _serve_models(self, exchange: Exchange) -> None:
        self._check_key(exchange)
        if exchange.path in _POST_PATHS:
            raise _wrong_method(exchange)
        if exchange.path == MODELS_PATH:
            body = encode({"object": "list", "data": [model_body(name) for name in MODELS]})
        elif exchange.path.startswith(f"{MODELS_PATH}/"):
            model = exchange.path.removeprefix(f"{MODELS_PATH}/")
            if model not in MODELS:
                raise Refusal(
                    404, f"The model {model!r} does not exist.", param="model", code="model_not_found"
                )
            body = encode(model_body(model))
        else:
            raise _unknown_path(exchange)
        if exchange.method != "GET":
            raise _wrong_method(exchange)
        await exchange.answer(200, body, {})

    async def _serve_call(self, exchange: Exchange) -> None:
        call = ServedCall(path=exchange.asked_path, request_id=exchange.headers.get("x-request-id"))
        self.served.open += 1
        try:
            await self._answer_call(exchange, call)
        except ClientLeft:
            call.outcome = "client_left"
        except Refusal as refusal:
            call.outcome = "failed"
            await exchange.answer(refusal.status, encode(_error_form(exchange)(refusal)), {})
        except Exception:  # noqa: BLE001 - the outermost edge
            traceback.print_exc(file=sys.stderr)
            call.outcome = "failed"
            if exchange.status is None:
                await exchange.answer(
                    500, encode(error_body(Refusal(500, "The simulator itself failed."))), {}
                )
        finally:
            call.status = exchange.status
            self.served.open -= 1
            self.served.add(call)

    async def _answer_call(self, exchange: Exchange, call: ServedCall) -> None:
        body = await exchange.read_body()
        self._check_key(exchange)
        if exchange.path == CHAT_PATH:
            await self._answer_chat(exchange, call, body)
        elif exchange.path == COMPLETIONS_PATH:
            await self._answer_completion(exchange, call, body)
        elif exchange.path == EMBEDDINGS_PATH:
            await self._answer_embeddings(exchange, call, body)
        elif exchange.path == MESSAGES_PATH:
            await self._answer_message(exchange, call, body)
        elif exchange.path == RESPONSES_PATH:
            await self._answer_response(exchange, call, body)
        else:
            raise _wrong_method(exchange) if exchange.path == MODELS_PATH else _unknown_path(exchange)

    async def _answer_chat(self, exchange: Exchange, call: ServedCall, body: bytes) -> None:
        request = decode_request(body, ChatRequest)
        call.model, call.stream = request.model, bool(request.stream)
        responder = self._responder(exchange, call, request.simulator)
        if await responder.get_through():
            choices = make_choices(request, responder.plan)
            await responder.send_chat(request, choices, make_usage(request, choices, responder.plan))

    async def _answer_message(self, exchange: Exchange, call: ServedCall, body: bytes) -> None:
        request = decode_request(body, messages.MessagesRequest)
        messages.check(request, exchange.headers.get("anthropic-version", ""))
        call.model, call.stream = request.model, bool(request.stream)
        responder = self._responder(exchange, call, request.simulator)
        if await responder.get_through():
            chat = messages.as_chat(request)
            choices = make_choices(chat, responder.plan)
            await responder.send_message(request, choices[0], make_usage(chat, choices, responder.plan))

    async def _answer_response(self, exchange: Exchange, call: ServedCall, body: bytes) -> None:
        request = decode_request(body, responses.ResponsesRequest)
        chat = responses.as_chat(request)
        call.model, call.stream = request.model, bool(request.stream)
        responder = self._responder(exchange, call, request.simulator)
        if await responder.get_through():
            choices = make_choices(chat, responder.plan)
            await responder.send_response(request, choices[0], make_usage(chat, choices, responder.plan))

    async def _answer_completion(self, exchange: Exchange, call: ServedCall, body: bytes) -> None:
        request = decode_request(body, CompletionRequest)
        call.model, call.stream = request.model, bool(request.stream)
        responder = self._responder(exchange, call, request.simulator)
        if await responder.get_through():
            prompts = read_prompts(request)
            choices = make_completions(request, prompts, responder.plan)
            usage = count_completions(prompts, choices, responder.plan)
            await responder.send_completion(request, choices, usage)

    async def _answer_embeddings(self, exchange: Exchange, call: ServedCall, body: bytes) -> None:
        request = decode_request(body, EmbeddingRequest)
        call.model = request.model
        responder = self._responder(exchange, call, request.simulator)
        if await responder.get_through():
            await self._send_embeddings(responder, request)

    async def _send_embeddings(self, responder: Responder, request: EmbeddingRequest) -> None:
        inputs = read_inputs(request)
        dimensions = request.dimensions or DEFAULT_DIMENSIONS
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": encode_vector(embed(item.words, dimensions), request.encoding_format),
            }
            for index, item in enumerate(inputs)
        ]
        await responder.send_embeddings(request.model, data, sum(item.tokens for item in inputs))

    def _responder(self, exchange: Exchange, call: ServedCall, in_body: Any) -> Responder:
        plan = self._plan(exchange.in_path, exchange.headers.get("x-simulator"), in_body)
        if plan.echo_headers:
            call.headers = exchange.headers
        if plan.keep_body:
            call.body = exchange.body.decode("utf-8", "replace")
        return Responder(exchange, call, self.counters.decide(plan), _error_form(exchange))

    def _plan(self, in_path: str | None, in_header: str | None, in_body: Any) -> Plan:
        if in_path is None and in_header is None and in_body is None:
            return self.defaults
        try:
            faults = parse_faults({} if in_body is None else in_body)
            for text in (in_header, in_path):
                if text is not None:
                    faults = parse_faults(msgspec.json.decode(text)) | faults
        except (FaultError, msgspec.DecodeError) as error:
            raise Refusal(400, str(error), param="simulator", code="bad_fault") from None
        return replace(self.defaults, **faults)

    def _check_key(self, exchange: Exchange) -> None:
        if self.api_key is None:
            return
        given = [exchange.headers.get(name) for name in ("x-api-key", "api-key")]
        given.append(exchange.headers.get("authorization", "").removeprefix("Bearer "))
        if not any(given):
            raise Refusal(401, "You didn't provide an API key.", code="invalid_api_key")
        if {key for key in given if key} != {self.api_key}:
            raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key")


def _error_form(exchange: Exchange) -> ErrorBody:
    """How the API that the path belongs to words errors."""
    return messages.error_body if exchange.path.startswith(MESSAGES_PATH) else error_body


def _unknown_path(exchange: Exchange) -> Refusal:
    return Refusal(404, f"Invalid URL ({exchange.method} {exchange.path})")


def _wrong_method(exchange: Exchange) -> Refusal:
    return Refusal(405, f"Not allowed to {exchange.method} on {exchange.path}.", code="method_not_supported")
