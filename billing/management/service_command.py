"""The base of commands that run for ever: what they say before they run is a log line too."""

import logging
from typing import Any

from django.core import checks
from django.core.management.base import BaseCommand, CommandError

logger = logging.getLogger(__name__)

_LEVELS = {checks.WARNING: logging.WARNING, checks.ERROR: logging.ERROR, checks.CRITICAL: logging.CRITICAL}


class ServiceCommand(BaseCommand):
    """Logs what the system checks find and why it cannot run, instead of printing it in a form of its own."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run; a CommandError becomes a line and exit status 1."""
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            logger.error("%s", error)
            raise SystemExit(1) from None

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Log every finding. Raises CommandError when one is an error."""
        found = [message for message in checks.run_checks() if not message.is_silenced()]
        for message in found:
            text = f"{message.msg} {message.hint or ''}".rstrip()
            logger.log(_LEVELS.get(message.level, logging.INFO), "System check %s: %s", message.id, text)
        if any(message.is_serious() for message in found):
            raise CommandError("The settings must be mended first: see the system checks above.")
