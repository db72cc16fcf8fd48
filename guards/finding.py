"""What guards find: where and what kind it is. Never the value itself."""

from enum import StrEnum

import msgspec


class Guard(StrEnum):
    """Who looks; each has an action of its own in a policy."""

    PII = "pii"
    SECRETS = "secrets"
    INJECTION = "injection"
    TOXICITY = "toxicity"


# Guards that find values, for which a placeholder can stand; the others say something of a text.
VALUES = frozenset({Guard.PII, Guard.SECRETS})


class Finding(msgspec.Struct, frozen=True):
    """Something found in one text: characters `start` to `end`. `type` is presidio's name of the kind, or a name that
    an administrator gave; `rule` is what found it; `score` is 0 to 1."""

    guard: str
    type: str
    start: int
    end: int
    score: float
    rule: str

    def moved(self, by: int) -> "Finding":
        """The same in a text that has so many characters before this one."""
        return msgspec.structs.replace(self, start=self.start + by, end=self.end + by)


def without_overlaps(findings: list[Finding]) -> list[Finding]:
    """In their order. Of values that overlap secrets hold before others, then the surer, then the longer; what
    is said of the text itself stands beside them."""
    beside = [finding for finding in findings if finding.guard not in VALUES]
    findings = [finding for finding in findings if finding.guard in VALUES]
    ranked = sorted(findings, key=lambda f: (f.guard != Guard.SECRETS, -f.score, f.start - f.end, f.start))
    kept: list[Finding] = []
    for finding in ranked:
        if all(finding.end <= other.start or finding.start >= other.end for other in kept):
            kept.append(finding)
    return beside + sorted(kept, key=lambda f: f.start)
