"""What a kind of object looks like in the file, and an entry as it was read."""

from dataclasses import dataclass, field
from typing import Any

from gateway_site.configuration_file.faults import Fault, Mark
from gateway_site.configuration_file.forms import Form

Identity = tuple[Any, ...]

STATE = "state"
ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a kind. `is_needed`: to make a new object; what is not given keeps its value or its default."""

    name: str
    form: Form
    meaning: str
    is_needed: bool = False
    is_nullable: bool = False
    is_exported: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the file. `values` has the given fields only; they may hold secrets."""

    section: str
    identity: Identity
    mark: Mark
    values: dict[str, Any] = field(repr=False)
    marks: dict[str, Mark] = field(repr=False)
    is_absent: bool = False

    def fault(self, message: str, name: str = "") -> Fault:
        """A fault of the field `name` if it is given, else of the whole entry."""
        return Fault(self.marks.get(name, self.mark), message)


def tell_identity(identity: Identity) -> str:
    """For people: the parts that are given, in their order."""
    parts = (part.isoformat() if hasattr(part, "isoformat") else str(part) for part in identity if part)
    return " / ".join(parts)
