"""A plan for people: what is added, changed and removed, field by field; secrets only as words."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from gateway_site.configuration_file.planning import Action, Plan, Step

_SIGNS = {Action.ADD: "+", Action.CHANGE: "~", Action.REMOVE: "-"}


def tell_plan(plan: Plan) -> Iterator[str]:
    """The lines of the difference, then the notes, then the counts."""
    section = ""
    for step in plan.steps:
        if step.action is Action.KEEP:
            continue
        if step.kind.section != section:
            section = step.kind.section
            yield section
        yield f"  {_SIGNS[step.action]} {_safe(step.kind.tell(step.entry.identity, step.entry.values))}"
        yield from _tell_fields(step)
    yield from (f"Note: {_safe(note)}." for note in plan.notes)
    yield tell_counts(plan)


def tell_counts(plan: Plan) -> str:
    """One line, for example: Added 2, changed 0, removed 0, unchanged 5."""
    counts = Counter(step.action for step in plan.steps)
    return ", ".join(f"{action.value} {counts[action]}" for action in Action).capitalize() + "."


def has_differences(plan: Plan) -> bool:
    """Whether anything is to be done."""
    return any(step.action is not Action.KEEP for step in plan.steps)


def _tell_fields(step: Step) -> Iterator[str]:
    if step.action is Action.ADD:
        for name, value in step.kind.describe_new(step.entry).items():
            yield f"      {name}: {_tell(step, name, value)}"
    for name, (old, new) in step.differences.items():
        yield f"      {name}: {_tell(step, name, old)} -> {_tell(step, name, new)}"


def _tell(step: Step, name: str, value: Any) -> str:
    if step.kind.fields_by_name[name].form.is_secret:
        return str(value)  # a word about it
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case list():
            return "[" + ", ".join(map(_safe, value)) + "]"
        case datetime():
            return value.isoformat()
        case Decimal():
            return f"{value.normalize():f}"
        case str():
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def _safe(text: str) -> str:
    """Without characters that could command a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
