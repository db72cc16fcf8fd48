"""What every recogniser has: triggers that say where to look, and a judge that looks there."""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from guards.expressions import Expression

# What a judge says of a window: from, to, score, and which rule.
Judged = tuple[int, int, float, str]


class Recogniser(msgspec.Struct, frozen=True):
    """Of one `type`. Where a trigger ends, `judge` is given the text from `before` characters before to `after`
    behind: it is called for a window, not for a whole text, so what it costs is bounded."""

    guard: str
    type: str
    triggers: tuple[Expression, ...]
    judge: Callable[[str], Iterable[Judged]]
    before: int = 64
    after: int = 64
    chars_per_place: int = 20  # how much work each place is, in characters of usual text


def windows(text: str, ends: Iterable[int], before: int, after: int) -> Iterator[tuple[int, int]]:
    """The places to judge around `ends`, which rise: joined where they overlap, and never within a word, but where a
    word is longer than anything that is looked for."""
    start = stop = -1
    for end in ends:
        low, high = max(end - before, 0), min(end + after, len(text))
        if low > stop:
            if stop >= 0:
                yield _widened(text, start, stop)
            start = low
        stop = max(stop, high)
    if stop >= 0:
        yield _widened(text, start, stop)


_LONGEST_WORD = 64


def _widened(text: str, start: int, stop: int) -> tuple[int, int]:
    for _ in range(_LONGEST_WORD):
        if start == 0 or not text[start - 1].isalnum():
            break
        start -= 1
    for _ in range(_LONGEST_WORD):
        if stop == len(text) or not text[stop].isalnum():
            break
        stop += 1
    return start, stop
