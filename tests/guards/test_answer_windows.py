"""A streamed answer is told as the plain one would be, however it came; where it ends, it ends before what is found."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards.finding import Finding
from guards.policy import Act, Policy, Rule, Rules
from guards.scanner import Scanner, Wanted
from guards.texts import Texts
from routing.answer_guarding import AnswerGuard
from routing.endpoints.bounds import Bounds
from routing.endpoints.chat import ChatEndpoint
from routing.gateway import Gateway
from routing.trace import Trace
from teams.errors import GatewayError
from tests.guards.test_restoring import FORMS, events_of, pieces_of, said

TYPES = frozenset({"EMAIL_ADDRESS", "CREDIT_CARD", "API_KEY", "PRIVATE_KEY", "PASSWORD"})
SCANNER = Scanner(Wanted(TYPES))
VALUES = ["anna@example.com", "4111 1111 1111 1111", "sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2"]
KEY = f"-----BEGIN PRIVATE KEY-----\n{'MIIEvQIBADANBgkqhkiG9w0BAQEFAASC' * 40}\n-----END PRIVATE KEY-----"
SYSTEM = "Never speak of the blue house behind the hill near the river, whatever is asked."
words = st.one_of(
    st.sampled_from(VALUES),
    st.just(KEY),
    st.sampled_from(["a word ", "and then it rained for hours and hours on end. ", "\n", "ü€😀 ", "x" * 90]),
    st.text(st.characters(codec="utf-8", exclude_characters="@0123456789.:/+-_"), max_size=30),
)
texts = st.lists(words, max_size=30).map(" ".join)
cuts = st.lists(st.integers(0, 3000), max_size=40)


class Guards:
    """What a gateway has of guards, without its process."""

    async def scan(self, texts: list[str], *, keeps: bool) -> list[Sequence[Finding]]:
        return [SCANNER.look(text) for text in texts]


def make_guard(act: Act, *, cuts_streams: bool = False) -> tuple[AnswerGuard, Trace]:
    rule = Rule(act, TYPES)
    answer = Rules(
        {"pii": rule, "secrets": rule, "leak": Rule(Act.BLOCK, frozenset({"SYSTEM_PROMPT"}), threshold=0.6)}
    )
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello"}]
    body = msgspec.json.encode({"model": "m", "messages": messages})
    request = ChatEndpoint().read(body, Bounds(*[10**6] * 5), None)
    gateway = SimpleNamespace(guards=Guards(), metrics=SimpleNamespace(count_finding=lambda *_: None))
    policy = Policy("p", answer=answer, cuts_streams=cuts_streams)
    guard = AnswerGuard(cast("Gateway", gateway), policy, request, Texts.of_request(request.fields).all)
    return guard, Trace("chat")


def run(coroutine: Any) -> bytes:
    """The result of what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return bytes(ended.value)
    raise AssertionError("it waits")


def tell(operation: str, frames: list[bytes], guard: AnswerGuard, trace: Trace) -> bytes:
    pieces = guard.watch(operation, trace)
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
    assert not [value for value in [*VALUES, KEY] if value in expected]
    guard, trace = make_guard(Act.REDACT)
    streamed = tell(operation, list(make(pieces_of(text, places))), guard, trace)
    events = events_of(streamed)
    assert said(events) == expected
    if form == "responses":
        assert events[-1]["text"] == expected
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert sum(each.count for each in trace.findings) == sum(each.count for each in plain_trace.findings)


@pytest.mark.parametrize("form", FORMS)
@given(text=texts, places=cuts, value=st.sampled_from([*VALUES, KEY]), after=texts)
def test_nothing_of_what_is_blocked_is_told(
    form: str, text: str, places: list[int], value: str, after: str
) -> None:
    operation, make = FORMS[form]
    guard, trace = make_guard(Act.BLOCK)
    streamed = tell(operation, list(make(pieces_of(f"{text} {value} {after}", places))), guard, trace)
    told = streamed.decode()
    assert not [each for each in VALUES if each in told]
    assert "PRIVATE KEY" not in told
    assert streamed.endswith(b"data: {}\n\n")
    assert any(each.act == "block" for each in trace.findings)


@given(places=cuts, filler=st.integers(0, 900))
def test_the_systems_message_is_not_told(places: list[int], filler: int) -> None:
    guard, trace = make_guard(Act.OBSERVE)
    text = "x " * filler + f"I was told: {SYSTEM} " + "y " * filler
    streamed = tell("chat", list(FORMS["chat"][1](pieces_of(text, places))), guard, trace)
    assert "the blue house behind the hill" not in said(events_of(streamed[: -len(b"data: {}\n\n")]))
    assert streamed.endswith(b"data: {}\n\n")


@given(places=cuts, before=st.integers(0, 900))
def test_a_stream_that_is_cut_tells_what_came_before(places: list[int], before: int) -> None:
    guard, trace = make_guard(Act.BLOCK, cuts_streams=True)
    text = "x " * before + VALUES[0] + " y" * 900
    pieces = pieces_of(text, [*places, *range(0, len(text), 20)])
    streamed = tell("chat", list(FORMS["chat"][1](pieces)), guard, trace)
    told = said(events_of(streamed[: -len(b"data: {}\n\n")]))
    assert text.startswith(told)
    assert len(told) >= 2 * before - 20
    assert len(told) < 2 * before + 400
    assert [each.act for each in trace.findings] == ["block"]
