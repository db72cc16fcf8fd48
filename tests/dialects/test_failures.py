"""What goes wrong between forms: errors in the caller's words, another form's backend, streams that break."""

import json
from typing import Any

import anthropic
import httpx
import openai
import pytest

from billing.models import UsageRecord
from routing.models import Route
from tests.dialects.clients import AnthropicMessages, OpenAIChat, OpenAIResponses
from tests.dialects.test_pairs import HELLO, told
from tests.factories import Caller, make_backend, make_caller, wait_for_record
from tests.processes import Product, Simulator

PROVIDERS = ["openai", "anthropic"]
MESSAGES: Any = {"max_tokens": 100, "messages": [{"role": "user", "content": HELLO}]}
CHAT = {"messages": MESSAGES["messages"]}
BODIES: dict[str, dict[str, Any]] = {
    "messages": MESSAGES,
    "chat/completions": CHAT,
    "responses": {"input": HELLO},
}


def post(product: Product, caller: Caller, path: str, **fields: Any) -> httpx.Response:
    return httpx.post(
        f"{product.base_url}/{path}",
        headers={"x-api-key": caller.secret},
        json={"model": caller.model, **BODIES[path], **fields},
        timeout=20,
    )


def caller_of(product: Product, *backends: tuple[str, str], **fields: Any) -> Caller:
    """A caller whose model is served by these in turn, each a provider's form and an address."""
    provider, base_url = backends[0]
    caller = make_caller(base_url, provider=provider, longest_trip_s=0, **fields)
    for priority, (form, address) in enumerate(backends[1:], start=2):
        backend = make_backend(address, provider=form, longest_trip_s=0)
        Route.objects.create(model=caller.backend.catalogue_models.get(), backend=backend, priority=priority)
    product.wait_for_configuration()
    return caller


def test_refusals_have_anthropics_form_on_its_paths(product: Product, simulator: Simulator) -> None:
    caller = caller_of(product, ("openai", simulator.base_url))
    answer = httpx.post(f"{product.base_url}/messages", json=MESSAGES | {"model": caller.model})
    assert answer.status_code == 401
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")
    assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    assert answer.headers["x-gateway-reason"] == "key_missing"
    for fields, kind, status in (
        ({"model": "unknown"}, "not_found_error", 404),
        ({"max_tokens": None}, "invalid_request_error", 400),
        ({"messages": []}, "invalid_request_error", 400),
        ({"messages": "x"}, "invalid_request_error", 400),
        ({"messages": [{"role": "user", "content": "x" * 300_000}]}, "request_too_large", 413),
    ):
        answer = post(product, caller, "messages", **fields)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind), fields
        assert answer.json()["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "expected", "type_", "error"),
    [
        (400, 400, "invalid_request_error", anthropic.BadRequestError),
        (401, 502, "api_error", anthropic.InternalServerError),
        (429, 429, "rate_limit_error", anthropic.RateLimitError),
        (500, 502, "api_error", anthropic.InternalServerError),
        (529, 503, "overloaded_error", anthropic.InternalServerError),
    ],
)
def test_errors_of_a_backend_reach_both_clients_in_their_own_form(
    product: Product, simulator: Simulator, provider: str, status: int, expected: int, type_: str, error: Any
) -> None:
    address = told(simulator, status=status, message="Something is wrong here.")
    caller = caller_of(product, (provider, address))
    for stream in (False, True):
        with pytest.raises(error) as raised:
            AnthropicMessages(product, caller).ask(HELLO, stream=stream)
        assert raised.value.status_code == expected
        assert raised.value.body["error"]["type"] == type_
        with pytest.raises(openai.APIStatusError) as other:
            OpenAIChat(product, caller).ask(HELLO, stream=stream)
        assert other.value.status_code == expected
        if status == 400:
            assert "Something is wrong here." in str(raised.value)
            assert "Something is wrong here." in str(other.value)


