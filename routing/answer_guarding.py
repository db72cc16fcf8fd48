"""What a team's policy wants found in an answer is found before the caller has it, or its stream ends there.

Here the answer as a whole; streams, piece by piece, are in answer_watch.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from guards.finding import Finding, Guard
from guards.leak import SystemMessage
from guards.look import Noted, Notes, act_on, look, wanted_of
from guards.policy import Act, Policy, Side
from guards.schema import schema_of
from guards.texts import Text, Texts
from routing.answer_pieces import FORMS, Where, encode_event
from routing.endpoints.base import Request
from routing.gateway import Gateway
from routing.guarding import look_elsewhere, note, pass_unseen, read_texts, scan_or_pass
from routing.trace import Trace
from teams.errors import field_invalid, guard_blocked

_AT_ONCE = 4_000  # characters of which words in a row are looked for in the event loop
PLACE = "answer"
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
        self.operation = request.endpoint.operation
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
            self._pass_without_schema(trace)
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
        for holder, key in FORMS[self.operation].answers(answer):
            if isinstance(said := holder.get(key), str):
                known = None if is_unseen else within[id(holder), key]
                found.append(await self.find_in_whole(said, known, trace))
                texts.all.append(Text(holder, key, PLACE, said))

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
        fault = await self._gateway.schemas.find(self._schema, text)
        if fault is None:
            self._pass_without_schema(trace)
        elif fault:
            whole.append(self._schema.finding(text, fault))
        return whole

    async def check_last(self, texts: Sequence[str], trace: Trace) -> None:
        """All that a stream told, before it ends well: what only the whole shows. Raises GatewayError."""
        ((found),) = await self.find(["".join(texts)], trace)
        blocked = Notes()
        for each in wanted_of(found or (), self._rules):
            if act_on(each, self._rules) is Act.BLOCK:
                blocked.add(each, PLACE, Act.BLOCK)
        note(self._gateway, blocked.all(), trace)
        refuse(blocked.all())

    def pass_unread(self, trace: Trace) -> None:
        """What is no JSON of the form cannot be looked at. Raises GatewayError, unless that may pass."""
        rules = self._rules.by_guard
        passes = all(rule.fails_open for rule in rules.values())
        pass_unseen(self._gateway, rules, "the answer cannot be read", trace, passes=passes)

    def _pass_without_schema(self, trace: Trace) -> None:
        passes = self._rules.by_guard[Guard.SCHEMA].fails_open
        pass_unseen(self._gateway, [Guard.SCHEMA], "a schema takes too long", trace, passes=passes)


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
