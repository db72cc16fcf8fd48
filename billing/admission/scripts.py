"""The Lua scripts, by name: their text, and the SHA-1 they are called by.

A release with another text calls another script, so two releases side by side never run each other's.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class Script:
    """One script; `sha` is in hexadecimal digits, as EVALSHA takes it."""

    text: bytes
    sha: bytes


@dataclass(frozen=True, slots=True)
class Scripts:
    """All scripts of a release."""

    by_name: Mapping[str, Script]

    def __getitem__(self, name: str) -> Script:
        return self.by_name[name]

    def __iter__(self) -> Iterator[Script]:
        return iter(self.by_name.values())


def read_sources() -> dict[str, str]:
    """The text of every script by name, the shared part put in behind the first line."""
    shared = (_FOLDER / "prelude.lua").read_text()
    sources = {}
    for path in sorted(_FOLDER.glob("*.lua")):
        if path.stem != "prelude":
            first, rest = path.read_text().split("\n", 1)
            sources[path.stem] = f"{first}\n{shared}{rest}"
    return sources


def make_scripts(sources: Mapping[str, str]) -> Scripts:
    """Scripts out of their texts."""
    texts = {name: text.encode() for name, text in sources.items()}
    return Scripts({name: Script(text, _sha(text)) for name, text in texts.items()})


@cache
def load_scripts() -> Scripts:
    """The scripts of this release."""
    return make_scripts(read_sources())


def _sha(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
