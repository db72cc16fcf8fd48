"""`python manage.py rotate_credentials`: stored credentials under the newest field key."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from outbound.credentials import CredentialError
from routing.services import rotate_credentials


class Command(BaseCommand):
    """Encrypts every stored credential anew; ends with 1 when one cannot be read."""

    help = "Encrypts the stored credentials of backends and external guards under the first key of GATEWAY_FIELD_KEYS."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """How many rows to lock at once."""
        parser.add_argument(
            "--batch-size", type=int, default=100, help="Rows in one transaction (default 100)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate and count."""
        if options["batch_size"] < 1:
            raise CommandError("--batch-size must be at least 1.")
        try:
            done = rotate_credentials(actor="rotate_credentials", batch_size=options["batch_size"])
        except CredentialError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Encrypted anew: {done.rotated}. Under the first key already: {done.current}.")
        if done.unreadable:
            names = ", ".join(done.unreadable)
            raise CommandError(
                f"Cannot be read with any of GATEWAY_FIELD_KEYS: {names}. "
                "Put the missing key back into the list, or enter these credentials again."
            )
