"""Streams of a team that reserves what is typical: more at a time, extended as text flows, cut when money ends."""

import asyncio
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from django.db.models import Sum

from billing.admission.commands import Commands
from billing.admission.ledger_view import LedgerView
from billing.admission.links import DirectLink
from billing.admission.scripts import load_scripts
from billing.admission.verify import NotComparable, verify_department
from billing.models import UsageRecord
from billing.rule_models import Budget
from billing.steps import STEP_TOKENS
from teams.models import Team
from tests.factories import Caller, make_caller, wait_for_record
from tests.processes import Processes, Product, Simulator, wait_for
from tests.routes import CHAT

TOKEN_NANOUSD = 1_000  # of output; the prompt is free
PRICES = {"input": "0", "cached_input": "0", "output": "1"}


def make_spender(
    simulator: Simulator, product: Product, budget_tokens: int, reserve: str = "typical", **fields: Any
) -> Caller:
    """Its budget pays for so many tokens of answer."""
    caller = make_caller(simulator.base_url, prices=PRICES)
    Team.objects.filter(pk=caller.team.pk).update(reserve=reserve, **fields)
    Budget.objects.create(team=caller.team, unit="money", period="year", amount=budget_tokens * TOKEN_NANOUSD)
    product.wait_for_configuration()
    return caller


@dataclass(frozen=True)
class Answer:
    """A streamed answer as its caller saw it."""

    status: int
    request_id: str
    reason: str
    words: int
    error: dict[str, Any] | None
    is_done: bool


@pytest.fixture
def ask(product: Product) -> "Streams":
    return Streams(product)


class Streams:
    """Asks for streams."""

    def __init__(self, product: Product) -> None:
        self._product = product

    async def at_once(self, caller: Caller, count: int, **fields: Any) -> list[Answer]:
        """So many together."""
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            return await asyncio.gather(*(self._ask(client, caller, fields) for _ in range(count)))

    def one(self, caller: Caller, **fields: Any) -> Answer:
        (answer,) = asyncio.run(self.at_once(caller, 1, **fields))
        return answer

    async def _ask(self, client: httpx.AsyncClient, caller: Caller, fields: dict[str, Any]) -> Answer:
        body = {"model": caller.model, **CHAT.content, "stream": True, **fields}
        headers = {"Authorization": f"Bearer {caller.secret}"}
        answer = await client.post(CHAT.url(self._product, caller.model), headers=headers, json=body)
        frames = [
            line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: ")
        ]
        chunks = [json.loads(frame) for frame in frames if frame != "[DONE]"]
        return Answer(
            answer.status_code,
            answer.headers["x-request-id"],
            answer.headers.get("x-gateway-reason", ""),
            sum(bool(choice["delta"].get("content")) for c in chunks for choice in c.get("choices", ())),
            next((chunk["error"] for chunk in chunks if "error" in chunk), None),
            "[DONE]" in frames,
        )


def wait_until_counted(caller: Caller) -> None:
    """Until the counters are the ledger, and nothing is held."""
    department = caller.team.department_id
    link = DirectLink(os.environ["REDIS_URL"], load_scripts())

    def is_equal() -> bool:
        try:
            return not verify_department(link, Commands(load_scripts()), LedgerView(), department)
        except NotComparable:
            return False

    wait_for(is_equal, "counters that are the ledger")
    link.close()
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as store:
        epoch = int(store.hget(f"{{d{department}}}:e", "n"))
        wait_for(lambda: store.hlen(f"{{d{department}}}:{epoch}:r") == 0, "no hold that is left")


def spent_tokens(caller: Caller, calls: int) -> float:
    """What the ledger says, once it holds so many calls that were made."""
    made = UsageRecord.objects.filter(team_id=caller.team.pk, attempts__gt=0)
    wait_for(lambda: made.count() >= calls, f"{calls} calls in the ledger")
    return int(made.aggregate(total=Sum("cost_nanousd"))["total"]) / TOKEN_NANOUSD


SHORT: dict[str, Any] = {"max_tokens": 1_000, "simulator": {"output_tokens": 20, "between_chunks_s": 0.05}}


def test_short_streams_run_beside_each_other_whose_most_would_not_fit(
    simulator: Simulator, product: Product, ask: Streams
) -> None:
    caller = make_spender(simulator, product, 3_000)
    answers = asyncio.run(ask.at_once(caller, 10, **SHORT))
    assert [(answer.status, answer.words, answer.is_done) for answer in answers] == [(200, 20, True)] * 10
    assert spent_tokens(caller, 10) == 10 * 20
    wait_until_counted(caller)


@pytest.mark.slow
def test_a_team_that_reserves_the_most_has_them_refused(
    simulator: Simulator, product: Product, ask: Streams
) -> None:
    caller = make_spender(simulator, product, 3_000, reserve="most")
    answers = asyncio.run(ask.at_once(caller, 10, **SHORT))
    assert Counter(answer.status for answer in answers) == {200: 3, 429: 7}
    assert {answer.reason for answer in answers} == {"", "budget_held"}


