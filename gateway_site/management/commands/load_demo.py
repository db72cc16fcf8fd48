"""`python manage.py load_demo`: the demo company, once."""

import json
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from gateway_site import demo


class Command(BaseCommand):
    """Makes the demo data unless it exists, and tells its key and passwords."""

    help = "Makes the demo data unless it exists; --write tells where to write its key and passwords (0600)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Addresses, and the file to write."""
        port = os.environ.get("GATEWAY_SIMULATOR_PORT", "8001")
        parser.add_argument("--write", type=Path)
        parser.add_argument(
            "--base-url", default="http://127.0.0.1:8000", help="Of the portal, without a path."
        )
        parser.add_argument("--simulator-url", default=f"http://127.0.0.1:{port}/v1")

    def handle(self, *args: Any, **options: Any) -> None:
        """Load, then write."""
        is_new = demo.load(options["simulator_url"])
        self.stdout.write("The demo data was made." if is_new else "The demo data is there already.")
        path: Path | None = options["write"]
        if path is not None:
            path.touch(mode=0o600)
            path.chmod(0o600)
            path.write_text(json.dumps(demo.describe(options["base_url"].rstrip("/")), indent=2) + "\n")
