"""`manage.py simulator`: start the simulated provider."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from routing.simulator.server import add_arguments, run


class Command(BaseCommand):
    """Serve the simulator until SIGTERM or SIGINT; needs no database."""

    help = "Play an OpenAI-compatible provider, with faults on request."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the simulator's own flags."""
        add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the server; the process exits with 1 when the port is taken."""
        run(options)
