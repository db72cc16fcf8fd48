"""`python manage.py serve`: the web process, portal and `/v1`, on uvicorn."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings

from billing.management.service_command import ServiceCommand
from gateway_site.server import run_server


class Command(ServiceCommand):
    """Serves the portal and the gateway endpoint."""

    help = "Serves the portal and the gateway endpoint until stopped; running streams are finished first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where to listen."""
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until SIGTERM or SIGINT."""
        run_server(
            "gateway_site.asgi:application",
            host=options["host"],
            port=options["port"],
            shutdown_s=settings.GATEWAY_SHUTDOWN_S,
            head_s=settings.GATEWAY_HEAD_S,
        )
