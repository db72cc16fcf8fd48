"""What a team's policy wants found in an answer is found before the caller has it, or its stream ends there.

A streamed text is looked through in windows that overlap. It is held until its window has been, but for what may be the
beginning of something; or, where the policy says so, passed on at once, and cut at the first finding that is blocked.
"""

import asyncio
import re
import string
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from guards.finding import REDACTABLE, Finding, Guard
from guards.leak import SystemMessage
from guards.look import Noted, Notes, act_on, asked_for, look, redact, redacted_of, wanted_of
from guards.policy import Act, Policy, Side
from guards.redaction import Vault
from guards.schema import schema_of
from guards.texts import SIGNED, Text, Texts
from routing.answer_pieces import FORMS, JSON_TEXTS, Key, Pieces, Where, encode_event
from routing.endpoints.base import Request
from routing.gateway import Gateway
from routing.guarding import ask_elsewhere, look_elsewhere, note, read_texts, scan_or_pass
from routing.trace import Trace
from teams.errors import field_invalid, guard_blocked, guards_unavailable

STEP = 120  # characters of a text that are looked through at a time
_STEP_ELSEWHERE = 1_000  # where external guards look: each piece is a call
_OVERLAP = 160  # what is looked for fits into so many, but for what is held from its start on
_CONTEXT = 400  # characters before, that are looked at again
_LONGEST = 16_000  # that is held for the end of something
_AT_ONCE = 4_000  # characters of which words in a row are looked for in the event loop
_PLACE = "answer"
# A word that is not over may be the beginning of a key, however long it is.
_WORD = string.ascii_letters + string.digits + "_+/=~.%@:-"
_ESCAPED = re.compile(r"\\[nrtbf\"/\\]")
_PART_OF_WORD = re.compile(r"\w*+")
# What tells a text again, token by token.
_TOLD_AGAIN = frozenset({"logprobs", "top_logprobs", "prompt_logprobs", "token_ids", "prompt_token_ids"})


async def guard_answers(gateway: Gateway, request: Request, trace: Trace) -> "AnswerGuard | None":
    """What looks at the answers of a request as it is sent; None where the team's policy wants nothing of them.

    Raises GatewayError.
    """
    policy = None if trace.caller is None else gateway.guards.book.policy_of(trace.caller.team_id)
    if policy is None or not policy.answer or request.endpoint.operation == "embeddings":
        return None
    system = None
    if Guard.LEAK in policy.answer.by_guard:
        texts = read_texts(request).all
        is_long = sum(len(text.text) for text in texts) > _AT_ONCE
        system = await asyncio.to_thread(SystemMessage, texts) if is_long else SystemMessage(texts)
    guard = AnswerGuard(gateway, policy, request, system)
    await guard.check_schema(trace)
    return guard


