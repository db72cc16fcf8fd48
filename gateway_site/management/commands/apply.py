"""`python manage.py apply FILE`: make the configuration as a file says."""

import getpass
import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway_site.configuration_file.applying import apply_text
from gateway_site.configuration_file.faults import ConfigurationFileError
from gateway_site.configuration_file.telling import has_differences, tell_plan
from gateway_site.configuration_file.yaml_tree import MOST_BYTES

VARIABLES_PREFIX = "GATEWAY_APPLY_"
DIFFERS = 2

_MOST_TOLD = 100  # faults; more are counted


class Command(BaseCommand):
    """Applies a configuration file; see docs/reference/configuration-file.md."""

    help = "Makes the configuration as FILE says, in one transaction, and prints what differed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The file, and how."""
        parser.add_argument("file", help="A YAML file, or - for standard input.")
        parser.add_argument("--dry-run", action="store_true", help="Print the difference and change nothing.")
        parser.add_argument(
            "--exit-code",
            action="store_true",
            help=f"End with {DIFFERS} if anything differs, as git diff does.",
        )
        parser.add_argument("--actor", help="Who the events name (default: the user of the system).")

    def handle(self, *args: Any, **options: Any) -> None:
        """Apply, then tell."""
        name, dry_run = options["file"], options["dry_run"]
        variables = {key: value for key, value in os.environ.items() if key.startswith(VARIABLES_PREFIX)}
        actor = f"apply ({options['actor'] or _system_user()})"
        try:
            plan = apply_text(_read(name), actor=actor, variables=variables, dry_run=dry_run)
        except ConfigurationFileError as error:
            faults = "\n".join(f"{name}:{fault}" for fault in error.faults[:_MOST_TOLD])
            if len(error.faults) > _MOST_TOLD:
                faults += f"\n... and {len(error.faults) - _MOST_TOLD} more."
            count = "1 fault" if len(error.faults) == 1 else f"{len(error.faults)} faults"
            raise CommandError(f"{faults}\nNothing was changed: {count}.") from None
        self.stdout.writelines(f"{line}\n" for line in tell_plan(plan))
        if dry_run:
            self.stdout.write("This was a dry run: nothing was changed.")
        if options["exit_code"] and has_differences(plan):
            sys.exit(DIFFERS)


def _read(name: str) -> str:
    try:
        if name == "-":
            content = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{name} is not UTF-8 text.") from None


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
