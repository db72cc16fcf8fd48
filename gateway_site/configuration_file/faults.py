"""What is wrong in a file, and where."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the file; both numbers count from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong. The message holds no secret."""

    mark: Mark
    message: str

    def __str__(self) -> str:
        return f"{self.mark.line}:{self.mark.column}: {self.message}"


class ConfigurationFileError(Exception):
    """The file is refused as a whole; `faults` are all that were found, in the file's order."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: Sequence[Fault] = sorted(set(faults))
        super().__init__("\n".join(map(str, self.faults)))


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` when `name` looks like a known one, else nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
