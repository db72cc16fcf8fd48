"""Other names of models: served, listed, granted and recorded; and the list price in the ledger."""

import threading
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from billing.models import ListPrice
from routing.models import CatalogueModel, ModelAlias
from routing.snapshot import load_snapshot
from tests.factories import Caller, make_caller, make_model, make_team, unique, wait_for_record
from tests.processes import Product, Simulator


@pytest.fixture
def caller(product: Product, simulator: Simulator) -> Caller:
    return make_caller(simulator.base_url, product)


def add_alias(model: str, product: Product) -> str:
    alias = ModelAlias.objects.create(name=unique("alias"), model=CatalogueModel.objects.get(name=model))
    product.wait_for_configuration()
    return alias.name


def call(product: Product, caller: Caller, model: str) -> httpx.Response:
    return httpx.post(
        f"{product.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {caller.secret}"},
        json={"model": model, "messages": [{"role": "user", "content": "hello"}]},
    )


def test_a_call_by_alias_is_served_and_recorded_under_both_names(product: Product, caller: Caller) -> None:
    alias = add_alias(caller.model, product)
    for name, recorded_alias in ((alias, alias), (caller.model, None)):
        response = call(product, caller, name)
        assert response.status_code == 200
        record = wait_for_record(response.headers["x-request-id"])
        assert (record.model, record.model_alias) == (caller.model, recorded_alias)


def test_aliases_are_listed_beside_their_models(product: Product, caller: Caller) -> None:
    alias = add_alias(caller.model, product)
    response = httpx.get(f"{product.base_url}/models", headers={"Authorization": f"Bearer {caller.secret}"})
    assert {model["id"] for model in response.json()["data"]} == {caller.model, alias}


def test_an_alias_grants_nothing(product: Product, caller: Caller) -> None:
    other = make_model(caller.backend, team=make_team())
    alias = add_alias(other.name, product)
    assert call(product, caller, alias).status_code == 403


def test_a_removed_alias_is_unknown(product: Product, caller: Caller) -> None:
    alias = add_alias(caller.model, product)
    ModelAlias.objects.filter(name=alias).delete()
    product.wait_for_configuration()
    assert call(product, caller, alias).status_code == 404


def test_an_alias_of_an_inactive_model_is_unknown() -> None:
    model = CatalogueModel.objects.create(name=unique("model"), is_active=False)
    alias = ModelAlias.objects.create(name=unique("alias"), model=model)
    assert not {model.name, alias.name} & set(load_snapshot().models)


def test_the_ledger_says_that_the_list_priced_a_call(product: Product, simulator: Simulator) -> None:
    price = ListPrice.objects.create(
        provider=unique("provider"),
        model="upstream-model",
        effective_from=datetime(2026, 11, 1, tzinfo=UTC),
        mode="chat",
        input_usd_per_million=Decimal(1),
        output_usd_per_million=Decimal(2),
    )
    caller = make_caller(simulator.base_url, product, prices={}, list_price_provider=price.provider)
    response = call(product, caller, caller.model)
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.price_entry_id, record.list_price_id) == (None, price.pk)
    assert record.cost_nanousd == 1000 * record.input_tokens + 2000 * record.output_tokens > 0


class TestNames:
    """No name means two models, whoever writes."""

    def test_an_alias_cannot_take_a_models_name(self) -> None:
        model = make_model()
        with pytest.raises(IntegrityError, match="taken by another"), transaction.atomic():
            ModelAlias.objects.create(name=make_model().name, model=model)

    def test_a_model_cannot_take_an_aliass_name(self) -> None:
        alias = ModelAlias.objects.create(name=unique("alias"), model=make_model())
        with pytest.raises(IntegrityError, match="taken by another"), transaction.atomic():
            CatalogueModel.objects.create(name=alias.name)

    def test_renaming_cannot_either(self) -> None:
        alias, model = ModelAlias.objects.create(name=unique("alias"), model=make_model()), make_model()
        for rows, name in (
            (CatalogueModel.objects.filter(pk=model.pk), alias.name),
            (ModelAlias.objects.filter(pk=alias.pk), model.name),
        ):
            with pytest.raises(IntegrityError, match="taken by another"), transaction.atomic():
                rows.update(name=name)

    def test_two_models_cannot_share_an_alias(self) -> None:
        alias = ModelAlias.objects.create(name=unique("alias"), model=make_model())
        with pytest.raises(IntegrityError), transaction.atomic():
            ModelAlias.objects.create(name=alias.name, model=make_model())

    @pytest.mark.parametrize("name", ["", "-a", "a b", "ä", "a" * 129])
    def test_an_alias_has_the_form_of_a_name(self, name: str) -> None:
        with pytest.raises(Exception, match=r"modelalias_name_form|too long"), transaction.atomic():
            ModelAlias.objects.create(name=name, model=make_model())

    def test_forms_say_it_before_the_database_does(self) -> None:
        alias, model = ModelAlias.objects.create(name=unique("alias"), model=make_model()), make_model()
        with pytest.raises(ValidationError, match="is an alias already"):
            CatalogueModel(name=alias.name).full_clean()
        with pytest.raises(ValidationError, match="is a model already"):
            ModelAlias(name=model.name, model=model).full_clean()

    def test_of_two_transactions_that_take_one_name_the_second_is_refused(self) -> None:
        name, model = unique("contested"), make_model()
        refused: list[Exception] = []

        def take_as_alias() -> None:
            try:
                ModelAlias.objects.create(name=name, model=model)
            except IntegrityError as error:
                refused.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=take_as_alias)
        with transaction.atomic():
            CatalogueModel.objects.create(name=name)
            thread.start()
            thread.join(0.3)
            assert thread.is_alive(), "the second must wait until the first is decided"
        thread.join(20)
        assert len(refused) == 1
