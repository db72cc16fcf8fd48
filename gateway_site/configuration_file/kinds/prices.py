"""Dated prices of backends. A price in force stays as the ledger knows it."""

from collections.abc import Iterator

from django.utils import timezone

from billing.models import PriceEntry
from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import Moment, Reference, Usd
from gateway_site.configuration_file.kinds.base import Row, RowKind
from gateway_site.configuration_file.schema import Entry, Field


class Prices(RowKind):
    """Own prices of backends."""

    section = "prices"
    noun = "price"
    model = PriceEntry
    identity = ("backend", "effective_from")
    paths = {"backend": "backend__name"}
    fields = (
        Field("backend", Reference("backends"), "Whose price it is."),
        Field("effective_from", Moment(), "From when it holds, until the next one."),
        Field("input_usd_per_million", Usd(), "USD per million prompt tokens.", is_needed=True),
        Field(
            "cached_input_usd_per_million",
            Usd(),
            "Of prompt tokens read from the provider's cache. Null: as input.",
            is_nullable=True,
        ),
        Field(
            "cache_write_usd_per_million",
            Usd(),
            "Of prompt tokens written to that cache. Null: as input.",
            is_nullable=True,
        ),
        Field(
            "output_usd_per_million", Usd(), "Of answer tokens, those of reasoning included.", is_needed=True
        ),
    )

    def known_names(self) -> set[str]:
        """None: nothing refers to a price."""
        return set()

    def check(self, entry: Entry, row: Row | None) -> Iterator[Fault]:
        """Refuse to change or remove a price in force."""
        if row is None or row.target.effective_from > timezone.now():
            return
        advice = "add one with a later effective_from"
        if entry.is_absent:
            yield entry.fault(f"this price has been in force and is not removed; {advice}")
        for name, (old, new) in self.compare(entry, row).items():
            yield entry.fault(f"{name}: this price has been in force at {old}, not {new}; {advice}", name)