@pytest.mark.parametrize("forms", [("openai", "anthropic"), ("anthropic", "openai")])
@pytest.mark.parametrize("kind", [OpenAIChat, AnthropicMessages, OpenAIResponses])
@pytest.mark.parametrize("stream", [False, True])
def test_another_form_serves_when_the_first_fails(
    product: Product, simulator: Simulator, forms: tuple[str, str], kind: Any, stream: bool
) -> None:
    caller = caller_of(product, (forms[0], told(simulator, status=500)), (forms[1], simulator.base_url))
    said = kind(product, caller).ask(HELLO, stream=stream)
    assert (said.stop, said.output_tokens) == ("stop", 16)
    record = wait_for_record(said.request_id)
    assert (record.attempts, record.status, record.cost_nanousd) == (2, "completed", 10_350)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "fault",
    [{"break_after_frames": 8}, {"error_frame_after_frames": 8}, {"bad_json": True}, {"no_done": True}],
    ids=lambda fault: next(iter(fault)),
)
def test_a_stream_that_breaks_ends_with_an_error_in_the_callers_form(
    product: Product, simulator: Simulator, provider: str, fault: dict[str, Any]
) -> None:
    caller = caller_of(product, (provider, told(simulator, **fault)))
    if fault != {"bad_json": True} or provider == "openai":  # what is not read is passed on as it came
        check_messages(product, caller, no_done=fault == {"no_done": True})
    if fault != {"bad_json": True} or provider == "anthropic":
        answer = post(product, caller, "chat/completions", stream=True)
        *_, last = answer.text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "backend_error"


def check_messages(product: Product, caller: Caller, *, no_done: bool) -> None:
    answer = post(product, caller, "messages", stream=True)
    *_, last = answer.text.strip().split("\n\n")
    event, data = last.split("\n")
    error = json.loads(data.removeprefix("data: "))
    assert (answer.status_code, event, error["type"]) == (200, "event: error", "error")
    assert error["request_id"] == answer.headers["request-id"]
    record = wait_for_record(answer.headers["request-id"])
    assert (record.status, record.estimated or no_done) == ("failed", True)


@pytest.mark.slow
def test_a_silence_is_filled_with_pings(product: Product, simulator: Simulator) -> None:
    for provider in PROVIDERS:
        caller = caller_of(product, (provider, told(simulator, first_byte_s=1.5)))
        answer = post(product, caller, "messages", stream=True)
        assert answer.text.startswith('event: ping\ndata: {"type":"ping"}\n\nevent: message_start\n')
        assert AnthropicMessages(product, caller).ask(HELLO, stream=True).output_tokens == 16


def test_what_has_no_place_is_named(product: Product, simulator: Simulator) -> None:
    caller = caller_of(product, ("anthropic", simulator.base_url))
    extra = {"seed": 1, "logprobs": True, "temperature": 1.5, "x\ny": 1, "presence_penalty": 0.5}
    for stream in (False, True):
        answer = post(product, caller, "chat/completions", stream=stream, **extra)
        assert answer.status_code == 200
        dropped = answer.headers["x-gateway-dropped"].split(", ")
        assert sorted(dropped) == ["logprobs", "others", "presence_penalty", "seed", "temperature"]
    caller = caller_of(product, ("anthropic", simulator.base_url), api_version="2026-10-21")
    answer = post(product, caller, "chat/completions", temperature=0.5)
    assert (answer.status_code, answer.headers["x-gateway-dropped"]) == (200, "temperature")
    caller = caller_of(product, ("openai", simulator.base_url))
    answer = post(product, caller, "messages", top_k=5, thinking={"type": "enabled", "budget_tokens": 2000})
    assert answer.headers["x-gateway-dropped"] == "thinking, top_k"
    assert "x-gateway-dropped" not in post(product, caller, "chat/completions", seed=1).headers


