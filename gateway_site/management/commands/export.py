"""`python manage.py export`: the configuration as a file that `apply` takes."""

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction

from gateway_site.configuration_file.exporting import export_pieces
from gateway_site.configuration_file.kinds import KINDS


class Command(BaseCommand):
    """Writes the configuration, without any secret."""

    help = "Writes the configuration as a YAML file, without passwords, keys and credentials."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where to, and what not."""
        sections = [kind.section for kind in KINDS]
        parser.add_argument("--output", type=Path, help="A file to write (default: standard output).")
        parser.add_argument(
            "--without",
            action="append",
            choices=sections,
            default=[],
            metavar="SECTION",
            help=f"Leave a section out; may be repeated. One of {', '.join(sections)}.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write all of it as of one moment."""
        path: Path | None = options["output"]
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if path is None:
                for piece in export_pieces(without=options["without"]):
                    self.stdout.write(piece, ending="")
            else:
                self._write(path, options["without"])

    def _write(self, path: Path, without: list[str]) -> None:
        """Whole or not at all, so that a failure leaves an earlier export as it was."""
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with fresh.open("w", encoding="utf-8") as file:
                file.writelines(export_pieces(without=without))
            fresh.replace(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}.") from None
        finally:
            fresh.unlink(missing_ok=True)
