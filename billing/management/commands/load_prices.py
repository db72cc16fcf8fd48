"""`python manage.py load_prices`: the starting price book, or a newer list of your own."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError
from django.utils.dateparse import parse_datetime

from billing.price_list import SHIPPED_FROM, SHIPPED_LIST, PriceListError, read_price_list
from billing.services import load_list_prices


class Command(BaseCommand):
    """Loads list prices of providers; doing it again changes nothing."""

    help = "Loads list prices from a CSV file: without arguments the list that comes with the product."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The file, and from when its prices hold."""
        parser.add_argument("file", type=Path, nargs="?", help="CSV with the columns of the shipped list.")
        parser.add_argument("--effective-from", help="Date or moment (UTC) from which they hold.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Load and count."""
        path: Path | None = options["file"]
        if path is not None and options["effective_from"] is None:
            raise CommandError("Say from when the prices of your file hold: --effective-from 2026-12-01.")
        moment = _read_moment(options["effective_from"]) if options["effective_from"] else SHIPPED_FROM
        try:
            listed = read_price_list((path or SHIPPED_LIST).read_text(encoding="utf-8-sig"))
            done = load_list_prices(listed.prices, moment, actor="load_prices")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"The list cannot be read: {error}") from None
        except PriceListError as error:
            raise CommandError(f"Nothing was loaded.\n{error}") from None
        except IntegrityError:
            raise CommandError(
                "Nothing was loaded: the list has other prices for a moment whose prices are in force. "
                "Past prices are not changed; give a later --effective-from."
            ) from None
        self.stdout.write(f"Added: {done.added}. Changed: {done.changed}. Unchanged: {done.unchanged}.")
        if listed.unpriced:
            self.stdout.write(f"Left out, for their price is unknown: {', '.join(listed.unpriced)}.")


def _read_moment(text: str) -> datetime:
    try:
        moment = parse_datetime(text) or datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is no date or moment such as 2026-12-01.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
