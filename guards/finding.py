"""What guards find: where and what kind it is. Never the value itself."""

from bisect import bisect_left
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


def without_overlaps(findings: list[Finding]) -> list[Finding]:
    """In their order. Of values that overlap secrets hold before others, then the surer, then the longer; what
    is said of the text itself stands beside them."""
    beside = [finding for finding in findings if finding.guard not in VALUES]
    findings = [finding for finding in findings if finding.guard in VALUES]
    ranked = sorted(findings, key=lambda f: (f.guard != Guard.SECRETS, -f.score, f.start - f.end, f.start))
    kept: list[Finding] = []  # by their starts; none within another, so by their ends as well
    for finding in ranked:
        place = bisect_left(kept, finding.start, key=lambda each: each.start)
        is_after = place == 0 or kept[place - 1].end <= finding.start
        if is_after and (place == len(kept) or finding.end <= kept[place].start):
            kept.insert(place, finding)
    return beside + kept
