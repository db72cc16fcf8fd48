"""Kinds of personal data that have a form: presidio's recognisers, given only the windows where they may find any.

Called directly, without presidio's engine: no language model is loaded. Importing presidio takes a second and 90 MB,
so this module is only imported where a policy asks for personal data.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import phonenumbers
import tldextract.tldextract
from phonenumbers import NumberParseException
from presidio_analyzer import Pattern, PatternRecognizer
from presidio_analyzer import predefined_recognizers as presidio

from guards.expressions import Expression
from guards.finding import Guard
from guards.pii.kinds import NATIONAL
from guards.recogniser import Judged, Recogniser

# The list of public suffixes that the package carries: by itself it would ask the network for a newer one.
tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

_LEAST_SCORE = 0.35
_BY_CONTEXT = 0.35  # what a word beside it adds to a form that alone says little, as presidio's engine does
_CONTEXT_CHARS = 60

_MASTERCARD_2 = Pattern(
    "Mastercard 2-series",
    r"\b2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)[- ]?\d{4}[- ]?\d{4}[- ]?\d{4}\b",
    0.3,
)
_DOTTED = Pattern("dotted", r"\b(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6\d{3})(?:\.\d{4}){3}\b", 0.3)
# What goes on before and behind a card's number, or in groups of four that are no month and year.
_DIGITS_BEFORE = re.compile(r"(?:\d(?P<gap>-?)|(?<!\d)\d{4}(?P<space> ))\Z")
_DIGITS_AFTER = re.compile(r"(?:(?P<gap>-?)\d|(?P<space> )(?!(?:0[1-9]|1[0-2])[2-4]\d\b)\d{4}(?!\d))")
_CODE_AFTER = re.compile(r"-\d{3,4}(?!\d|-)")
_SECTION = re.compile(
    r"(?:section|article|version|chapter|clause|paragraph|release|§|\bv)\W*$", re.IGNORECASE
)
_DATE = re.compile(
    r"(?<![\w/.-])(?:\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])[./-](?:0?[1-9]|1[0-2])[./-](?:19|20)\d\d"
    r"|(?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12]\d|3[01])/(?:19|20)\d\d"
    r"|(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?\s+(?:of\s+)?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
    r"\.?,?\s+(?:19|20)\d\d"
    r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\s+(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?,?"
    r"\s+(?:19|20)\d\d)(?![\w/]|[.-]\d)",
    re.IGNORECASE,
)
_PHONE_WORD = re.compile(
    r"\b(?:phone|tel|telephone|mobile|cell|cellphone|call|fax|whatsapp|text|sms|dial|ring|reach|handy|telefon|"
    r"t[ée]l[ée]phone|tel[ée]fono|number is)\b",
    re.IGNORECASE,
)
# Without a plus or a word a number says that it is a phone's by how it is written: (212) 555-0123, 212-555-0123,
# 020 7946 0958. Years, prices and numbers of orders are grouped too, but otherwise.
_WRITTEN_SO = re.compile(r"\(\d{2,5}\)[ .-]?\d|(?:1[ .-])?\d{3}([ .-])\d{3}\1\d{4}$|0\d{2,4}[ /-]\d{2,}")
_NUMBER = re.compile(
    r"(?<![\w.,/-])(?<!\d:)(?:\+\d{1,3}[ .-]?)?(?:\(\d{1,5}\)[ .-]?)?\d{1,11}(?:[ .-]\d{1,8}){0,5}(?![\w/]|[.,:-]\d)"
)
_FEWEST_DIGITS, _MOST_DIGITS = 7, 15
_NOT_A_PHONE = re.compile(
    r"\d{1,4}(?:[ .-]\d{1,2}){2}$|\d{4}-\d{2}-\d{2}.*|\d{3}[- .]\d{2}[- .]\d{4}$|\d{1,3}(?:\.\d{1,3}){3}$|"
    r"\d{13,}$|(?:\d{4}[ -]){3}\d{1,7}$"
)


def _trigger(*patterns: str) -> tuple[Expression, ...]:
    return tuple(Expression(pattern, is_trigger=True) for pattern in patterns)


def _judge(recogniser: PatternRecognizer, text: str) -> Iterator[Judged]:
    """What a presidio recogniser finds, a weak form only beside a word that belongs to it."""
    for found in recogniser.analyze(text, recogniser.supported_entities, None) or ():
        score = found.score
        if score < _LEAST_SCORE and _has_context(recogniser.context or (), text, found.start):
            score += _BY_CONTEXT
        if score >= _LEAST_SCORE:
            yield found.start, found.end, score, type(recogniser).__name__


def _has_context(words: Sequence[str], text: str, start: int) -> bool:
    before = text[max(start - _CONTEXT_CHARS, 0) : start].lower()
    return any(word in before for word in words)


def _judge_card(recogniser: PatternRecognizer, text: str) -> Iterator[Judged]:
    """Not a part of a longer number, as an order's or an account's in groups of four."""
    found = list(_judge(recogniser, text))
    edges = {place for start, end, _, _ in found for place in (start, end)}
    for start, end, score, rule in found:
        before, after = _DIGITS_BEFORE.search(text, 0, start), _DIGITS_AFTER.match(text, end)
        is_whole = text[start:end].isdecimal()  # then what stands beside it is another number
        if is_whole and before is not None and before["space"] is not None:
            before = None
        if is_whole and after is not None and (after["space"] is not None or _CODE_AFTER.match(text, end)):
            after = None
        is_cut_before = before is not None and _gap(before)[0] not in edges
        is_cut_after = after is not None and _gap(after)[1] not in edges
        if not is_cut_before and not is_cut_after:
            yield start, end, score, rule


def _gap(found: "re.Match[str]") -> tuple[int, int]:
    """From where to where nothing stands, or a hyphen or space, between a card's digits and others."""
    return found.span("gap" if found["gap"] is not None else "space")


