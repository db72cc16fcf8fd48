"""Looks through texts for all that the active policies ask for: one pass of all expressions, then the judges."""

import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

import msgspec

from guards import secrets
from guards.custom import Custom
from guards.expressions import Expression, ExpressionSet, Match
from guards.finding import Finding, Guard
from guards.pii.kinds import NAMES, NATIONAL, WITH_A_FORM
from guards.policy import PROMPT_INJECTION, TOXIC
from guards.recogniser import Recogniser, windows
from guards.topics import Topic, TopicIndex
from guards.toxicity import find_toxic

if TYPE_CHECKING:
    from guards.injection.model import Model

_SHORTEST_ATTACK = 12  # in characters
_LEAST_SCORE = 0.5  # what scores less is never noted
_CHARS_PER_PLACE, _CHARS_PER_TEXT, _CHARS_OF_OTHERS = 20, 12, 2
TOO_MUCH = 10**9
MAY_HOLD_NAME = re.compile(r"[^\W\d_a-z][^\W\d_]")  # a capital letter with another behind it
_KEY_CHARACTERS = re.compile(r"[A-Za-z0-9_+/=~-]++")
_MOST_KNOWN = 20_000  # texts; a few hundred bytes each where something was found


class Wanted(msgspec.Struct, frozen=True):
    """What is to be found: kinds by name, administrators' own and their topics, and the regions of phone numbers."""

    types: frozenset[str] = frozenset()
    customs: tuple[Custom, ...] = ()
    topics: tuple[Topic, ...] = ()
    phone_regions: tuple[str, ...] = ("US", "GB", "DE", "FR")

    @property
    def is_slow(self) -> bool:
        """Whether rules are among it that take milliseconds."""
        return not self.types.isdisjoint(TOXIC)

    @property
    def has_names(self) -> bool:
        """Whether a model is among it that only the process has."""
        return not self.types.isdisjoint(NAMES)


NOTHING = Wanted()


class Scanner:
    """For one thread. Remembers by its digest what it found in a text: of a conversation only the last is new."""

    def __init__(self, wanted: Wanted, *, finds_names: bool = False) -> None:
        """Takes up to a second, and another where it is to find names, if any are wanted. Raises ExpressionError for an
        administrator's expression that cannot be used."""
        self.wanted = wanted
        self._find_names: Callable[[str, Collection[str]], Iterable[Finding]] | None = None
        if finds_names and wanted.has_names:
            from guards.pii.names import find_names  # with spaCy and its model: only in the process

            self._find_names = find_names
            list(find_names("Hello", NAMES))
        owners: list[Recogniser | Custom] = []
        expressions: list[Expression] = []
        for recogniser in _recognisers(wanted):
            owners += [recogniser] * len(recogniser.triggers)
            expressions += recogniser.triggers
        owners += wanted.customs
        expressions += [custom.expression for custom in wanted.customs]
        self._model: Model | None = None
        if PROMPT_INJECTION in wanted.types:
            from guards.injection.model import load_model  # with numpy: only where it is asked for

            self._model = load_model()
        self._topics = TopicIndex(wanted.topics) if wanted.topics else None
        self._weights = [
            owner.chars_per_place if isinstance(owner, Recogniser) else _CHARS_PER_PLACE for owner in owners
        ]
        self._owners, self._expressions = owners, ExpressionSet(expressions)
        self._known: OrderedDict[bytes, tuple[Finding, ...]] = OrderedDict()

    def scan(self, text: str) -> tuple[Finding, ...]:
        """What is in a text, in its order; of what overlaps, all."""
        if (known := self.known(text)) is not None:
            return known
        found = self.look(text)
        self.remember(text, found)
        return found

    def weight(self, text: str) -> int:
        """How much work it is, in characters of usual text: each place to judge counts as some. What may hold a name is
        too much for any but the process."""
        if self.wanted.has_names and MAY_HOLD_NAME.search(text):
            return TOO_MUCH
        characters = len(text) if text.isascii() else _CHARS_OF_OTHERS * len(text)
        places = sum([self._weights[match.index] for match in self._expressions.scan(plain(text))])
        return _CHARS_PER_TEXT + characters * (10 if self.wanted.is_slow else 1) + places

    def known(self, text: str) -> tuple[Finding, ...] | None:
        """What was found in it before; None for a new text."""
        digest = _digest(text)
        if (known := self._known.get(digest)) is not None:
            self._known.move_to_end(digest)
        return known

    def remember(self, text: str, found: tuple[Finding, ...]) -> None:
        """What another scanner of the same kinds found."""
        self._known[_digest(text)] = found
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    def look(self, text: str) -> tuple[Finding, ...]:
        """The same, whether it is known or not."""
        text = plain(text)
        found = self._weigh(text)
        if matches := self._expressions.scan(text):
            found += self._judge(text, matches)
        if self.wanted.is_slow:
            found += [each for each in find_toxic(text) if each.type in self.wanted.types]
        if self._find_names is not None and MAY_HOLD_NAME.search(text):
            found += self._find_names(text, self.wanted.types & {*NAMES})
        return tuple(sorted(found, key=lambda finding: finding.start))

    def _weigh(self, text: str) -> list[Finding]:
        """What is said of the text as a whole."""
        found = []
        if self._model is not None and len(text) >= _SHORTEST_ATTACK:
            found.append(
                Finding(Guard.INJECTION, PROMPT_INJECTION, 0, len(text), self._model.score(text), "model")
            )
        if self._topics is not None:
            found += [
                Finding(Guard.TOPICS, topic.type, 0, len(text), score, topic.name)
                for topic, score in self._topics.score(text)
            ]
        return [each for each in found if each.score >= _LEAST_SCORE]

    def _judge(self, text: str, matches: list[Match]) -> list[Finding]:
        by_owner: dict[int, tuple[Recogniser | Custom, list[Match]]] = {}
        for match in matches:
            owner = self._owners[match.index]
            by_owner.setdefault(id(owner), (owner, []))[1].append(match)
        findings: list[Finding] = []
        for owner, its in by_owner.values():
            findings += owner.judge(text, its) if isinstance(owner, Custom) else _judge(owner, text, its)
        return findings


