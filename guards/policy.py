"""What a team wants done about what is found."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from guards import secrets
from guards.finding import Finding, Guard
from guards.pii.kinds import NATIONAL, WITH_A_FORM


class Act(StrEnum):
    """What is done about a finding, from the mildest on; a guard that has no rule does not look."""

    OBSERVE = "observe"
    REDACT = "redact"
    BLOCK = "block"


class Rule(msgspec.Struct, frozen=True):
    """Of one guard. `types` that it looks for; `threshold`: findings that score less are none. `fails_open`: when it
    cannot look, the call goes on, and the record says so; else it is refused."""

    act: Act
    types: frozenset[str]
    threshold: float = 0.0
    fails_open: bool = False
    restores: bool = True


class Policy(msgspec.Struct, frozen=True):
    """`rules` by guard."""

    name: str
    rules: Mapping[str, Rule]

    def rule_for(self, finding: Finding) -> Rule | None:
        """The rule that a finding falls under; None when nobody asked for it."""
        rule = self.rules.get(finding.guard)
        return (
            rule
            if rule is not None and finding.type in rule.types and finding.score >= rule.threshold
            else None
        )

    @property
    def types(self) -> frozenset[str]:
        """All that it looks for."""
        return frozenset().union(*[rule.types for rule in self.rules.values()])


# What a guard can look for by itself, and what it looks for unless a policy lists it: what can be told from other text
# with few mistakes.
PROMPT_INJECTION = "PROMPT_INJECTION"
TOXIC = ("PROFANITY", "HATE", "HARASSMENT", "SEXUAL")
KNOWN = {
    Guard.PII: (*WITH_A_FORM, *NATIONAL),
    Guard.SECRETS: secrets.TYPES,
    Guard.INJECTION: (PROMPT_INJECTION,),
    Guard.TOXICITY: TOXIC,
}
USUAL = {
    Guard.PII: tuple(kind for kind in WITH_A_FORM if kind != "DATE_TIME"),
    Guard.SECRETS: secrets.TYPES,
    Guard.INJECTION: (PROMPT_INJECTION,),
    Guard.TOXICITY: TOXIC,
}
# How sure a finding must be, unless a policy says it.
USUAL_THRESHOLD = {Guard.PII: 0.0, Guard.SECRETS: 0.0, Guard.INJECTION: 0.8, Guard.TOXICITY: 0.0}
