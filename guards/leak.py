"""Whether an answer says what the system's message says: words in a row that stand in it, and in nobody else's text."""

import re
from collections import deque
from collections.abc import Iterable, Iterator

from guards.finding import Finding, Guard
from guards.policy import SYSTEM_PROMPT
from guards.texts import Text

_WORD = re.compile(r"\w+")
_ROW = 8  # words in a row that are looked for
_SURE = 20  # words in a row that nobody says by chance
_SYSTEM_PLACES = (
    "system",
    "instructions",
    "messages",
    "input",
)  # not what tools and schemas are described with


class SystemMessage:
    """Of one request."""

    def __init__(self, texts: Iterable[Text]) -> None:
        """`texts`: all of the request."""
        self._rows: set[int] = set()
        others = []
        for text in texts:
            if text.is_own and text.place.startswith(_SYSTEM_PLACES):
                self._rows.update(row for _, _, row in _rows(text.text))
            else:
                others.append(text)
        for text in others if self._rows else ():
            self._rows.difference_update([row for _, _, row in _rows(text.text)])

    def find(self, text: str) -> Iterator[Finding]:
        """Where its words are said. The more in a row, the surer: 0.4 for 8 words, 1 for 20 and more."""
        if not self._rows:
            return
        start = end = rows = 0
        for first, last, row in _rows(text):
            if row in self._rows:
                start, end, rows = first if rows == 0 else start, last, rows + 1
                continue
            if rows:
                yield _found(start, end, rows)
            rows = 0
        if rows:
            yield _found(start, end, rows)


def _found(start: int, end: int, rows: int) -> Finding:
    return Finding(
        Guard.LEAK, SYSTEM_PROMPT, start, end, min(1.0, (rows + _ROW - 1) / _SURE), "words in a row"
    )


def _rows(text: str) -> Iterator[tuple[int, int, int]]:
    """Every eight words in a row: from, to, and a number for them."""
    words: deque[tuple[int, int]] = deque(maxlen=_ROW)
    said: deque[str] = deque(maxlen=_ROW)
    for found in _WORD.finditer(text):
        words.append(found.span())
        said.append(found.group().lower())
        if len(words) == _ROW:
            yield words[0][0], words[-1][1], hash(tuple(said))
