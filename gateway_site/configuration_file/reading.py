"""From nodes to entries: every name, value and section checked, every fault noted, nothing asked of the database."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway_site.configuration_file.faults import ConfigurationFileError, Fault, Mark, suggest
from gateway_site.configuration_file.forms import is_null
from gateway_site.configuration_file.kinds import KINDS
from gateway_site.configuration_file.kinds.base import Kind
from gateway_site.configuration_file.schema import ABSENT, STATE, Entry, Identity
from gateway_site.configuration_file.yaml_tree import Items, Node, Scalar, Table, read_tree

VERSION = "1"
_NAMED = {kind.section: kind for kind in KINDS}


def read_entries(text: str, variables: Mapping[str, str]) -> dict[str, list[Entry]]:
    """The entries of the file by section. Raises ConfigurationFileError with all faults."""
    return _Reader().read(read_tree(text, variables))


class _Reader:
    """One pass over the tree, which goes on after a fault."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def read(self, tree: Table) -> dict[str, list[Entry]]:
        sections = self._unique(tree, ["version", *_NAMED], "section")
        self._check_version(sections.pop("version", None))
        entries = {name: self._read_section(_NAMED[name], node) for name, (_, node) in sections.items()}
        if self._faults:
            raise ConfigurationFileError(self._faults)
        return entries

    def _unique(self, table: Table, known: Sequence[str], noun: str) -> dict[str, tuple[Mark, Node]]:
        found: dict[str, tuple[Mark, Node]] = {}
        for name, node in table.pairs:
            if name.text not in known:
                self._note(name.mark, f"there is no {noun} {name.shown}{suggest(name.text, known)}")
            elif name.text in found:
                self._note(name.mark, f"{name.text} is there twice, first in line {found[name.text][0].line}")
            else:
                found[name.text] = name.mark, node
        return found

    def _check_version(self, given: tuple[Mark, Node] | None) -> None:
        if given is not None and not (isinstance(given[1], Scalar) and given[1].text == VERSION):
            self._note(given[1].mark, f"the version of this format is {VERSION}")

    def _read_section(self, kind: Kind, node: Node) -> list[Entry]:
        if is_null(node):
            return []
        if not isinstance(node, Items):
            self._note(node.mark, f"{kind.section} must be a list: each {kind.noun} begins with a hyphen")
            return []
        entries = [entry for item in node.nodes if (entry := self._read_entry(kind, item)) is not None]
        self._refuse_twice(kind, entries)
        return entries

    def _read_entry(self, kind: Kind, node: Node) -> Entry | None:
        if not isinstance(node, Table):
            self._note(node.mark, f"each {kind.noun} must be a table of fields")
            return None
        known = len(self._faults)
        given = self._unique(node, [STATE, *kind.fields_by_name], f"field of {kind.one}")
        is_absent = self._read_state(kind, given.pop(STATE, None))
        values = self._read_values(kind, given)
        if len(self._faults) > known:
            return None
        marks = {name: mark for name, (mark, _) in given.items()}
        try:
            identity = kind.identify(values)
        except ValueError as error:
            self._note(node.mark, str(error))
            return None
        return Entry(kind.section, identity, node.mark, values, marks, is_absent)

    def _read_state(self, kind: Kind, given: tuple[Mark, Node] | None) -> bool:
        if given is None:
            return False
        node = given[1]
        if not (isinstance(node, Scalar) and node.text == ABSENT):
            self._note(node.mark, f"state can only be {ABSENT}; leave it out otherwise")
        elif not kind.may_be_absent:
            self._note(node.mark, kind.why_never_absent)
        return True

    def _read_values(self, kind: Kind, given: dict[str, tuple[Mark, Node]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, (_, node) in given.items():
            field = kind.fields_by_name[name]
            try:
                if not is_null(node):
                    values[name] = field.form.read(node)
                elif field.is_nullable:
                    values[name] = None
                else:
                    self._note(node.mark, f'{name} must not be empty; write "" for an empty text')
            except ConfigurationFileError as error:
                self._faults += [Fault(fault.mark, f"{name}: {fault.message}") for fault in error.faults]
        return values

    def _refuse_twice(self, kind: Kind, entries: Iterable[Entry]) -> None:
        first: dict[Identity, Entry] = {}
        for entry in entries:
            earlier = first.setdefault(entry.identity, entry)
            if earlier is not entry:
                told = kind.tell(entry.identity, entry.values)
                self._note(
                    entry.mark, f"the {kind.noun} {told} is there twice, first in line {earlier.mark.line}"
                )

    def _note(self, mark: Mark, message: str) -> None:
        self._faults.append(Fault(mark, message))
