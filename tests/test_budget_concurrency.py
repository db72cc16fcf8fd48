"""A hard budget under 64 clients on three gateway processes: what fits is served, and not one call more."""

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from django.db.models import Sum

from billing.models import UsageRecord
from billing.rule_models import Budget
from tests.factories import Caller, make_caller
from tests.processes import Processes, Product, Simulator, wait_for
from tests.routes import CHAT

CLIENTS = 64
CALLS = 200  # that the budget pays
TOKENS = 10
CALL_NANOUSD = (
    10_000  # ten tokens of output at 1 USD per million; the prompt is free, so the estimate is the cost
)
PRICES = {"input": "0", "cached_input": "0", "output": "1"}


@dataclass(frozen=True)
class Crowd:
    """Clients of one caller, spread over the gateways."""

    products: tuple[Product, ...]
    caller: Caller
    stream: bool = False
    end_user: str = ""
    answer_s: float = 0.01
    until: float = 0.0  # who is refused earlier tries again

    async def spend(self, *, leave: bool = False) -> Counter[str]:
        """Every client calls until it is told that the budget is spent; how each call ended."""
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(timeout=30, limits=limits) as client:
            tasks = [self._spend(client, number, leave=leave) for number in range(CLIENTS)]
            return sum(await asyncio.gather(*tasks), Counter())

    async def _spend(self, client: httpx.AsyncClient, number: int, *, leave: bool) -> Counter[str]:
        product = self.products[number % len(self.products)]
        ended: Counter[str] = Counter()
        while True:
            how = await self._call(client, product, leave=leave)
            ended[how] += 1
            if how == "budget_spent" and time.time() >= self.until:
                return ended
            if how in ("budget_spent", "budget_held"):
                await asyncio.sleep(0.1 if how == "budget_spent" else 0.02)

    async def _call(self, client: httpx.AsyncClient, product: Product, *, leave: bool) -> str:
        usage = {"prompt_tokens": 5, "completion_tokens": TOKENS, "total_tokens": 5 + TOKENS}
        body: dict[str, Any] = {
            "model": self.caller.model,
            **CHAT.content,
            "max_tokens": TOKENS,
            "stream": self.stream,
            "simulator": {"usage": usage, "output_tokens": TOKENS, "first_byte_s": self.answer_s},
        }
        headers = {"Authorization": f"Bearer {self.caller.secret}"}
        if self.end_user:
            headers["X-User-ID"] = self.end_user
        if leave:
            body["simulator"]["between_chunks_s"] = 0.02
        async with client.stream(
            "POST", CHAT.url(product, self.caller.model), headers=headers, json=body
        ) as answer:
            if answer.status_code != 200:
                return answer.headers["x-gateway-reason"]
            if leave:
                async for _ in answer.aiter_bytes():
                    return "left"
            await answer.aread()
            return "served"


def spent_nanousd(caller: Caller, *, calls: int) -> int:
    """What the ledger says, once it holds so many calls that were made."""
    made = UsageRecord.objects.filter(team_id=caller.team.pk, attempts__gt=0)
    wait_for(lambda: made.count() >= calls, f"{calls} calls in the ledger")
    assert made.count() == calls
    return int(made.aggregate(total=Sum("cost_nanousd"))["total"])


@pytest.fixture(scope="module")
def products(processes: Processes, product: Product) -> tuple[Product, ...]:
    """Three gateway processes on one spool folder, which one shipper empties."""
    return (product, *(processes.start_product(with_shipper=False) for _ in range(2)))


def make_spender(simulator: Simulator, products: tuple[Product, ...], *budgets: dict[str, Any]) -> Caller:
    caller = make_caller(simulator.base_url, products[0], prices=PRICES)
    for budget in budgets:
        Budget.objects.create(team=caller.team, unit="money", **budget)
    for each in products:
        each.wait_for_configuration()
    return caller


FOR_ALL: dict[str, Any] = {"period": "month", "amount": CALLS * CALL_NANOUSD}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streams"])
@pytest.mark.parametrize(
    ("budgets", "end_user"),
    [
        ([FOR_ALL], ""),
        pytest.param(
            [FOR_ALL | {"amount": 10 * FOR_ALL["amount"]}, FOR_ALL | {"period": "year"}],
            "",
            marks=pytest.mark.slow,
        ),
        pytest.param([FOR_ALL | {"end_user": "*"}], "ann", marks=pytest.mark.slow),
    ],
    ids=["one budget", "two windows", "an end user's"],
)
def test_exactly_what_the_budget_pays_is_served(
    simulator: Simulator,
    products: tuple[Product, ...],
    budgets: list[dict[str, Any]],
    end_user: str,
    stream: bool,
) -> None:
    caller = make_spender(simulator, products, *budgets)
    ended = asyncio.run(Crowd(products, caller, stream, end_user).spend())
    assert ended["served"] == CALLS
    assert set(ended) <= {"served", "budget_spent", "budget_held"}
    assert spent_nanousd(caller, calls=CALLS) == CALLS * CALL_NANOUSD


def test_clients_that_leave_give_back_what_they_did_not_use(
    simulator: Simulator, products: tuple[Product, ...]
) -> None:
    caller = make_spender(simulator, products, FOR_ALL)
    ended = asyncio.run(Crowd(products, caller, stream=True).spend(leave=True))
    assert ended["left"] > CALLS  # each used less than it had reserved
    spent = spent_nanousd(caller, calls=ended["left"])
    assert CALLS * CALL_NANOUSD - CALL_NANOUSD < spent <= CALLS * CALL_NANOUSD


def test_the_processes_are_three(products: tuple[Product, ...]) -> None:
    assert len({product.web.pid for product in products} - {os.getpid()}) == 3
