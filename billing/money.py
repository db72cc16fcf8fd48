"""Prices and cost, in integers only.

Money is an integer number of nano-dollars (1e-9 USD). A price of D dollars per million tokens is kept as
D * 1e9 nano-dollars per million tokens, exact because the price book holds at most nine decimals. Each token
kind's cost is rounded half up once; a record's cost is the sum of its kinds.
"""

import re
from datetime import datetime
from decimal import Decimal

import msgspec

from billing.usage import Usage

NANOUSD_PER_USD = 1_000_000_000
_TOKENS_PER_PRICE = 1_000_000


def nanousd_per_million(usd_per_million: Decimal) -> int:
    """The price book's figure as an exact integer. Raises ValueError when it has more than nine decimals."""
    scaled = usd_per_million * NANOUSD_PER_USD
    if scaled != (whole := int(scaled)):
        raise ValueError(f"{usd_per_million} USD has more than nine decimals")
    return whole


def cost_nanousd(tokens: int, price_nanousd_per_million: int) -> int:
    """tokens * price, rounded half up to a whole nano-dollar. Neither may be negative."""
    return (2 * tokens * price_nanousd_per_million + _TOKENS_PER_PRICE) // (2 * _TOKENS_PER_PRICE)


def decimal_usd(nanousd: int) -> str:
    """Nano-dollars as a plain decimal number of US dollars for machines: 1234 is 0.000001234."""
    whole, rest = divmod(abs(nanousd), NANOUSD_PER_USD)
    return f"{'-' if nanousd < 0 else ''}{whole}.{rest:09d}"


def short_usd(nanousd: int, separator: str = ",") -> str:
    """Nano-dollars, not negative, as US dollars for people: at least two decimals, and no further zeros: 1,234.50.

    Without a separator, as people type them.
    """
    whole, rest = divmod(nanousd, NANOUSD_PER_USD)
    return f"{whole:,}.{f'{rest:09d}'.rstrip('0'):0<2}".replace(",", separator)


def parse_usd(text: str) -> int:
    """US dollars as people type them, such as 12.50, in nano-dollars.

    Raises ValueError for anything but digits with at most nine decimals: no sign, exponent or separator.
    """
    if not re.match(r"\A[0-9]{1,10}(\.[0-9]{1,9})?\Z", text):
        raise ValueError(f"{text!r} is not an amount such as 12.50, with at most nine decimals")
    return int(Decimal(text).scaleb(9))


def format_nanousd(nanousd: int) -> str:
    """Nano-dollars as US dollars with all nine decimals, by integer arithmetic: 1234 is $0.000001234."""
    whole, rest = divmod(abs(nanousd), NANOUSD_PER_USD)
    return f"{'-' if nanousd < 0 else ''}${whole:,}.{rest:09d}"


class Cost(msgspec.Struct, frozen=True):
    """What one request cost, by token kind, in nano-dollars."""

    input_nanousd: int = 0
    cached_input_nanousd: int = 0
    cache_write_nanousd: int = 0
    output_nanousd: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.input_nanousd + other.input_nanousd,
            self.cached_input_nanousd + other.cached_input_nanousd,
            self.cache_write_nanousd + other.cache_write_nanousd,
            self.output_nanousd + other.output_nanousd,
        )

    @property
    def total_nanousd(self) -> int:
        """The sum of the kinds: what the ledger charges."""
        return self.input_nanousd + self.cached_input_nanousd + self.cache_write_nanousd + self.output_nanousd


FREE = Cost()


class Price(msgspec.Struct, frozen=True):
    """One dated price, in nano-dollars per million tokens: a backend's own, or one of the list."""

    entry_id: int
    effective_from: datetime
    input: int
    cached_input: int
    cache_write: int
    output: int
    is_list: bool = False

    def cost(self, usage: Usage) -> Cost:
        """The cost of `usage`: every input token is priced once, by its kind."""
        return Cost(
            input_nanousd=cost_nanousd(usage.plain_input_tokens, self.input),
            cached_input_nanousd=cost_nanousd(usage.cached_input_tokens, self.cached_input),
            cache_write_nanousd=cost_nanousd(usage.cache_write_tokens, self.cache_write),
            output_nanousd=cost_nanousd(usage.output_tokens, self.output),
        )


def price_at(prices: tuple[Price, ...], moment: datetime) -> Price | None:
    """The entry in force at `moment`, from `prices` in rising order of their start; None when there is none."""
    for price in reversed(prices):
        if price.effective_from <= moment:
            return price
    return None
