"""The list of what providers ask publicly, as a CSV file: read whole, with every fault named by its line.

The list that comes with the product holds list prices of common models, November 2026.
"""

import csv
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from billing.models import Mode

SHIPPED_LIST = Path(__file__).parent / "data" / "list_prices.csv"
SHIPPED_FROM = datetime(2026, 11, 1, tzinfo=UTC)

# Some lists tell a provider's older API as a provider of its own; `mode` says the same.
_PROVIDERS = {"text-completion-openai": "openai"}
_MOST_USD = Decimal(1_000_000_000)


class PriceListError(ValueError):
    """The list cannot be loaded; the message has one fault a line, each with its line number."""


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """One row: the fields of ListPrice but for its date, in the same names."""

    provider: str
    model: str
    mode: str
    input_usd_per_million: Decimal
    cached_input_usd_per_million: Decimal | None
    cache_write_usd_per_million: Decimal | None
    output_usd_per_million: Decimal
    max_input_tokens: int | None
    max_output_tokens: int | None
    vision: bool
    tools: bool
    deprecation_date: date | None


@dataclass(frozen=True, slots=True)
class PriceList:
    """The rows with a price, and the models of those without: an empty cell is unknown, never zero."""

    prices: tuple[ListedPrice, ...]
    unpriced: tuple[str, ...]


def read_price_list(text: str) -> PriceList:
    """The list in `text`: CSV with the columns of ListedPrice. Raises PriceListError."""
    rows = csv.DictReader(text.splitlines())
    missing = {field.name for field in fields(ListedPrice)} - set(rows.fieldnames or ())
    if missing:
        raise PriceListError(f"line 1: the columns {', '.join(sorted(missing))} are missing")
    prices, unpriced, faults, seen = [], [], [], set()
    for row in rows:
        try:
            price = _read_row(row)
        except ValueError as error:
            faults.append(f"line {rows.line_num}: {error}")
            continue
        if price is None:
            unpriced.append(row["model"])
        elif (price.provider, price.model) in seen:
            faults.append(f"line {rows.line_num}: {price.provider}/{price.model} is there twice")
        else:
            seen.add((price.provider, price.model))
            prices.append(price)
    if faults:
        raise PriceListError("\n".join(faults))
    return PriceList(tuple(prices), tuple(unpriced))


def _read_row(row: dict[str, str]) -> ListedPrice | None:
    if None in row or None in row.values():
        raise ValueError("another number of cells than of columns")
    given = row["provider"].strip()
    model = row["model"].strip().removeprefix(f"{given}/")
    if not given or not model or len(given) > 64 or len(model) > 128:
        raise ValueError("provider and model must be given, in at most 64 and 128 characters")
    if row["mode"] not in Mode.values:
        raise ValueError(f"mode is {row['mode']!r}, not one of {', '.join(Mode.values)}")
    whole, output = _usd(row, "input_usd_per_million"), _usd(row, "output_usd_per_million")
    if whole is None or output is None:
        return None
    return ListedPrice(
        provider=_PROVIDERS.get(given, given),
        model=model,
        mode=row["mode"],
        input_usd_per_million=whole,
        cached_input_usd_per_million=_usd(row, "cached_input_usd_per_million"),
        cache_write_usd_per_million=_usd(row, "cache_write_usd_per_million"),
        output_usd_per_million=output,
        max_input_tokens=_count(row, "max_input_tokens"),
        max_output_tokens=_count(row, "max_output_tokens"),
        vision=_flag(row, "vision"),
        tools=_flag(row, "tools"),
        deprecation_date=_date(row, "deprecation_date"),
    )


def _usd(row: dict[str, str], column: str) -> Decimal | None:
    if not (cell := row[column].strip()):
        return None
    try:
        usd = Decimal(cell)
    except InvalidOperation:
        raise ValueError(f"{column} is {cell!r}, not a number") from None
    if not usd.is_finite() or not 0 <= usd < _MOST_USD or usd != round(usd, 9):
        raise ValueError(
            f"{column} is {cell}: a price is from 0 to below a billion, with at most nine decimals"
        )
    return usd


def _count(row: dict[str, str], column: str) -> int | None:
    cell = row[column].strip()
    if not cell:
        return None
    if not (cell.isascii() and cell.isdecimal() and 0 < int(cell) < 2**31):
        raise ValueError(f"{column} is {cell!r}, not a whole number above 0")
    return int(cell)


def _flag(row: dict[str, str], column: str) -> bool:
    if row[column] not in {"0", "1"}:
        raise ValueError(f"{column} is {row[column]!r}, not 0 or 1")
    return row[column] == "1"


def _date(row: dict[str, str], column: str) -> date | None:
    try:
        return date.fromisoformat(row[column]) if row[column] else None
    except ValueError:
        raise ValueError(f"{column} is {row[column]!r}, not a date such as 2026-12-31") from None
