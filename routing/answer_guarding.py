"""What a team's policy wants found in an answer is found before the caller has it, or its stream ends there.

A streamed text is looked through in windows that overlap. It is held until its window has been, but for what may be the
beginning of something; or, where the policy says so, passed on at once, and cut at the first finding that is blocked.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from guards.finding import REDACTABLE, Finding, Guard
from guards.leak import SystemMessage
from guards.look import Noted, Notes, act_on, look, redact, wanted_of
from guards.policy import Act, Policy, Side
from guards.redaction import Vault
from guards.schema import Schema, SchemaError, schema_of
from guards.texts import Text, Texts
from routing.answer_pieces import Pieces, TextKey, encode_event, is_answer
from routing.endpoints.base import Request
from routing.gateway import Gateway
from routing.guarding import ask_elsewhere, look_elsewhere, note, read_texts, scan_or_pass
from routing.trace import Trace
from teams.errors import field_invalid, guard_blocked

STEP = 120  # characters of a text that are looked through at a time
_STEP_ELSEWHERE = 1_000  # where external guards look: each piece is a call
_OVERLAP = (
    160  # what is looked for fits into so many, but for keys and the like, which are held from their start on
)
_CONTEXT = 400  # characters before, that are looked at again
_LONGEST = 16_000  # that is held for the end of something
_PLACE = "answer"


def guard_answers(gateway: Gateway, request: Request, trace: Trace) -> "AnswerGuard | None":
    """What looks at the answers of a request as it is sent; None where the team's policy wants nothing of them."""
    policy = None if trace.caller is None else gateway.guards.book.policy_of(trace.caller.team_id)
    if policy is None or not policy.answer or request.endpoint.operation == "embeddings":
        return None
    texts = read_texts(request).all if Guard.LEAK in policy.answer.by_guard else ()
    return AnswerGuard(gateway, policy, request, texts)


class AnswerGuard:
    """Of one call."""

    def __init__(self, gateway: Gateway, policy: Policy, request: Request, texts: Iterable[Text]) -> None:
        """`texts`: all of the request as it is sent. Raises GatewayError for a schema that cannot be held against."""
        self._gateway = gateway
        self._policy = policy
        self._rules = policy.answer
        by_guard = self._rules.by_guard
        self._system = SystemMessage(texts) if Guard.LEAK in by_guard else None
        try:
            self._schema: Schema | None = schema_of(request.fields) if Guard.SCHEMA in by_guard else None
        except SchemaError as error:
            raise field_invalid(None, str(error)) from None
        required = by_guard.get(Guard.REQUIRED)
        self._required = frozenset() if required is None else required.types
        self.judges_whole = required is not None or self._schema is not None

    async def check(self, body: bytes, trace: Trace) -> bytes:
        """A plain answer as the caller may have it. Raises GatewayError for what is blocked."""
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            answer = {}
        texts = Texts.of_answer(answer)
        found: list[Sequence[Finding]] = []
        for text, its in zip(
            texts.all, await self.find([text.text for text in texts.all], trace), strict=True
        ):
            is_said = text.place.endswith((".content", ".text")) and "summary" not in text.place
            kinds = {each.type for each in its}
            found.append([*its, *(self.find_in_whole(text.text, kinds) if is_said else ())])
        looked = look(texts, self._rules, found, trace.vault)
        note(self._gateway, looked.noted, trace)
        _refuse(looked.blocked)
        _refuse((await look_elsewhere(self._gateway, texts, self._rules, Side.ANSWER, trace)).blocked)
        return body if looked.vault is None else encode_event(answer)

    async def find(self, texts: list[str], trace: Trace) -> list[Sequence[Finding]]:
        """What is in each of several texts or pieces of texts."""
        found = await scan_or_pass(self._gateway, self._rules, texts, trace, keeps=False)
        if self._system is None:
            return found
        return [[*its, *self._system.find(text)] for text, its in zip(texts, found, strict=True)]

    def find_in_whole(self, text: str, kinds: Iterable[str]) -> Iterable[Finding]:
        """What is to be said of a text that the model answers, once all of it is there. `kinds` are in it."""
        if not text.strip():
            return  # nothing is said beside what is given to tools
        for kind in sorted(self._required - set(kinds)):
            yield Finding(Guard.REQUIRED, kind, 0, len(text), 1.0, "missing")
        if self._schema is not None:
            yield from self._schema.find(text)

    def watch(self, operation: str, trace: Trace) -> Pieces:
        """For a stream: pieces in, pieces that the caller may have out. Raises GatewayError for what is blocked."""
        return Pieces(
            operation, _Watch(self, self._gateway, self._policy, trace, holds_all=self._holds_all())
        )

    def _holds_all(self) -> bool:
        """Whether a text can only be judged once all of it is there, and may be kept from the caller then."""
        by_guard = self._rules.by_guard
        judges = [by_guard.get(Guard.REQUIRED), by_guard.get(Guard.SCHEMA) if self._schema else None]
        return any(rule is not None and rule.act is Act.BLOCK for rule in judges)


class _Seen:
    """What is known of one streamed text. `before`: what of it has been looked through and given out, its last part;
    `told`: the same as it was given out; `fresh`: what was given out unseen."""

    def __init__(self) -> None:
        self.before = self.told = self.fresh = ""
        self.whole: list[str] = []
        self.kinds: set[str] = set()  # that are in it
        self.noted: set[tuple[str, str]] = set()  # of the text itself, by guard and type


