"""Asks external guards: within a time limit, a few questions at a time, and not while one is known to be away."""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from guards.external.base import External, Verdict
from guards.external.forms import FORMS
from guards.finding import Finding, Guard
from outbound.breaker import Breaker, Outcome
from outbound.connection import UpstreamFailure
from outbound.place import place_of
from outbound.pool import Pool
from outbound.post import post

logger = logging.getLogger(__name__)

_AT_ONCE = 8  # questions of one call to one guard
_MOST_QUESTIONS = 200  # of one call to one guard: each may have to be paid
_MOST_BYTES = 1024**2  # of an answer
_OVERLAP = 200  # characters of a text that is too long for one question
_PROBE_S = 10.0
_MOST_KNOWN = 20_000
_KNOWN_S = 600.0  # a service may change its mind
_JSON = {"Content-Type": "application/json"}


class ExternalAway(Exception):
    """The guard could not be asked, or gave no answer; the message names it and why, and no address."""


class _Known(NamedTuple):
    verdicts: list[Verdict]
    until: float


class Externals:
    """One worker's. What was said of a text is remembered by its digest: of a conversation only the last is new."""

    def __init__(self, pool: Pool, limit_s: float) -> None:
        """`limit_s`: for all questions of one call to one guard."""
        self._pool = pool
        self._limit_s = limit_s
        self._breakers: dict[str, Breaker] = {}
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def find(self, external: External, texts: Sequence[str], side: str) -> list[list[Finding]]:
        """What it finds in each text. Raises ExternalAway."""
        parts = list(dict.fromkeys(part for text in texts for part in _parts(external, text)))
        known = {part: self._recall(external, part, side) for part in parts}
        new = [part for part in parts if known[part] is None]
        if new:
            known |= await self._ask(external, new, side)
        return [
            [
                Finding(Guard.EXTERNAL, external.name, 0, len(text), each.score, each.rule)
                for each in dict.fromkeys(v for part in _parts(external, text) for v in known[part] or ())
            ]
            for text in texts
        ]

    async def _ask(
        self, external: External, parts: Sequence[str], side: str
    ) -> Mapping[str, list[Verdict] | None]:
        most = FORMS[external.form].most_texts
        groups = iter([parts[at : at + most] for at in range(0, len(parts), most)])
        if len(parts) > most * _MOST_QUESTIONS:
            raise ExternalAway(f"{external.name}: more than {_MOST_QUESTIONS} questions")
        said: dict[str, list[Verdict] | None] = {}

        async def ask() -> None:
            for group in groups:
                for part, verdicts in zip(group, await self._ask_once(external, group, side), strict=True):
                    said[part] = verdicts
                    self._remember(external, part, side, verdicts)

        askers = [asyncio.create_task(ask()) for _ in range(min(_AT_ONCE, len(parts)))]
        try:
            async with asyncio.timeout(self._limit_s):
                await asyncio.gather(*askers)
        except TimeoutError:
            raise ExternalAway(f"{external.name}: no answer to all within {self._limit_s} s") from None
        finally:
            for asker in askers:
                asker.cancel()
        return said

    async def _ask_once(self, external: External, texts: Sequence[str], side: str) -> list[list[Verdict]]:
        breaker = self._breakers.setdefault(external.name, Breaker())
        now = time.monotonic()
        is_probe = breaker.is_probe_due(now)
        if breaker.is_away and not is_probe:
            raise ExternalAway(f"{external.name} is left alone")
        if is_probe:
            breaker.begin_probe(now, within_s=_PROBE_S)
        status, failure = 0, ""
        form = FORMS[external.form]
        question = form.ask(external, texts, side)
        place = place_of(external.base_url)
        body = msgspec.json.encode(question.body)
        try:
            answered = await post(
                self._pool,
                place,
                place.path + question.path or "/",
                question.headers | _JSON,
                body,
                within_s=external.timeout_s,
                most_bytes=_MOST_BYTES,
            )
            status = answered.status
            if status == 200:
                return form.read(msgspec.json.decode(answered.body), texts)
            failure = f"status {status}"
        except TimeoutError:
            failure = f"no answer within {external.timeout_s} s"
        except UpstreamFailure as error:
            failure = type(error).__name__
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
            status, failure = 0, "an answer of another form"
        finally:
            if failure or status:
                breaker.record(Outcome(status), time.monotonic(), is_probe=is_probe)
            elif is_probe:
                breaker.drop_probe(time.monotonic())
        raise ExternalAway(f"{external.name}: {failure}")

    def _recall(self, external: External, text: str, side: str) -> list[Verdict] | None:
        known = self._known.get(_digest(external, text, side))
        return known.verdicts if known is not None and known.until > time.monotonic() else None

    def _remember(self, external: External, text: str, side: str, verdicts: list[Verdict]) -> None:
        digest = _digest(external, text, side)
        self._known[digest] = _Known(verdicts, time.monotonic() + _KNOWN_S)
        self._known.move_to_end(digest)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)


def _parts(external: External, text: str) -> Iterator[str]:
    """A text in pieces that fit into a question; nothing of one that says nothing."""
    most = FORMS[external.form].most_characters
    if text.strip():
        for start in range(0, max(len(text) - _OVERLAP, 1), most - _OVERLAP):
            yield text[start : start + most].encode("utf-8", "replace").decode()


def _digest(external: External, text: str, side: str) -> bytes:
    said = "\0".join([external.form, external.base_url, external.setting, side, text])
    return hashlib.blake2b(said.encode(), digest_size=16).digest()
