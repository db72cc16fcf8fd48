"""What a team wants done about what is found."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from guards import secrets
from guards.finding import Finding, Guard
from guards.pii.kinds import NAMES, NATIONAL, WITH_A_FORM


class Act(StrEnum):
    """What is done about a finding, from the mildest on; a guard that has no rule does not look."""

    OBSERVE = "observe"
    REDACT = "redact"
    BLOCK = "block"


class Side(StrEnum):
    """What is looked through."""

    REQUEST = "request"
    ANSWER = "answer"


class Rule(msgspec.Struct, frozen=True):
    """Of one guard. `types` that it looks for; `threshold`: findings that score less are none. `fails_open`: when it
    cannot look, the call goes on, and the record says so; else it is refused. `tags`: what a backend must have to
    serve a request with a finding. `missing`: those of `types` that nothing can find."""

    act: Act
    types: frozenset[str]
    missing: frozenset[str] = frozenset()
    threshold: float = 0.0
    fails_open: bool = False
    restores: bool = True
    tags: frozenset[str] = frozenset()


class Rules(msgspec.Struct, frozen=True):
    """For one side of a call, by guard."""

    by_guard: Mapping[str, Rule] = {}

    def __bool__(self) -> bool:
        """Whether anything is looked for."""
        return bool(self.by_guard)

    def rule_for(self, finding: Finding) -> Rule | None:
        """The rule that a finding falls under; None when nobody asked for it."""
        rule = self.by_guard.get(finding.guard)
        return (
            rule
            if rule is not None and finding.type in rule.types and finding.score >= rule.threshold
            else None
        )

    @property
    def types(self) -> frozenset[str]:
        """All that they look for by themselves."""
        own = [rule.types for guard, rule in self.by_guard.items() if guard != Guard.EXTERNAL]
        return frozenset().union(*own)

    @property
    def externals(self) -> frozenset[str]:
        """The external guards that are asked, by name."""
        rule = self.by_guard.get(Guard.EXTERNAL)
        return frozenset() if rule is None else rule.types

    @property
    def missing(self) -> frozenset[str]:
        """What nothing can find."""
        own = [rule.missing for guard, rule in self.by_guard.items() if guard != Guard.EXTERNAL]
        return frozenset().union(*own)

    @property
    def fail_open(self) -> bool:
        """Whether what cannot be looked through passes: only if each rule says so. An external guard has its own
        say."""
        return all(rule.fails_open for guard, rule in self.by_guard.items() if guard != Guard.EXTERNAL)


class Policy(msgspec.Struct, frozen=True):
    """`cuts_streams`: pieces of a stream are passed on as they come, and the stream ends at a finding; else they are
    held until they have been looked through."""

    name: str
    request: Rules = Rules()
    answer: Rules = Rules()
    cuts_streams: bool = False

    @property
    def types(self) -> frozenset[str]:
        """All that it looks for."""
        return self.request.types | self.answer.types


# What a guard can look for by itself, and what it looks for unless a policy lists it: what can be told from other text
# with few mistakes. Content and topics are the administrators' own.
PROMPT_INJECTION, JSON_SCHEMA, SYSTEM_PROMPT = "PROMPT_INJECTION", "JSON_SCHEMA", "SYSTEM_PROMPT"
TOXIC = ("PROFANITY", "HATE", "HARASSMENT", "SEXUAL")
KNOWN: dict[Guard, tuple[str, ...]] = {
    Guard.PII: (*WITH_A_FORM, *NAMES, *NATIONAL),
    Guard.SECRETS: secrets.TYPES,
    Guard.INJECTION: (PROMPT_INJECTION,),
    Guard.TOXICITY: TOXIC,
    Guard.CONTENT: (),
    Guard.TOPICS: (),
    Guard.REQUIRED: (),
    Guard.SCHEMA: (JSON_SCHEMA,),
    Guard.LEAK: (SYSTEM_PROMPT,),
    Guard.EXTERNAL: (),
}
USUAL = KNOWN | {Guard.PII: tuple(kind for kind in WITH_A_FORM if kind != "DATE_TIME")}
# How sure a finding must be, unless a policy says it.
USUAL_THRESHOLD = {Guard.INJECTION: 0.8, Guard.LEAK: 0.6, Guard.TOPICS: 0.5}
# Which kinds of an administrator's own each guard can be given.
OWN_KINDS = {
    Guard.PII: Guard.PII,
    Guard.CONTENT: Guard.CONTENT,
    Guard.REQUIRED: Guard.CONTENT,
    Guard.TOPICS: Guard.TOPICS,
}
