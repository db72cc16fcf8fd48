"""Who spends in a scene: under limits and budgets on every level, under a tight budget, and with bad intentions."""

from dataclasses import dataclass
from typing import Any

from billing.rule_models import Budget, Limit
from tests.chaos.crowd import Spender
from tests.chaos.stage import Stage
from tests.factories import Caller, make_caller


@dataclass(frozen=True)
class Actor:
    """A spender and its team."""

    spender: Spender
    team_id: int


def make_callers(stage: Stage) -> list[Actor]:
    """New ones, in force on both gateways."""
    wide, tight, hostile = (make_caller(stage.simulator.base_url) for _ in range(3))
    for owner in _levels(wide):
        Budget.objects.create(unit="money", period="month", amount=10**15, **owner)
        Limit.objects.create(kind="rpm", amount=10**7, **owner)
    Budget.objects.create(team=wide.team, unit="tokens", period="day", amount=10**12, end_user="*")
    Budget.objects.create(team=tight.team, unit="money", period="month", amount=2 * 10**6)
    Limit.objects.create(team=hostile.team, kind="rpm", amount=60)
    stage.wait_for_configuration()
    odd = {"user": "\x00\x7f \u202e\u0000" + "x" * 300}
    return [
        Actor(Spender(wide.secret, wide.model, 0.7), wide.team.pk),
        Actor(Spender(tight.secret, tight.model, 0.2), tight.team.pk),
        Actor(Spender(hostile.secret, hostile.model, 0.1, odd), hostile.team.pk),
    ]


def _levels(caller: Caller) -> list[dict[str, Any]]:
    return [
        {"department": caller.team.department},
        {"team": caller.team},
        {"application": caller.application},
        {"api_key": caller.key},
    ]
