"""The forms of values: what may be written in the file for each, and how an export writes it."""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gateway_site.configuration_file.faults import ConfigurationFileError, Fault, Mark, suggest
from gateway_site.configuration_file.yaml_tree import Items, Node, Scalar

_NULLS = {"", "~", "null", "Null", "NULL"}
_LONGEST = 10_000
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ]|\Z)")


def is_null(node: Node) -> bool:
    """Whether nothing, `~` or `null` is written, not in quotes."""
    return isinstance(node, Scalar) and node.is_plain and node.text in _NULLS


def misfit(mark: Mark, message: str) -> ConfigurationFileError:
    """The error for one value."""
    return ConfigurationFileError([Fault(mark, message)])


class Form(ABC):
    """One form of value. `read` raises ConfigurationFileError; `write` gives what YAML is to hold."""

    described: str
    section: str | None = None  # of the objects that it names, if it is a reference
    is_secret = False

    @abstractmethod
    def read(self, node: Node) -> Any:
        """The value that `node` spells."""

    def write(self, value: Any) -> Any:
        """The same value for an export."""
        return value

    def _text(self, node: Node) -> Scalar:
        if not isinstance(node, Scalar):
            raise misfit(node.mark, f"{self.described} is expected here")
        return node


class Text(Form):
    """One line of text, in quotes or not."""

    described = "text"

    def read(self, node: Node) -> str:
        """The text itself."""
        scalar = self._text(node)
        if len(scalar.text) > _LONGEST:
            raise misfit(scalar.mark, f"the text is longer than {_LONGEST} characters")
        if any(unicodedata.category(character) in {"Cc", "Cs"} for character in scalar.text):
            raise misfit(scalar.mark, "control characters and line breaks are not allowed here")
        return scalar.text


class Secret(Text):
    """Text that is taken and never told again."""

    described = "secret text"
    is_secret = True


class Reference(Text):
    """The name of an object of `section`."""

    def __init__(self, section: str) -> None:
        self.section = section
        self.described = f"a name in `{section}`"


class Flag(Form):
    """True or false."""

    described = "true or false"

    def read(self, node: Node) -> bool:
        """YAML 1.2's words only: `no` may be a name."""
        scalar = self._text(node)
        if scalar.text not in {"true", "false"}:
            raise misfit(scalar.mark, "true or false is expected here")
        return scalar.text == "true"


class Whole(Form):
    """A whole number, not negative."""

    described = "a whole number"

    def read(self, node: Node) -> int:
        """At most nine digits."""
        scalar = self._text(node)
        if not re.match(r"\A[0-9]{1,9}\Z", scalar.text):
            raise misfit(scalar.mark, "a whole number from 0 to 999999999 is expected here")
        return int(scalar.text)


class Usd(Form):
    """An exact amount of US dollars."""

    described = "a decimal number"

    def read(self, node: Node) -> Decimal:
        """At most nine digits before and after the point; never a float on its way."""
        scalar = self._text(node)
        if not re.match(r"\A[0-9]{1,9}(\.[0-9]{1,9})?\Z", scalar.text):
            raise misfit(scalar.mark, "a number such as 0.15, with at most nine decimals, is expected here")
        return Decimal(scalar.text)

    def write(self, value: Decimal) -> Decimal:
        """Without trailing zeros."""
        return value.normalize()


class Moment(Form):
    """A moment with its time zone, or a date: its midnight in UTC."""

    described = "a date or a moment"

    def read(self, node: Node) -> datetime | None:
        """In UTC."""
        scalar = self._text(node)
        try:
            moment = datetime.fromisoformat(scalar.text)
        except ValueError:
            moment = None
        if moment is None or not _DATE.match(scalar.text) or not 1970 <= moment.year <= 9998:
            raise misfit(
                scalar.mark, "a date or moment such as 2026-12-31 or 2026-12-31T12:00:00Z is expected here"
            )
        if len(scalar.text) == len("2026-12-31"):
            return moment.replace(tzinfo=UTC)
        if moment.tzinfo is None:
            raise misfit(scalar.mark, "the moment needs its time zone: write Z at its end for UTC")
        return moment.astimezone(UTC)

    def write(self, value: datetime | None) -> datetime | str | None:
        """In UTC."""
        return None if value is None else value.astimezone(UTC)


class MomentOrNever(Moment):
    """A moment, or `never`, which is None."""

    described = "a date, a moment or `never`"

    def read(self, node: Node) -> datetime | None:
        """See the class."""
        return None if self._text(node).text == "never" else super().read(node)

    def write(self, value: datetime | None) -> datetime | str | None:
        """See the class."""
        return "never" if value is None else super().write(value)


class OneOf(Form):
    """One of some words."""

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)
        self.described = "one of " + ", ".join(f"`{choice}`" for choice in self.choices)

    def read(self, node: Node) -> str:
        """The word."""
        scalar = self._text(node)
        if scalar.text not in self.choices:
            raise misfit(
                scalar.mark,
                f"{scalar.shown} is not one of {', '.join(self.choices)}{suggest(scalar.shown, self.choices)}",
            )
        return scalar.text


class ListOf(Form):
    """A list, each value once. Unless it `is_ordered`, the order means nothing."""

    def __init__(self, inner: Form, *, is_ordered: bool = False) -> None:
        self.inner = inner
        self.is_ordered = is_ordered
        self.section = inner.section
        self.described = f"a list of {inner.described}" + (", in its order" if is_ordered else "")

    def arrange(self, values: Iterable[str]) -> list[str]:
        """As the values are compared and exported."""
        return list(values) if self.is_ordered else sorted(values)

    def read(self, node: Node) -> list[str]:
        """Sorted, unless the order means something."""
        if not isinstance(node, Items):
            raise misfit(node.mark, "a list such as [a, b] is expected here")
        values: dict[str, Mark] = {}
        faults: list[Fault] = []
        for item in node.nodes:
            try:
                value = self.inner.read(item)
            except ConfigurationFileError as error:
                faults += error.faults
                continue
            if value in values:
                faults.append(Fault(item.mark, f"{value} is there twice"))
            values[value] = item.mark
        if faults:
            raise ConfigurationFileError(faults)
        return self.arrange(values)
