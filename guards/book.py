"""All policies in force, and what any of them asks for."""

import logging
from collections.abc import Collection, Iterable, Mapping

import msgspec

from guards.custom import Custom
from guards.expressions import ExpressionError
from guards.external.base import External
from guards.external_models import ExternalGuard
from guards.finding import Guard
from guards.models import Finds, GuardPolicy, GuardRule, LooksAt, PolicyTeam, Recogniser, Streams
from guards.policy import OWN_KINDS, Policy, Rules
from guards.scanner import NOTHING, Wanted
from outbound.addresses import ForbiddenAddress
from outbound.credentials import CredentialError

logger = logging.getLogger(__name__)


class GuardBook(msgspec.Struct, frozen=True):
    """`wanted`: what any of the policies looks for; `externals` are those that can be asked, by name."""

    default: Policy | None = None
    by_team: Mapping[int, Policy] = {}
    wanted: Wanted = NOTHING
    externals: Mapping[str, External] = {}

    def policy_of(self, team_id: int) -> Policy | None:
        """The team's own, else the default; None where nothing is looked for."""
        policy = self.by_team.get(team_id, self.default)
        return policy if policy is not None and (policy.request or policy.answer) else None


NO_GUARDS = GuardBook()


def read_guards() -> GuardBook:
    """As the database has them. An expression that cannot be used is left out, with a line in the log."""
    policies: dict[int, Policy] = {}
    default, own = None, list(Recogniser.objects.filter(is_active=True))
    kinds = {finder: {row.type for row in own if row.guard == finder} for finder in OWN_KINDS.values()}
    kinds[Guard.EXTERNAL] = set(ExternalGuard.objects.values_list("name", flat=True))
    for row in GuardPolicy.objects.prefetch_related("rules"):
        policy = _to_policy(row, row.rules.all(), kinds)
        policies[row.pk] = policy
        default = policy if row.is_default else default
    by_team = {
        team_id: policies[policy_id]
        for team_id, policy_id in PolicyTeam.objects.order_by().values_list("team_id", "policy_id")
    }
    in_force = [*by_team.values(), *([default] if default else [])]
    types = frozenset().union(*[policy.types for policy in in_force])
    wanted_own = [row for row in own if row.type in types]
    customs = [row.to_custom() for row in wanted_own if row.guard != Finds.TOPICS]
    topics = tuple(row.to_topic() for row in wanted_own if row.guard == Finds.TOPICS)
    wanted = Wanted(types, tuple(filter(_is_usable, customs)), topics)
    return GuardBook(default, by_team, wanted, _read_externals())


def _read_externals() -> dict[str, External]:
    externals = {}
    for row in ExternalGuard.objects.filter(is_active=True):
        try:
            externals[row.name] = row.to_external()
        except (CredentialError, ForbiddenAddress) as error:
            logger.error("The external guard %s cannot be asked: %s", row.name, error)
    return externals


def _to_policy(row: GuardPolicy, rules: Iterable[GuardRule], own: Mapping[Guard, Collection[str]]) -> Policy:
    sides = {
        side: {rule.guard: rule.to_rule(own) for rule in rules if rule.looks_at == side} for side in LooksAt
    }
    for rule in (rule for side in sides.values() for rule in side.values() if rule.missing):
        logger.error("The policy %s lists what nothing finds: %s", row.name, ", ".join(sorted(rule.missing)))
    return Policy(
        name=row.name,
        request=Rules(sides[LooksAt.REQUEST]),
        answer=Rules(sides[LooksAt.ANSWER]),
        cuts_streams=row.streams == Streams.CUT,
    )


def _is_usable(custom: Custom) -> bool:
    try:
        custom.check()
    except ExpressionError as error:
        logger.error("The recogniser %s looks for nothing: %s", custom.name, error)
        return False
    return True
