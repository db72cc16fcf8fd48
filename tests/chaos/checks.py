"""What must be true of the books after every scene."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from django.db.models import Sum

from billing.models import Status, UsageCorrection, UsageRecord
from billing.money import cost_nanousd
from billing.rule_models import Budget
from tests.chaos.stage import Stage
from tests.processes import wait_for

_INPUT, _OUTPUT = 150, 600  # nano-dollars per token, as the tests' factories price a backend
_QUIET_S = 45.0
_UNSERVED = {Status.ABANDONED, Status.FAILED, Status.CLIENT_LEFT}


class ChaosError(AssertionError):
    """The books are wrong."""


@dataclass(frozen=True)
class Books:
    """The calls of one scene, in the simulator's log and in the ledger. Money in nano-dollars.

    `estimated_off`: of calls that their client, or a shutdown, cut off, what the ledger holds more than was produced;
    `rows`: by status.
    """

    served: int
    rows: Counter[str]
    served_nanousd: int
    ledger_nanousd: int
    abandoned_nanousd: int
    estimated_off: int


def read_books(stage: Stage, since_id: int, teams: Sequence[int]) -> Books:
    """Compare call by call, once everything is shipped. Raises ChaosError."""
    calls = _served(stage, since_id)
    served = {call["request_id"]: call for call in calls}
    if len(served) != len(calls):
        raise ChaosError("the simulator served a request twice")
    rows = UsageRecord.objects.filter(team_id__in=teams).exclude(status=Status.REFUSED)
    _wait_until_recorded(served)
    corrections = dict(UsageCorrection.objects.values_list("request_id", "cost_nanousd"))
    found: Counter[str] = Counter()
    ledger = abandoned = off = 0
    for number, status, cost in rows.values_list("request_id", "status", "cost_nanousd"):
        call = served.get(str(number))
        total = cost + corrections.get(number, 0)
        true = _cost(call) if call else 0
        _check_row(str(number), Status(status), total, true, call)
        found[status] += 1
        ledger += total
        abandoned += (total - true) if status == Status.ABANDONED else 0
        off += (total - true) if status in (Status.CLIENT_LEFT, Status.FAILED) else 0
    true_sum = sum(map(_cost, calls))
    if ledger != true_sum + abandoned + off:
        raise ChaosError(
            f"the ledger holds {ledger}, {true_sum} was served, {abandoned} + {off} is estimated"
        )
    return Books(len(served), found, true_sum, ledger, abandoned, off)


def _wait_until_recorded(served: dict[str, dict[str, Any]]) -> None:
    ends = time.monotonic() + _QUIET_S
    while True:
        known = UsageRecord.objects.filter(request_id__in=list(served)).values_list("request_id", flat=True)
        missing = served.keys() - {str(number) for number in known}
        if not missing:
            return
        if time.monotonic() > ends:
            some = [served[number] for number in sorted(missing)[:5]]
            raise ChaosError(f"{len(missing)} of {len(served)} served calls are not in the ledger: {some}")
        time.sleep(0.2)


def _check_row(number: str, status: Status, total: int, true: int, call: dict[str, Any] | None) -> None:
    if call is None and status not in _UNSERVED:
        raise ChaosError(f"{number} was never served and is in the ledger as {status}")
    if status is Status.COMPLETED and total != true:
        raise ChaosError(f"{number} cost {true} and is in the ledger at {total}")
    if status is Status.ABANDONED and total < true:
        raise ChaosError(f"{number} cost {true} and was abandoned at {total}")


def check_budgets(teams: Sequence[int]) -> None:
    """No hard budget of money is overspent. Raises ChaosError."""
    for budget in Budget.objects.filter(team_id__in=teams, is_hard=True, unit="money"):
        rows = UsageRecord.objects.filter(team_id=budget.team_id)
        spent = rows.exclude(status=Status.ABANDONED).aggregate(sum=Sum("cost_nanousd"))["sum"] or 0
        if spent > budget.amount:
            raise ChaosError(f"a budget of {budget.amount} was overspent: {spent}")


def check_counters(stage: Stage) -> None:
    """The counters are the ledger, by the command that an operator would run. Raises ChaosError."""
    ends = time.monotonic() + _QUIET_S
    while (verified := stage.manage("ledger", "verify", "--wait", "3")).returncode:
        if time.monotonic() > ends:
            raise ChaosError(
                f"counters and ledger differ:\n{verified.stdout[-3000:]}{verified.stderr[-2000:]}"
            )
        time.sleep(0.5)


def last_served_id(stage: Stage) -> int:
    """The id of the next call that the simulator will serve."""
    found = httpx.get(f"{stage.simulator.url}/simulator/served", params={"since": 10**9}, timeout=30)
    return int(found.json()["count"])


def _served(stage: Stage, since_id: int) -> list[dict[str, Any]]:
    def log() -> dict[str, Any]:
        params = {"since": since_id}
        answer = httpx.get(f"{stage.simulator.url}/simulator/served", params=params, timeout=30)
        found: dict[str, Any] = answer.json()
        return found

    wait_for(lambda: log()["open"] == 0, "the simulator to be idle", _QUIET_S)
    calls: list[dict[str, Any]] = log()["calls"]
    return calls


def _cost(call: dict[str, Any]) -> int:
    return cost_nanousd(call["prompt_tokens"], _INPUT * 10**6) + cost_nanousd(
        call["completion_tokens"], _OUTPUT * 10**6
    )