def _judge_ip(recogniser: PatternRecognizer, text: str) -> Iterator[Judged]:
    """Not the number of a section or a version, nor a name of C++, which have the same form."""
    for start, end, score, rule in _judge(recogniser, text):
        if any(map(str.isdigit, text[start:end])) and not _SECTION.search(
            text[max(start - _CONTEXT_CHARS, 0) : start]
        ):
            yield start, end, score, rule


def _judge_email(recogniser: PatternRecognizer, text: str) -> Iterator[Judged]:
    """Less the marks around it: presidio takes most of what may stand before an @ for a part of it."""
    for start, end, score, rule in _judge(recogniser, text):
        start += len(text[start:end]) - len(text[start:end].lstrip("'`*{|=/#!?$&^~"))
        yield start, end, score, rule


def _judge_phone(regions: Sequence[str], text: str) -> Iterator[Judged]:
    """Valid numbers of `regions` that say that they are one: by a plus, by groups of digits, or by a word before."""
    for candidate in _NUMBER.finditer(text):
        number = candidate.group()
        digits = sum(map(str.isdigit, number))
        if not _FEWEST_DIGITS <= digits <= _MOST_DIGITS or _NOT_A_PHONE.match(number):
            continue
        before = text[max(candidate.start() - _CONTEXT_CHARS, 0) : candidate.start()]
        is_said = number.startswith("+") or bool(_PHONE_WORD.search(before))
        if (is_said or _WRITTEN_SO.match(number)) and _is_phone(number, regions):
            yield candidate.start(), candidate.end(), 0.75 if is_said else 0.4, "phonenumbers"


def _is_phone(number: str, regions: Sequence[str]) -> bool:
    for region in ("ZZ",) if number.startswith("+") else regions:
        with suppress(NumberParseException):
            if phonenumbers.is_valid_number(phonenumbers.parse(number, region)):
                return True
    return False


def _judge_date(text: str) -> Iterator[Judged]:
    return ((found.start(), found.end(), 0.6, "date") for found in _DATE.finditer(text))


def make_recogniser(kind: str, regions: Sequence[str]) -> Recogniser:
    """The one for a kind that has a form. `regions`: two letters each, whose phone numbers are known without a country
    code. Raises KeyError for a kind that nothing looks for."""
    if kind == "PHONE_NUMBER":
        triggers = _trigger(r"\d(?:[ ().-]{0,3}\d){6}")
        return Recogniser(Guard.PII, kind, triggers, partial(_judge_phone, tuple(regions)), 80, 40)
    if kind == "DATE_TIME":
        triggers = _trigger(r"[-/. ](?:19|20)\d\d", r"\d{4}-\d\d-\d\d", r",(?:19|20)\d\d")
        return Recogniser(Guard.PII, kind, triggers, _judge_date, 40, 16)
    if kind in NATIONAL:
        recogniser: Any = getattr(presidio, NATIONAL[kind])()
        triggers = tuple(
            Expression(_simplified(pattern.regex), ignores_case=True, is_trigger=True)
            for pattern in recogniser.patterns
        )
        return Recogniser(Guard.PII, kind, triggers, partial(_judge, recogniser), 96, 64)
    form = _FORMS[kind]
    return Recogniser(
        Guard.PII,
        kind,
        _trigger(*form.triggers),
        partial(form.judge, form.make()),
        form.before,
        form.after,
        form.chars_per_place,
    )


class _Form(NamedTuple):
    make: Callable[[], PatternRecognizer]
    triggers: Sequence[str]
    judge: Callable[[PatternRecognizer, str], Iterator[Judged]] = _judge
    before: int = 64
    after: int = 64
    chars_per_place: int = 20


def _make_cards() -> PatternRecognizer:
    return presidio.CreditCardRecognizer(
        patterns=[*presidio.CreditCardRecognizer.PATTERNS, _MASTERCARD_2, _DOTTED],
        replacement_pairs=[("-", ""), (" ", ""), (".", "")],
    )


_FORMS = {
    "EMAIL_ADDRESS": _Form(presidio.EmailRecognizer, [r"[^\s@]@[^\s@]"], _judge_email, 128, 256, 200),
    "CREDIT_CARD": _Form(_make_cards, [r"\d(?:[ .-]?\d){11}"], _judge_card),
    "IBAN_CODE": _Form(presidio.IbanRecognizer, [r"\b[A-Z]{2}\d{2}[ -]?[A-Z0-9]{4}"]),
    "US_SSN": _Form(presidio.UsSsnRecognizer, [r"\d{3}[- .]?\d{2}[- .]?\d{4}"]),
    "IP_ADDRESS": _Form(
        presidio.IpRecognizer,
        [r"\d\.\d{1,3}\.\d{1,3}\.\d", r"[0-9a-fA-F]:[0-9a-fA-F]{0,4}:[0-9a-fA-F]", r"::[0-9a-fA-F]"],
        _judge_ip,
    ),
}


def _simplified(pattern: str) -> str:
    """Less what only `re` knows, but says the same."""
    return pattern.replace("(?P<", "(?<")
