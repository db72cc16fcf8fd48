"""What guards find: where and what kind it is. Never the value itself."""

from enum import StrEnum

import msgspec


class Guard(StrEnum):
    """Who looks; each has an action of its own in a policy."""

    PII = "pii"
    SECRETS = "secrets"
    CONTENT = "content"


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
    """In the order of the text. Of those that overlap secrets hold before others, then the surer, then the longer."""
    ranked = sorted(findings, key=lambda f: (f.guard != Guard.SECRETS, -f.score, f.start - f.end, f.start))
    kept: list[Finding] = []
    for finding in ranked:
        if all(finding.end <= other.start or finding.start >= other.end for other in kept):
            kept.append(finding)
    return sorted(kept, key=lambda f: f.start)
