"""The configuration as a worker serves by it: read in one transaction, immutable, swapped whole."""

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

from django.db import connection, transaction

from billing.models import PriceEntry
from billing.money import Price, nanousd_per_million
from routing.addresses import ForbiddenAddress, check_base_url
from routing.credentials import CredentialError, resolve_credential
from routing.models import Backend, CatalogueModel, Grant, Route
from teams.models import ConfigurationVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A backend as a call needs it. `prices` rise by their start."""

    backend_id: int
    name: str
    provider: str
    base_url: str
    upstream_model: str
    credential: str | None = field(repr=False)
    connect_timeout_s: float
    first_byte_timeout_s: float
    idle_timeout_s: float
    total_timeout_s: float
    prices: tuple[Price, ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of the catalogue with its backends in the order they are tried, and who may use it.

    `is_draining`: it has backends, and each that could serve gets no new calls.
    """

    model_id: int
    name: str
    created_at: datetime
    max_output_tokens: int | None
    targets: tuple[Target, ...]
    granted_teams: frozenset[int]
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a worker needs to route, at one version. `faults` names what had to be left out and why."""

    version: int
    models: dict[str, ServedModel]
    faults: tuple[str, ...] = ()


def read_version() -> int:
    """The configuration's version now: one cheap query."""
    return ConfigurationVersion.objects.values_list("version", flat=True).get(pk=1)


def load_snapshot() -> Snapshot:
    """Read the whole configuration as of one moment."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        version = read_version()
        targets, faults = _load_targets()
        granted: dict[int, set[int]] = defaultdict(set)
        for model_id, team_id in Grant.objects.order_by().values_list("model_id", "team_id"):
            granted[model_id].add(team_id)
        routes: dict[int, list[Target]] = defaultdict(list)
        draining = _list_models_with_draining_backends()
        for model_id, backend_id in Route.objects.order_by("priority", "backend__name").values_list(
            "model_id", "backend_id"
        ):
            if backend_id in targets:
                routes[model_id].append(targets[backend_id])
        models = {
            model.name: ServedModel(
                model_id=model.pk,
                name=model.name,
                created_at=model.created_at,
                max_output_tokens=model.max_output_tokens,
                targets=tuple(routes[model.pk]),
                granted_teams=frozenset(granted[model.pk]),
                is_draining=model.pk in draining and not routes[model.pk],
            )
            for model in CatalogueModel.objects.filter(is_active=True)
        }
    return Snapshot(version, models, tuple(faults))


def _list_models_with_draining_backends() -> set[int]:
    draining = Route.objects.filter(backend__is_active=True, backend__is_draining=True)
    return set(draining.order_by().values_list("model_id", flat=True))


def _load_targets() -> tuple[dict[int, Target], list[str]]:
    prices: dict[int, list[Price]] = defaultdict(list)
    for entry in PriceEntry.objects.order_by("effective_from"):
        prices[entry.backend_id].append(_price(entry))
    targets, faults = {}, []
    for backend in Backend.objects.filter(is_active=True, is_draining=False):
        try:
            targets[backend.pk] = _target(backend, tuple(prices[backend.pk]))
        except (CredentialError, ForbiddenAddress) as error:
            faults.append(f"backend {backend.name}: {error}")
            logger.error("A backend is left out: %s", error, extra={"backend": backend.name})
    return targets, faults


def _target(backend: Backend, prices: tuple[Price, ...]) -> Target:
    check_base_url(backend.base_url)
    encrypted = None if backend.credential_encrypted is None else bytes(backend.credential_encrypted)
    return Target(
        backend_id=backend.pk,
        name=backend.name,
        provider=backend.provider,
        base_url=backend.base_url.rstrip("/"),
        upstream_model=backend.upstream_model,
        credential=resolve_credential(backend.credential_reference, encrypted, backend.base_url),
        connect_timeout_s=backend.connect_timeout_s,
        first_byte_timeout_s=backend.first_byte_timeout_s,
        idle_timeout_s=backend.idle_timeout_s,
        total_timeout_s=backend.total_timeout_s,
        prices=prices,
    )


def _price(entry: PriceEntry) -> Price:
    whole = nanousd_per_million(entry.input_usd_per_million)
    cached, written = entry.cached_input_usd_per_million, entry.cache_write_usd_per_million
    return Price(
        entry_id=entry.pk,
        effective_from=entry.effective_from.astimezone(UTC),
        input=whole,
        cached_input=whole if cached is None else nanousd_per_million(cached),
        cache_write=whole if written is None else nanousd_per_million(written),
        output=nanousd_per_million(entry.output_usd_per_million),
    )
