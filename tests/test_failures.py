"""Every way a request can fail: one right status, type, code and reason; recorded once; nothing revealed."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from billing.models import UsageRecord
from routing.models import CatalogueModel, Grant
from teams.keys import generate_key
from tests.factories import (
    BACKEND_SECRET,
    Caller,
    make_backend,
    make_caller,
    make_model,
    unique,
    wait_for_record,
)
from tests.processes import Product, Simulator
from tests.recorded import Recorded, recorded_backend
from tests.routes import AZURE_CHAT, CHAT, COMPLETIONS, EMBEDDINGS, WAYS, Route

HELLO = [{"role": "user", "content": "one two three"}]


@pytest.fixture(scope="module")
def caller(product: Product, simulator: Simulator) -> Caller:
    limits = {"first_byte_timeout_s": 1, "idle_timeout_s": 1, "total_timeout_s": 2}
    caller = make_caller(simulator.base_url, product, longest_trip_s=0, **limits)  # it fails all the time
    CatalogueModel.objects.filter(name=caller.model).update(max_output_tokens=5_000)
    product.wait_for_configuration()
    return caller


@dataclass(frozen=True)
class Mistake:
    """What a caller sends wrong, and what it gets. `body` changes the route's body, `content` replaces it."""

    name: str
    status: int
    code: str | None
    reason: str
    param: str | None = None
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    suffix: str = ""


def with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


