"""Cost is exact: hand-worked figures, and properties against rational arithmetic."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import Cost, Price, cost_nanousd, nanousd_per_million, price_at
from billing.usage import MOST_TOKENS, UnusableUsage, Usage

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def price(start: datetime = NOW, **kinds: int) -> Price:
    every: Any = {"input": 0, "cached_input": 0, "cache_write": 0, "output": 0, **kinds}
    return Price(entry_id=1, effective_from=start, **every)


@pytest.mark.parametrize(
    ("tokens", "usd_per_million", "nanousd"),
    [
        (1, "0.15", 150),
        (1_000_000, "0.15", 150_000_000),
        (3, "0.0375", 113),  # 112.5 rounds half up
        (1, "0.0005", 1),  # 0.5 rounds half up
        (1, "0.0004", 0),
        (7, "75", 525_000),
        (2_000_000_000, "150", 300_000_000_000_000),  # $300,000: past where floats print 14 digits
        (0, "15", 0),
    ],
)
def test_hand_worked_costs(tokens: int, usd_per_million: str, nanousd: int) -> None:
    assert cost_nanousd(tokens, nanousd_per_million(Decimal(usd_per_million))) == nanousd


@given(tokens=st.integers(0, MOST_TOKENS), per_million=st.integers(0, 10**15))
def test_rounding_is_half_up_of_the_exact_quotient(tokens: int, per_million: int) -> None:
    exact = Fraction(tokens * per_million, 1_000_000)
    assert cost_nanousd(tokens, per_million) == (exact + Fraction(1, 2)).__floor__()


@given(st.decimals(0, 10**8, places=9))
def test_every_price_the_book_can_hold_is_exact(usd: Decimal) -> None:
    assert Decimal(nanousd_per_million(usd)) == usd.scaleb(9)


def test_a_price_with_ten_decimals_is_refused() -> None:
    with pytest.raises(ValueError, match="nine decimals"):
        nanousd_per_million(Decimal("0.0000000001"))


counts = st.integers(0, 10**6)


@given(
    plain=counts,
    cached=counts,
    written=counts,
    output=counts,
    prices=st.tuples(*[st.integers(0, 10**12)] * 4),
)
def test_each_token_is_priced_once_and_the_total_is_the_sum(
    plain: int, cached: int, written: int, output: int, prices: tuple[int, int, int, int]
) -> None:
    usage = Usage(plain + cached + written, cached, written, output)
    book = price(input=prices[0], cached_input=prices[1], cache_write=prices[2], output=prices[3])
    kinds = [cost_nanousd(*pair) for pair in zip((plain, cached, written, output), prices, strict=True)]
    assert book.cost(usage) == Cost(*kinds)
    assert book.cost(usage).total_nanousd == sum(kinds)


@pytest.mark.parametrize(
    "figures",
    [
        {"input_tokens": -1},
        {"output_tokens": MOST_TOKENS + 1},
        {"input_tokens": 5, "cached_input_tokens": 6},
        {"input_tokens": 5, "cached_input_tokens": 3, "cache_write_tokens": 3},
        {"output_tokens": 5, "reasoning_tokens": 6},
    ],
)
def test_figures_that_cannot_be_true_are_no_usage(figures: dict[str, Any]) -> None:
    with pytest.raises(UnusableUsage):
        Usage(**figures)


def test_the_latest_price_that_has_begun_is_in_force() -> None:
    old, new = price(NOW, input=1), price(NOW + timedelta(days=1), input=2)
    assert price_at((old, new), NOW - timedelta(seconds=1)) is None
    assert price_at((old, new), NOW) is old
    assert price_at((old, new), NOW + timedelta(hours=23)) is old
    assert price_at((old, new), NOW + timedelta(days=1)) is new
