"""A text as a model would read it: without what hides letters, and decoded where something is encoded in it."""

import base64
import codecs
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from urllib.parse import unquote

from guards.expressions import Expression, ExpressionSet

# Cyrillic, Greek and phonetic letters that look like Latin ones.
_LIKE_LATIN = str.maketrans(
    "\u0430\u0412\u0415\u0435\u0456\u0458\u041a\u041c\u041d\u041e\u043e\u0420\u0440\u0421\u0441\u0422\u0443\u0425\u0445"
    "\u0455\u0501\u04cf\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03bf\u03a1\u03a4\u03a5\u03a7\u03b1\u03bd"
    "\u0251\u0261",
    "aBEeijKMHOoPpCcTyXx" + "sdlABEZHIKMNOoPTYXav" + "ag",
)
_TAGS = {0xE0000 + code: code for code in range(0x20, 0x7F)}
_HIDDEN = dict.fromkeys(
    (
        *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, 0xFEFF, 0xE0001, 0xE007F),
        *(*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)),
        *(*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)),
    )
)
_TAGS_AND_HIDDEN = {**_HIDDEN, **_TAGS}
_WORDS = re.compile(r"[a-z]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}[ :,]?){10,}|(?:\\x[0-9a-fA-F]{2}){6,}|(?:0x[0-9a-fA-F]{2}[ ,]*){6,}")
_ESCAPES = re.compile(r"(?:%[0-9a-fA-F]{2}){3}|&#?\w{2,6};|\\u[0-9a-fA-F]{4}")
_SPELLED = re.compile(r"(?:(?<!\w)\w[ .\-_*|/]{1,2}){5,}\w(?!\w)")
_LEET = re.compile(r"[A-Za-z][013457@$!][A-Za-z013457@$!]|[013457@$!][a-z][013457@$!a-z]")
_PLAIN = str.maketrans("013457@$!", "oieastasi")
_ENGLISH, _LEAST_ENGLISH, _CLEARER = 0.35, 0.2, 0.15
_SIGNS = [("base64", _BASE64), ("hex", _HEX), ("escapes", _ESCAPES), ("spelled", _SPELLED), ("leet", _LEET)]
_GIBBERISH = 0.1  # prose in English is above it, but so is not all that is no prose
_APART, _BETWEEN = re.compile(r"[ .\-_*|/]"), re.compile(r"\b(\w)[ .\-_*|/](?=\w\b)")
_MOST_RESPELT = 4_000
_READ_CHARS = 400  # of a text, to judge what language it is
_MOST_DECODED, _AROUND = 8, 300  # pieces of a text, and characters around each
_MOST_GROWTH = 4  # characters that one may stand for
_COMMON = frozenset(
    [
        "a",
        "about",
        "act",
        "all",
        "an",
        "and",
        "any",
        "are",
        "as",
        "ask",
        "be",
        "but",
        "by",
        "can",
        "disregard",
        "do",
        "everything",
        "follow",
        "for",
        "forget",
        "from",
        "give",
        "have",
        "how",
        "i",
        "ignore",
        "in",
        "instruction",
        "instructions",
        "is",
        "it",
        "me",
        "message",
        "model",
        "must",
        "my",
        "never",
        "new",
        "no",
        "not",
        "now",
        "of",
        "on",
        "only",
        "or",
        "output",
        "password",
        "pretend",
        "previous",
        "prior",
        "print",
        "prompt",
        "repeat",
        "respond",
        "reveal",
        "rules",
        "say",
        "secret",
        "should",
        "show",
        "system",
        "tell",
        "text",
        "that",
        "the",
        "their",
        "this",
        "to",
        "until",
        "user",
        "was",
        "we",
        "what",
        "when",
        "will",
        "with",
        "without",
        "you",
        "your",
    ]
)


def clean(text: str) -> str:
    """With letters that look alike as one, hidden ones shown or gone, in lower case and one line."""
    if not text.isascii():
        seen = text.translate(_TAGS_AND_HIDDEN)
        words = {ord(each): " " for each in set(seen) if _stands_for_many(each)}
        text = unicodedata.normalize("NFKC", seen.translate(words)).translate(_LIKE_LATIN)
    return " ".join(text.split()).casefold()


def _stands_for_many(character: str) -> bool:
    """Ligatures of whole sentences, of which a short text would become a long one."""
    return not character.isascii() and len(unicodedata.normalize("NFKC", character)) > _MOST_GROWTH


def variants(text: str) -> Iterator[str]:
    """The cleaned text, and what it says when it is decoded in each way that makes sense of it."""
    base, signs = clean(text), _signs(text)
    yield base
    if signs:
        yield from map(clean, _decoded(text, signs))
    if (known := english(base[:_READ_CHARS])) < _ENGLISH:
        for respell in _respellings(base, known, signs):
            if english(respell(base[:_READ_CHARS])) >= max(_LEAST_ENGLISH, known + _CLEARER):
                yield respell(base[:_MOST_RESPELT])


def _respellings(base: str, known: float, signs: set[str]) -> Iterator[Callable[[str], str]]:
    """Ways to read letters as others, or in another order; which of them make sense the caller sees."""
    if "spelled" in signs:
        yield lambda text: _SPELLED.sub(lambda letters: _APART.sub("", letters[0]), text)
        yield lambda text: _BETWEEN.sub(r"\1", text)
    if "leet" in signs:
        yield lambda text: text.translate(_PLAIN)
    if known < _GIBBERISH and base.isascii():
        yield lambda text: codecs.encode(text, "rot13")
        yield lambda text: text[::-1]
        yield lambda text: " ".join(word[::-1] for word in text.split())


def english(text: str) -> float:
    """The share of words that are among the commonest, of English and of attacks."""
    words = _WORDS.findall(text)
    return len(list(filter(_COMMON.__contains__, words))) / len(words) if words else 0.0


def _signs(text: str) -> set[str]:
    """Which encodings there may be."""
    return {_SIGNS[match.index][0] for match in _looking().scan(text)}


@cache
def _looking() -> ExpressionSet:
    return ExpressionSet([Expression(sign.pattern, is_once=True) for _, sign in _SIGNS])


def _decoded(text: str, signs: set[str]) -> Iterator[str]:
    """What is Base64, hexadecimal or escaped in it, where that is text."""
    if "base64" in signs:
        yield from _replaced(text, _BASE64, _from_base64)
    if "hex" in signs:
        yield from _replaced(text, _HEX, lambda value: bytes.fromhex(re.sub(r"\\x|0x|[ :,]", "", value)))
    if "escapes" in signs:
        unescaped = html.unescape(unquote(text))
        yield re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), unescaped)


def _replaced(text: str, coded: "re.Pattern[str]", decode: Callable[[str], bytes]) -> Iterator[str]:
    """The text with each of the first that are `coded` as it reads decoded."""
    for found in islice(coded.finditer(text), _MOST_DECODED):
        try:
            decoded = decode(found[0]).decode()
        except (ValueError, UnicodeDecodeError):
            continue
        if decoded.isprintable():
            start, end = found.span()
            yield f"{text[max(start - _AROUND, 0) : start]} {decoded} {text[end : end + _AROUND]}"


def _from_base64(value: str) -> bytes:
    value = value.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(value + "=" * (-len(value) % 4))
