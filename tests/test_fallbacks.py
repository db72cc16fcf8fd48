"""Other models that serve in place of one: when no backend can, for prompts that are too long, for content refused."""

import math
from collections import Counter
from typing import Any

import pytest

from billing.models import UsageRecord
from routing.models import BreakerRule, Fallback
from tests.dialects.clients import AnthropicMessages, OpenAIChat
from tests.dialects.test_pairs import HELLO, told
from tests.factories import Caller, make_backend, make_budget, make_caller, make_model, wait_for_record
from tests.processes import Product, Simulator, wait_for
from tests.routes import CHAT

TOO_LONG = {"status": 400, "code": "context_length_exceeded", "message": "Too long."}
FILTERED = {"status": 400, "code": "content_filter", "message": "No."}
PLAIN_TOO_LONG = {"status": 400, "message": "This model's maximum context length is 8 tokens."}
CLAUDES_TOO_LONG = {"status": 400, "message": "prompt is too long: 300000 tokens > 200000 maximum"}


def make_chain(
    product: Product,
    simulator: Simulator,
    fault: dict[str, Any],
    *chain: tuple[str, dict[str, Any]],
    granted: bool = True,
    **fields: Any,
) -> tuple[Caller, list[str]]:
    """A caller whose model fails with `fault`, and the models that serve for it: cause, and how they answer."""
    caller = make_caller(told(simulator, **fault), longest_trip_s=0, **fields)
    model = caller.backend.catalogue_models.get()
    names = []
    for position, (cause, answers) in enumerate(chain, start=1):
        backend = make_backend(told(simulator, **answers), longest_trip_s=0)
        other = make_model(backend, team=caller.team if granted else None)
        Fallback.objects.create(model=model, to=other, cause=cause, position=position)
        names.append(other.name)
    product.wait_for_configuration()
    return caller, names


@pytest.mark.parametrize("stream", [False, True])
def test_another_model_serves_when_no_backend_can(
    product: Product, simulator: Simulator, stream: bool
) -> None:
    chain: Any = [("context", {}), ("any", {"status": 500}), ("any", {})]
    caller, names = make_chain(product, simulator, {"status": 503}, *chain)
    answer = CHAT.ask(product, caller, stream=stream)
    assert (answer.status_code, answer.headers["x-gateway-model"]) == (200, names[2])
    assert answer.headers["x-gateway-attempts"].startswith("3; failed=")
    record = wait_for_record(answer.headers["x-request-id"])
    assert (record.model, record.served_model, record.attempts) == (caller.model, names[2], 3)
    assert record.failed_attempts is not None
    assert [each["reason"] for each in record.failed_attempts] == ["backend_overloaded", "backend_error"]
    assert record.status == "completed"


@pytest.mark.parametrize(
    ("provider", "fault", "cause"),
    [
        ("openai", TOO_LONG, "context"),
        ("openai", PLAIN_TOO_LONG, "context"),
        ("anthropic", CLAUDES_TOO_LONG, "context"),
        ("azure", FILTERED, "content"),
    ],
)
def test_a_fault_of_the_request_goes_to_the_chain_for_it(
    product: Product, simulator: Simulator, provider: str, fault: dict[str, Any], cause: str
) -> None:
    chain: Any = [("any", {"text": "wrong"}), (cause, {"text": "right"})]
    caller, names = make_chain(product, simulator, fault, *chain, provider=provider)
    said = OpenAIChat(product, caller).ask(HELLO)
    assert said.text == "right"
    record = wait_for_record(said.request_id)
    assert (record.served_model, record.attempts) == (names[1], 2)
    assert AnthropicMessages(product, caller).ask(HELLO, stream=True).text == "right"


def test_other_faults_of_the_request_are_told_at_once(product: Product, simulator: Simulator) -> None:
    fault = {"status": 400, "code": "invalid_value", "message": "Wrong."}
    caller, _ = make_chain(product, simulator, fault, ("any", {}), ("context", {}), ("content", {}))
    answer = CHAT.ask(product, caller)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    assert answer.headers["x-gateway-attempts"] == "1"


