"""All policies in force, and what any of them asks for."""

import logging
from collections.abc import Mapping

import msgspec

from guards.custom import Custom
from guards.expressions import ExpressionError, check_expression
from guards.models import GuardPolicy, PolicyTeam, Recogniser
from guards.policy import Policy
from guards.scanner import NOTHING, Wanted

logger = logging.getLogger(__name__)


class GuardBook(msgspec.Struct, frozen=True):
    """`wanted`: what any of the policies looks for."""

    default: Policy | None = None
    by_team: Mapping[int, Policy] = {}
    wanted: Wanted = NOTHING

    def policy_of(self, team_id: int) -> Policy | None:
        """The team's own, else the default; None where nothing is looked for."""
        policy = self.by_team.get(team_id, self.default)
        return policy if policy is not None and policy.rules else None


NO_GUARDS = GuardBook()


def read_guards() -> GuardBook:
    """As the database has them. An expression that cannot be used is left out, with a line in the log."""
    policies: dict[int, Policy] = {}
    default = None
    for row in GuardPolicy.objects.prefetch_related("rules"):
        policy = Policy(row.name, {rule.guard: rule.to_rule() for rule in row.rules.all()})
        policies[row.pk] = policy
        default = policy if row.is_default else default
    by_team = {
        team_id: policies[policy_id]
        for team_id, policy_id in PolicyTeam.objects.order_by().values_list("team_id", "policy_id")
    }
    in_force = [*by_team.values(), *([default] if default else [])]
    types = frozenset().union(*[policy.types for policy in in_force])
    customs = [row.to_custom() for row in Recogniser.objects.filter(is_active=True, type__in=types)]
    return GuardBook(default, by_team, Wanted(types, tuple(filter(_is_usable, customs))))


def _is_usable(custom: Custom) -> bool:
    try:
        check_expression(custom.pattern)
    except ExpressionError as error:
        logger.error("The recogniser %s looks for nothing: %s", custom.name, error)
        return False
    return True
