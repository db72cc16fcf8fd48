"""A kind of object in the file, and the base of those that are plain rows of one table."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.text import capfirst

from audit.admin_trail import lock_facts, record_addition, record_change
from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import ListOf
from gateway_site.configuration_file.removal import remove_with_trail
from gateway_site.configuration_file.schema import Entry, Field, Identity, tell_identity


@dataclass(frozen=True, slots=True)
class Row:
    """A stored object, and its exported fields as the file would have them."""

    target: Any
    values: dict[str, Any]


# A changed field as it may be told, before and after: values of the file, or words about a secret.
Difference = tuple[Any, Any]


class Kind(ABC):
    """How objects of one section are recognised, read, compared and written."""

    section: ClassVar[str]
    noun: ClassVar[str]
    identity: ClassVar[tuple[str, ...]]
    fields: ClassVar[tuple[Field, ...]]
    may_be_absent: ClassVar[bool] = True
    why_never_absent: ClassVar[str] = ""

    @cached_property
    def fields_by_name(self) -> Mapping[str, Field]:
        """The fields, by the names in the file."""
        return {field.name: field for field in self.fields}

    @property
    def one(self) -> str:
        """The noun with its article."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    def identify(self, values: Mapping[str, Any]) -> Identity:
        """What makes an entry the same object. Raises ValueError when something of it is missing."""
        missing = [
            name
            for name in self.identity
            if values.get(name) is None and not self.fields_by_name[name].is_nullable
        ]
        if missing:
            raise ValueError(f"{self.one} needs {' and '.join(missing)}")
        return tuple(values.get(name) for name in self.identity)

    def tell(self, identity: Identity, values: Mapping[str, Any]) -> str:
        """The object's name for people."""
        return tell_identity(identity)

    @abstractmethod
    def rows(self, entries: Sequence[Entry]) -> dict[Identity, Row]:
        """The stored objects that `entries` are about, and may be others, by identity."""

    @abstractmethod
    def all_rows(self) -> Iterator[Row]:
        """Everything that an export holds, in a fixed order."""

    def known_names(self) -> set[str]:
        """The stored names that others may refer to."""
        return set()

    def check(self, entry: Entry, row: Row | None) -> Iterable[Fault]:
        """Faults that concern several fields, or the stored object."""
        return ()

    def compare(self, entry: Entry, row: Row) -> dict[str, Difference]:
        """The fields in which the stored object is not as the entry says."""
        return {
            name: (row.values[name], value)
            for name, value in entry.values.items()
            if name in row.values and name not in self.identity and row.values[name] != value
        }

    def describe_new(self, entry: Entry) -> dict[str, Any]:
        """What may be told of a new object beyond its name."""
        return {
            name: "set" if self.fields_by_name[name].form.is_secret else value
            for name, value in entry.values.items()
            if name not in self.identity and value is not None
        }

    def notes(self, entry: Entry, row: Row | None) -> Iterable[str]:
        """What the person should know although nothing is wrong."""
        return ()

    def is_left_out(self, entry: Entry) -> bool:
        """Whether an entry without a stored object is passed over; `notes` says why."""
        return False

    @abstractmethod
    def add(self, entry: Entry, actor: str) -> None:
        """Make the object, with its event. Raises ValidationError."""

    @abstractmethod
    def change(self, entry: Entry, row: Row, names: Sequence[str], actor: str) -> None:
        """Change the fields `names`, with an event. Raises ValidationError."""

    def remove(self, row: Row, actor: str) -> None:
        """Remove the object and what goes with it, with events. Raises ValidationError while it is in use."""
        remove_with_trail(row.target, actor)

    def release(self, entry: Entry, row: Row, actor: str) -> None:
        """Give back, before anything is made, what others may be about to take."""
        return

    def settle(self, entry: Entry, actor: str) -> None:
        """Take, after everything was made and removed, what others may have had."""
        return


class RowKind(Kind):
    """Objects that are rows of `model`, whose fields have the same names but for references.

    `paths`: for a reference, the way from the row to the name that it has in the file.
    """

    model: ClassVar[type[models.Model]]
    paths: ClassVar[Mapping[str, str]] = {}

    def rows(self, entries: Sequence[Entry]) -> dict[Identity, Row]:
        """All of the table: it is small."""
        return {self.identify(row.values): row for row in self.all_rows()}

    def all_rows(self) -> Iterator[Row]:
        """See the base class; ordered by identity."""
        order = [self.paths.get(name, name) for name in self.identity]
        for target in self.queryset().order_by(*order).iterator(chunk_size=2000):
            yield Row(target, self.read(target))

    def queryset(self) -> "models.QuerySet[Any]":
        """The rows with what `read` needs."""
        related = {path.rpartition("__")[0] for path in self.paths.values()}
        return self.model._default_manager.select_related(*sorted(related))

    def read(self, target: Any) -> dict[str, Any]:
        """The exported fields of a row."""
        return {
            field.name: _arranged(field, self._read_field(target, field.name))
            for field in self.fields
            if field.is_exported
        }

    def known_names(self) -> set[str]:
        """By the one field of the identity."""
        (name,) = self.identity
        return set(self.model._default_manager.order_by().values_list(name, flat=True))

    def add(self, entry: Entry, actor: str) -> None:
        """See the base class."""
        target = self.model()
        self.assign(target, entry.values)
        target.full_clean()
        target.save()
        record_addition(actor, target)

    def change(self, entry: Entry, row: Row, names: Sequence[str], actor: str) -> None:
        """See the base class; fields that somebody else changes meanwhile stay theirs."""
        target = row.target
        before = lock_facts(target)
        target.refresh_from_db()
        given = {name: entry.values[name] for name in names if name in entry.values}
        changed = self.assign(target, given)
        target.full_clean()
        target.save(update_fields=changed)
        record_change(actor, target, before)

    def assign(self, target: Any, values: Mapping[str, Any]) -> list[str]:
        """Put `values` into the row; returns the model's names of the fields. Raises ValidationError."""
        for name, value in values.items():
            setattr(target, name, self.resolve(name, value) if name in self.paths else value)
        return list(values)

    def resolve(self, name: str, value: str | None) -> Any:
        """The object that a reference names."""
        if value is None:
            return None
        related: Any = self.model._meta.get_field(name).related_model
        found = related._default_manager.filter(**{self.paths[name].rpartition("__")[2]: value}).first()
        if found is None:
            raise ValidationError({name: f"{capfirst(name)} {value} does not exist."})
        return found

    def _read_field(self, target: Any, name: str) -> Any:
        for part in self.paths.get(name, name).split("__"):
            target = None if target is None else getattr(target, part)
        return target


def _arranged(field: Field, value: Any) -> Any:
    """A list as the file has it, whatever wrote it."""
    return field.form.arrange(value) if isinstance(field.form, ListOf) else value