# Blanks, hyphens and digits that are written otherwise, as in what is copied from a page.
_ALIKE = {
    **dict.fromkeys((0xA0, 0x202F, *range(0x2000, 0x200B), 0x3000), " "),
    **dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0xFE63, 0xFF0D), "-"),
    **{0xFF10 + digit: str(digit) for digit in range(10)},
    **{0x0660 + digit: str(digit) for digit in range(10)},
    **{0x06F0 + digit: str(digit) for digit in range(10)},
    0xFF20: "@",
    0xFF0E: ".",
}


def plain(text: str) -> str:
    """A text of the same length in which blanks, hyphens and digits are the usual ones."""
    return text if text.isascii() else text.translate(_ALIKE)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _recognisers(wanted: Wanted) -> list[Recogniser]:
    found = [each for each in secrets.make_recognisers() if each.type in wanted.types]
    if kinds := sorted(wanted.types & {*WITH_A_FORM, *NATIONAL}):
        logging.getLogger("presidio-analyzer").setLevel(logging.WARNING)  # it tells all that it loads
        from guards.pii.patterns import make_recogniser  # presidio is large: only where it is asked for

        found += [make_recogniser(kind, wanted.phone_regions) for kind in kinds]
    return found


def _judge(recogniser: Recogniser, text: str, matches: Collection[Match]) -> list[Finding]:
    ends = sorted({match.end for match in matches})
    return [
        Finding(
            recogniser.guard, recogniser.type, start + found, _end(recogniser, text, start + to), score, rule
        )
        for start, stop in windows(text, ends, recogniser.before, recogniser.after)
        for found, to, score, rule in recogniser.judge(text[start:stop])
    ]


def _end(recogniser: Recogniser, text: str, end: int) -> int:
    """A key may be longer than the window: it ends where its characters do."""
    if recogniser.type == secrets.PRIVATE_KEY:
        return secrets.end_of_private_key(text, end)
    if recogniser.type != secrets.API_KEY or not end or not _KEY_CHARACTERS.match(text, end - 1):
        return end
    found = _KEY_CHARACTERS.match(text, end)
    return end if found is None else found.end()
