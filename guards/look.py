"""One look through a request by a policy: what is found, what is done about it."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from guards.finding import Finding, Guard, without_overlaps
from guards.policy import Act, Policy
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


class Looked(msgspec.Struct):
    """`vault` is there when something was redacted; `blocked` are the kinds that the policy will not have sent."""

    noted: list[Noted]
    blocked: list[Noted]
    vault: Vault | None = None


def _counts(finding: Finding, text: Text, policy: Policy) -> bool:
    """Whether it is one for the policy; what the application itself says is no attack."""
    return policy.rule_for(finding) is not None and not (text.is_own and finding.guard == Guard.INJECTION)


def look(texts: Texts, policy: Policy, found: Sequence[Sequence[Finding]]) -> Looked:
    """Go by what was found in each text; where the policy says so, put placeholders in, unless anything is blocked."""
    noted: Counter[tuple[str, str, str, str, str]] = Counter()
    scores: dict[tuple[str, str, str, str, str], float] = {}
    to_redact: list[tuple[int, list[tuple[Finding, bool]]]] = []
    for number, text in enumerate(texts.all):
        wanted = without_overlaps([each for each in found[number] if _counts(each, text, policy)])
        redacted: list[tuple[Finding, bool]] = []
        for finding in wanted:
            rule = policy.rule_for(finding)
            assert rule is not None, "others were left out"  # noqa: S101
            act = Act.BLOCK if rule.act is Act.REDACT and text.is_name else rule.act
            key = (finding.guard, finding.type, text.place, finding.rule, act.value)
            noted[key] += 1
            scores[key] = max(scores.get(key, 0.0), finding.score)
            if act is Act.REDACT:
                redacted.append((finding, rule.restores))
        if redacted:
            to_redact.append((number, redacted))
    all_noted = [Noted(*key, score=round(scores[key], 2), count=count) for key, count in noted.items()]
    blocked = [each for each in all_noted if each.act == Act.BLOCK]
    if blocked or not to_redact:
        return Looked(all_noted, blocked)
    vault = Vault([text.text for text in texts.all])
    for number, redacted in to_redact:
        text = texts.all[number]
        text.put(vault.redact(text.text, redacted))
    return Looked(all_noted, blocked, vault)