_KEY = ("invalid_api_key", "key_invalid")
_JSON = ("invalid_json", "body_invalid_json")
_FIELD = ("invalid_value", "field_invalid")
_ADDRESS = ("unsupported_parameter", "address_refused")
NESTED = b'{"model":"x","messages":[{"role":"u"}],"prompt":"x","input":"x","a":'
ON_EVERY_ROUTE = [
    Mistake("no key", 401, "invalid_api_key", "key_missing", headers={"Authorization": ""}),
    Mistake("basic", 401, "invalid_api_key", "key_missing", headers={"Authorization": "Basic Zm9vOmJhcg=="}),
    Mistake("malformed key", 401, *_KEY, headers=with_key("sk-gw_short")),
    Mistake("odd bytes in the key", 401, *_KEY, headers={"Authorization": "Bearer sk-gw_\xff\xfe"}),
    Mistake("unknown key", 401, *_KEY, headers=with_key(generate_key())),
    Mistake("unknown model", 404, "model_not_found", "model_unknown", "model", body={"model": "nope"}),
    Mistake(
        "not granted", 403, "model_not_allowed", "model_not_granted", "model", body={"model": "UNGRANTED"}
    ),
    Mistake("broken JSON", 400, *_JSON, content=b'{"model": '),
    Mistake("no body", 400, *_JSON, content=b""),
    Mistake("not UTF-8", 400, *_JSON, content=b'{"model":"\xff\xfe"}'),
    Mistake("deep nesting", 400, *_JSON, content=NESTED + b"[" * 9999 + b"]" * 9999 + b"}"),
    Mistake("a list", 400, *_FIELD, content=b"[]"),
    Mistake("model a number", 400, *_FIELD, "model", body={"model": 3}),
    Mistake("user a list", 400, *_FIELD, "user", body={"user": []}),
    Mistake("an address", 400, *_ADDRESS, "api_base", body={"api_base": "http://169.254.169.254/"}),
    Mistake(
        "an address in metadata", 400, *_ADDRESS, "metadata.base_url", body={"metadata": {"base_url": "x"}}
    ),
    Mistake("a key, deep", 400, *_ADDRESS, "x.api_key", body={"x": [{"y": {"api_key": "k"}}]}),
    Mistake("oversize body", 413, "request_too_large", "body_too_large", body={"pad": "x" * 300_000}),
    Mistake("trailing slash", 404, "unknown_url", "path_unknown", suffix="/"),
    Mistake("wrong method", 405, "method_not_allowed", "method_not_allowed", method="GET"),
    Mistake("odd method", 405, "method_not_allowed", "method_not_allowed", method="DELETE"),
]
HOSTILE = "\x00'; DROP--" * 99
OF_ROUTE = {
    CHAT: [
        Mistake("hostile model", 404, "model_not_found", "model_unknown", "model", body={"model": HOSTILE}),
        Mistake("no model", 400, *_FIELD, "model", content=b'{"messages":[{"role":"user"}]}'),
        Mistake("empty model", 400, *_FIELD, "model", body={"model": ""}),
        Mistake("no messages", 400, *_FIELD, "messages", body={"messages": None}),
        Mistake("messages missing", 400, *_FIELD, "messages", content=b'{"model":"x"}'),
        Mistake("empty messages", 400, *_FIELD, "messages", body={"messages": []}),
        Mistake("role a number", 400, *_FIELD, "messages[0].role", body={"messages": [{"role": 1}]}),
        Mistake("stream a string", 400, *_FIELD, "stream", body={"stream": "yes"}),
        Mistake("too many messages", 400, *_FIELD, "messages", body={"messages": [{"role": "u"}] * 10_001}),
        Mistake("too many tools", 400, *_FIELD, "tools", body={"tools": [{}] * 513}),
        Mistake("too many functions", 400, *_FIELD, "functions", body={"functions": [{}] * 513}),
        Mistake("n of zero", 400, *_FIELD, "n", body={"n": 0}),
        Mistake("n beyond", 400, *_FIELD, "n", body={"n": 129}),
        Mistake("max_tokens of zero", 400, *_FIELD, "max_tokens", body={"max_tokens": 0}),
        Mistake("max_tokens beyond", 400, *_FIELD, "max_tokens", body={"max_tokens": 1_000_001}),
        Mistake("max_tokens of the model", 400, *_FIELD, "max_tokens", body={"max_tokens": 5_001}),
        Mistake(
            "max_completion_tokens of the model",
            400,
            *_FIELD,
            "max_completion_tokens",
            body={"max_completion_tokens": 5_001, "max_tokens": 1},
        ),
    ],
    COMPLETIONS: [
        Mistake("prompt missing", 400, *_FIELD, "prompt", content=b'{"model":"x"}'),
        Mistake("prompt null", 400, *_FIELD, "prompt", body={"prompt": None}),
        Mistake("a number beyond all", 400, *_FIELD, "prompt", content=b'{"model":"x","prompt":[[1e999]]}'),
        Mistake("prompt empty", 400, *_FIELD, "prompt", body={"prompt": ""}),
        Mistake("prompt an object", 400, *_FIELD, "prompt", body={"prompt": {"a": 1}}),
        Mistake("prompts mixed", 400, *_FIELD, "prompt", body={"prompt": ["a", 1]}),
        Mistake("a prompt empty", 400, *_FIELD, "prompt", body={"prompt": ["a", ""]}),
        Mistake("too many prompts", 400, *_FIELD, "prompt", body={"prompt": ["a"] * 2_049}),
        Mistake("best_of beyond", 400, *_FIELD, "best_of", body={"best_of": 129}),
        Mistake("max_tokens of the model", 400, *_FIELD, "max_tokens", body={"max_tokens": 5_001}),
    ],
    EMBEDDINGS: [
        Mistake("input missing", 400, *_FIELD, "input", content=b'{"model":"x"}'),
        Mistake("input empty", 400, *_FIELD, "input", body={"input": []}),
        Mistake("tokens empty", 400, *_FIELD, "input", body={"input": [[1], []]}),
        Mistake("a number beyond all", 400, *_FIELD, "input", content=b'{"model":"x","input":[1e999]}'),
        Mistake("tokens negative", 400, *_FIELD, "input", body={"input": [1, -1]}),
        Mistake("tokens true", 400, *_FIELD, "input", body={"input": [True]}),
        Mistake("tokens fractions", 400, *_FIELD, "input", body={"input": [[1.5]]}),
        Mistake("too many inputs", 400, *_FIELD, "input", body={"input": [[1]] * 2_049}),
        Mistake("a stream", 400, *_FIELD, "stream", body={"stream": True}),
        Mistake("odd encoding", 400, *_FIELD, "encoding_format", body={"encoding_format": "hex"}),
        Mistake("no dimensions", 400, *_FIELD, "dimensions", body={"dimensions": 0}),
    ],
    AZURE_CHAT: [],
}  # fmt: skip
# The Azure form names the model in its path, so a mistaken path is another mistake, and the body's model counts less.
NOT_ON_AZURE = {"model a number", "trailing slash"}
MISTAKES = [
    (route, mistake)
    for route, own in OF_ROUTE.items()
    for mistake in ON_EVERY_ROUTE + own
    if route is not AZURE_CHAT or mistake.name not in NOT_ON_AZURE
]


