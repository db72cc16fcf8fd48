"""Every client package over every provider's form: the same question has the same answer, and the same bill.

The simulator counts a token per word or punctuation mark; prices are 150, 75 and 600 nano-dollars per token.
"""

import json
import time
from typing import Any
from urllib.parse import quote

import pytest
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from routing.models import BreakerRule
from tests.dialects.clients import CITY, PIXEL, AnthropicMessages, Client, OpenAIChat, OpenAIResponses
from tests.factories import Caller, make_caller, wait_for_record
from tests.processes import Product, Simulator
from tests.routes import CHAT

HELLO = "Say hello, please."  # 5 tokens
CLIENTS: list[Any] = [OpenAIChat, AnthropicMessages, OpenAIResponses]
PROVIDERS: dict[str, dict[str, Any]] = {
    "openai": {"provider": "openai"},
    "responses": {"provider": "openai", "passes_responses": True},
    "azure": {"provider": "azure", "api_version": "2024-10-21"},
    "azure v1": {"provider": "azure", "passes_responses": True},
    "anthropic": {"provider": "anthropic"},
}
CROSSED = [
    ("openai", AnthropicMessages),
    ("openai", OpenAIResponses),
    ("anthropic", OpenAIChat),
    ("anthropic", OpenAIResponses),
]


def told(simulator: Simulator, **faults: Any) -> str:
    """The address of the simulator for a backend that always answers so."""
    root = simulator.base_url.removesuffix("/v1")
    return f"{root}/with/{quote(json.dumps(faults), safe='')}/v1"


ALIKE = {
    "responses",
    "azure",
    "azure v1",
}  # in all but places and signatures: whole only among the long tests


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in PROVIDERS],
)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def caller(product: Product, simulator: Simulator, provider: str) -> Caller:
    return make_caller(simulator.base_url, product, **PROVIDERS[provider], longest_trip_s=0)


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.name)
def client(request: pytest.FixtureRequest, product: Product, caller: Caller) -> Client:
    made: Client = request.param(product, caller)
    return made


