"""What every form of external guard has: one question about some texts, and how to read its answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

_RULE = re.compile(r"[A-Za-z0-9_./ -]{1,64}\Z")


class Verdict(NamedTuple):
    """Something that a guard says of a text: how sure it is, 0 to 1, and its own name of what it is."""

    score: float
    rule: str


class Asked(NamedTuple):
    """A question: where below the guard's address, with which headers, and what."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class External:
    """One external guard as workers use it. `name` is the kind of its findings; `setting` is what its form needs
    besides; `timeout_s` holds for each question."""

    name: str
    form: str
    base_url: str
    setting: str = ""
    timeout_s: float = 2.0
    credential: str | None = field(default=None, repr=False)


class Form(Protocol):
    """How one kind of service is asked. `most_texts` and `most_characters` fit into one question."""

    most_texts: int
    most_characters: int

    def ask(self, external: External, texts: Sequence[str], side: str) -> Asked:
        """The question; `side` says whether the texts are a request's or an answer's."""
        ...

    def read(self, answer: Any, texts: Sequence[str]) -> list[list[Verdict]]:
        """What it says of each of the texts; raises LookupError, TypeError or ValueError for what is no answer."""
        ...


def bearer(external: External) -> dict[str, str]:
    """The header of most services."""
    return {} if external.credential is None else {"Authorization": f"Bearer {external.credential}"}


def verdict(score: Any, rule: Any) -> Verdict:
    """A word of theirs as it may stand in a record: it could be anything. Raises ValueError, TypeError."""
    value = float(score)
    if not 0 <= value <= 1:
        raise ValueError("a score is not between 0 and 1")
    return Verdict(value, rule if isinstance(rule, str) and _RULE.match(rule) else "flagged")


def flag(value: Any) -> bool:
    """Raises TypeError for what is neither true nor false: no answer is no all-clear."""
    if not isinstance(value, bool):
        raise TypeError("true or false was expected")
    return value