@pytest.fixture(scope="module")
def ungranted(product: Product, caller: Caller) -> str:
    """A model that exists and that the caller's team has not been granted."""
    name = make_model(caller.backend).name
    product.wait_for_configuration()
    return name


def model_of(mistake: Mistake, model: str) -> dict[str, str]:
    return {"model": model} if mistake.body.get("model") == "UNGRANTED" else {}


def send(product: Product, caller: Caller, route: Route, mistake: Mistake, model: str) -> httpx.Response:
    content = mistake.content
    if content is None:
        body = {"model": caller.model, **route.content, **mistake.body} | model_of(mistake, model)
        content = json.dumps(body).encode()
    headers = {**with_key(caller.secret), **mistake.headers}
    return httpx.request(
        mistake.method,
        route.url(product, model) + mistake.suffix,
        headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items() if value],
        content=content,
    )


@pytest.mark.parametrize(("route", "mistake"), MISTAKES, ids=[f"{r.name}: {m.name}" for r, m in MISTAKES])
def test_a_callers_mistake(
    product: Product, caller: Caller, ungranted: str, route: Route, mistake: Mistake
) -> None:
    named = mistake.body.get("model", caller.model)
    model = ungranted if named == "UNGRANTED" else str(named)
    response = send(product, caller, route, mistake, model)
    assert (response.status_code, response.headers["x-gateway-reason"]) == (mistake.status, mistake.reason)
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        mistake.code,
        mistake.param,
    )
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.http_status, record.reason) == ("refused", mistake.status, mistake.reason)
    assert (record.cost_nanousd, record.attempts) == (0, 0)


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1/no/such/path",
        "/openai",
        "/openai/deployments/x/no",
        "/openai/deployments/chat",
    ],
)
def test_an_unknown_path_is_404_json_and_never_passed_on(product: Product, caller: Caller, path: str) -> None:
    for method in ("GET", "POST", "PUT"):
        response = httpx.request(method, product.url + path, headers=with_key(caller.secret), content=b"{}")
        assert (response.status_code, response.headers["x-gateway-reason"]) == (404, "path_unknown")
        assert response.json()["error"]["code"] == "unknown_url"


def test_names_of_addresses_are_ordinary_where_the_caller_writes_for_the_model(
    product: Product, caller: Caller
) -> None:
    properties = {"api_key": {"type": "string"}, "base_url": {"type": "string"}}
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": properties}},
    }
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"properties": properties}}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "x", "api_base": "y"}]}]
    response = CHAT.ask(
        product, caller, messages=messages, tools=[tool], tool_choice="none", response_format=schema
    )
    assert response.status_code == 200


def test_a_wrong_and_a_revoked_key_get_the_same_answer(product: Product, caller: Caller) -> None:
    def refused(key: str) -> tuple[int, str, str]:
        response = httpx.get(f"{product.base_url}/models", headers=with_key(key))
        return response.status_code, response.text, response.headers["x-gateway-reason"]

    mistyped = caller.secret[:-1] + ("y" if caller.secret.endswith("x") else "x")
    assert refused(generate_key()) == refused(mistyped) == refused("sk-gw_")


