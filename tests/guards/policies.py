"""Policies for tests."""

from typing import Any

from guards.models import GuardPolicy, GuardRule, PolicyTeam
from teams.models import Team
from tests.factories import unique


def make_policy(team: Team | None = None, **acts: Any) -> GuardPolicy:
    """One with a rule for each of `acts`: pii="redact", or pii={"act": "redact", "restores": False}."""
    policy = GuardPolicy.objects.create(name=unique("policy"))
    for guard, fields in acts.items():
        GuardRule.objects.create(
            policy=policy, guard=guard, **(fields if isinstance(fields, dict) else {"act": fields})
        )
    if team is not None:
        PolicyTeam.objects.create(team=team, policy=policy)
    return policy
