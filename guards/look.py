"""One look through texts by the rules of a policy: what is found, what is done about it."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from guards.finding import REDACTABLE, Finding, Guard, joined, without_overlaps
from guards.policy import Act, Rules
from guards.redaction import Vault
from guards.texts import Text, Texts


class Noted(msgspec.Struct, frozen=True):
    """Findings of one kind in one place, for records: never a value. `act` is what was done; `score` the highest."""

    guard: str
    type: str
    place: str
    rule: str
    act: str
    score: float
    count: int = 1


class Notes:
    """Of one call or one piece of it; findings of one kind in one place are one note."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, str, str]] = Counter()
        self._scores: dict[tuple[str, str, str, str, str], float] = {}

    def add(self, finding: Finding, place: str, act: Act) -> None:
        """One more."""
        key = (finding.guard, finding.type, place, finding.rule, act.value)
        self._counts[key] += 1
        self._scores[key] = max(self._scores.get(key, 0.0), finding.score)

    def all(self) -> list[Noted]:
        """In the order in which they were found."""
        return [
            Noted(*key, score=round(self._scores[key], 2), count=count) for key, count in self._counts.items()
        ]

    @property
    def blocked(self) -> list[Noted]:
        """Those that may not pass."""
        return [each for each in self.all() if each.act == Act.BLOCK]


class Looked(msgspec.Struct):
    """`vault` is there when something was redacted; `blocked` are the kinds that the policy will not have sent;
    `tags` are what a backend must have now."""

    noted: list[Noted]
    blocked: list[Noted]
    vault: Vault | None = None
    tags: frozenset[str] = frozenset()


def asked_for(found: Iterable[Finding], rules: Rules, *, is_own: bool = False) -> list[Finding]:
    """Those that the rules ask for. `is_own`: what the application itself says is no attack."""
    return [
        each
        for each in found
        if rules.rule_for(each) is not None and not (is_own and each.guard == Guard.INJECTION)
    ]


def wanted_of(found: Iterable[Finding], rules: Rules, *, is_own: bool = False) -> list[Finding]:
    """The same, without what is found in the midst of another about which as much is done: nothing milder hides what
    is to be redacted or blocked."""
    asked = asked_for(found, rules, is_own=is_own)
    by_act = [[each for each in asked if rules.by_guard[each.guard].act is act] for act in Act]
    return [each for its in by_act for each in without_overlaps(its)]


def redacted_of(found: Iterable[Finding], rules: Rules) -> list[Finding]:
    """All that is to be redacted of what the rules ask for, also what lies over something else."""
    return [
        each
        for each in asked_for(found, rules)
        if each.guard in REDACTABLE and rules.by_guard[each.guard].act is Act.REDACT
    ]


def act_on(finding: Finding, rules: Rules, *, is_fixed: bool = False) -> Act:
    """What is done about a finding that the rules ask for. `is_fixed`: nothing else can stand in its place."""
    rule = rules.rule_for(finding)
    assert rule is not None, "others were left out"  # noqa: S101
    return Act.BLOCK if rule.act is Act.REDACT and is_fixed else rule.act


def look(
    texts: Texts, rules: Rules, found: Sequence[Sequence[Finding]], vault: Vault | None = None
) -> Looked:
    """Go by what was found in each text; where the rules say so, put placeholders in, unless anything is blocked.
    `vault`: the placeholders that are there already."""
    notes, tags = Notes(), set[str]()
    to_redact: list[tuple[Text, list[Finding]]] = []
    for text, its in zip(texts.all, found, strict=True):
        placed = text.placed(its)
        for finding in wanted_of(placed, rules, is_own=text.is_own):
            notes.add(finding, text.place, act_on(finding, rules, is_fixed=text.is_fixed))
            tags |= rules.by_guard[finding.guard].tags
        if not text.is_fixed and (redacted := redacted_of(placed, rules)):
            to_redact.append((text, redacted))
    looked = Looked(notes.all(), notes.blocked, tags=frozenset(tags))
    if to_redact and not looked.blocked:
        looked.vault = vault or Vault([text.text for text in texts.all])
        for text, redacted in to_redact:
            text.put(redact(text.text, redacted, rules, looked.vault))
    return looked


def redact(text: str, findings: Sequence[Finding], rules: Rules, vault: Vault) -> str:
    """`text` with placeholders in place of `findings`."""
    spans = [(each, rules.by_guard[each.guard].restores) for each in joined(findings)]
    return vault.redact(text, spans)
