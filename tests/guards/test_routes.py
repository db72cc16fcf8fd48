"""Guards hold on every route, plain and streamed: through the real server, to a backend that keeps what it received."""

import json
from typing import Any

import httpx
import pytest

from tests.dialects.test_pairs import PROVIDERS, told
from tests.factories import Caller, make_caller, wait_for_record
from tests.guards.policies import make_policy
from tests.metrics import scrape
from tests.processes import Product, Simulator

EMAIL, CARD = "anna.schmidt@example.com", "4111 1111 1111 1111"
KEY = "sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2"
SAID = f"Write to {EMAIL} about the card {CARD}, and to {EMAIL} again."
VALUES = (EMAIL, CARD, "4111", "anna")


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


# Path and body of each route, with the text where a caller would put it.
PLACES: dict[str, tuple[str, Any]] = {
    "chat": ("/v1/chat/completions", chat),
    "chat parts": (
        "/v1/chat/completions",
        lambda text: {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
    ),
    "chat system": (
        "/v1/chat/completions",
        lambda text: {
            "messages": [{"role": "system", "content": text}, {"role": "user", "content": "Hello"}]
        },
    ),
    "chat tools": (
        "/v1/chat/completions",
        lambda text: {
            "messages": [
                {"role": "user", "content": "Hello"},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "look", "arguments": json.dumps({"q": text})},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": text},
            ]
        },
    ),
    "completions": ("/v1/completions", lambda text: {"prompt": text}),
    "messages": ("/v1/messages", lambda text: {**chat(text), "max_tokens": 500}),
    "messages system": (
        "/v1/messages",
        lambda text: {**chat("Hello"), "system": [{"type": "text", "text": text}], "max_tokens": 500},
    ),
    "messages tools": (
        "/v1/messages",
        lambda text: {
            "max_tokens": 500,
            "messages": [
                {"role": "user", "content": "Hello"},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"q": [text]}}],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "t1", "content": text}],
                },
            ],
        },
    ),
    "responses": ("/v1/responses", lambda text: {"input": text}),
    "responses items": (
        "/v1/responses",
        lambda text: {
            "instructions": text,
            "input": [{"role": "user", "content": [{"type": "input_text", "text": text}]}],
        },
    ),
    "embeddings": ("/v1/embeddings", lambda text: {"input": [text, "other"]}),
}
ROUTES = pytest.mark.parametrize("place", PLACES)
WAYS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


def ask(product: Product, caller: Caller, place: str, text: str, *, stream: bool = False) -> httpx.Response:
    path, body = PLACES[place]
    sent = {"model": caller.model, **body(text)} | ({"stream": True} if stream else {})
    headers = {"Authorization": f"Bearer {caller.secret}"}
    return httpx.post(product.url + path, headers=headers, json=sent, timeout=20)


