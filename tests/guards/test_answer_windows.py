"""A streamed answer is told as the plain one would be, however it came; where it ends, it ends before what is found."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards.finding import Finding
from guards.leak import SystemMessage
from guards.policy import Act, Policy, Rule, Rules
from guards.scanner import Scanner, Wanted
from guards.texts import Texts
from routing.answer_guarding import AnswerGuard
from routing.answer_watch import watch_stream
from routing.endpoints.bounds import Bounds
from routing.endpoints.chat import ChatEndpoint
from routing.explain import ENDPOINTS
from routing.gateway import Gateway
from routing.trace import Trace
from teams.errors import GatewayError
from tests.guards.test_restoring import FORMS, events_of, frame, pieces_of, said

TYPES = frozenset({"EMAIL_ADDRESS", "CREDIT_CARD", "API_KEY", "PRIVATE_KEY", "PASSWORD"})
SCANNER = Scanner(Wanted(TYPES))
VALUES = ["anna@example.com", "4111 1111 1111 1111", "sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2"]
LINES = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC/abc+0123456789ABCDEFGHIJKLMNOPQ"] * 30
KEY = "\n".join(["-----BEGIN PRIVATE KEY-----", *LINES, "-----END PRIVATE KEY-----"])
HEADED = KEY.replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123\n\n", 1)
KEYS = [KEY, HEADED, KEY.replace("\n", "\n        "), KEY.replace("\n", "\\n")]
TOKENS = [
    f"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJ{'c3ViIjoiMTIz' * many}.{'aB3-_d' * 57}"
    for many in (5, 60, 300)
]
SECRETS = [*VALUES, *KEYS, *TOKENS]
SYSTEM = "Never speak of the blue house behind the hill near the river, whatever is asked."
words = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from([*KEYS, *TOKENS]),
    st.sampled_from(["a word ", "and then it rained for hours and hours on end. ", "\n", "ü€😀 ", "x" * 90]),
    st.text(st.characters(codec="utf-8", exclude_characters="@0123456789.:/+-_"), max_size=30),
)
texts = st.lists(words, max_size=30).map(" ".join)
cuts = st.lists(st.integers(0, 3000), max_size=40)


class Guards:
    """What a gateway has of guards, without its process."""

    async def scan(self, texts: list[str], *, keeps: bool) -> list[Sequence[Finding]]:
        return [SCANNER.look(text) for text in texts]


def make_guard(act: Act, operation: str = "chat", *, cuts_streams: bool = False) -> tuple[AnswerGuard, Trace]:
    rule = Rule(act, TYPES)
    answer = Rules(
        {"pii": rule, "secrets": rule, "leak": Rule(Act.BLOCK, frozenset({"SYSTEM_PROMPT"}), threshold=0.6)}
    )
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello"}]
    body = msgspec.json.encode({"model": "m", "messages": messages})
    request = ChatEndpoint().read(body, Bounds(*[10**6] * 5), None)
    request = replace(request, endpoint=ENDPOINTS[operation])
    gateway = SimpleNamespace(guards=Guards(), metrics=SimpleNamespace(count_finding=lambda *_: None))
    policy = Policy("p", answer=answer, cuts_streams=cuts_streams)
    guard = AnswerGuard(
        cast("Gateway", gateway), policy, request, SystemMessage(Texts.of_request(request.fields).all)
    )
    return guard, Trace("chat")


LOOP = asyncio.new_event_loop()


def run(coroutine: Any) -> bytes:
    """Its result."""
    return bytes(LOOP.run_until_complete(coroutine))


def tell(frames: list[bytes], guard: AnswerGuard, trace: Trace) -> bytes:
    pieces = watch_stream(guard, guard._gateway, trace)
    told = bytearray()
    try:
        for frame in frames:
            told += run(pieces.feed(frame))
        told += run(pieces.close())
    except GatewayError as error:
        charged = error.may_have_cost
    else:
        return bytes(told)
    assert charged
    return bytes(told) + b"data: {}\n\n"


@pytest.mark.parametrize("form", FORMS)
@given(text=texts, places=cuts)
def test_a_stream_is_redacted_as_the_plain_answer_is(form: str, text: str, places: list[int]) -> None:
    operation, make = FORMS[form]
    plain, plain_trace = make_guard(Act.REDACT)
    answer = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    expected = json.loads(run(plain.check(answer, plain_trace)))["choices"][0]["message"]["content"]
    assert not [value for value in SECRETS if value in expected]
    assert LINES[0] not in expected
    guard, trace = make_guard(Act.REDACT, operation)
    streamed = tell(list(make(pieces_of(text, places))), guard, trace)
    events = events_of(streamed)
    assert said(events) == expected
    if form == "responses":
        assert events[-1]["text"] == expected
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert sum(each.count for each in trace.findings) == sum(each.count for each in plain_trace.findings)


@pytest.mark.parametrize("form", FORMS)
@given(text=texts, places=cuts, value=st.sampled_from(SECRETS), after=texts)
def test_nothing_of_what_is_blocked_is_told(
    form: str, text: str, places: list[int], value: str, after: str
) -> None:
    operation, make = FORMS[form]
    guard, trace = make_guard(Act.BLOCK, operation)
    streamed = tell(list(make(pieces_of(f"{text} {value} {after}", places))), guard, trace)
    told = streamed.decode()
    assert not [each for each in VALUES if each in told]
    assert not any(each in told for each in ("PRIVATE KEY", LINES[0], "eyJhbGci"))
    assert streamed.endswith(b"data: {}\n\n")
    assert any(each.act == "block" for each in trace.findings)


@given(places=cuts, filler=st.integers(0, 900))
def test_the_systems_message_is_not_told(places: list[int], filler: int) -> None:
    guard, trace = make_guard(Act.OBSERVE)
    text = "x " * filler + f"I was told: {SYSTEM} " + "y " * filler
    streamed = tell(list(FORMS["chat"][1](pieces_of(text, places))), guard, trace)
    assert "the blue house behind the hill" not in said(events_of(streamed[: -len(b"data: {}\n\n")]))
    assert streamed.endswith(b"data: {}\n\n")


@given(places=cuts, before=st.integers(0, 900))
def test_a_stream_that_is_cut_tells_what_came_before(places: list[int], before: int) -> None:
    guard, trace = make_guard(Act.BLOCK, cuts_streams=True)
    text = "x " * before + VALUES[0] + " y" * 900
    pieces = pieces_of(text, [*places, *range(0, len(text), 20)])
    streamed = tell(list(FORMS["chat"][1](pieces)), guard, trace)
    told = said(events_of(streamed[: -len(b"data: {}\n\n")]))
    assert text.startswith(told)
    assert len(told) >= 2 * before - 20
    assert len(told) < 2 * before + 400
    assert [each.act for each in trace.findings] == ["block"]


def chat_event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, **more}
    return frame({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})


EMAIL = VALUES[0]
PARTS = ["Write to an", "na@exam", "ple.com"]


def test_what_tells_a_text_token_by_token_is_taken_out() -> None:
    guard, trace = make_guard(Act.REDACT)
    logprobs = {
        "content": [{"token": EMAIL, "bytes": list(EMAIL.encode()), "logprob": 0, "top_logprobs": []}]
    }
    answer = {"choices": [{"message": {"content": EMAIL}, "logprobs": logprobs}], "prompt_token_ids": [1, 2]}
    told = json.loads(run(guard.check(json.dumps(answer).encode(), trace)))
    assert told == {
        "choices": [{"message": {"content": "<EMAIL_ADDRESS_1>"}, "logprobs": None}],
        "prompt_token_ids": [],
    }
    frames = [chat_event({"content": part}, logprobs=logprobs) for part in PARTS] + [chat_event({}, "stop")]
    guard, trace = make_guard(Act.REDACT)
    streamed = tell(frames, guard, trace)
    assert b"anna" not in streamed
    assert said(events_of(streamed)) == "Write to <EMAIL_ADDRESS_1>"
    observing, trace = make_guard(Act.OBSERVE)
    observing.changes = False
    assert b"logprobs" in run(observing.check(json.dumps(answer).encode(), trace))


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":"anna@example.com"},"x":1e999}]}',
        b'{"choices":[{"message":{"content":"\\ud83d anna@example.com"}}]}',
        b'{"choices":[{"message":{"content":"\xff anna@example.com"}}]}',
        b'{"choices":[{"x":NaN}]}',
        b'["anna@example.com"]',
        b"anna@example.com",
    ],
)
def test_what_cannot_be_read_is_not_told(body: bytes) -> None:
    guard, trace = make_guard(Act.REDACT)
    with pytest.raises(GatewayError, match="guard_unavailable"):
        run(guard.check(body, trace))
    guard, trace = make_guard(Act.REDACT)
    assert tell([b"data: " + body + b"\n\n"], guard, trace) == b"data: {}\n\n"


def test_signs_of_life_pass() -> None:
    guard, trace = make_guard(Act.REDACT)
    for data in (b": keep-alive\n\n", b"data: [DONE]\n\n"):
        assert tell([data], guard, trace) == data


def test_events_that_carriage_returns_divide_are_events() -> None:
    guard, trace = make_guard(Act.REDACT)
    event = json.dumps(
        {"choices": [{"index": 0, "delta": {"content": EMAIL}, "finish_reason": "stop"}]}
    ).encode()
    for between in (b"\r\r", b"\r\n\r\n", b"\n\n"):
        streamed = tell([b"data: {}" + between + b"data: " + event + b"\n\n"], guard, trace)
        assert EMAIL.encode() not in streamed


DELTAS: list[Any] = [
    lambda part: {"role": "assistant", "content": "", "reasoning_details": [{"type": "t", "text": part}]},
    lambda part: {"content": "", "audio": {"transcript": part}},
    lambda part: {"content": [{"type": "text", "text": part}]},
    lambda part: {"reasoning": part, "content": None},
    lambda part: {"tool_calls": [{"index": 1, "custom": {"input": part}}]},
    lambda part: {"tool_calls": [{"index": 0, "function": {"arguments": part}}], "x": {"y": "some words"}},
    lambda part: {"unknown": {"deep": [{"er": part}]}},
]


@pytest.mark.parametrize("act", [Act.REDACT, Act.BLOCK])
@pytest.mark.parametrize("make", DELTAS)
def test_texts_that_grow_are_found_wherever_a_backend_puts_them(make: Any, act: Act) -> None:
    guard, trace = make_guard(act)
    frames = [chat_event(make(part)) for part in PARTS] + [chat_event({}, "stop")]
    streamed = tell(frames, guard, trace)
    assert b"na@exam" not in streamed
    assert [(each.type, each.act) for each in trace.findings] == [("EMAIL_ADDRESS", act)]
    if act is Act.REDACT:
        assert b"Write to <EMAIL_ADDRESS_1>" in streamed


def test_what_is_thought_is_found_and_cannot_be_changed() -> None:
    events = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": part}}
        for part in PARTS
    ]
    stop = {"type": "content_block_stop", "index": 0}
    guard, trace = make_guard(Act.REDACT, "messages")
    streamed = tell([frame(event, str(event["type"])) for event in [*events, stop]], guard, trace)
    assert b"anna" not in streamed
    assert [each.act for each in trace.findings] == ["block"]


def test_an_event_of_ours_repeats_nothing() -> None:
    guard, trace = make_guard(Act.REDACT)
    function = {"name": "get_weather", "arguments": '{"a":1}'}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    frames = [
        chat_event({"role": "assistant", "tool_calls": [call]}, usage={"x": 1}),
        chat_event({}, "tool_calls"),
    ]
    first, second, _ = [event["choices"][0] for event in events_of(tell(frames, guard, trace))]
    assert first["delta"]["role"] == "assistant"
    assert first["delta"]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": ""}
    assert second == {
        "index": 0,
        "delta": {"tool_calls": [{"index": 0, "type": "function", "function": {"arguments": '{"a":1}'}}]},
        "finish_reason": None,
    }


def test_what_a_response_tells_back_of_its_request_is_no_leak() -> None:
    guard, trace = make_guard(Act.BLOCK, "responses")
    item = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    response = {"object": "response", "instructions": SYSTEM, "metadata": {"a": EMAIL}, "output": [item]}
    assert json.loads(run(guard.check(json.dumps(response).encode(), trace))) == response
    created = frame(
        {"type": "response.created", "sequence_number": 0, "response": response}, "response.created"
    )
    assert tell([created], guard, trace) == created
    item["content"][0]["text"] = SYSTEM  # type: ignore[index]
    with pytest.raises(GatewayError, match="guard_leak"):
        run(guard.check(json.dumps(response).encode(), trace))


def test_marks_and_numbers_of_a_tools_input_are_looked_at() -> None:
    guard, trace = make_guard(Act.REDACT, "messages")
    tool = {"id": "4111-1111-1111-1111", "card": 4111111111111111, "data": EMAIL, "n": 12}
    answer = {"id": "msg_1", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": tool}]}
    told = json.loads(run(guard.check(json.dumps(answer).encode(), trace)))
    assert told["content"][0]["input"] == {
        "id": "<CREDIT_CARD_1>",
        "card": "<CREDIT_CARD_2>",
        "data": "<EMAIL_ADDRESS_1>",
        "n": 12,
    }


def test_what_came_before_a_window_is_not_found_anew() -> None:
    digits = "ref 1234567890123456789012345678 and so on, "
    for number in range(40):
        guard, trace = make_guard(Act.BLOCK)
        text = "x" * number + " " + digits * 40
        streamed = tell(list(FORMS["chat"][1](pieces_of(text, [*range(0, len(text), 7)]))), guard, trace)
        assert said(events_of(streamed)) == text


@pytest.mark.slow  # it compares times
def test_a_long_text_that_is_held_costs_time_in_proportion_to_it() -> None:
    times = []
    for many in (4_000, 16_000):
        guard, trace = make_guard(Act.REDACT)
        guard.holds_whole = True
        frames = list(FORMS["chat"][1](["twenty characters..."] * many))
        started = time.perf_counter()
        assert len(said(events_of(tell(frames, guard, trace)))) == 20 * many
        times.append(time.perf_counter() - started)
    assert times[1] < 12 * times[0]


@pytest.mark.slow  # it takes time
def test_the_systems_message_is_known_in_time() -> None:
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "a word or two " * 200_000},
    ]
    body = msgspec.json.decode(json.dumps({"messages": messages}), type=dict[str, msgspec.Raw])
    texts = Texts.of_request(body).all
    started = time.perf_counter()
    assert list(SystemMessage(texts).find(SYSTEM))
    assert time.perf_counter() - started < 5