def test_without_a_chain_the_error_has_the_code_that_clients_know(
    product: Product, simulator: Simulator
) -> None:
    caller, _ = make_chain(product, simulator, CLAUDES_TOO_LONG, provider="anthropic")
    answer = CHAT.ask(product, caller)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_model_that_the_caller_may_not_use_is_passed_over(product: Product, simulator: Simulator) -> None:
    caller, _ = make_chain(product, simulator, {"status": 503}, ("any", {}), granted=False)
    answer = CHAT.ask(product, caller)
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (503, "backend_overloaded")


def test_a_request_that_only_a_fallback_can_take_goes_there(product: Product, simulator: Simulator) -> None:
    caller, names = make_chain(product, simulator, {}, ("any", {}), provider="anthropic")
    answer = CHAT.ask(product, caller, n=2)
    assert (answer.status_code, answer.headers["x-gateway-model"]) == (200, names[0])
    assert len(answer.json()["choices"]) == 2


def test_what_is_held_covers_the_dearest_model_of_the_chain(product: Product, simulator: Simulator) -> None:
    """A dear fallback is reserved for; nothing is served that would not fit."""
    caller = make_caller(told(simulator, status=503), prices={"input": "0", "output": "1"}, longest_trip_s=0)
    dear = make_backend(simulator.base_url, prices={"input": "0", "output": "100"})
    other = make_model(dear, team=caller.team)
    Fallback.objects.create(model=caller.backend.catalogue_models.get(), to=other)
    budget = make_budget(team=caller.team, amount=10 * 100_000 - 1)
    product.wait_for_configuration()
    usage = {"prompt_tokens": 5, "completion_tokens": 10}
    ask: dict[str, Any] = {"max_tokens": 10, "simulator": {"usage": usage}}
    assert CHAT.ask(product, caller, **ask).headers["x-gateway-reason"] == "budget_spent"
    budget.amount += 1
    budget.save()
    product.wait_for_configuration()
    answer = CHAT.ask(product, caller, **ask)
    assert (answer.status_code, answer.headers["x-gateway-model"]) == (200, other.name)
    assert wait_for_record(answer.headers["x-request-id"]).cost_nanousd == 10 * 100_000


def test_when_all_of_the_chain_is_left_alone_it_says_when_to_come_back(
    product: Product, simulator: Simulator
) -> None:
    caller = make_caller(told(simulator, status=429, retry_after=40))
    backend = make_backend(told(simulator, status=429, retry_after=20))
    other = make_model(backend, team=caller.team)
    Fallback.objects.create(model=caller.backend.catalogue_models.get(), to=other)
    product.wait_for_configuration()
    assert CHAT.ask(product, caller).status_code == 429
    answer = CHAT.ask(product, caller)
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (503, "backends_away")
    assert 15 <= math.ceil(float(answer.headers["retry-after"])) <= 20


def test_a_backend_goes_by_its_own_rules(product: Product, simulator: Simulator) -> None:
    """Two failures of a kind that is usually none trip it; others change nothing."""
    caller = make_caller(told(simulator, status=422, share=0.5))
    BreakerRule.objects.create(
        backend=caller.backend,
        name="invalid",
        failures=2,
        percent=0,
        interval_s=60,
        trip_s=30,
        statuses="422",
    )
    product.wait_for_configuration()
    statuses = [CHAT.ask(product, caller).status_code for _ in range(5)]
    tripped = statuses.index(503)  # every other call fails, beginning with the first or the second
    assert Counter(statuses[:tripped])[422] == 2
    assert set(statuses[:tripped]) == {200, 422}
    assert set(statuses[tripped:]) == {503}
    rows = UsageRecord.objects.filter(team_id=caller.team.pk, reason="backends_away")
    wait_for(rows.exists, "the refusal's row")


@pytest.mark.parametrize("statuses", ["", "x", "99", "600", "500-400", "429;500", "0-", "1,,2"])
def test_what_is_no_list_of_statuses_is_refused(statuses: str) -> None:
    from django.core.exceptions import ValidationError

    rule = BreakerRule(name="x", statuses=statuses)
    with pytest.raises(ValidationError) as raised:
        rule.clean_fields(exclude=["backend"])
    assert list(raised.value.message_dict) == ["statuses"]