def test_a_plain_call_holds_the_most_all_the_same(simulator: Simulator, product: Product) -> None:
    caller = make_spender(simulator, product, 3_000)
    assert CHAT.ask(product, caller, max_tokens=3_000).status_code == 200
    refused = CHAT.ask(product, caller, max_tokens=3_001)
    assert (refused.status_code, refused.headers["x-gateway-reason"]) == (429, "budget_spent")


@pytest.mark.parametrize("fields", [{"max_tokens": 9_000}, {}], ids=["bounded", "unbounded"])
def test_a_long_stream_is_cut_when_its_budget_ends(
    simulator: Simulator, product: Product, ask: Streams, fields: dict[str, Any]
) -> None:
    caller = make_spender(simulator, product, 3_000)
    # Slowly enough for the end not to be in the network's buffers before the cut.
    slowly = {"output_tokens": 6_000, "frames_per_write": 20, "between_chunks_s": 0.01}
    answer = ask.one(caller, simulator=slowly, **fields)
    assert (answer.status, answer.is_done) == (200, False)
    assert answer.error is not None
    assert (answer.error["type"], answer.error["code"]) == (
        "insufficient_quota",
        "project_spend_limit_exceeded",
    )
    assert (
        f"(team {caller.team.slug}) has nothing left for the rest of this answer" in answer.error["message"]
    )
    row = wait_for_record(answer.request_id)
    assert (row.status, row.reason, row.http_status, row.estimated) == ("failed", "budget_spent", 429, True)
    assert 1_000 < answer.words <= row.output_tokens <= 3_000
    (served,) = simulator.served(answer.request_id)
    assert served["outcome"] == "client_left"
    wait_until_counted(caller)


def test_a_long_stream_that_its_budget_pays_is_whole(
    simulator: Simulator, product: Product, ask: Streams
) -> None:
    caller = make_spender(simulator, product, 6_000)
    answer = ask.one(caller, max_tokens=6_000, simulator={"output_tokens": 5_000})
    assert (answer.status, answer.words, answer.is_done, answer.error) == (200, 5_000, True, None)
    assert spent_tokens(caller, 1) == 5_000
    wait_until_counted(caller)


def test_streams_at_the_last_dollar_pass_it_by_less_than_a_step_each(
    simulator: Simulator, product: Product, ask: Streams
) -> None:
    caller = make_spender(simulator, product, 20_000)
    long: dict[str, Any] = {
        "max_tokens": 4_000,
        "simulator": {"output_tokens": 4_000, "frames_per_write": 20},
    }
    answers = asyncio.run(ask.at_once(caller, 64, **long))
    assert Counter(answer.status for answer in answers)[200] == 64
    assert any(answer.error for answer in answers)
    spent = spent_tokens(caller, 64)
    print(f"\n64 streams spent {spent:.0f} tokens of 20000")
    assert 10_000 < spent <= 20_000 + 64 * STEP_TOKENS
    wait_until_counted(caller)


@pytest.mark.slow
def test_a_stream_whose_worker_is_killed_stands_at_what_it_held_last(
    simulator: Simulator, processes: Processes, tmp_path: Path
) -> None:
    """Not at what it held at first: then less would be in the ledger than was served."""
    product = processes.start_product(GATEWAY_SPOOL_DIR=str(tmp_path))
    caller = make_spender(simulator, product, 20_000)
    body = {"model": caller.model, **CHAT.content, "stream": True, "max_tokens": 10_000}
    fault = {"output_tokens": 9_000, "hang_after_frames": 2_000, "frames_per_write": 20}
    headers = {"Authorization": f"Bearer {caller.secret}"}
    url, words = CHAT.url(product, caller.model), 0
    with httpx.stream("POST", url, headers=headers, json={**body, "simulator": fault}, timeout=20) as answer:
        for line in answer.iter_lines():
            words += '"content":' in line
            if words >= 1_990:
                break
        product.web.kill()
    row = wait_for_record(answer.headers["x-request-id"])
    assert (row.status, row.reason, row.attempts) == ("abandoned", "worker_died", 1)
    assert words <= row.output_tokens <= 2 * words + 1_250
    wait_until_counted(caller)


def test_a_model_that_reasons_is_held_in_full(simulator: Simulator, product: Product, ask: Streams) -> None:
    caller = make_spender(simulator, product, 3_000)
    assert ask.one(caller, max_tokens=3_001, reasoning_effort="low").reason == "budget_spent"
    usage = {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21, "reasoning_tokens": 10}
    assert ask.one(caller, max_tokens=3_001, simulator={"usage": usage}).status == 200
    assert ask.one(caller, max_tokens=3_001).reason == "budget_spent"
