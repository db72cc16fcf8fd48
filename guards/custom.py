"""Recognisers that administrators write: an expression or keywords, words that must stand near, a checksum."""

import re
from collections.abc import Iterator, Sequence

import msgspec

from guards.checksums import CHECKSUMS
from guards.expressions import Expression, ExpressionSet, Match
from guards.finding import Finding, Guard

_CONTEXT_CHARS = 100


class Custom(msgspec.Struct, frozen=True):
    """`keywords`, if any, are looked for as whole words in whatever case, in place of `pattern`. `words`: one of them
    must stand within 100 characters before what is found or behind it, in whatever case; none: nothing need. `checksum`
    is a name of guards.checksums.CHECKSUMS, or empty."""

    name: str
    type: str
    pattern: str = ""
    guard: str = Guard.PII
    keywords: tuple[str, ...] = ()
    ignores_case: bool = False
    words: tuple[str, ...] = ()
    checksum: str = ""
    score: float = 0.8

    @property
    def expression(self) -> Expression:
        """As the scanner takes it."""
        if self.keywords:
            words = [r"\s{1,8}".join(map(re.escape, keyword.split())) for keyword in self.keywords]
            return Expression("|".join(words), ignores_case=True)
        return Expression(self.pattern, self.ignores_case)

    def check(self) -> None:
        """Raises ExpressionError for one that cannot be used, as one that matches the empty text."""
        ExpressionSet([self.expression])

    def find(self, text: str) -> list[Finding]:
        """What it finds by itself. Raises ExpressionError."""
        return list(self.judge(text, ExpressionSet([self.expression]).scan(text)))

    def judge(self, text: str, matches: Sequence[Match]) -> Iterator[Finding]:
        """What of the expression's matches counts: of those that overlap, the longest from the first start on."""
        if self.keywords:
            matches = [each for each in matches if not _is_within_word(text, each.start, each.end)]
        for start, end in _longest(matches):
            if self.checksum and not CHECKSUMS[self.checksum](text[start:end]):
                continue
            near = text[max(start - _CONTEXT_CHARS, 0) : start] + " " + text[end : end + _CONTEXT_CHARS]
            if not self.words or any(word.lower() in near.lower() for word in self.words):
                yield Finding(self.guard, self.type, start, end, self.score, self.name)


def _is_within_word(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return (before.isalnum() and text[start].isalnum()) or (after.isalnum() and text[end - 1].isalnum())


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
