"""What guards find: where and what kind it is. Never the value itself."""

from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum

import msgspec


class Guard(StrEnum):
    """Who looks; each has an action of its own in a policy."""

    PII = "pii"
    SECRETS = "secrets"
    INJECTION = "injection"
    TOXICITY = "toxicity"
    CONTENT = "content"
    TOPICS = "topics"
    REQUIRED = "required"
    SCHEMA = "schema"
    LEAK = "leak"
    EXTERNAL = "external"


# Guards that find values; what one of them finds in the midst of another is the other's.
VALUES = frozenset({Guard.PII, Guard.SECRETS})
# Guards that say where something stands, so that a placeholder can stand there; the others speak of a whole text.
REDACTABLE = VALUES | {Guard.CONTENT}


class Finding(msgspec.Struct, frozen=True):
    """Something found in one text: characters `start` to `end`. `type` is presidio's name of the kind, or a name that
    an administrator gave; `rule` is what found it; `score` is 0 to 1."""

    guard: str
    type: str
    start: int
    end: int
    score: float
    rule: str


def joined(findings: Sequence[Finding]) -> list[Finding]:
    """In their order, with one for those that overlap, of the kind of the one that holds before the others: what
    stands for it stands for all of them."""
    spans: list[Finding] = []
    for finding in sorted(findings, key=lambda each: each.start):
        if spans and finding.start < spans[-1].end:
            first = min(spans[-1], finding, key=_rank)
            start, end = spans[-1].start, max(spans[-1].end, finding.end)
            spans[-1] = msgspec.structs.replace(first, start=start, end=end)
        else:
            spans.append(finding)
    return spans


def _rank(finding: Finding) -> tuple[bool, float, int, int]:
    return finding.guard != Guard.SECRETS, -finding.score, finding.start - finding.end, finding.start


def without_overlaps(findings: Sequence[Finding]) -> list[Finding]:
    """In their order. Of values that overlap secrets hold before others, then the surer, then the longer; what
    is said of the text itself stands beside them."""
    beside = [finding for finding in findings if finding.guard not in VALUES]
    ranked = sorted([finding for finding in findings if finding.guard in VALUES], key=_rank)
    kept: list[Finding] = []  # by their starts; none within another, so by their ends as well
    for finding in ranked:
        place = bisect_left(kept, finding.start, key=lambda each: each.start)
        is_after = place == 0 or kept[place - 1].end <= finding.start
        if is_after and (place == len(kept) or finding.end <= kept[place].start):
            kept.insert(place, finding)
    return beside + kept
