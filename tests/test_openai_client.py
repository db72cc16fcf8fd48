"""The official `openai` and `langchain-openai` packages through the real server, and the ledger row of each call.

The simulator counts a token per word or punctuation mark; prices are $0.15, $0.075 (cached) and $0.60 per
million tokens, so 150, 75 and 600 nano-dollars per token: each expected cost below is worked by hand.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from billing.models import UsageRecord
from tests.factories import Caller, make_caller, unique, wait_for_record
from tests.processes import Product, Simulator, wait_for

MESSAGES: Any = [{"role": "user", "content": "Say hello, please."}]  # 5 tokens
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def caller(product: Product, simulator: Simulator) -> Caller:
    return make_caller(simulator.base_url, product, longest_trip_s=0)


@pytest.fixture
def client(product: Product, caller: Caller) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=product.base_url, api_key=caller.secret, max_retries=2) as client:
        yield client


def cost_of(record: UsageRecord) -> tuple[int, int, int, int, int]:
    return (
        record.input_cost_nanousd,
        record.cached_input_cost_nanousd,
        record.cache_write_cost_nanousd,
        record.output_cost_nanousd,
        record.cost_nanousd,
    )


def rows_of(marker: str, count: int) -> list[UsageRecord]:
    """The rows of requests that carried this X-Client-Request-Id, once there are `count`."""
    rows = UsageRecord.objects.filter(client_request_id=marker).order_by("request_id")
    wait_for(lambda: len(rows.all()) >= count, f"{count} rows of {marker}")
    return list(rows.all())


def test_plain_call(client: openai.OpenAI, caller: Caller, simulator: Simulator) -> None:
    raw = client.chat.completions.with_raw_response.create(model=caller.model, messages=MESSAGES)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 16)
    request_id = raw.headers["x-request-id"]
    assert answer._request_id == request_id
    record = wait_for_record(request_id)
    assert cost_of(record) == (5 * 150, 0, 0, 16 * 600, 10_350)
    assert (record.status, record.http_status, record.streamed, record.estimated) == (
        "completed",
        200,
        False,
        False,
    )
    assert (record.team, record.application) == (caller.team.slug, "app")
    assert (record.model, record.backend, record.api_key_hint) == (
        caller.model,
        caller.backend.name,
        caller.key.hint,
    )
    assert [call["model"] for call in simulator.served(request_id)] == ["upstream-model"]


@pytest.mark.parametrize("asked", [False, True])
def test_streamed_call_is_billed_exactly_and_shows_usage_only_when_asked(
    client: openai.OpenAI, caller: Caller, asked: bool
) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if asked else {}
    raw = client.chat.completions.with_raw_response.create(
        model=caller.model, messages=MESSAGES, stream=True, **options
    )
    chunks = list(raw.parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert [c.usage is not None for c in chunks if not c.choices] == ([True] if asked else [])
    record = wait_for_record(raw.headers["x-request-id"])
    assert cost_of(record) == (750, 0, 0, 9_600, 10_350)
    assert (record.status, record.streamed, record.estimated) == ("completed", True, False)
    assert record.first_byte_ms is not None


def test_null_usage_is_taken_out_of_frames_unless_asked_for(product: Product, caller: Caller) -> None:
    def frames(**options: Any) -> list[dict[str, Any]]:
        response = httpx.post(
            f"{product.base_url}/chat/completions",
            headers={"Authorization": f"Bearer {caller.secret}"},
            json={"model": caller.model, "messages": MESSAGES, "stream": True, **options},
        )
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]

    assert all("usage" not in frame for frame in frames())
    asked = frames(stream_options={"include_usage": True})
    assert [frame["usage"] is None for frame in asked] == [True] * (len(asked) - 1) + [False]


def test_reported_cached_written_and_reasoning_tokens_are_each_priced_once(
    client: openai.OpenAI, caller: Caller
) -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "cached_tokens": 600,
        "cache_write_tokens": 100,
        "reasoning_tokens": 150,
    }
    for stream in (False, True):
        raw: Any = client.chat.completions.with_raw_response.create(
            model=caller.model, messages=MESSAGES, stream=stream, extra_body={"simulator": {"usage": usage}}
        )
        if stream:
            list(raw.parse())
        record = wait_for_record(raw.headers["x-request-id"])
        assert (record.input_tokens, record.cached_input_tokens, record.cache_write_tokens) == (
            1000,
            600,
            100,
        )
        assert (record.output_tokens, record.reasoning_tokens) == (200, 150)
        # 300 plain at 150, 600 cached at 75, 100 written at 150 (no price of its own), 200 at 600
        assert cost_of(record) == (45_000, 45_000, 15_000, 120_000, 225_000)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_missing_or_impossible_usage_is_counted_here_and_marked(
    client: openai.OpenAI, caller: Caller, fault: str, stream: bool
) -> None:
    raw: Any = client.chat.completions.with_raw_response.create(
        model=caller.model,
        messages=[{"role": "user", "content": "one two three"}],
        stream=stream,
        extra_body={"simulator": {"usage": fault, "text": "alpha beta gamma delta"}},
    )
    if stream:
        list(raw.parse())
    record = wait_for_record(raw.headers["x-request-id"])
    # o200k: 3 per message, 1 for the role, 3 for the words, 3 for the answer's framing; "alpha beta gamma delta" is 4
    assert (record.estimated, record.input_tokens, record.output_tokens) == (True, 10, 4)
    assert cost_of(record) == (1_500, 0, 0, 2_400, 3_900)


def test_tools_pass_through_both_ways(client: openai.OpenAI, caller: Caller) -> None:
    first = client.chat.completions.create(
        model=caller.model, messages=MESSAGES, tools=[WEATHER], tool_choice="required"
    )
    calls = first.choices[0].message.tool_calls
    assert calls is not None
    assert first.choices[0].finish_reason == "tool_calls"
    assert calls[0].function.name == "get_weather"  # type: ignore[union-attr]
    assert "city" in json.loads(calls[0].function.arguments)  # type: ignore[union-attr]
    second = client.chat.completions.create(
        model=caller.model,
        messages=[
            *MESSAGES,
            first.choices[0].message.model_dump(exclude_none=True),  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": calls[0].id, "content": "21 degrees"},
        ],
        tools=[WEATHER],
    )
    assert "21 degrees" in (second.choices[0].message.content or "")


def test_streamed_parallel_tool_calls_arrive_whole(client: openai.OpenAI, caller: Caller) -> None:
    time_tool: Any = {"type": "function", "function": {**WEATHER["function"], "name": "get_time"}}
    stream = client.chat.completions.create(
        model=caller.model, messages=MESSAGES, tools=[WEATHER, time_tool], tool_choice="required", stream=True
    )
    names: dict[int, str | None] = {}
    arguments = {0: "", 1: ""}
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None
            names.setdefault(call.index, call.function.name)
            arguments[call.index] += call.function.arguments or ""
    assert names == {0: "get_weather", 1: "get_time"}
    assert all("city" in json.loads(text) for text in arguments.values())


def test_unknown_fields_and_images_pass_untouched(client: openai.OpenAI, caller: Caller) -> None:
    answer = client.chat.completions.create(
        model=caller.model,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                ],
            }
        ],
        n=2,
        seed=7,
        logprobs=True,
        response_format={"type": "json_object"},
        extra_body={"a_newer_field": {"nested": [1.5, None, "ü"]}},
    )
    assert len(answer.choices) == 2
    json.loads(answer.choices[0].message.content or "")


CALLER_ERRORS = [
    (401, openai.AuthenticationError, {"api_key": "wrong"}, {}),
    (404, openai.NotFoundError, {}, {"model": "no-such-model"}),
    (400, openai.BadRequestError, {}, {"messages": []}),
]


@pytest.mark.parametrize(("status", "exception", "options", "changes"), CALLER_ERRORS)
def test_refusals_become_the_right_exceptions_and_are_not_retried(
    product: Product, caller: Caller, status: int, exception: type[Exception], options: Any, changes: Any
) -> None:
    marker = unique("marker")
    client = openai.OpenAI(
        **{"base_url": product.base_url, "api_key": caller.secret, "max_retries": 2, **options}
    )
    with client, pytest.raises(exception) as caught:
        client.chat.completions.create(
            **{"model": caller.model, "messages": MESSAGES, **changes},
            extra_headers={"X-Client-Request-Id": marker},
        )
    assert isinstance(caught.value, openai.APIStatusError)
    assert caught.value.status_code == status
    assert caught.value.request_id
    assert caught.value.type == "invalid_request_error"
    assert [row.http_status for row in rows_of(marker, 1)] == [status]


@pytest.mark.parametrize(
    ("fault", "exception"),
    [
        ({"status": 500}, openai.InternalServerError),
        ({"status": 503}, openai.InternalServerError),
        ({"status": 429, "retry_after": 0.01}, openai.RateLimitError),
    ],
)
def test_the_sdk_retries_what_the_backend_may_mend(
    client: openai.OpenAI, caller: Caller, fault: Any, exception: type[Exception]
) -> None:
    marker = unique("marker")
    with pytest.raises(exception):
        client.chat.completions.create(
            model=caller.model,
            messages=MESSAGES,
            extra_body={"simulator": fault},
            extra_headers={"X-Client-Request-Id": marker},
        )
    rows = rows_of(marker, 3)
    assert [(row.status, row.cost_nanousd) for row in rows] == [("failed", 0)] * 3


def test_a_retry_that_succeeds_is_charged_once(client: openai.OpenAI, caller: Caller) -> None:
    marker = unique("marker")
    # 0.51: calls are counted, the second and the fourth of four fail; whichever comes, one retry succeeds
    answer = client.chat.completions.create(
        model=caller.model,
        messages=MESSAGES,
        extra_body={"simulator": {"status": 500, "share": 0.51}},
        extra_headers={"X-Client-Request-Id": marker},
    )
    assert answer.choices
    rows = UsageRecord.objects.filter(client_request_id=marker)
    wait_for(rows.filter(status="completed").exists, "the row of the call that succeeded")
    assert sum(row.cost_nanousd for row in rows.all()) == 10_350


def test_a_stream_cut_in_the_middle_raises_in_the_sdk(client: openai.OpenAI, caller: Caller) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=caller.model,
        messages=MESSAGES,
        stream=True,
        extra_body={"simulator": {"break_after_frames": 5, "text": "alpha beta gamma delta epsilon zeta"}},
    )
    texts = []
    with pytest.raises(openai.APIError, match="broke off"):
        texts += [chunk.choices[0].delta.content or "" for chunk in raw.parse()]
    record = wait_for_record(raw.headers["x-request-id"])
    assert (record.status, record.reason, record.estimated) == ("failed", "backend_broke", True)
    assert record.output_tokens == 4  # the role frame and then alpha, beta, gamma, delta
    assert record.cost_nanousd == record.input_tokens * 150 + 4 * 600


def test_a_client_that_leaves_closes_the_backend_and_pays_for_what_was_produced(
    client: openai.OpenAI, caller: Caller, simulator: Simulator
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=caller.model,
        messages=MESSAGES,
        stream=True,
        extra_body={"simulator": {"hang_after_frames": 4, "text": "alpha beta gamma delta epsilon zeta"}},
    )
    stream = raw.parse()
    for _ in range(4):
        next(stream)
    stream.close()
    request_id = raw.headers["x-request-id"]
    (served,) = simulator.served(request_id)
    assert (served["outcome"], served["frames_sent"]) == ("client_left", 4)
    record = wait_for_record(request_id)
    assert (record.status, record.http_status, record.estimated) == ("client_left", 499, True)
    assert record.output_tokens == 3  # alpha, beta, gamma
    assert record.cost_nanousd == record.input_tokens * 150 + 3 * 600


def test_models_lists_what_the_team_was_granted(client: openai.OpenAI, caller: Caller) -> None:
    models = client.models.list().data
    assert [(model.id, model.object) for model in models] == [(caller.model, "model")]
    assert models[0].created > 1_700_000_000


@pytest.fixture
def langchain(product: Product, caller: Caller) -> ChatOpenAI:
    return ChatOpenAI(
        model=caller.model, base_url=product.base_url, api_key=SecretStr(caller.secret), max_retries=0
    )


def test_langchain_invokes(langchain: ChatOpenAI) -> None:
    answer = langchain.invoke("Say hello, please.")
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == 5


def test_langchain_stream_without_usage_is_billed_exactly(langchain: ChatOpenAI) -> None:
    marker = unique("marker")
    chunks = list(langchain.stream("Say hello, please.", extra_headers={"X-Client-Request-Id": marker}))
    assert "".join(str(chunk.content) for chunk in chunks)
    assert all(not getattr(chunk, "usage_metadata", None) for chunk in chunks)
    (row,) = rows_of(marker, 1)
    assert cost_of(row) == (750, 0, 0, 9_600, 10_350)


def test_langchain_binds_tools(langchain: ChatOpenAI) -> None:
    answer = langchain.bind_tools([WEATHER], tool_choice="required").invoke("What is the weather?")
    assert isinstance(answer, AIMessage)
    assert [call["name"] for call in answer.tool_calls] == ["get_weather"]
