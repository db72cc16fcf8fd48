"""Reads a tutorial as a newcomer does: forms to fill in, and commands to paste into a terminal."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway_site.home import BASE_DIR

_FORM = re.compile(r"<http://127\.0\.0\.1:8000(/admin/[a-z_/]+/add/)>:\n\n((?:\|.*\n)+)")
_ROW = re.compile(r"^\| ([^|`-]+?) \| `([^`]+)` \|$", re.MULTILINE)
_COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OUTPUTS = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Form:
    """A form of the administration, and what goes into its fields by their labels."""

    path: str
    values: Mapping[str, str]


def read_page(name: str) -> str:
    """A page of the tutorials."""
    return (BASE_DIR / "docs" / "tutorial" / name).read_text()


def forms_of(page: str) -> list[Form]:
    """Every form in the page's order."""
    return [Form(path, dict(_ROW.findall(table))) for path, table in _FORM.findall(page)]


def commands_of(page: str) -> list[str]:
    """Every block of commands, except those that start, stop or install."""
    return [block for block in _COMMANDS.findall(page) if not block.startswith("make ")]


def outputs_of(page: str) -> list[str]:
    """Every block that shows what is printed."""
    return _OUTPUTS.findall(page)


class Terminal:
    """A shell in a folder that looks like the project's while `make run` runs."""

    def __init__(self, folder: Path, words: Mapping[str, str]) -> None:
        """`words` are replaced in what is pasted: the addresses and names that differ here."""
        self._folder = folder
        self._words = words
        (folder / ".gateway").mkdir()
        for name in (".venv", "manage.py"):
            (folder / name).symlink_to(BASE_DIR / name)
        (folder / "variables").touch()

    def write(self, name: str, text: str) -> None:
        """A file in `.gateway/`."""
        (self._folder / ".gateway" / name).write_text(text)

    def paste(self, commands: str) -> str:
        """Run the commands after all before them, whose variables they may use; returns what these printed."""
        for word, ours in self._words.items():
            commands = commands.replace(word, ours)
        script = f"source variables\n{commands}\ndeclare -p KEY TOKEN > variables 2>&- || true"
        run = subprocess.run(
            ["/bin/bash", "-eu", "-c", script],
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, f"{commands}\n{run.stdout}\n{run.stderr}"
        return run.stdout
