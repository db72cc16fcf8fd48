"""What a request is about, as far as words tell: for models that pass each request on to one that suits it.

Deterministic, without any call, and quick: at most 4,000 characters of the user's last turn are looked at. The weights
are in docs/explanation/routing.md, and the score is in the trace.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

from routing.endpoints.base import Request
from routing.endpoints.usage import decode_leniently, texts_in
from routing.resilience_models import Suit

_MOST_CHARACTERS = 4_000
_LONG_CHARACTERS = 2_000
# Words and not expressions: a caller writes the text, and it is read on the event loop.
_WORD = re.compile(r"\w+")
_CODE_WORDS = frozenset(
    """
    api sql json yaml python javascript typescript rust golang java bash kubectl git regex refactor traceback
    debug bug compile compiles compiler function select import stacktrace
    """.split()  # noqa: SIM905 - a list literal takes a word per line
)
_CODE_PHRASES = ("```", "=>", "->", "stack trace", "unit test", "c++")
_CODE_BEGINS = (
    *("def ", "class ", "import ", "from ", "func ", "fn ", "public ", "private ", "const ", "let ", "var "),
    *("return ", "#include"),
)
_CODE_ENDS = ("{", "}", ";")
_REASONING_WORDS = frozenset(
    """
    why prove derive reason reasoning analyze analyse compare tradeoff tradeoffs evaluate design plan strategy
    optimize optimise diagnose critique warum begründe vergleiche analysiere
    """.split()  # noqa: SIM905 - a list literal takes a word per line
)
_REASONING_PHRASES = ("explain how", "step by step", "trade-off", "pros and cons", "what if")
_TECHNICAL_WORDS = frozenset(
    """
    algorithm algorithms architecture latency throughput concurrency concurrent distributed protocol
    encryption statistics statistical probability theorem integral derivative derivatives matrix regression
    gradient neural thermodynamics molecule molecular pharmacology diagnosis liability liabilities contract
    clause jurisdiction amortization hedge hedging complexity quantum genome genomic
    """.split()  # noqa: SIM905 - a list literal takes a word per line
)
_TECHNICAL_PHRASES = ("∑", "∫", "√", "≤", "≥", "∂", "o(n", "o(log", "o(1)")
_TRIVIAL = re.compile(
    r"\A\s*(?:hi|hello|hey|thanks?|thank you|ok(?:ay)?|yes|no|hallo|danke|good (?:morning|evening))\b",
    re.IGNORECASE,
)
SIMPLE_BELOW, COMPLEX_FROM, CODE_FROM = 0.15, 0.35, 0.5


class Reading(msgspec.Struct, frozen=True):
    """What a request is like: each part 0 to 1, and the `score` they come to."""

    code: float
    reasoning: float
    technical: float
    length: float
    tools: float
    is_trivial: bool

    @property
    def score(self) -> float:
        """0 for the simplest, 1 for the most complex."""
        score = 0.30 * self.code + 0.25 * self.reasoning + 0.25 * self.technical
        score += 0.10 * self.length + 0.10 * self.tools - (0.05 if self.is_trivial else 0)
        return round(min(max(score, 0.0), 1.0), 3)

    @property
    def suit(self) -> Suit:
        """Which kind of model suits it."""
        if self.code >= CODE_FROM:
            return Suit.CODE
        if self.score < SIMPLE_BELOW:
            return Suit.SIMPLE
        return Suit.COMPLEX if self.score >= COMPLEX_FROM else Suit.MEDIUM


def read_content(request: Request) -> Reading:
    """Look at the user's last turn, and whether there are tools."""
    text = _last_turn(request.fields)
    lower = text.lower()
    words = frozenset(_WORD.findall(lower))
    return Reading(
        code=_share(_count(words, _CODE_WORDS, lower, _CODE_PHRASES) + _count_lines(text), 4),
        reasoning=_share(_count(words, _REASONING_WORDS, lower, _REASONING_PHRASES), 2),
        technical=_share(_count(words, _TECHNICAL_WORDS, lower, _TECHNICAL_PHRASES), 3),
        length=min(len(text) / _LONG_CHARACTERS, 1.0),
        tools=1.0 if bytes(request.fields.get("tools", b"null")) not in (b"null", b"[]") else 0.0,
        is_trivial=len(text) < 80 and _TRIVIAL.match(text) is not None,
    )


# Where what the one is not there for goes instead: the nearest that does not do less, then what is left.
_INSTEAD: Mapping[Suit, tuple[Suit, ...]] = {
    Suit.SIMPLE: (Suit.SIMPLE, Suit.MEDIUM, Suit.COMPLEX, Suit.CODE),
    Suit.MEDIUM: (Suit.MEDIUM, Suit.COMPLEX, Suit.CODE, Suit.SIMPLE),
    Suit.COMPLEX: (Suit.COMPLEX, Suit.MEDIUM, Suit.CODE, Suit.SIMPLE),
    Suit.CODE: (Suit.CODE, Suit.COMPLEX, Suit.MEDIUM, Suit.SIMPLE),
}


def order_of(suit: Suit) -> tuple[Suit, ...]:
    """Which kinds of models to look for, in their order."""
    return _INSTEAD[suit]


def _count(words: frozenset[str], known: frozenset[str], text: str, phrases: Iterable[str]) -> int:
    """How many different ones of them the text has."""
    return len(words & known) + sum([phrase in text for phrase in phrases])


def _count_lines(text: str) -> int:
    """Lines that begin or end as code does."""
    lines = [line.strip() for line in text.splitlines()]
    return sum([line.startswith(_CODE_BEGINS) or line.endswith(_CODE_ENDS) for line in lines])


def _share(found: int, enough: int) -> float:
    return min(found / enough, 1.0)


def _last_turn(fields: Mapping[str, msgspec.Raw]) -> str:
    """The end of what the user said last; the instruction is rather at an end than in the middle of a document."""
    raw = next((fields[name] for name in ("messages", "input", "prompt") if name in fields), b"null")
    given = decode_leniently(raw)
    if isinstance(given, list):
        users = [item for item in given if isinstance(item, dict) and item.get("role") == "user"]
        given = users[-1].get("content") if users else given[-1:]
    text = "\n".join(texts_in(given))
    if len(text) <= _MOST_CHARACTERS:
        return text
    half = _MOST_CHARACTERS // 2
    return text[:half] + "\n" + text[-half:]