@pytest.mark.parametrize(
    ("path", "form", "fields", "param"),
    [
        ("chat/completions", "anthropic", {"n": 2}, "n"),
        ("chat/completions", "anthropic", {"response_format": {"type": "json_object"}}, "response_format"),
        ("chat/completions", "anthropic", {"tools": [{"type": "custom", "custom": {}}]}, "tools[0]"),
        ("messages", "openai", {"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ("messages", "openai", {"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0]"),
    ],
)
def test_what_would_change_the_meaning_is_refused_or_goes_where_it_can_be_said(
    product: Product, simulator: Simulator, path: str, form: str, fields: dict[str, Any], param: str
) -> None:
    caller = caller_of(product, (form, simulator.base_url))
    answer = post(product, caller, path, **fields)
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (400, "parameter_unsupported")
    if path == "chat/completions":
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (
            "unsupported_parameter",
            param,
        )
    else:
        assert answer.json()["error"]["details"]["error_code"] == "unsupported_parameter"
    other = "anthropic" if form == "openai" else "openai"
    caller = caller_of(product, (form, simulator.base_url), (other, simulator.base_url))
    answer = post(product, caller, path, **fields)
    assert answer.headers.get("x-gateway-reason") != "parameter_unsupported"
    record = wait_for_record(answer.headers["x-request-id"])
    assert (record.attempts, record.backend != caller.backend.name) == (1, True)


def test_the_older_endpoints_are_refused_where_no_backend_has_them(
    product: Product, simulator: Simulator
) -> None:
    caller = caller_of(product, ("anthropic", simulator.base_url))
    for path, fields in (("completions", {"prompt": "x"}), ("embeddings", {"input": "x"})):
        answer = httpx.post(
            f"{product.base_url}/{path}",
            headers={"x-api-key": caller.secret},
            json={"model": caller.model, **fields},
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_endpoint")


def test_responses_that_need_state_are_refused(product: Product, simulator: Simulator) -> None:
    caller = caller_of(product, ("openai", simulator.base_url))
    for name, value in (
        ("store", True),
        ("background", True),
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("prompt", {"id": "pmpt_1"}),
    ):
        answer = post(product, caller, "responses", **{name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
        assert answer.json()["error"]["code"] == "unsupported_parameter"
    for wrong, param in (
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
    ):
        answer = post(product, caller, "responses", **wrong)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), wrong


def test_a_provider_is_told_to_keep_no_response(product: Product, simulator: Simulator) -> None:
    caller = caller_of(product, ("openai", simulator.base_url), passes_responses=True)
    for stream in (False, True):
        answer = post(product, caller, "responses", stream=stream)
        assert '"store":true' not in answer.text
        assert '"store":false' in answer.text


@pytest.mark.parametrize("fields", [{"passes_responses": True}, {"passes_responses": False}])
@pytest.mark.parametrize(
    "fault", [{"break_after_frames": 8}, {"error_frame_after_frames": 8}, {"no_done": True}]
)
def test_a_streamed_response_that_breaks_ends_with_an_error(
    product: Product, simulator: Simulator, fields: dict[str, Any], fault: dict[str, Any]
) -> None:
    caller = caller_of(product, ("openai", told(simulator, **fault)), **fields)
    answer = post(product, caller, "responses", stream=True)
    *before, last = answer.text.strip().split("\n\n")
    error = json.loads(last.partition("data: ")[2])
    assert last.startswith("event: error\n")
    assert (error["type"], error["code"], error["sequence_number"]) == ("error", "backend_error", len(before))
    record = wait_for_record(answer.headers["x-request-id"])
    assert (record.status, record.output_tokens > 0) == ("failed", True)
    assert record.estimated or fault == {"no_done": True}


def test_thinking_comes_back_to_its_provider(product: Product, simulator: Simulator) -> None:
    """With its signature, through every client's form, or the API would refuse a tool's result beside it."""
    address = told(simulator, thinking="Well.")
    caller = caller_of(product, ("anthropic", address))
    asked: list[tuple[Any, dict[str, Any]]] = [
        (OpenAIChat, {"reasoning_effort": "low"}),
        (AnthropicMessages, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        (OpenAIResponses, {"reasoning": {"effort": "low"}}),
    ]
    for kind, thinks in asked:
        said = kind(product, caller).ask(HELLO, tools=["get_weather"], must_call=True)
        turns = kind(product, caller).result_turns(HELLO, said, {call.id: "fine" for call in said.calls})
        again = kind(product, caller).ask(turns, tools=["get_weather"], **thinks)
        assert (again.text, again.dropped) == ("The tool answered: fine", "")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_who_leaves_pays_for_what_was_said(product: Product, simulator: Simulator, provider: str) -> None:
    caller = caller_of(product, (provider, told(simulator, output_tokens=200, between_chunks_s=0.02)))
    body = {"model": caller.model, **MESSAGES, "max_tokens": 1000, "stream": True}
    with httpx.stream(
        "POST", f"{product.base_url}/messages", headers={"x-api-key": caller.secret}, json=body
    ) as answer:
        request_id = answer.headers["request-id"]
        for number, _ in enumerate(answer.iter_lines()):
            if number > 60:
                break
    record = wait_for_record(request_id)
    assert (record.status, record.estimated) == ("client_left", True)
    assert 5 < record.output_tokens < 150
    (call,) = simulator.served(request_id)
    assert call["outcome"] == "client_left"


def test_tokens_of_a_prompt_are_counted_without_a_call(product: Product, simulator: Simulator) -> None:
    for provider in PROVIDERS:
        caller = caller_of(product, (provider, told(simulator, status=500)))
        with anthropic.Anthropic(base_url=product.url, api_key=caller.secret, max_retries=0) as client:
            count = client.messages.count_tokens(
                model=caller.model, system="Be brief.", messages=MESSAGES["messages"]
            )
            assert count.input_tokens == 3 + 5 + 1 + 3 + 3  # the system, HELLO, its role, and the framing
            with pytest.raises(anthropic.NotFoundError):
                client.messages.count_tokens(model="unknown", messages=MESSAGES["messages"])
    assert UsageRecord.objects.filter(team_id=caller.team.pk).count() == 0
