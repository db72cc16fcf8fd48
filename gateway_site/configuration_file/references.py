"""Whether what entries name exists: in the database, or in the same file."""

from collections.abc import Iterator, Mapping, Sequence

from gateway_site.configuration_file.faults import Fault, suggest
from gateway_site.configuration_file.kinds import KINDS
from gateway_site.configuration_file.schema import Entry

Entries = Mapping[str, Sequence[Entry]]
Name = tuple[str, str]  # a section and a name in it


def list_references(entry: Entry) -> Iterator[tuple[str, Name]]:
    """What the entry names: the field, and the object."""
    (kind,) = (kind for kind in KINDS if kind.section == entry.section)
    for name, value in entry.values.items():
        if (section := kind.fields_by_name[name].form.section) is not None and value is not None:
            yield from ((name, (section, item)) for item in (value if isinstance(value, list) else [value]))


def check_references(entries: Entries) -> Iterator[Fault]:
    """A fault for every name that leads nowhere."""
    known = {kind.section: _known_names(kind.section, entries) for kind in KINDS if kind.section in _REFERRED}
    for entry in (entry for section in entries.values() for entry in section if not entry.is_absent):
        for field, (section, name) in list_references(entry):
            if name in known[section]:
                continue
            removed = [e for e in entries.get(section, ()) if e.is_absent and e.identity == (name,)]
            if removed:
                message = f"{field}: {name} is removed by this file in line {removed[0].mark.line}"
            else:
                message = f"{field}: there is no {name} in {section}{suggest(name, known[section])}"
            yield entry.fault(message, field)


_REFERRED = {field.form.section for kind in KINDS for field in kind.fields if field.form.section is not None}


def _known_names(section: str, entries: Entries) -> set[str]:
    (kind,) = (kind for kind in KINDS if kind.section == section)
    given = entries.get(section, ())
    absent = {entry.identity[0] for entry in given if entry.is_absent}
    return (kind.known_names() - absent) | {entry.identity[0] for entry in given if not entry.is_absent}
