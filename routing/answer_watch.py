"""A streamed answer under a policy: its texts are looked through in windows that overlap.

A text is held until its window has been looked through, but for what may be the beginning of something; or, where the
policy says so, passed on at once, and cut at the first finding that is blocked.
"""

import re
import string
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from guards.finding import REDACTABLE, Finding
from guards.look import Notes, act_on, asked_for, look, redact, redacted_of, wanted_of
from guards.policy import Act, Side
from guards.redaction import Vault
from guards.texts import SIGNED, Texts
from routing.answer_guarding import PLACE, AnswerGuard, refuse, take_out_told_again
from routing.answer_pieces import JSON_TEXTS, Key, Pieces, Where
from routing.gateway import Gateway
from routing.guarding import ask_elsewhere, look_elsewhere, note
from routing.trace import Trace

STEP = 120  # characters of a text that are looked through at a time
_STEP_ELSEWHERE = 1_000  # where external guards look: each piece is a call
_OVERLAP = 160  # what is looked for fits into so many, but for what is held from its start on
_CONTEXT = 400  # characters before, that are looked at again
_LONGEST = 16_000  # that is held for the end of something
# A word that is not over may be the beginning of a key, however long it is.
_WORD = string.ascii_letters + string.digits + "_+/=~.%@:-"
_ESCAPED = re.compile(r"\\[nrtbf\"/\\]")
_PART_OF_WORD = re.compile(r"\w*+")


def watch_stream(answers: AnswerGuard, gateway: Gateway, trace: Trace) -> Pieces:
    """Pieces in, pieces that the caller may have out. Raises GatewayError for what is blocked."""
    return Pieces(answers.operation, _Watch(answers, gateway, trace))


class _Seen:
    """What is known of one streamed text. `before`: what of it has been looked through and given out, its last part;
    `told`: the same as it was given out; `held`: what was not given out, or given out unseen."""

    def __init__(self) -> None:
        self.before = self.told = self.held = ""
        self.look_at = 0  # characters of what is held, from which on it is looked at
        self.whole: list[str] = []
        self.found: dict[str, Finding] = {}  # one of each kind that is in it
        self.is_unseen = False
        self.noted: set[tuple[str, str]] = set()  # of the text itself, by guard and type