def test_a_chunked_body_past_the_bound_is_refused_while_it_arrives(product: Product, caller: Caller) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(400):
            yield b"x" * 1024

    response = httpx.post(
        f"{product.base_url}/chat/completions", headers=with_key(caller.secret), content=pieces()
    )
    assert (response.status_code, response.headers["x-gateway-reason"]) == (413, "body_too_large")


def test_a_model_without_a_backend_or_a_price_is_refused(
    product: Product, caller: Caller, simulator: Simulator
) -> None:
    unserved = make_model(team=caller.team)
    unpriced = make_model(make_backend(simulator.base_url, prices={}), team=caller.team)
    product.wait_for_configuration()
    for model, reason in ((unserved, "no_backend"), (unpriced, "model_unpriced")):
        response = ask(product, caller, model=model.name)
        assert (response.status_code, response.headers["x-gateway-reason"]) == (503, reason)
        assert wait_for_record(response.headers["x-request-id"]).status == "refused"


def test_an_inactive_model_is_unknown(product: Product, caller: Caller) -> None:
    model = make_model(caller.backend, team=caller.team)
    CatalogueModel.objects.filter(pk=model.pk).update(is_active=False)
    product.wait_for_configuration()
    assert ask(product, caller, model=model.name).status_code == 404


def ask(product: Product, caller: Caller, **fields: Any) -> httpx.Response:
    return CHAT.ask(product, caller, **fields)


# name, fault, status, type, code, reason; what the call may have cost is charged at our count of the prompt
_SERVER = "server_error"
FAULTS: list[tuple[str, dict[str, Any], int, str, str | None, str, bool]] = [
    (
        "400",
        {"status": 400, "message": "temperature is wrong", "code": "invalid_temperature"},
        400,
        "invalid_request_error",
        "invalid_temperature",
        "backend_rejected",
        False,
    ),
    ("422", {"status": 422}, 422, "invalid_request_error", None, "backend_rejected", False),
    ("401", {"status": 401}, 502, _SERVER, "backend_error", "backend_misconfigured", False),
    ("403", {"status": 403}, 502, _SERVER, "backend_error", "backend_misconfigured", False),
    ("404", {"status": 404}, 502, _SERVER, "backend_error", "backend_misconfigured", False),
    (
        "429",
        {"status": 429, "retry_after": 7},
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "backend_throttled",
        False,
    ),
    ("500", {"status": 500}, 502, _SERVER, "backend_error", "backend_error", False),
    (
        "503",
        {"status": 503, "retry_after": 3},
        503,
        "service_unavailable_error",
        "server_is_overloaded",
        "backend_overloaded",
        False,
    ),
    (
        "529",
        {"status": 529},
        503,
        "service_unavailable_error",
        "server_is_overloaded",
        "backend_overloaded",
        False,
    ),
    (
        "redirect",
        {"redirect": "http://169.254.169.254/"},
        502,
        _SERVER,
        "backend_error",
        "backend_error",
        False,
    ),
    ("drop", {"drop": True}, 502, _SERVER, "backend_error", "backend_broke", True),
    ("hang", {"hang": True}, 504, _SERVER, "backend_timeout", "backend_timeout", True),
]
PLAIN_FAULTS = [
    *FAULTS,
    ("bad JSON", {"bad_json": True}, 502, _SERVER, "backend_error", "backend_bad_answer", True),
    ("cut", {"break_after_frames": 1}, 502, _SERVER, "backend_error", "backend_broke", True),
    ("too large", {"output_tokens": 80_000}, 502, _SERVER, "backend_error", "backend_bad_answer", True),
]
STREAM_FAULTS = [
    *FAULTS,
    (
        "no event stream",
        {"content_type": "text/html"},
        502,
        _SERVER,
        "backend_error",
        "backend_bad_answer",
        True,
    ),
    ("cut at once", {"break_after_frames": 0}, 502, _SERVER, "backend_error", "backend_broke", True),
]


