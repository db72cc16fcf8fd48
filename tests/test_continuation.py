"""Streams that break off, continued by another backend: one stream for the client, both calls on the bill."""

from typing import Any

import pytest

from routing.continuation import GO_ON
from tests.dialects.clients import AnthropicMessages, OpenAIChat, OpenAIResponses
from tests.dialects.test_failures import caller_of
from tests.dialects.test_pairs import HELLO, told
from tests.factories import Caller, make_budget, wait_for_record
from tests.processes import Product, Simulator
from tests.routes import CHAT

FIRST = "one two three four five six seven eight nine ten"
CUT = {"text": FIRST, "break_after_frames": 8}
REST = " and so on"
FORMS = ["openai", "anthropic"]


def make_pool(product: Product, simulator: Simulator, forms: Any, *answers: dict[str, Any]) -> Caller:
    pairs = [(form, told(simulator, **answer)) for form, answer in zip(forms, answers, strict=True)]
    caller = caller_of(product, *pairs)
    caller.team.continues_streams = True
    caller.team.save()
    return caller


ALIKE = [
    pytest.param(pair, marks=pytest.mark.slow) for pair in (("openai", "openai"), ("anthropic", "anthropic"))
]


@pytest.mark.parametrize("forms", [("openai", "anthropic"), ("anthropic", "openai"), *ALIKE], ids="-".join)
@pytest.mark.parametrize("kind", [OpenAIChat, AnthropicMessages, OpenAIResponses], ids=lambda kind: kind.name)
def test_another_backend_goes_on_where_one_broke_off(
    product: Product, simulator: Simulator, forms: tuple[str, str], kind: Any
) -> None:
    caller = make_pool(product, simulator, forms, CUT, {"text": REST})
    said = kind(product, caller).ask(HELLO, stream=True)
    begun, _, rest = said.text.partition(REST)
    assert FIRST.startswith(begun)
    assert begun
    assert (rest, said.stop) == ("", "stop")
    record = wait_for_record(said.request_id)
    assert (record.status, record.attempts, record.estimated) == ("completed", 2, True)
    assert record.failed_attempts is not None
    (failed,) = record.failed_attempts
    assert (failed["reason"], failed["was_continued"]) == ("backend_broke", True)
    assert failed["output_tokens"] == len(begun.split())
    assert record.output_tokens == failed["output_tokens"] + 3
    assert said.output_tokens == record.output_tokens
    assert said.input_tokens == record.input_tokens
    first, second = simulator.served(said.request_id, wait=2)
    assert second["prompt_tokens"] >= first["prompt_tokens"] + len(begun.split()) + len(GO_ON.split())


def test_it_goes_on_as_often_as_calls_may_be_made(product: Product, simulator: Simulator) -> None:
    second = {"text": " alpha beta gamma delta epsilon zeta eta", "break_after_frames": 5}
    caller = make_pool(product, simulator, ["openai"] * 3, CUT, second, {"text": " omega"})
    said = OpenAIChat(product, caller).ask(HELLO, stream=True)
    assert said.text.endswith(" omega")
    assert " alpha" in said.text
    assert wait_for_record(said.request_id).attempts == 3


@pytest.mark.parametrize(
    "options",
    [{"tools": ["get_weather"], "must_call": True}, {"schema": {"type": "object", "properties": {}}}],
    ids=["a call of a tool", "a shape"],
)
def test_what_cannot_be_continued_ends_with_an_error(
    product: Product, simulator: Simulator, options: dict[str, Any]
) -> None:
    caller = make_pool(product, simulator, ["openai"] * 2, {"break_after_frames": 3}, {})
    with pytest.raises(Exception, match="broke off"):
        OpenAIChat(product, caller).ask(HELLO, stream=True, **options)


def test_who_did_not_choose_it_gets_the_error(product: Product, simulator: Simulator) -> None:
    caller = caller_of(product, ("openai", told(simulator, **CUT)), ("openai", simulator.base_url))
    with pytest.raises(Exception, match="broke off"):
        OpenAIChat(product, caller).ask(HELLO, stream=True)


def test_where_the_last_one_breaks_off_too_the_stream_ends_with_an_error(
    product: Product, simulator: Simulator
) -> None:
    caller = make_pool(product, simulator, ["openai"] * 2, CUT, CUT)
    answer = CHAT.ask(product, caller, stream=True)
    assert '"code":"backend_error"' in answer.text
    assert answer.text.count("data: [DONE]") == 0
    record = wait_for_record(answer.headers["x-request-id"])
    assert (record.status, record.attempts) == ("failed", 2)
    assert record.failed_attempts is not None
    assert record.output_tokens == 2 * record.failed_attempts[0]["output_tokens"] > 0


def test_an_answer_whose_bound_is_used_is_not_continued(product: Product, simulator: Simulator) -> None:
    caller = make_pool(product, simulator, ["openai"] * 2, {"text": FIRST, "break_after_frames": 4}, {})
    answer = CHAT.ask(product, caller, stream=True, max_tokens=3)
    assert '"code":"backend_error"' in answer.text
    assert wait_for_record(answer.headers["x-request-id"]).attempts == 1


def test_without_money_for_the_rest_it_is_not_continued(product: Product, simulator: Simulator) -> None:
    caller = make_pool(product, simulator, ["openai"] * 2, CUT, {"text": REST})
    make_budget(team=caller.team, amount=20 * 600 + 200 * 150)  # what one call may come to, and hardly more
    product.wait_for_configuration()
    asked: dict[str, Any] = {"stream": True, "max_tokens": 20}
    answer = CHAT.ask(product, caller, **asked)
    record = wait_for_record(answer.headers["x-request-id"])
    assert record.cost_nanousd <= 20 * 600 + 200 * 150
    assert record.status in ("failed", "completed")
    assert (record.attempts == 2) == (record.status == "completed")
