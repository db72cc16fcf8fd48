"""What a request is about, as far as words tell: for models that pass each request on to one that suits it.

Deterministic, without any call, and quick: at most 4,000 characters of the user's last turn are looked at. The weights
are in docs/explanation/routing.md, and the score is in the trace.
"""

import re
from collections.abc import Mapping

import msgspec

from routing.endpoints.base import Request
from routing.endpoints.usage import decode_leniently, texts_in
from routing.resilience_models import Suit

_MOST_CHARACTERS = 4_000
_LONG_CHARACTERS = 2_000
_CODE = re.compile(
    r"```|^\s*(?:def|class|import|from \w+ import|func|fn|public|private|const|let|var|return|#include)\b|"
    r"[{};]\s*$|=>|->|\b(?:function|SELECT\b.+\bFROM|stack trace|traceback|regex|refactor|unit tests?|compile[rs]?|"
    r"debug|bug|API|SQL|JSON|YAML|Python|JavaScript|TypeScript|Rust|Golang|Java|C\+\+|bash|kubectl|git)\b",
    re.MULTILINE,
)
_REASONING = re.compile(
    r"\b(?:why|prove|derive|explain how|step by step|reason(?:ing)?|analy[sz]e|compare|trade-?offs?|evaluate|"
    r"pros and cons|what if|design|plan|strategy|optimi[sz]e|diagnose|critique|warum|begründe|vergleiche|analysiere)\b",
    re.IGNORECASE,
)
_TECHNICAL = re.compile(
    r"\b(?:algorithm|architecture|latency|throughput|concurren\w*|distributed|protocol|encryption|statistic\w*|"
    r"probability|theorem|integral|derivative|matrix|regression|gradient|neural|thermodynamic\w*|molecul\w*|"
    r"pharmaco\w*|diagnos\w*|liabilit\w*|contract|clause|jurisdiction|amorti[sz]\w*|derivatives|hedg\w*|"
    r"complexity|quantum|genom\w*)\b|[∑∫√≤≥∂]|\bO\([^)]{1,12}\)",
    re.IGNORECASE,
)
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
    return Reading(
        code=_share(_CODE, text, 4),
        reasoning=_share(_REASONING, text, 2),
        technical=_share(_TECHNICAL, text, 3),
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


def _share(pattern: re.Pattern[str], text: str, enough: int) -> float:
    found = 0
    for _ in pattern.finditer(text):
        found += 1
        if found == enough:
            break
    return found / enough


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