STREAMED: dict[str, Any] = {"stream": True}
FAILURES = [
    (route, stream, *case[1:])
    for route, stream in WAYS
    for case in (STREAM_FAULTS if stream else PLAIN_FAULTS)
    if route is CHAT or case[0] != "too large"
]


@pytest.mark.parametrize(
    ("route", "stream", "fault", "status", "kind", "code", "reason", "may_cost"),
    FAILURES,
    ids=[f"{case[0].name}{' streamed' if case[1] else ''}: {case[2]}" for case in FAILURES],
)
def test_a_backends_failure_before_the_first_byte(
    product: Product,
    caller: Caller,
    route: Route,
    stream: bool,
    fault: dict[str, Any],
    status: int,
    kind: str,
    code: str | None,
    reason: str,
    may_cost: bool,
) -> None:
    response = route.ask(product, caller, simulator=fault, **(STREAMED if stream else {}))
    assert (response.status_code, response.headers["x-gateway-reason"]) == (status, reason)
    assert response.headers.get("retry-after") == (
        str(fault["retry_after"]) if "retry_after" in fault else None
    )
    error = response.json()["error"]
    assert (error["type"], error["code"]) == (kind, code)
    reveals_nothing(response, caller)
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.reason, record.attempts) == ("failed", reason, 1)
    assert record.http_status == status
    estimate = route.estimated_tokens * 150 if may_cost else 0
    assert (record.estimated, record.cost_nanousd) == (may_cost, estimate)


def reveals_nothing(response: httpx.Response, caller: Caller) -> None:
    everything = response.text + str(response.headers)
    for secret in (BACKEND_SECRET, caller.backend.base_url, "127.0.0.1:", "Traceback", caller.secret):
        assert secret not in everything


def test_a_backends_words_are_scrubbed(product: Product, caller: Caller) -> None:
    message = f"at {caller.backend.base_url}/x with {BACKEND_SECRET} or sk-proj-abcdef123456 on 10.1.2.3:99: bad seed"
    response = ask(product, caller, simulator={"status": 400, "message": message})
    assert (
        response.json()["error"]["message"] == "at [hidden] with [hidden] or [hidden] on [hidden]: bad seed"
    )


STREAM_ENDINGS: list[tuple[str, dict[str, Any], str, str]] = [
    ("cut", {"break_after_frames": 3}, "backend_broke", "broke off"),
    ("no done", {"no_done": True}, "backend_broke", "broke off"),
    ("error frame", {"error_frame_after_frames": 3}, "backend_bad_answer", "not a valid answer"),
    ("idle", {"hang_after_frames": 3}, "backend_timeout", "took too long"),
]


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [case[1:] for case in STREAM_ENDINGS],
    ids=[case[0] for case in STREAM_ENDINGS],
)
def test_a_failure_after_the_first_byte_ends_the_stream_with_an_error_event(
    product: Product, caller: Caller, fault: dict[str, Any], reason: str, words: str
) -> None:
    response = ask(product, caller, stream=True, simulator={"text": "alpha beta gamma", **fault})
    assert response.status_code == 200
    events = [line for line in response.text.splitlines() if line.startswith("data: ")]
    assert words in json.loads(events[-1].removeprefix("data: "))["error"]["message"]
    assert "[DONE]" not in response.text
    reveals_nothing(response, caller)
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.reason) == ("failed", reason)
    # Two words were produced in the first three frames; the whole text when only the end was missing. The
    # simulator's figures arrive before a missing [DONE], so those are exact.
    if "no_done" in fault:
        assert (record.estimated, record.cost_nanousd) == (False, 3 * 150 + 3 * 600)
    else:
        assert (record.estimated, record.cost_nanousd) == (True, 10 * 150 + 2 * 600)