@pytest.fixture(params=[False, True], ids=["plain", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_question_is_answered_and_billed(client: Client, caller: Caller, stream: bool) -> None:
    said = client.ask(HELLO, stream=stream)
    assert (said.text.endswith("."), said.stop, said.input_tokens, said.output_tokens) == (
        True,
        "stop",
        5,
        16,
    )
    record = wait_for_record(said.request_id)
    assert (record.cost_nanousd, record.estimated, record.streamed) == (10_350, False, stream)
    assert (record.status, record.backend) == ("completed", caller.backend.name)


def test_tools_make_the_round_trip(client: Client, stream: bool) -> None:
    tools = ["get_weather", "get_time"]
    said = client.ask(HELLO, stream=stream, tools=tools, must_call=True)
    assert (said.stop, [call.name for call in said.calls]) == ("tool_calls", tools)
    assert all(isinstance(call.arguments["city"], str) for call in said.calls)
    assert len({call.id for call in said.calls}) == 2
    results = {call.id: f"result {number}" for number, call in enumerate(said.calls)}
    turns = client.result_turns(HELLO, said, results)
    last = client.ask(turns, stream=stream, tools=tools)
    assert (last.text, last.stop) == ("The tool answered: result 1", "stop")


def test_one_tool_is_called_of_its_own_accord(client: Client, stream: bool) -> None:
    said = client.ask(HELLO, stream=stream, tools=["get_weather"])
    assert [(call.name, list(call.arguments)) for call in said.calls] == [("get_weather", ["city"])]


def test_the_system_and_an_image_are_part_of_the_prompt(client: Client, stream: bool) -> None:
    said = client.ask("Look.", stream=stream, system="Be brief.", image=PIXEL)
    assert said.input_tokens == 3 + 2 + 85


def test_an_answer_has_the_shape_that_was_asked_for(client: Client, stream: bool) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    schema["additionalProperties"] = False
    said = client.ask(HELLO, stream=stream, schema=schema)
    assert isinstance(json.loads(said.text)["n"], int)


def test_an_answer_ends_where_its_bound_is(client: Client, stream: bool) -> None:
    said = client.ask(HELLO, stream=stream, max_tokens=3)
    assert (said.stop, said.output_tokens) == ("length", 3)


@pytest.mark.parametrize("provider", PROVIDERS, indirect=True, scope="module")
def test_cached_and_written_tokens_reach_the_client_and_the_bill(
    product: Product, simulator: Simulator, provider: str, stream: bool
) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 200, "cached_tokens": 600, "cache_write_tokens": 100}
    caller = make_caller(told(simulator, usage=usage), product, **PROVIDERS[provider])
    for kind in CLIENTS:
        said = kind(product, caller).ask(HELLO, stream=stream)
        assert (said.input_tokens, said.output_tokens) == (1000, 200)
        assert (said.cached_tokens, said.written_tokens) == (600, 100)
        record = wait_for_record(said.request_id)
        assert (record.input_tokens, record.cached_input_tokens, record.cache_write_tokens) == (
            1000,
            600,
            100,
        )
        assert record.cost_nanousd == 300 * 150 + 600 * 75 + 100 * 150 + 200 * 600


@pytest.mark.parametrize("provider", PROVIDERS, indirect=True, scope="module")
def test_thinking_is_told_where_the_form_has_a_place(
    product: Product, simulator: Simulator, provider: str, stream: bool
) -> None:
    caller = make_caller(told(simulator, thinking="Well, let me see."), product, **PROVIDERS[provider])
    for kind in CLIENTS:
        said = kind(product, caller).ask(HELLO, stream=stream)
        assert (said.thinking, said.stop) == ("Well, let me see.", "stop")
        assert said.text


@pytest.mark.parametrize(("provider", "kind"), CROSSED)
def test_without_figures_of_the_backend_our_own_count_is_told_and_billed(
    product: Product, simulator: Simulator, provider: str, kind: Any, stream: bool
) -> None:
    caller = make_caller(
        told(simulator, usage="missing", text="one two three"), product, **PROVIDERS[provider]
    )
    said = kind(product, caller).ask(HELLO, stream=stream)
    record = wait_for_record(said.request_id)
    assert (record.estimated, record.output_tokens) == (True, 3)
    assert (said.input_tokens, said.output_tokens) == (record.input_tokens, record.output_tokens)


@pytest.mark.slow
def test_langchain_streams_over_every_provider(product: Product, caller: Caller) -> None:
    model = ChatOpenAI(base_url=product.base_url, api_key=SecretStr(caller.secret), model=caller.model)
    assert "".join(str(chunk.content) for chunk in model.stream(HELLO)).endswith(".")
    assert str(model.invoke(HELLO).content).endswith(".")
    newer = ChatOpenAI(
        base_url=product.base_url,
        api_key=SecretStr(caller.secret),
        model=caller.model,
        use_responses_api=True,
    )
    answer = newer.invoke(HELLO)
    assert answer.usage_metadata is not None
    assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (5, 16)
    called = newer.bind_tools([{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}])
    said = called.invoke(HELLO)
    assert isinstance(said, AIMessage)
    assert [call["name"] for call in said.tool_calls] == ["get_weather"]


@pytest.mark.slow  # it waits for some checks
def test_every_provider_can_be_checked(product: Product, simulator: Simulator) -> None:
    callers = [
        make_caller(simulator.base_url, check_every_s=1, **fields)
        for name, fields in PROVIDERS.items()
        if name != "responses"
    ]
    for caller in callers:
        BreakerRule.objects.create(
            backend=caller.backend, name="any", failures=1, percent=0, statuses="0, 400-599"
        )
    product.wait_for_configuration()
    time.sleep(3)
    assert {CHAT.ask(product, caller).status_code for caller in callers} == {200}
    gone = make_caller(simulator.base_url.replace("/v1", "/elsewhere"), check_every_s=1)
    BreakerRule.objects.create(backend=gone.backend, name="any", failures=1, percent=0, statuses="0, 400-599")
    product.wait_for_configuration()
    time.sleep(3)
    assert CHAT.ask(product, gone).headers["x-gateway-reason"] == "backends_away"
