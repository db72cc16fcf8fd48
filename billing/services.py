"""Writes to the price list; each with its administrative event in one transaction."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any

from django.db import transaction

from audit.admin_trail import lock_facts, record_addition, record_change
from billing.models import ListPrice
from billing.price_list import ListedPrice

PRICES = (
    "input_usd_per_million",
    "cached_input_usd_per_million",
    "cache_write_usd_per_million",
    "output_usd_per_million",
)


@dataclass(frozen=True, slots=True)
class LoadedPrices:
    """What a list brought: new dated prices, other facts of known ones, and how many were known."""

    added: int
    changed: int
    unchanged: int


class _Outcome(Enum):
    ADDED = auto()
    CHANGED = auto()
    UNCHANGED = auto()


@transaction.atomic
def load_list_prices(prices: Sequence[ListedPrice], effective_from: datetime, *, actor: str) -> LoadedPrices:
    """Take over a list that holds from `effective_from` on; loading it again changes nothing.

    A price gets a new dated entry only where it differs from the one in force then, so earlier entries stay as
    the ledger knows them. Other facts (bounds, abilities, the end of a model) are corrected in place. Raises
    IntegrityError for another price at a moment that has one in force.
    """
    known: dict[tuple[str, str], ListPrice] = {}
    for entry in ListPrice.objects.filter(effective_from__lte=effective_from).order_by("effective_from"):
        known[entry.provider, entry.model] = entry
    counts = Counter(
        _load(price, effective_from, known.get((price.provider, price.model)), actor) for price in prices
    )
    return LoadedPrices(*(counts[outcome] for outcome in _Outcome))


def _load(price: ListedPrice, effective_from: datetime, known: ListPrice | None, actor: str) -> _Outcome:
    fields = asdict(price)
    if known is None or (known.effective_from != effective_from and _differ(known, fields, PRICES)):
        added = ListPrice(effective_from=effective_from, **fields)
        added.full_clean()
        added.save()
        record_addition(actor, added)
        return _Outcome.ADDED
    if not _differ(known, fields, tuple(fields)):
        return _Outcome.UNCHANGED
    before = lock_facts(known)
    for name, value in fields.items():
        setattr(known, name, value)
    known.full_clean()
    known.save()
    record_change(actor, known, before)
    return _Outcome.CHANGED


def _differ(entry: ListPrice, fields: dict[str, Any], names: Sequence[str]) -> bool:
    return any(getattr(entry, name) != fields[name] for name in names)