def test_an_unreachable_backend_is_502_and_costs_nothing(product: Product, backend_port: int) -> None:
    caller = make_caller(f"http://127.0.0.1:{backend_port}/v1", product)
    for stream in (False, True):
        response = ask(product, caller, stream=stream)
        assert (response.status_code, response.headers["x-gateway-reason"]) == (502, "backend_unreachable")
        reveals_nothing(response, caller)
        record = wait_for_record(response.headers["x-request-id"])
        assert (record.status, record.cost_nanousd, record.backend) == ("failed", 0, caller.backend.name)


@pytest.fixture
def recorded(backend_port: int) -> Iterator[Recorded]:
    with recorded_backend(backend_port) as server:
        yield server


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n" + b'{"error":{"message":"no!"}}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n" + b'{"choices":null}',
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_an_odd_backend_answer_is_a_clean_502(product: Product, recorded: Recorded, answer: bytes) -> None:
    recorded.answer = answer
    caller = make_caller(f"http://127.0.0.1:{recorded.server_address[1]}/v1", product)
    for stream in (False, True):
        response = ask(product, caller, stream=stream)
        assert response.status_code == 502
        reveals_nothing(response, caller)
        assert wait_for_record(response.headers["x-request-id"]).status == "failed"


def test_a_key_of_another_team_reaches_only_its_own_models(product: Product, simulator: Simulator) -> None:
    first, second = make_caller(simulator.base_url), make_caller(simulator.base_url, product)
    assert ask(product, first, model=second.model).status_code == 403
    Grant.objects.create(team=first.team, model=CatalogueModel.objects.get(name=second.model))
    product.wait_for_configuration()
    assert ask(product, first, model=second.model).status_code == 200


def test_a_caller_who_leaves_during_its_body_is_not_a_request(product: Product, caller: Caller) -> None:
    host, port = product.url.removeprefix("http://").split(":")
    marker = unique("marker")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Client-Request-Id: {marker}\r\nContent-Length: 50"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}\r\n\r\nabc".encode())
    wait_for_record(ask(product, caller).headers["x-request-id"])
    assert not UsageRecord.objects.filter(client_request_id=marker).exists()


def test_nothing_secret_is_in_the_logs(product: Product, caller: Caller) -> None:
    ask(product, caller, simulator={"status": 401})
    text = product.log.read_text()
    assert "backend_misconfigured" in text
    for secret in (BACKEND_SECRET, caller.secret, "one two three", caller.backend.base_url):
        assert secret not in text
    assert all(json.loads(line)["level"] for line in text.splitlines())


def test_what_arrived_before_a_break_is_passed_on_and_charged(product: Product, recorded: Recorded) -> None:
    frames = b"".join(b'data: {"choices":[{"delta":{"content":" alpha"}}]}\n\n' for _ in range(20))
    recorded.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99999\r\n\r\n"
        + frames
        + b"data: {"
    )
    caller = make_caller(f"http://127.0.0.1:{recorded.server_address[1]}/v1", product)
    for _ in range(5):  # the break may be seen together with the frames or after them
        response = ask(product, caller, stream=True)
        assert response.status_code == 200
        assert response.text.count(" alpha") == 20
        record = wait_for_record(response.headers["x-request-id"])
        assert (record.status, record.output_tokens) == ("failed", 20)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "prompt",
    [" " * 200_000, "a" * 200_000, "\n \t" * 30_000],
    ids=["spaces", "one letter", "mixed white space"],
)
def test_no_prompt_is_free_however_it_is_padded(
    product: Product, caller: Caller, stream: bool, prompt: str
) -> None:
    messages = [{"role": "user", "content": prompt}]
    fault = {"usage": "missing", "text": "alpha beta"}
    response = ask(product, caller, stream=stream, messages=messages, simulator=fault)
    assert response.status_code == 200
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.estimated, record.output_tokens) == ("completed", True, 2)
    assert record.input_tokens > 500
    assert record.cost_nanousd == record.input_tokens * 150 + 2 * 600


