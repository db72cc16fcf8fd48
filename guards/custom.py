"""Recognisers that administrators write: an expression, words that must stand near, a checksum."""

from collections.abc import Iterator, Sequence

import msgspec

from guards.checksums import CHECKSUMS
from guards.expressions import Expression, ExpressionSet, Match
from guards.finding import Finding, Guard

_CONTEXT_CHARS = 100


class Custom(msgspec.Struct, frozen=True):
    """`words`: one of them must stand within 100 characters before what is found or behind it, in whatever case; none:
    nothing need. `checksum` is a name of guards.checksums.CHECKSUMS, or empty."""

    name: str
    type: str
    pattern: str
    ignores_case: bool = False
    words: tuple[str, ...] = ()
    checksum: str = ""
    score: float = 0.8

    @property
    def expression(self) -> Expression:
        """As the scanner takes it."""
        return Expression(self.pattern, self.ignores_case)

    def find(self, text: str) -> list[Finding]:
        """What it finds by itself. Raises ExpressionError."""
        return list(self.judge(text, ExpressionSet([self.expression]).scan(text)))

    def judge(self, text: str, matches: Sequence[Match]) -> Iterator[Finding]:
        """What of the expression's matches counts: of those that overlap, the longest from the first start on."""
        for start, end in _longest(matches):
            if self.checksum and not CHECKSUMS[self.checksum](text[start:end]):
                continue
            near = text[max(start - _CONTEXT_CHARS, 0) : start] + " " + text[end : end + _CONTEXT_CHARS]
            if not self.words or any(word.lower() in near.lower() for word in self.words):
                yield Finding(Guard.PII, self.type, start, end, self.score, self.name)


def _longest(matches: Sequence[Match]) -> Iterator[tuple[int, int]]:
    start = end = -1
    for match in sorted(matches, key=lambda match: (match.start, match.end)):
        if match.start == start:
            end = match.end
        elif match.start >= end:
            if start >= 0:
                yield start, end
            start, end = match.start, match.end
    if start >= 0:
        yield start, end