class _Watch:
    """See answer_pieces.Filter."""

    def __init__(self, guard: AnswerGuard, gateway: Gateway, trace: Trace) -> None:
        self._guard = guard
        self._gateway = gateway
        self._rules = guard.policy.answer
        self._trace = trace
        redacts = any(rule.act is Act.REDACT for rule in self._rules.by_guard.values())
        self._cuts = guard.policy.cuts_streams and not redacts and not guard.holds_whole
        self._step = _STEP_ELSEWHERE if self._rules.externals else STEP
        self._seen: dict[Key, _Seen] = {}

    def begin(self, event: dict[str, Any]) -> bool:
        return self._guard.changes and take_out_told_again(event)

    def pass_unread(self, frame: bytes) -> bytes:
        self._guard.pass_unread(self._trace)
        return frame

    async def take(self, text: Key, said: str, *, ends: bool) -> tuple[str, int]:
        seen = self._seen.setdefault(text, _Seen())
        if self._guard.holds_whole and text.is_answer and not ends:
            seen.whole.append(said)
            return "", len(said)
        if self._guard.holds_whole and text.is_answer:
            said, seen.whole = "".join([*seen.whole, said]), []
        seen.held += said
        if self._cuts:
            await self._follow(seen, text, ends=ends)
            return said, len(said)
        return await self._hold(seen, text, ends=ends), len(said)

    async def change(self, event: dict[str, Any], pieces: Collection[Where]) -> bool:
        """What is told again, or at once. It was noted when it came in pieces, if it did."""
        texts = Texts.of_answer(event, pieces)
        if not texts.all:
            return False
        found = await self._guard.find([text.looked for text in texts.all], self._trace)
        looked = look(texts, self._rules, [its or () for its in found], self._vault())
        known = {(each.guard, each.type) for each in self._trace.findings if each.place.startswith(PLACE)}
        fresh = [each for each in looked.noted if (each.guard, each.type) not in known]
        note(self._gateway, fresh, self._trace)
        refuse(looked.blocked)
        texts.close()
        if self._rules.externals:
            whole = {seen.told for seen in self._seen.values()} | {
                "".join(seen.whole) for seen in self._seen.values()
            }
            texts.all = [text for text in texts.all if text.text not in whole and " " in text.text]
            refuse(
                (await look_elsewhere(self._gateway, texts, self._rules, Side.ANSWER, self._trace)).blocked
            )
        return looked.vault is not None

    async def _follow(self, seen: _Seen, text: Key, *, ends: bool) -> None:
        """Look at what has been passed on, once it is enough."""
        if ends or len(seen.held) >= self._step:
            found = await self._find(seen, text, ends=ends)
            self._act(seen, text, found, len(seen.before), len(seen.before) + len(seen.held))
            await self._look_elsewhere(seen, text, seen.held)
            self._advance(seen, len(seen.held))

    async def _hold(self, seen: _Seen, text: Key, *, ends: bool) -> str:
        """What may be told of what is held."""
        if not ends and len(seen.held) < max(seen.look_at, self._step + _OVERLAP):
            return ""
        found = await self._find(seen, text, ends=ends)
        shift, cut = len(seen.before), len(seen.held) if ends else len(seen.held) - _OVERLAP
        if not ends:
            cut = _before_open(seen.held, found, shift, cut)
        redacted = self._act(seen, text, found, shift, shift + cut)
        told = seen.held[:cut]
        if redacted:
            told = redact(told, [_moved(each, -shift, cut) for each in redacted], self._rules, self._vault())
        await self._look_elsewhere(seen, text, told)
        self._advance(seen, cut)
        return told

    async def _find(self, seen: _Seen, text: Key, *, ends: bool) -> list[Finding]:
        """What the rules ask for in the text so far, its last part; places count from the beginning of `before`."""
        (its,) = await self._guard.find([_plain(text, seen.before + seen.held)], self._trace)
        seen.is_unseen |= its is None
        found = list(its or ())
        seen.found |= {each.type: each for each in found}
        if ends and text.is_answer and self._guard.judges_whole:
            known = None if seen.is_unseen else seen.found.values()
            whole = "".join([*seen.whole, seen.held])
            found += await self._guard.find_in_whole(whole, known, self._trace)
        return asked_for(found, self._rules)

    def _act(self, seen: _Seen, text: Key, found: list[Finding], start: int, end: int) -> list[Finding]:
        """Note what lies between `start` and `end`, and refuse what is blocked anywhere behind `start`. Returns what is
        to be redacted."""
        notes = Notes()
        for each in wanted_of(found, self._rules):
            act = act_on(each, self._rules, is_fixed=text.name in SIGNED)
            if each.guard not in REDACTABLE:
                if (each.guard, each.type) in seen.noted:
                    continue
                seen.noted.add((each.guard, each.type))
            elif each.end <= start or (act is not Act.BLOCK and each.start >= end):
                continue
            notes.add(each, PLACE, act)
        note(self._gateway, notes.all(), self._trace)
        refuse(notes.blocked)
        if text.name in SIGNED:
            return []
        return [each for each in redacted_of(found, self._rules) if each.end > start and each.start < end]

    async def _look_elsewhere(self, seen: _Seen, text: Key, told: str) -> None:
        """Have external guards look at a piece as it is told, with what was told before it."""
        if told.strip():
            for name in sorted(self._rules.externals):
                pieces = [seen.told[-_CONTEXT:] + told]
                (found,) = await ask_elsewhere(
                    self._gateway, name, self._rules, pieces, Side.ANSWER, self._trace
                )
                self._act(seen, text, asked_for(found, self._rules), 0, len(pieces[0]))
        if self._rules.externals:
            seen.told += told

    def _advance(self, seen: _Seen, cut: int) -> None:
        told, seen.held = seen.held[:cut], seen.held[cut:]
        seen.before = _last_of(seen.before + told)
        seen.look_at = len(seen.held) + self._step
        if self._guard.judges_whole:
            seen.whole.append(told)

    def _vault(self) -> Vault:
        if self._trace.vault is None:
            self._trace.vault = Vault([])
        return self._trace.vault


def _before_open(held: str, found: Sequence[Finding], shift: int, cut: int) -> int:
    """The place up to `cut` at which nothing is open: no finding goes on behind it, nor a word."""
    for each in sorted(found, key=lambda each: -each.start):  # what begins before the end of what is told
        is_open = each.guard in REDACTABLE and each.start - shift < cut < each.end - shift
        if is_open and each.end - each.start < _LONGEST:
            cut = max(each.start - shift, 0)
    head = held[:cut].rstrip(_WORD)
    is_open = cut < len(held) and held[cut] in _WORD and cut - len(head) < _LONGEST
    return len(head) if is_open else cut


def _plain(text: Key, said: str) -> str:
    """What is looked at in place of a text that is JSON, of the same length: escaped breaks and quotes are none."""
    return _ESCAPED.sub("  ", said) if text.name in JSON_TEXTS else said


def _last_of(text: str) -> str:
    """The last characters of a text, from the beginning of a word on."""
    if len(text) <= _CONTEXT:
        return text
    last = text[-_CONTEXT:]
    found = _PART_OF_WORD.match(last)
    return last if found is None else last[found.end() :]


def _moved(finding: Finding, by: int, most: int) -> Finding:
    start, end = max(finding.start + by, 0), min(finding.end + by, most)
    return msgspec.structs.replace(finding, start=start, end=end)