MANY_WORDS = "alpha " * 2_000
FUNCTION = {"name": "f", "description": MANY_WORDS}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "none"},
        {"functions": [FUNCTION]},
        {"response_format": {"type": "text", "hint": MANY_WORDS}},
        {"prediction": {"type": "content", "content": MANY_WORDS}},
        {
            "messages": [
                *HELLO,
                {"role": "assistant", "function_call": {"name": "f", "arguments": MANY_WORDS}},
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "input_text", "newer": {"words": MANY_WORDS}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}] * 30}]},
    ],
    ids=["tools", "functions", "response format", "prediction", "a function call", "a newer part", "images"],
)
def test_nothing_that_the_model_reads_is_free(
    product: Product, caller: Caller, stream: bool, fields: dict[str, Any]
) -> None:
    fault = {"usage": "missing", "text": "alpha"}
    response = ask(product, caller, stream=stream, simulator=fault, **fields)
    assert response.status_code == 200
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.estimated, record.output_tokens) == (True, 1)
    assert record.input_tokens > 2_000


@pytest.mark.parametrize(
    "said",
    [
        {"content": MANY_WORDS},
        {"reasoning": MANY_WORDS},
        {"reasoning_content": MANY_WORDS},
        {"refusal": MANY_WORDS},
        {"function_call": {"name": "f", "arguments": MANY_WORDS}},
        {"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": {"arguments": MANY_WORDS}}]},
        {"newer": [{"words": MANY_WORDS}]},
    ],
    ids=lambda said: next(iter(said)),
)
@pytest.mark.parametrize("stream", [False, True])
def test_nothing_that_the_model_writes_is_free(
    product: Product, recorded: Recorded, stream: bool, said: dict[str, Any]
) -> None:
    caller = make_caller(recorded.base_url, product)
    choice = {"index": 0, "delta" if stream else "message": {"role": "assistant", **said}}
    body = json.dumps({"choices": [choice]}).encode()
    if stream:
        body = b"data: " + body + b"\n\ndata: [DONE]\n\n"
        recorded.answer = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream\r\n\r\n" + body
    else:
        recorded.answer_json(body)
    response = ask(product, caller, stream=stream)
    assert response.status_code == 200
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.estimated) == ("completed", True)
    assert record.output_tokens >= 2_000


@pytest.mark.parametrize(("route", "stream"), WAYS, ids=[f"{r.name} {s}" for r, s in WAYS])
@pytest.mark.parametrize("usage", [{"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 0}])
def test_figures_that_deny_a_prompt_or_a_text_are_not_believed(
    product: Product, caller: Caller, route: Route, stream: bool, usage: dict[str, int]
) -> None:
    fault = {"usage": usage, "text": "alpha beta gamma"}
    response = route.ask(product, caller, simulator=fault, **(STREAMED if stream else {}))
    record = wait_for_record(response.headers["x-request-id"])
    answer = 0 if route is EMBEDDINGS else 3
    assert (record.estimated, record.input_tokens, record.output_tokens) == (
        True,
        route.estimated_tokens,
        answer,
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "estimated"), [("alpha beta", True), ("", False)])
def test_no_output_beside_a_text_is_not_believed_and_beside_none_it_is(
    product: Product, caller: Caller, stream: bool, text: str, estimated: bool
) -> None:
    fault = {"usage": {"prompt_tokens": 7, "completion_tokens": 0}, "text": text}
    response = ask(product, caller, stream=stream, simulator=fault)
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.estimated, record.output_tokens) == (estimated, 2 if estimated else 0)


def test_an_embeddings_answer_with_an_odd_name_is_passed_on(product: Product, recorded: Recorded) -> None:
    caller = make_caller(recorded.base_url, product)
    body = b'{"data":[{"embedding":[1.0]}],"\xff":1,"usage":{"prompt_tokens":3}}'
    recorded.answer_json(body)
    response = EMBEDDINGS.ask(product, caller)
    assert (response.status_code, response.content) == (200, body)
    assert wait_for_record(response.headers["x-request-id"]).cost_nanousd == 3 * 150


@pytest.mark.parametrize("stream", [False, True])
def test_no_prompt_is_free_however_deep_it_is_nested(product: Product, caller: Caller, stream: bool) -> None:
    nested = json.loads("[" * 900 + '"deep"' + "]" * 900)
    messages = [{"role": "user", "content": "hello", "refusal": nested}]
    response = ask(
        product, caller, stream=stream, messages=messages, simulator={"usage": "missing", "text": "alpha"}
    )
    assert response.status_code == 200
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.estimated, record.output_tokens, record.input_tokens > 5) == (True, 1, True)


