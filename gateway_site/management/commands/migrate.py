"""`migrate`, as the schema's owner unless told otherwise."""

from django.core.management.base import CommandParser
from django.core.management.commands.migrate import Command as MigrateCommand


class Command(MigrateCommand):
    """Django's own command with `--database owner` as default."""

    def add_arguments(self, parser: CommandParser) -> None:
        """The stock arguments with our default."""
        super().add_arguments(parser)
        parser.set_defaults(database="owner")
