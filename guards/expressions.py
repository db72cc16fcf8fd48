"""Many expressions over a text in one pass, in time linear in its length: Hyperscan.

It says which expressions match and where they end; administrators' expressions are safe with it, since no text makes
it slow.
"""

from collections.abc import Sequence
from typing import Any

import hyperscan
import msgspec


class ExpressionError(Exception):
    """An expression that cannot be used; the message is for the administrator who wrote it."""


class Expression(msgspec.Struct, frozen=True):
    """`is_trigger`: it may be one that Hyperscan can only approximate, and tells ends, not starts; `is_once`: and of
    those one, for all that is asked is whether there is any."""

    pattern: str
    ignores_case: bool = False
    is_trigger: bool = False
    is_once: bool = False

    @property
    def _flags(self) -> int:
        flags: int = hyperscan.HS_FLAG_CASELESS if self.ignores_case else 0
        if self.is_once:
            flags |= hyperscan.HS_FLAG_SINGLEMATCH
        if self.is_trigger or self.is_once:
            return flags | hyperscan.HS_FLAG_PREFILTER
        return flags | hyperscan.HS_FLAG_SOM_LEFTMOST | hyperscan.HS_FLAG_UTF8 | hyperscan.HS_FLAG_UCP


class Match(msgspec.Struct, frozen=True):
    """Of expression number `index`, characters `start` to `end`; the start of a trigger is 0."""

    index: int
    start: int
    end: int


class ExpressionSet:
    """Not to be used by two threads at once."""

    def __init__(self, expressions: Sequence[Expression]) -> None:
        """Compile them: some milliseconds for a hundred. Raises ExpressionError."""
        self._database: Any = None
        if not expressions:
            return
        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        try:
            database.compile(
                expressions=[each.pattern.encode() for each in expressions],
                ids=list(range(len(expressions))),
                elements=len(expressions),
                flags=[each._flags for each in expressions],
            )
        except (hyperscan.error, UnicodeEncodeError) as error:
            raise ExpressionError(str(error)) from None
        self._database = database

    def scan(self, text: str) -> list[Match]:
        """All matches, each end of them, by their ends."""
        if self._database is None:
            return []
        data = text.encode("utf-8", "replace")  # a lone surrogate becomes one byte for one character
        found: list[tuple[int, int, int]] = []

        def take(index: int, start: int, end: int, flags: int, context: object) -> None:
            found.append((end, index, start))

        self._database.scan(data, match_event_handler=take)
        if len(data) == len(text):
            return [Match(index, start, end) for end, index, start in found]
        return _in_characters(data, sorted(found))


def _in_characters(data: bytes, found: list[tuple[int, int, int]]) -> list[Match]:
    """Matches of bytes as matches of characters, in one walk."""
    places = sorted({place for end, _, start in found for place in (start, end)})
    known, byte, character = {0: 0}, 0, 0
    for place in places:
        character += len(data[byte:place].decode("utf-8", "ignore"))
        known[place], byte = character, place
    return [Match(index, known[start], known[end]) for end, index, start in found]