def test_invalid_utf8_inside_a_message_is_refused(product: Product, caller: Caller) -> None:
    body = json.dumps({"model": caller.model, "messages": [{"role": "user", "content": "X"}]}).encode()
    content = body.replace(b'"X"', b'"\xff"')
    response = httpx.post(
        f"{product.base_url}/chat/completions", headers=with_key(caller.secret), content=content
    )
    assert (response.status_code, response.headers["x-gateway-reason"]) == (400, "body_invalid_json")


def test_invalid_utf8_from_the_backend_is_passed_and_counted(product: Product, recorded: Recorded) -> None:
    frames = b'data: {"choices":[{"delta":{"content":" alpha\xff"}}]}\n\n' * 3
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    recorded.answer = head + frames + b"data: [DONE]\n\n"
    caller = make_caller(f"http://127.0.0.1:{recorded.server_address[1]}/v1", product)
    response = ask(product, caller, stream=True)
    assert response.content.endswith(b"data: [DONE]\n\n")
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.estimated) == ("completed", True)
    assert record.output_tokens >= 3


def test_a_last_frame_without_its_blank_line_still_ends_the_stream(
    product: Product, recorded: Recorded
) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    recorded.answer = head + b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' + usage + b"data: [DONE]\n"
    caller = make_caller(f"http://127.0.0.1:{recorded.server_address[1]}/v1", product)
    response = ask(product, caller, stream=True)
    assert response.text.endswith("data: [DONE]\n\n")
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.cost_nanousd) == ("completed", 7 * 150 + 2 * 600)


def test_figures_from_the_beginning_of_a_cut_stream_do_not_hide_what_followed(
    product: Product, recorded: Recorded
) -> None:
    early = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":5,"completion_tokens":0}}\n\n'
    frames = b'data: {"choices":[{"delta":{"content":" alpha"}}]}\n\n' * 20
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    recorded.answer = head + early + frames
    caller = make_caller(f"http://127.0.0.1:{recorded.server_address[1]}/v1", product)
    response = ask(product, caller, stream=True)
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.estimated, record.output_tokens) == ("failed", True, 20)


def test_an_error_in_two_pieces_keeps_its_words(product: Product, recorded: Recorded) -> None:
    body = b'{"error":{"message":"too long","type":"x","param":"messages","code":"context_length_exceeded"}}'
    head = b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:40], body[40:]))
    recorded.answer = head + chunks + b"0\r\n\r\n"
    caller = make_caller(f"http://127.0.0.1:{recorded.server_address[1]}/v1", product)
    error = ask(product, caller).json()["error"]
    assert (error["code"], error["param"], error["message"]) == (
        "context_length_exceeded",
        "messages",
        "too long",
    )


def test_oversize_headers_are_refused(product: Product, caller: Caller) -> None:
    response = httpx.get(
        f"{product.base_url}/models", headers={**with_key(caller.secret), "X-Pad": "x" * 70_000}
    )
    assert (response.status_code, response.headers["x-gateway-reason"]) == (431, "headers_too_large")
    assert wait_for_record(response.headers["x-request-id"]).status == "refused"


def test_a_large_body_without_a_key_is_refused_before_it_is_read(product: Product) -> None:
    host, port = product.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")
