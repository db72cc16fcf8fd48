"""YAML text as a tree of marked nodes: bounded in size and depth, without aliases, tags and merge keys.

Scalars stay text: what they mean is said by the field they stand for, so no `no` becomes a false and no version
number a float.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from gateway_site.configuration_file.faults import ConfigurationFileError, Fault, Mark

MOST_BYTES = 32 * 1024**2
MOST_DEPTH = 8
_LIKE_A_SECRET = re.compile(r"\bsk-|[A-Za-z0-9_+/=]{24}")
_VARIABLE = re.compile(r"\A\$\{([A-Za-z_][A-Za-z0-9_]*)\}\Z")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value as it is written; `is_plain` unless in quotes or out of a variable. It may be a secret."""

    mark: Mark
    text: str = field(repr=False)
    is_plain: bool = True
    is_variable: bool = False

    @property
    def shown(self) -> str:
        """What a message may say of it: neither a variable's value nor what looks like a secret in a wrong place."""
        if self.is_variable:
            return "the variable's value"
        return "a value that may be secret" if _LIKE_A_SECRET.search(self.text) else self.text[:100]


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    mark: Mark
    nodes: "list[Node]" = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Table:
    """Names with values, in the order of the file; a name may be there twice."""

    mark: Mark
    pairs: "list[tuple[Scalar, Node]]" = field(default_factory=list)


Node = Scalar | Items | Table


def read_tree(text: str, variables: Mapping[str, str]) -> Table:
    """The file's outermost table. A value that is `${NAME}` as a whole is taken from `variables`.

    Raises ConfigurationFileError.
    """
    if len(text.encode()) > MOST_BYTES:
        raise ConfigurationFileError([Fault(Mark(), f"the file is larger than {MOST_BYTES // 1024**2} MiB")])
    builder = _Builder(variables)
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        mark = _mark(place) if place else Mark()
        raise ConfigurationFileError([Fault(mark, f"this is not YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise ConfigurationFileError([_unreadable(text, error)]) from None
    return builder.finish()


def _unreadable(text: str, error: yaml.YAMLError) -> Fault:
    """A character that YAML does not allow."""
    position = getattr(error, "position", 0) or 0
    before = text[:position]
    mark = Mark(before.count("\n") + 1, position - before.rfind("\n"))
    return Fault(mark, "this is not YAML: a character that is not allowed")


def _mark(place: Any) -> Mark:
    return Mark(place.line + 1, place.column + 1)


class _Builder:
    """Puts the parser's events together without recursion, so that no depth can exhaust the stack."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._faults: list[Fault] = []
        self._open: list[Items | Table] = []
        self._names: list[Scalar | None] = []
        self._root: Node | None = None
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """One event of the parser. Raises ConfigurationFileError where going on would be unsafe."""
        mark = _mark(event.start_mark)
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise ConfigurationFileError([Fault(mark, "a second document begins; one is allowed")])
            case yaml.AliasEvent():
                raise ConfigurationFileError(
                    [Fault(mark, "references (*name) are not allowed; repeat the value")]
                )
            case yaml.ScalarEvent():
                self._refuse_extras(event, mark)
                self._place(self._scalar(event, mark))
            case yaml.SequenceStartEvent():
                self._begin(event, Items(mark))
            case yaml.MappingStartEvent():
                self._begin(event, Table(mark))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._open.pop()
                self._names.pop()

    def finish(self) -> Table:
        """The whole tree. Raises ConfigurationFileError."""
        root = self._root if self._root is not None else Table(Mark())
        if isinstance(root, Scalar) and root.is_plain and not root.text:
            root = Table(root.mark)
        if not isinstance(root, Table):
            self._faults.append(Fault(root.mark, "the file must be a table of sections"))
        if self._faults or not isinstance(root, Table):
            raise ConfigurationFileError(self._faults)
        return root

    def _begin(self, event: Any, node: Items | Table) -> None:
        self._refuse_extras(event, node.mark)
        if len(self._open) == MOST_DEPTH:
            raise ConfigurationFileError([Fault(node.mark, f"nested deeper than {MOST_DEPTH} levels")])
        self._place(node)
        self._open.append(node)
        self._names.append(None)

    def _place(self, node: Node) -> None:
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if isinstance(parent, Items):
            parent.nodes.append(node)
        elif (name := self._names[-1]) is not None:
            parent.pairs.append((name, node))
            self._names[-1] = None
        elif isinstance(node, Scalar):
            self._names[-1] = node
        else:
            raise ConfigurationFileError([Fault(node.mark, "a name must be text")])

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> Scalar:
        is_name = bool(self._open) and isinstance(self._open[-1], Table) and self._names[-1] is None
        if is_name or not (found := _VARIABLE.match(event.value)):
            return Scalar(mark, event.value, is_plain=event.implicit[0])
        if (value := self._variables.get(found[1])) is None:
            self._faults.append(Fault(mark, f"the variable {found[1]} is not given"))
        return Scalar(mark, value or "", is_plain=False, is_variable=True)

    def _refuse_extras(self, event: Any, mark: Mark) -> None:
        if event.tag is not None:
            self._faults.append(Fault(mark, f"tags ({event.tag}) are not allowed"))
        if event.anchor is not None:
            self._faults.append(Fault(mark, f"anchors (&{event.anchor}) are not allowed"))
