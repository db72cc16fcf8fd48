"""More end users than a key may have counters for: the others are counted together, and the books agree."""

import os
from uuid import uuid4

import httpx
import pytest
import redis

from billing.admission.commands import Commands
from billing.admission.ledger_view import LedgerView
from billing.admission.links import DirectLink
from billing.admission.rebuild import Rebuilder
from billing.admission.scripts import load_scripts
from billing.admission.verify import NotComparable, verify_department
from billing.models import UsageRecord
from billing.rule_models import Budget
from tests.factories import Caller, make_caller
from tests.processes import Processes, Product, Simulator, wait_for
from tests.routes import CHAT

PRICES = {"input": "0", "cached_input": "0", "output": "1"}
TOKENS = 10
CALL_NANOUSD = 10_000
OWN = 3  # end users of a key with counters of their own


@pytest.fixture(scope="module")
def product(processes: Processes) -> Product:
    return processes.start_product(GATEWAY_KEY_END_USERS=str(OWN))


@pytest.fixture
def caller(simulator: Simulator, product: Product) -> Caller:
    """Of a team in which each end user may spend what two calls cost in a month."""
    caller = make_caller(simulator.base_url, prices=PRICES)
    for period in ("month", "year"):
        Budget.objects.create(
            team=caller.team, unit="money", period=period, amount=2 * CALL_NANOUSD, end_user="*"
        )
    product.wait_for_configuration()
    return caller


def call(client: httpx.Client, product: Product, caller: Caller, user: str) -> str:
    """Served, or the reason why not."""
    usage = {"prompt_tokens": 5, "completion_tokens": TOKENS, "total_tokens": 5 + TOKENS}
    answer = client.post(
        CHAT.url(product, caller.model),
        headers={"Authorization": f"Bearer {caller.secret}", "X-User-ID": user},
        json={
            "model": caller.model,
            **CHAT.content,
            "max_tokens": TOKENS,
            "simulator": {"usage": usage, "output_tokens": TOKENS},
        },
    )
    return "served" if answer.status_code == 200 else answer.headers["x-gateway-reason"]


def make_anew(link: DirectLink, caller: Caller) -> None:
    """Somebody empties the department's counters."""
    tag = f"{{d{caller.team.department_id}}}"
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as store:
        store.delete(*store.scan_iter(f"{tag}:*", count=10_000))
    rebuilder = Rebuilder(link, Commands(load_scripts()), LedgerView())
    wait_for(
        lambda: rebuilder.read_marker(caller.team.department_id).state == "ready", "counters that are open"
    )


def agree(link: DirectLink, caller: Caller) -> bool:
    try:
        return not verify_department(link, Commands(load_scripts()), LedgerView(), caller.team.department_id)
    except NotComparable:
        return False


def test_end_users_beyond_the_bound_share_one_budget_also_after_the_counters_were_lost(
    product: Product, caller: Caller
) -> None:
    users = [f"user {number}" for number in range(6)]
    link = DirectLink(os.environ["REDIS_URL"], load_scripts())
    with httpx.Client(timeout=30) as client:
        for user in users[:OWN]:
            assert [call(client, product, caller, user) for _ in range(3)] == ["served"] * 2 + [
                "budget_spent"
            ]
        assert [call(client, product, caller, user) for user in users[OWN:]] == ["served"] * 2 + [
            "budget_spent"
        ]
        rows = UsageRecord.objects.filter(team_id=caller.team.pk, status="completed")
        wait_for(lambda: rows.count() == 2 * OWN + 2, "the rows of all that were served")
        assert set(rows.filter(is_other_user=True).values_list("end_user", flat=True)) == set(
            users[OWN : OWN + 2]
        )
        wait_for(lambda: agree(link, caller), "counters that are the ledger")
        make_anew(link, caller)
        assert call(client, product, caller, users[0]) == "budget_spent"
        wait_for(lambda: agree(link, caller), "counters that are the ledger")
    link.close()


def test_a_key_that_invents_end_users_does_not_fill_the_store(product: Product, caller: Caller) -> None:
    with httpx.Client(timeout=30) as client:
        ended = {call(client, product, caller, f"invented {uuid4()}") for _ in range(60)}
    assert ended == {"served", "budget_spent"}
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as store:
        counters = list(store.scan_iter(f"{{d{caller.team.department_id}}}:*:c:*", count=10_000))
    assert len(counters) == 2 * (OWN + 1)  # a month's and a year's