class _Watch:
    """See answer_pieces.Filter."""

    def __init__(
        self, guard: AnswerGuard, gateway: Gateway, policy: Policy, trace: Trace, *, holds_all: bool
    ) -> None:
        self._guard = guard
        self._gateway = gateway
        self._rules = policy.answer
        self._trace = trace
        redacts = any(rule.act is Act.REDACT for rule in self._rules.by_guard.values())
        self._cuts = policy.cuts_streams and not redacts
        self._holds_all = holds_all and not self._cuts
        self._step = _STEP_ELSEWHERE if self._rules.externals else STEP
        self._seen: dict[TextKey, _Seen] = {}

    async def take(self, text: TextKey, said: str, *, ends: bool) -> tuple[str, int]:
        seen = self._seen.setdefault(text, _Seen())
        if not self._cuts:
            return await self._hold(seen, text, said, ends=ends)
        seen.fresh += said
        if ends or len(seen.fresh) >= self._step:
            found = await self._find(seen, text, seen.fresh, ends=ends)
            self._act(seen, found, len(seen.before))
            await self._look_elsewhere(seen, seen.fresh)
            self._advance(seen, seen.fresh)
            seen.fresh = ""
        return said, len(said)

    async def change(self, event: dict[str, Any]) -> bool:
        """What is told again, or at once. It was noted when it came in pieces, if it did."""
        texts = Texts.of_answer(event)
        if not texts.all:
            return False
        found = await self._guard.find([text.text for text in texts.all], self._trace)
        looked = look(texts, self._rules, found, self._vault())
        known = {(each.guard, each.type) for each in self._trace.findings if each.place.startswith(_PLACE)}
        note(
            self._gateway,
            [each for each in looked.noted if (each.guard, each.type) not in known],
            self._trace,
        )
        _refuse(looked.blocked)
        return looked.vault is not None

    async def _hold(self, seen: _Seen, text: TextKey, said: str, *, ends: bool) -> tuple[str, int]:
        if not ends and (self._holds_all or len(said) < self._step + _OVERLAP):
            return "", 0
        found = await self._find(seen, text, said, ends=ends)
        shift, cut = len(seen.before), len(said) if ends else len(said) - _OVERLAP
        for each in sorted(found, key=lambda each: -each.start):  # what begins before the end of what is told
            is_open = each.guard in REDACTABLE and each.start - shift < cut < each.end - shift
            if is_open and not ends and each.end - each.start < _LONGEST:
                cut = max(each.start - shift, 0)
        redacted = self._act(seen, found, shift, shift + cut)
        told = said[:cut]
        if redacted:
            told = redact(told, [_moved(each, -shift, cut) for each in redacted], self._rules, self._vault())
        await self._look_elsewhere(seen, told)
        self._advance(seen, said[:cut])
        return told, cut

    async def _find(self, seen: _Seen, text: TextKey, new: str, *, ends: bool) -> list[Finding]:
        """What the rules ask for in the text so far, its last part; places count from the beginning of `before`."""
        (found,) = await self._guard.find([seen.before + new], self._trace)
        seen.kinds.update(each.type for each in found)
        if ends and is_answer(text):
            found = [*found, *self._guard.find_in_whole("".join([*seen.whole, new]), seen.kinds)]
        return wanted_of(found, self._rules)

    def _act(self, seen: _Seen, found: list[Finding], start: int, end: int = _LONGEST * 2) -> list[Finding]:
        """Note what lies between `start` and `end` and was not noted before. Returns what is to be redacted."""
        notes, redacted = Notes(), list[Finding]()
        for each in found:
            act = act_on(each, self._rules)
            if each.guard in REDACTABLE:
                if act is not Act.BLOCK and not (each.end > start and each.start < end):
                    continue
            elif (each.guard, each.type) in seen.noted:
                continue
            seen.noted.add((each.guard, each.type))
            notes.add(each, _PLACE, act)
            if act is Act.REDACT:
                redacted.append(each)
        note(self._gateway, notes.all(), self._trace)
        _refuse(notes.blocked)
        return redacted

    async def _look_elsewhere(self, seen: _Seen, told: str) -> None:
        """Have external guards look at a piece as it is told, with what was told before it."""
        if not told.strip():
            return
        for name in sorted(self._rules.externals):
            pieces = [seen.told + told]
            (found,) = await ask_elsewhere(self._gateway, name, self._rules, pieces, Side.ANSWER, self._trace)
            self._act(seen, wanted_of(found, self._rules), 0)
        seen.told = (seen.told + told)[-_CONTEXT:]

    def _advance(self, seen: _Seen, told: str) -> None:
        seen.before = (seen.before + told)[-_CONTEXT:]
        if self._guard.judges_whole:
            seen.whole.append(told)

    def _vault(self) -> Vault:
        if self._trace.vault is None:
            self._trace.vault = Vault([])
        return self._trace.vault


def _refuse(blocked: Sequence[Noted]) -> None:
    if blocked:
        raise guard_blocked(blocked[0].guard, [each.type for each in blocked], Side.ANSWER)


def _moved(finding: Finding, by: int, most: int) -> Finding:
    start, end = max(finding.start + by, 0), min(finding.end + by, most)
    return msgspec.structs.replace(finding, start=start, end=end)
