"""List prices: read exactly, loaded once, kept as the ledger knows them, and used where a backend says so."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, transaction
from django.utils import timezone

from audit.models import AdminEvent
from billing.models import ListPrice, PriceEntry
from billing.money import price_at
from billing.price_list import SHIPPED_LIST, PriceListError, read_price_list
from billing.services import load_list_prices
from routing.models import Backend
from routing.snapshot import Target, load_snapshot
from tests.factories import make_backend, make_model, make_team, unique

HEADER = SHIPPED_LIST.read_text().splitlines()[0]
START = datetime(2026, 11, 1, tzinfo=UTC)


def row(**cells: str) -> str:
    """One line of a list, with `cells` in place of a usual model's."""
    usual = {
        "model": "m",
        "provider": "p",
        "mode": "chat",
        "input_usd_per_million": "1",
        "output_usd_per_million": "2",
        "vision": "0",
        "tools": "1",
    }
    values = usual | cells
    return ",".join(values.get(column, "") for column in HEADER.split(","))


def a_list(*rows: str) -> str:
    return "\n".join([HEADER, *rows])


@pytest.fixture
def undone() -> Iterator[None]:
    """What the test does to the database is rolled back."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


class TestReading:
    def test_the_shipped_list_is_whole_and_fully_priced(self) -> None:
        listed = read_price_list(SHIPPED_LIST.read_text())
        assert len(listed.prices) == 251
        assert listed.unpriced == ()

    def test_prices_are_exact(self) -> None:
        (price,) = read_price_list(a_list(row(input_usd_per_million="0.123456789"))).prices
        assert price.input_usd_per_million == Decimal("0.123456789")

    def test_an_empty_price_is_unknown_and_never_zero(self) -> None:
        listed = read_price_list(a_list(row(model="a", output_usd_per_million=""), row(model="b")))
        assert [price.model for price in listed.prices] == ["b"]
        assert listed.unpriced == ("a",)
        assert listed.prices[0].cached_input_usd_per_million is None

    def test_a_zero_is_a_price(self) -> None:
        (price,) = read_price_list(a_list(row(output_usd_per_million="0.0", mode="embedding"))).prices
        assert price.output_usd_per_million == 0

    @pytest.mark.parametrize(
        ("provider", "model", "expected"),
        [
            ("azure", "azure/gpt-4o", ("azure", "gpt-4o")),
            ("text-completion-openai", "davinci-002", ("openai", "davinci-002")),
            ("anthropic", "claude", ("anthropic", "claude")),
        ],
    )
    def test_models_are_named_as_their_provider_names_them(
        self, provider: str, model: str, expected: tuple[str, str]
    ) -> None:
        (price,) = read_price_list(a_list(row(provider=provider, model=model))).prices
        assert (price.provider, price.model) == expected

    @pytest.mark.parametrize(
        ("cells", "fault"),
        [
            ({"input_usd_per_million": "free"}, "input_usd_per_million is 'free'"),
            ({"input_usd_per_million": "-1"}, "a price is from 0"),
            ({"input_usd_per_million": "NaN"}, "a price is from 0"),
            ({"input_usd_per_million": "1e12"}, "a price is from 0"),
            ({"output_usd_per_million": "0.0000000001"}, "nine decimals"),
            ({"mode": "telepathy"}, "mode is 'telepathy'"),
            ({"vision": "yes"}, "vision is 'yes'"),
            ({"max_input_tokens": "0"}, "whole number above 0"),
            ({"max_input_tokens": "9" * 12}, "whole number above 0"),
            ({"max_output_tokens": "1.5"}, "whole number above 0"),
            ({"deprecation_date": "soon"}, "deprecation_date is 'soon'"),
            ({"model": ""}, "must be given"),
            ({"model": "m" * 129}, "at most 64 and 128"),
            ({"tools": "1,1"}, "another number of cells"),
        ],
    )
    def test_a_fault_is_named_by_its_line(self, cells: dict[str, str], fault: str) -> None:
        with pytest.raises(PriceListError, match=fault) as refused:
            read_price_list(a_list(row(model="fine"), row(**cells)))
        assert str(refused.value).startswith("line 3: ")

    def test_all_faults_are_told_at_once(self) -> None:
        with pytest.raises(PriceListError) as refused:
            read_price_list(a_list(row(mode="x"), row(), row(), row(tools="")))
        assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == [
            "line 2",
            "line 4",
            "line 5",
        ]

    def test_a_missing_column_is_named(self) -> None:
        with pytest.raises(PriceListError, match="vision are missing"):
            read_price_list(HEADER.replace(",vision", ""))


class TestLoading:
    def load(self, text: str, moment: datetime = START) -> tuple[int, int, int]:
        done = load_list_prices(read_price_list(text).prices, moment, actor="tests")
        return done.added, done.changed, done.unchanged

    @pytest.mark.usefixtures("undone")
    def test_loading_again_changes_nothing(self) -> None:
        text = a_list(row(provider=unique("p")), row(provider=unique("p")))
        assert self.load(text) == (2, 0, 0)
        events = AdminEvent.objects.count()
        assert self.load(text) == (0, 0, 2)
        assert AdminEvent.objects.count() == events

    @pytest.mark.usefixtures("undone")
    def test_a_new_price_is_a_new_entry_and_the_old_one_stays(self) -> None:
        provider, later = unique("p"), START + timedelta(days=9)
        self.load(a_list(row(provider=provider)))
        assert self.load(a_list(row(provider=provider, input_usd_per_million="3")), later) == (1, 0, 0)
        entries = ListPrice.objects.filter(provider=provider).order_by("effective_from")
        assert [entry.input_usd_per_million for entry in entries] == [1, 3]

    @pytest.mark.usefixtures("undone")
    def test_the_same_price_at_a_later_date_needs_no_entry(self) -> None:
        text = a_list(row(provider=unique("p")))
        self.load(text)
        assert self.load(text, START + timedelta(days=9)) == (0, 0, 1)

    @pytest.mark.usefixtures("undone")
    def test_other_facts_are_corrected_with_an_event(self) -> None:
        provider = unique("p")
        self.load(a_list(row(provider=provider)))
        assert self.load(a_list(row(provider=provider, deprecation_date="2027-01-31"))) == (0, 1, 0)
        event = AdminEvent.objects.filter(object_type="billing.listprice").latest("id")
        assert (event.actor, event.before, event.after) == (
            "tests",
            {"deprecation_date": None},
            {"deprecation_date": "2027-01-31"},
        )

    def test_a_past_price_is_not_changed(self) -> None:
        provider = unique("p")
        self.load(a_list(row(provider=provider)))
        with pytest.raises(IntegrityError, match="add a later one"):
            self.load(a_list(row(provider=provider, input_usd_per_million="3")))

    def test_the_command_loads_the_shipped_list_once(self) -> None:
        call_command("load_prices", stdout=StringIO())
        out = StringIO()
        call_command("load_prices", stdout=out)
        assert out.getvalue() == "Added: 0. Changed: 0. Unchanged: 251.\n"
        price = ListPrice.objects.get(provider="anthropic", model="claude-opus-5-5")
        assert (price.input_usd_per_million, price.cache_write_usd_per_million) == (Decimal(4), Decimal(5))
        assert (price.max_input_tokens, price.vision, price.mode) == (1_000_000, True, "chat")

    def test_the_command_says_what_it_left_out(self, tmp_path: Path) -> None:
        file, out = tmp_path / "list.csv", StringIO()
        file.write_text(a_list(row(model="of-unknown-price", input_usd_per_million="")))
        call_command("load_prices", str(file), effective_from="2026-11-02", stdout=out)
        assert "Left out, for their price is unknown: of-unknown-price." in out.getvalue()

    @pytest.mark.parametrize(
        ("content", "options", "refusal"),
        [
            (a_list(row(mode="x")), {"effective_from": "2026-11-02"}, "line 2: mode is 'x'"),
            (a_list(row()), {}, "Say from when"),
            (a_list(row()), {"effective_from": "soon"}, "no date or moment"),
            (None, {"effective_from": "2026-11-02"}, "cannot be read"),
            ("\0\xff", {"effective_from": "2026-11-02"}, "are missing"),
        ],
    )
    def test_the_command_refuses_clearly(
        self, tmp_path: Path, content: str | None, options: dict[str, str], refusal: str
    ) -> None:
        file = tmp_path / "list.csv"
        if content is not None:
            file.write_text(content)
        with pytest.raises(CommandError, match=refusal):
            call_command("load_prices", str(file), **options)

    def test_the_command_refuses_other_prices_for_the_past(self, tmp_path: Path) -> None:
        file, provider = tmp_path / "list.csv", unique("p")
        for usd in ("1", "3"):
            file.write_text(a_list(row(provider=provider, input_usd_per_million=usd)))
            if usd == "3":
                with pytest.raises(CommandError, match="later --effective-from"):
                    call_command("load_prices", str(file), effective_from="2026-11-02")
            else:
                call_command("load_prices", str(file), effective_from="2026-11-02", stdout=StringIO())
        assert ListPrice.objects.get(provider=provider).input_usd_per_million == 1


class TestConstraints:
    FIELDS = {
        "provider": "p",
        "model": "m",
        "mode": "chat",
        "effective_from": START,
        "input_usd_per_million": Decimal(1),
        "output_usd_per_million": Decimal(1),
    }

    @pytest.mark.parametrize(
        "wrong",
        [
            {"input_usd_per_million": Decimal(-1)},
            {"output_usd_per_million": Decimal(-1)},
            {"cached_input_usd_per_million": Decimal(-1)},
            {"cache_write_usd_per_million": Decimal(-1)},
            {"input_usd_per_million": None},
            {"output_usd_per_million": None},
            {"mode": "x"},
            {"provider": ""},
            {"model": ""},
            {"max_input_tokens": 0},
            {"max_output_tokens": 0},
        ],
    )
    def test_the_database_refuses(self, wrong: dict[str, object]) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            ListPrice.objects.create(**{**self.FIELDS, **wrong})

    @pytest.mark.usefixtures("undone")
    def test_one_entry_at_a_time(self) -> None:
        fields = self.FIELDS | {"provider": unique("p")}
        ListPrice.objects.create(**fields)
        with pytest.raises(IntegrityError), transaction.atomic():
            ListPrice.objects.create(**fields)

    def test_own_prices_in_force_are_neither_changed_nor_deleted(self) -> None:
        price = PriceEntry.objects.get(backend=make_backend("https://prices.example/v1"))
        for write in (
            lambda: PriceEntry.objects.filter(pk=price.pk).update(input_usd_per_million=9),
            lambda: PriceEntry.objects.filter(pk=price.pk).update(effective_from=START),
            price.delete,
        ):
            with pytest.raises(IntegrityError, match="add a later one"), transaction.atomic():
                write()

    def test_coming_prices_may_still_be_changed(self) -> None:
        backend = make_backend("https://prices.example/v1", prices={})
        price = PriceEntry.objects.create(
            backend=backend,
            effective_from=timezone.now() + timedelta(days=1),
            input_usd_per_million=Decimal(1),
            output_usd_per_million=Decimal(1),
        )
        assert PriceEntry.objects.filter(pk=price.pk).update(input_usd_per_million=9) == 1
        assert price.delete()[0] == 1


class TestUse:
    def target(self, **fields: str) -> Target:
        backend = make_backend("https://prices.example/v1", **fields)  # type: ignore[arg-type]
        model = make_model(backend, team=make_team())
        return load_snapshot().models[model.name].targets[0]

    def provider(self) -> str:
        provider = unique("p")
        text = a_list(row(provider=provider, model="upstream-model"), row(provider=provider, model="other"))
        load_list_prices(read_price_list(text).prices, START, actor="tests")
        return provider

    def test_a_backend_without_own_price_takes_the_lists(self) -> None:
        price = self.target(prices={}, list_price_provider=self.provider()).price_at(timezone.now())  # type: ignore[arg-type]
        assert price is not None
        assert price.is_list
        assert (price.input, price.cached_input, price.output) == (10**9, 10**9, 2 * 10**9)

    def test_its_own_price_wins(self) -> None:
        price = self.target(list_price_provider=self.provider()).price_at(timezone.now())
        assert price is not None
        assert not price.is_list
        assert price.input == 150_000_000

    def test_before_its_own_price_begins_the_list_holds(self) -> None:
        target = self.target(list_price_provider=self.provider())
        price = target.price_at(START)
        assert price is not None
        assert price.is_list
        assert price_at(target.prices, START) is None

    def test_nothing_is_priced_by_the_list_unasked(self) -> None:
        self.provider()
        assert self.target(prices={}).price_at(timezone.now()) is None  # type: ignore[arg-type]

    def test_before_the_list_begins_there_is_no_price(self) -> None:
        target = self.target(prices={}, list_price_provider=self.provider())  # type: ignore[arg-type]
        assert target.price_at(START - timedelta(seconds=1)) is None

    def test_a_backend_may_be_listed_under_another_name(self) -> None:
        fields = {"list_price_provider": self.provider(), "list_price_model": "other"}
        assert self.target(prices={}, **fields).price_at(timezone.now()) is not None  # type: ignore[arg-type]

    def test_a_name_that_is_not_in_the_list_is_refused(self) -> None:
        backend = Backend(
            name=unique("backend"),
            base_url="https://prices.example/v1",
            upstream_model="nobody-knows-it",
            list_price_provider="openai",
        )
        with pytest.raises(ValidationError, match="no price of openai/nobody-knows-it"):
            backend.full_clean()

    def test_a_model_of_the_list_needs_its_provider(self) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            Backend.objects.create(
                name=unique("backend"), base_url="https://a.example", upstream_model="m", list_price_model="x"
            )
