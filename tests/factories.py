"""Small factories: each makes committed rows under names of its own, so tests never meet each other's."""

import itertools
import os
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from billing.models import PriceEntry, UsageRecord
from billing.rule_models import Budget, Limit
from outbound.credentials import encrypt_credential
from routing.models import Backend, CatalogueModel, Grant, Route
from teams.models import ApiKey, Application, Department, Team
from teams.services import create_key
from tests.processes import Product, wait_for

_numbers = itertools.count(1)
BACKEND_SECRET = "backend-credential-0123456789"


def unique(word: str) -> str:
    """A name nobody else uses."""
    return f"{word}-{os.getpid()}-{next(_numbers)}"


def make_backend(base_url: str, *, prices: dict[str, str] | None = None, **fields: Any) -> Backend:
    """A backend with a stored credential and, unless `prices` is empty, a price in force."""
    backend = Backend.objects.create(
        name=unique("backend"),
        base_url=base_url,
        upstream_model="upstream-model",
        credential_encrypted=encrypt_credential(BACKEND_SECRET, base_url),
        **fields,
    )
    prices = {"input": "0.15", "cached_input": "0.075", "output": "0.60"} if prices is None else prices
    if prices:
        by_kind = {f"{kind}_usd_per_million": Decimal(value) for kind, value in prices.items()}
        PriceEntry.objects.create(backend=backend, **by_kind)
    return backend


def make_model(*backends: Backend, team: Team | None = None) -> CatalogueModel:
    """A model served by `backends` in their order, granted to `team` if given."""
    model = CatalogueModel.objects.create(name=unique("model"))
    for priority, backend in enumerate(backends, start=1):
        Route.objects.create(model=model, backend=backend, priority=priority)
    if team is not None:
        Grant.objects.create(team=team, model=model)
    return model


def make_team() -> Team:
    """A team in a department of its own."""
    department = Department.objects.create(slug=unique("department"), name="A department")
    return Team.objects.create(department=department, slug=unique("team"), name="A team")


def make_budget(**fields: Any) -> Budget:
    """A hard budget of 100 nano-dollars per month, unless `fields` say otherwise. The owner is among them."""
    return Budget.objects.create(**{"unit": "money", "period": "month", "amount": 100} | fields)


def make_limit(**fields: Any) -> Limit:
    """A limit of 100 requests per minute, unless `fields` say otherwise. The owner is among them."""
    return Limit.objects.create(**{"kind": "rpm", "amount": 100} | fields)


@dataclass(frozen=True)
class Caller:
    """An application with a key, and the one model it may use."""

    team: Team
    application: Application
    key: ApiKey
    secret: str
    model: str
    backend: Backend


def make_caller(base_url: str, product: Product | None = None, **backend_fields: Any) -> Caller:
    """Everything for a first call to the backend at `base_url`, in force on `product` when it returns."""
    team = make_team()
    backend = make_backend(base_url, **backend_fields)
    model = make_model(backend, team=team)
    application = Application.objects.create(team=team, slug="app", name="An application")
    created = create_key(team, "A key", actor="tests", application=application)
    if product is not None:
        product.wait_for_configuration()
    return Caller(team, application, created.key, created.secret, model.name, backend)


def wait_for_record(request_id: str | None) -> UsageRecord:
    """The ledger row of a request, as soon as it is shipped."""
    assert request_id
    record = wait_for(
        lambda: UsageRecord.objects.filter(pk=UUID(request_id)).first(), f"the ledger row of {request_id}"
    )
    assert isinstance(record, UsageRecord)
    return record