def answer_text(answer: httpx.Response) -> str:
    """All that the answer says, put together."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return "".join(texts_in(answer.json()))
    said = ""
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            if "choices" in event:
                for choice in event["choices"]:
                    said += choice.get("text") or choice.get("delta", {}).get("content") or ""
            elif isinstance(event.get("delta"), dict):
                said += event["delta"].get("text", "")
            elif event.get("type") == "response.output_text.delta":
                said += event["delta"]
    return said


def texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in texts_in(part)]


def received(simulator: Simulator, request_id: str) -> str:
    (call,) = simulator.served(request_id)
    return str(call["body"])


@pytest.fixture(scope="module", params=["openai", pytest.param("anthropic", marks=[pytest.mark.slow])])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make_guarded(simulator: Simulator, product: Product, backend: str = "openai", **acts: Any) -> Caller:
    """A caller under a policy, whose backend says what it was asked, and keeps it."""
    caller = make_caller(told(simulator, echo=True, keep_body=True), **PROVIDERS[backend])
    make_policy(caller.team, **acts)
    product.wait_for_configuration()
    return caller


@pytest.fixture(scope="module")
def redacting(product: Product, simulator: Simulator, backend: str) -> Caller:
    return make_guarded(simulator, product, backend, pii="redact", secrets="redact")


@ROUTES
@WAYS
def test_what_is_redacted_never_reaches_the_backend_and_comes_back(
    product: Product, simulator: Simulator, backend: str, redacting: Caller, place: str, stream: bool
) -> None:
    if backend == "anthropic" and place in ("completions", "embeddings"):
        pytest.skip("it has no such endpoint")
    answer = ask(product, redacting, place, SAID, stream=stream and place != "embeddings")
    assert answer.status_code == 200, answer.text
    record = wait_for_record(answer.headers.get("x-request-id") or answer.headers["request-id"])
    upstream = received(simulator, str(record.request_id))
    assert not [value for value in VALUES if value in upstream]
    assert "<EMAIL_ADDRESS_1>" in upstream
    assert "<CREDIT_CARD_1>" in upstream
    assert "<EMAIL_ADDRESS_2>" not in upstream
    if place in ("chat", "chat parts", "messages", "responses", "responses items"):
        assert SAID in answer_text(answer)
    assert {(each["type"], each["act"]) for each in record.guard_findings or ()} >= {
        ("EMAIL_ADDRESS", "redact"),
        ("CREDIT_CARD", "redact"),
    }
    assert not [value for value in VALUES if value in json.dumps(record.guard_findings)]


@ROUTES
@WAYS
def test_what_is_blocked_is_refused_plainly_and_costs_nothing(
    product: Product, simulator: Simulator, place: str, stream: bool
) -> None:
    caller = make_guarded(simulator, product, pii="block", secrets="block")
    stream = stream and place != "embeddings"
    answer = ask(product, caller, place, f"The key is {KEY}.", stream=stream)
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (400, "guard_secrets")
    assert answer.headers["content-type"] == "application/json"
    assert "API_KEY" in answer.text
    assert KEY not in answer.text
    record = wait_for_record(answer.headers.get("x-request-id") or answer.headers["request-id"])
    assert (record.status, record.attempts, record.cost_nanousd) == ("refused", 0, 0)
    assert record.model == caller.model
    assert not simulator.served(str(record.request_id), wait=0)
    assert record.guard_findings is not None
    assert record.guard_findings[0]["act"] == "block"
    assert ask(product, caller, place, "Nothing of the kind.", stream=stream).status_code == 200


def test_what_is_observed_passes_and_is_noted(product: Product, simulator: Simulator) -> None:
    caller = make_guarded(simulator, product, pii="observe")
    before = scrape(product).sum("gateway_guard_findings_total", type="EMAIL_ADDRESS", action="observe")
    answer = ask(product, caller, "chat", SAID)
    assert SAID in answer_text(answer)
    record = wait_for_record(answer.headers["x-request-id"])
    assert record.guard_findings == [
        {
            "guard": "pii",
            "type": "EMAIL_ADDRESS",
            "place": "messages[0].content",
            "rule": "EmailRecognizer",
            "act": "observe",
            "score": 1.0,
            "count": 2,
        },
        {
            "guard": "pii",
            "type": "CREDIT_CARD",
            "place": "messages[0].content",
            "rule": "CreditCardRecognizer",
            "act": "observe",
            "score": 1.0,
            "count": 1,
        },
    ]
    after = scrape(product).sum("gateway_guard_findings_total", type="EMAIL_ADDRESS", action="observe")
    assert after == before + 2


@WAYS
def test_a_policy_may_leave_placeholders_in(product: Product, simulator: Simulator, stream: bool) -> None:
    caller = make_guarded(simulator, product, pii={"act": "redact", "restores": False})
    answer = ask(product, caller, "chat", SAID, stream=stream)
    assert "Write to <EMAIL_ADDRESS_1> about the card <CREDIT_CARD_1>," in answer_text(answer)


@WAYS
def test_placeholders_of_the_callers_own_are_not_taken_for_ours(
    product: Product, redacting: Caller, backend: str, stream: bool
) -> None:
    said = f"Put <EMAIL_ADDRESS_1> in place of {EMAIL}."
    assert said in answer_text(ask(product, redacting, "chat", said, stream=stream))


def test_without_a_policy_nothing_is_looked_for(product: Product, simulator: Simulator) -> None:
    caller = make_caller(told(simulator, echo=True, keep_body=True), product)
    answer = ask(product, caller, "chat", SAID)
    record = wait_for_record(answer.headers["x-request-id"])
    assert record.guard_findings is None
    assert EMAIL in received(simulator, str(record.request_id))


@WAYS
def test_toxic_language_is_noted_or_blocked(product: Product, simulator: Simulator, stream: bool) -> None:
    said = "You are a worthless idiot, shut the fuck up."
    caller = make_guarded(simulator, product, toxicity="observe")
    answer = ask(product, caller, "chat", said, stream=stream)
    assert answer.status_code == 200
    record = wait_for_record(answer.headers["x-request-id"])
    assert {each["type"] for each in record.guard_findings or ()} == {"PROFANITY", "HARASSMENT"}
    caller = make_guarded(simulator, product, toxicity={"act": "block", "types": ["HARASSMENT"]})
    answer = ask(product, caller, "chat", said, stream=stream)
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (400, "guard_toxicity")
    assert "HARASSMENT" in answer.text
    assert ask(product, caller, "chat", "Shit happens.", stream=stream).status_code == 200


@pytest.mark.parametrize("fails_open", [False, True])
def test_tokens_in_place_of_texts_cannot_be_looked_through(
    product: Product, simulator: Simulator, fails_open: bool
) -> None:
    caller = make_guarded(simulator, product, pii={"act": "redact", "fails_open": fails_open})
    headers = {"Authorization": f"Bearer {caller.secret}"}
    for path, body in (("embeddings", {"input": [[16, 872], [1]]}), ("completions", {"prompt": [16, 872]})):
        answer = httpx.post(f"{product.url}/v1/{path}", headers=headers, json={"model": caller.model, **body})
        assert answer.status_code == (200 if fails_open else 400), answer.text
        assert fails_open or "Send texts" in answer.text
