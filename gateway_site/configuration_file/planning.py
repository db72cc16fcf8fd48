"""What has to happen so that the database is as the file says. Reads, and writes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from gateway_site.configuration_file.faults import ConfigurationFileError, Fault
from gateway_site.configuration_file.kinds import KINDS
from gateway_site.configuration_file.kinds.base import Difference, Kind, Row
from gateway_site.configuration_file.references import Entries, check_references
from gateway_site.configuration_file.schema import Entry


class Action(Enum):
    """What happens to one object."""

    ADD = "added"
    CHANGE = "changed"
    REMOVE = "removed"
    KEEP = "unchanged"


@dataclass(frozen=True, slots=True)
class Step:
    """One entry with its stored object, and what is to be done about it."""

    kind: Kind
    entry: Entry
    row: Row | None
    action: Action
    differences: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in the order of the kinds and of the file, and what the person should know besides."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def make_plan(entries: Entries) -> Plan:
    """Compare the entries with the database. Raises ConfigurationFileError."""
    faults = list(check_references(entries))
    steps: list[Step] = []
    notes: list[str] = []
    for kind in KINDS:
        given = entries.get(kind.section, ())
        rows = kind.rows(given) if given else {}
        for entry in given:
            row = rows.get(entry.identity)
            faults += _check(kind, entry, row)
            notes += kind.notes(entry, row)
            steps.append(_decide(kind, entry, row))
    if faults:
        raise ConfigurationFileError(faults)
    return Plan(tuple(steps), tuple(dict.fromkeys(notes)))


def _check(kind: Kind, entry: Entry, row: Row | None) -> Iterator[Fault]:
    yield from kind.check(entry, row)
    if row is None and not entry.is_absent and not kind.is_left_out(entry):
        missing = [field.name for field in kind.fields if field.is_needed and field.name not in entry.values]
        if missing:
            told = kind.tell(entry.identity, entry.values)
            yield entry.fault(f"the {kind.noun} {told} is new, and needs {' and '.join(missing)}")


def _decide(kind: Kind, entry: Entry, row: Row | None) -> Step:
    if entry.is_absent:
        return Step(kind, entry, row, Action.KEEP if row is None else Action.REMOVE)
    if row is None:
        return Step(kind, entry, row, Action.KEEP if kind.is_left_out(entry) else Action.ADD)
    differences = kind.compare(entry, row)
    return Step(kind, entry, row, Action.CHANGE if differences else Action.KEEP, differences)