class AnswerGuard:
    """Of one call. `system`: its system's message, where nobody is to hear it."""

    def __init__(
        self, gateway: Gateway, policy: Policy, request: Request, system: SystemMessage | None
    ) -> None:
        self._gateway = gateway
        self.policy = policy
        self._rules = policy.answer
        self._system = system
        self._operation = request.endpoint.operation
        by_guard = self._rules.by_guard
        self._schema = schema_of(request.fields) if Guard.SCHEMA in by_guard else None
        required = by_guard.get(Guard.REQUIRED)
        self._required = frozenset() if required is None else required.types
        judges = [required, by_guard.get(Guard.SCHEMA) if self._schema is not None else None]
        self.judges_whole = any(rule is not None for rule in judges)
        # A text can only be judged once all of it is there, and is kept from the caller until then.
        self.holds_whole = any(rule is not None and rule.act is Act.BLOCK for rule in judges)
        self.changes = any(rule.act is not Act.OBSERVE for rule in by_guard.values())

    async def check_schema(self, trace: Trace) -> None:
        """Raises GatewayError for one that no answer can be held against."""
        if self._schema is None:
            return
        fault = await self._gateway.schemas.check(self._schema)
        if fault is None:
            self._pass(trace, Guard.SCHEMA, passes=self._rules.by_guard[Guard.SCHEMA].fails_open)
        elif fault:
            raise field_invalid(None, fault)

    async def check(self, body: bytes, trace: Trace) -> bytes:
        """A plain answer as the caller may have it. Raises GatewayError for what is blocked, or cannot be read."""
        try:
            answer = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.pass_unread(trace)
            return body
        is_changed = self.changes and take_out_told_again(answer)
        texts = Texts.of_answer(answer)
        found = await self.find([text.looked for text in texts.all], trace)
        count = len(texts.all)
        if self.judges_whole:
            await self._judge_whole(answer, texts, found, trace)
        looked = look(texts, self._rules, [its or () for its in found], trace.vault)
        note(self._gateway, looked.noted, trace)
        refuse(looked.blocked)
        del texts.all[count:]
        refuse((await look_elsewhere(self._gateway, texts, self._rules, Side.ANSWER, trace)).blocked)
        texts.close()
        return encode_event(answer) if is_changed or looked.vault is not None else body

    async def _judge_whole(
        self, answer: dict[str, Any], texts: Texts, found: list[Sequence[Finding] | None], trace: Trace
    ) -> None:
        """Add what is to be said of each text that the model answers, as a whole."""
        within: dict[Where, list[Finding]] = defaultdict(list)
        for text, its in zip(texts.all, found, strict=True):
            within[text.where] += its or ()
        is_unseen = None in found
        for holder, key in FORMS[self._operation].answers(answer):
            if isinstance(said := holder.get(key), str):
                known = None if is_unseen else within[id(holder), key]
                found.append(await self.find_in_whole(said, known, trace))
                texts.all.append(Text(holder, key, _PLACE, said))

    async def find(self, texts: list[str], trace: Trace) -> list[Sequence[Finding] | None]:
        """What is in each of several texts or pieces of texts; None for what could not be looked at, and may pass."""
        found = await scan_or_pass(self._gateway, self._rules, texts, trace, keeps=False)
        if (system := self._system) is None:
            return found
        if sum(map(len, texts)) > _AT_ONCE:
            leaks = await asyncio.to_thread(lambda: [list(system.find(text)) for text in texts])
        else:
            leaks = [list(system.find(text)) for text in texts]
        return [[*(its or ()), *leak] for its, leak in zip(found, leaks, strict=True)]

    async def find_in_whole(self, text: str, found: Iterable[Finding] | None, trace: Trace) -> list[Finding]:
        """What is to be said of a text that the model answers, once all of it is there. `found` is in it; None when
        nobody could look."""
        if not text.strip():
            return []  # nothing is said beside what is given to tools
        missing = set() if found is None else self._required - {each.type for each in found}
        whole = [Finding(Guard.REQUIRED, kind, 0, len(text), 1.0, "missing") for kind in sorted(missing)]
        if self._schema is None:
            return whole
        rule = self._rules.by_guard[Guard.SCHEMA]
        fault = await self._gateway.schemas.find(self._schema, text)
        if fault is None:
            self._pass(trace, Guard.SCHEMA, passes=rule.fails_open)
        elif fault:
            whole.append(self._schema.finding(text, fault))
        return whole

    async def check_last(self, texts: Sequence[str], trace: Trace) -> None:
        """All that a stream told, before it ends well: what only the whole shows. Raises GatewayError."""
        ((found),) = await self.find(["".join(texts)], trace)
        blocked = Notes()
        for each in wanted_of(found or (), self._rules):
            if act_on(each, self._rules) is Act.BLOCK:
                blocked.add(each, _PLACE, Act.BLOCK)
        note(self._gateway, blocked.all(), trace)
        refuse(blocked.all())

    def pass_unread(self, trace: Trace) -> None:
        """What is no JSON of the form cannot be looked at. Raises GatewayError, unless that may pass."""
        rules = self._rules.by_guard
        self._pass(trace, *rules, passes=all(rule.fails_open for rule in rules.values()))

    def _pass(self, trace: Trace, *guards: str, passes: bool) -> None:
        if not passes:
            raise guards_unavailable()
        unseen = [Noted(name, "", "", "", "unavailable", 0.0) for name in guards]
        note(self._gateway, [each for each in unseen if each not in trace.findings], trace)

    def watch(self, trace: Trace) -> Pieces:
        """For a stream: pieces in, pieces that the caller may have out. Raises GatewayError for what is blocked."""
        return Pieces(self._operation, _Watch(self, self._gateway, trace))


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
        known = {(each.guard, each.type) for each in self._trace.findings if each.place.startswith(_PLACE)}
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
            notes.add(each, _PLACE, act)
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


def take_out_told_again(event: dict[str, Any]) -> bool:
    """Of an answer or event, what tells its texts token by token: it would tell what is not to be told. Returns whether
    anything was there."""
    is_changed, stack = False, list[Any]([event])
    while stack:
        holder = stack.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if key in _TOLD_AGAIN and value:
                holder[key] = [] if isinstance(value, list) else None
                is_changed = True
            elif isinstance(value, dict | list) and key != "input":
                stack.append(value)
    return is_changed


def refuse(blocked: Sequence[Noted]) -> None:
    """Raises GatewayError where anything is blocked."""
    if blocked:
        raise guard_blocked(blocked[0].guard, [each.type for each in blocked], Side.ANSWER)


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
