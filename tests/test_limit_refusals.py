"""What a caller learns when a limit or a budget refuses, through the real server and the official client."""

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from billing.rule_models import Budget, Limit
from tests.factories import Caller, make_caller, make_model, wait_for_record
from tests.processes import Product, Simulator, wait_for
from tests.routes import CHAT, ROUTES, Route

MESSAGES: Any = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def caller(product: Product, simulator: Simulator) -> Caller:
    return make_caller(simulator.base_url, product)


class Counted:
    """The official client, and how many requests it sent."""

    def __init__(self, product: Product, caller: Caller) -> None:
        self.sent = 0
        http = openai.DefaultHttpxClient(event_hooks={"request": [self._count]})
        self.client = openai.OpenAI(base_url=product.base_url, api_key=caller.secret, http_client=http)

    def _count(self, _request: object) -> None:
        self.sent += 1

    def ask(self, caller: Caller, **fields: Any) -> Any:
        return self.client.chat.completions.create(model=caller.model, messages=MESSAGES, **fields)


@pytest.fixture
def counted(product: Product, caller: Caller) -> Iterator[Counted]:
    counted = Counted(product, caller)
    with counted.client:
        yield counted


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_spent_budget_names_itself_and_its_figures(product: Product, caller: Caller, route: Route) -> None:
    Budget.objects.create(team=caller.team, unit="tokens", period="month", amount=3)
    product.wait_for_configuration()
    answer = route.ask(product, caller)
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "project_spend_limit_exceeded")
    assert (
        f"The budget of 3 tokens per month (team {caller.team.slug}) is spent: 0 tokens used"
        in error["message"]
    )
    assert answer.headers["x-gateway-reason"] == "budget_spent"
    assert answer.headers["x-should-retry"] == "false"
    row = wait_for_record(answer.headers["x-request-id"])
    assert (row.status, row.reason, row.cost_nanousd, row.attempts) == ("refused", "budget_spent", 0, 0)


def test_the_client_calls_once_on_a_spent_budget(product: Product, caller: Caller, counted: Counted) -> None:
    Budget.objects.create(application=caller.application, unit="money", period="day", amount=1)
    product.wait_for_configuration()
    with pytest.raises(
        openai.RateLimitError, match=r"The budget of 0\.000000001 USD per day \(application app\)"
    ):
        counted.ask(caller)
    assert counted.sent == 1


def test_the_client_tries_again_when_it_was_too_fast(
    product: Product, simulator: Simulator, caller: Caller, counted: Counted
) -> None:
    Limit.objects.create(api_key=caller.key, kind="concurrency", amount=1)
    product.wait_for_configuration()
    slow = threading.Thread(target=lambda: CHAT.ask(product, caller, simulator={"first_byte_s": 1.5}))
    slow.start()
    wait_for(lambda: simulator.open_calls() > 0, "the slow call")
    first = CHAT.ask(product, caller)
    assert first.headers["x-gateway-reason"] == "rate_limited"
    assert first.json()["error"]["type"] == "rate_limit_error"
    assert (
        f"The limit of 1 requests at a time (API key {caller.key.hint}) is reached: 1 are running"
        in first.text
    )
    assert float(first.headers["retry-after-ms"]) == 1000
    assert first.headers["retry-after"] == "1"
    assert counted.ask(caller).choices
    assert counted.sent > 1
    slow.join()


def test_headers_tell_what_the_tightest_rules_leave(product: Product, caller: Caller) -> None:
    Limit.objects.create(team=caller.team, kind="rpm", amount=100)
    Limit.objects.create(api_key=caller.key, kind="rpm", amount=10)
    Limit.objects.create(api_key=caller.key, kind="tpm", amount=1_000_000)
    Budget.objects.create(team=caller.team, unit="money", period="day", amount=10**9)
    Budget.objects.create(department=caller.team.department, unit="money", period="year", amount=2 * 10**9)
    product.wait_for_configuration()
    first, second = (CHAT.ask(product, caller, max_tokens=10) for _ in range(2))
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-requests"] == "10"
    assert [one.headers["x-ratelimit-remaining-requests"] for one in (first, second)] == ["9", "8"]
    assert first.headers["x-ratelimit-reset-requests"] == "6s"
    assert first.headers["x-ratelimit-limit-tokens"] == "1000000"
    cost = round(float(first.headers["x-gateway-cost-usd"]) * 10**9)
    left = [round(float(one.headers["x-gateway-budget-remaining-usd"]) * 10**9) for one in (first, second)]
    assert 10**9 - 100_000 < left[0] < 10**9
    assert left[1] == left[0] - cost  # the first call's reservation has become its cost


def test_a_rule_for_one_model_or_one_end_user_leaves_others_alone(product: Product, caller: Caller) -> None:
    another = make_model(caller.backend)
    Budget.objects.create(team=caller.team, unit="tokens", period="day", amount=1, model=another)
    Budget.objects.create(team=caller.team, unit="tokens", period="day", amount=1, end_user="mallory")
    product.wait_for_configuration()
    assert CHAT.ask(product, caller).status_code == 200
    assert CHAT.ask(product, caller, user="ann").status_code == 200
    refused = CHAT.ask(product, caller, user="mallory")
    assert refused.status_code == 429
    assert "this end user" in refused.json()["error"]["message"]
    assert "mallory" not in refused.text  # whose name it is, the caller knows; a log of errors need not


def test_a_soft_budget_refuses_nobody(product: Product, caller: Caller) -> None:
    Budget.objects.create(team=caller.team, unit="tokens", period="day", amount=1, is_hard=False)
    product.wait_for_configuration()
    assert [CHAT.ask(product, caller).status_code for _ in range(3)] == [200, 200, 200]


def test_a_budget_made_after_the_spending_counts_it(product: Product, caller: Caller) -> None:
    answer = CHAT.ask(product, caller, max_tokens=16)
    row = wait_for_record(answer.headers["x-request-id"])
    used = row.input_tokens + row.output_tokens
    Budget.objects.create(team=caller.team, unit="tokens", period="month", amount=used)
    product.wait_for_configuration()
    refused = CHAT.ask(product, caller, max_tokens=16)
    assert refused.status_code == 429
    assert f"{used} tokens used" in refused.json()["error"]["message"]
