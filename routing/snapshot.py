"""The configuration as a worker serves by it: read in one transaction, immutable, swapped whole."""

import logging
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from django.db import connection, transaction

from billing.admission.books import NO_BOOKS, Books, read_books
from billing.models import ListPrice, PriceEntry
from billing.money import Price, nanousd_per_million, price_at
from guards.book import NO_GUARDS, GuardBook, read_guards
from outbound.addresses import ForbiddenAddress
from outbound.breaker import USUAL, Rule
from outbound.connection import USUAL_REST, Rest
from outbound.credentials import CredentialError
from routing.health.quota import NO_QUOTA, Quota
from routing.models import Backend, CatalogueModel, ContentRoute, Fallback, Grant, ModelAlias, Route
from teams.models import ConfigurationVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entra:
    """Where a backend's credential is a client's secret: the client that signs in at Microsoft Entra ID."""

    tenant: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Target:
    """A backend as a call needs it. `prices` are its own, `list_prices` its provider's; both rise by their start."""

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
    longest_trip_s: int = 0
    breaker_rules: tuple[Rule, ...] = USUAL
    tags: frozenset[str] = frozenset()
    region: str = ""
    quality: int = 0
    quota: Quota = NO_QUOTA
    check_every_s: int = 0
    rest: Rest = USUAL_REST
    api_version: str = ""
    passes_responses: bool = False
    entra: Entra | None = None
    list_prices: tuple[Price, ...] = ()

    def price_at(self, moment: datetime) -> Price | None:
        """The price in force at `moment`: its own, else the list's, else None."""
        return price_at(self.prices, moment) or price_at(self.list_prices, moment)


@dataclass(frozen=True, slots=True)
class Member:
    """A backend among those that serve a model with the same priority."""

    target: Target
    weight: int


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of the catalogue with its backends in groups, in the order they are used, and who may use it.

    An alias is served like a model of its own; `alias_of` is the model's name then. `is_draining`: it has backends,
    and each that could serve gets no new calls.
    """

    model_id: int
    name: str
    created_at: datetime
    max_output_tokens: int | None
    strategy: str
    groups: tuple[tuple[Member, ...], ...]
    targets: tuple[Target, ...]  # all of them
    granted_teams: frozenset[int]
    alias_of: str = ""
    is_draining: bool = False
    quality_floor: int = 0
    content_routes: dict[str, str] = field(default_factory=dict)  # names of models, by what they suit
    fallbacks: tuple[tuple[str, str], ...] = ()  # cause and name, in their order

    @property
    def catalogue_name(self) -> str:
        """The name in the catalogue, also of an alias."""
        return self.alias_of or self.name

    def only(self, targets: Collection[Target]) -> "ServedModel":
        """The same, served by these of its backends."""
        kept = {target.backend_id for target in targets}
        groups = (tuple(m for m in group if m.target.backend_id in kept) for group in self.groups)
        left = tuple(target for target in self.targets if target.backend_id in kept)
        return replace(self, groups=tuple(group for group in groups if group), targets=left)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A backend that no call can use; the reason is for administrators."""

    backend: str
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a worker needs to route and to admit, at one version: models by name and by alias.

    `rule_books` holds, by department id, the rules of each department that has any, and the epoch of its counters.
    """

    version: int
    models: dict[str, ServedModel]
    left_out: tuple[LeftOut, ...] = ()
    rule_books: Books = NO_BOOKS
    guards: GuardBook = NO_GUARDS


def read_version() -> int:
    """The configuration's version now: one cheap query."""
    return ConfigurationVersion.objects.values_list("version", flat=True).get(pk=1)


def load_snapshot(known: Books = NO_BOOKS) -> Snapshot:
    """Read the whole configuration as of one moment. Rule books that did not change are those of `known`."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        version = read_version()
        rule_books, guard_book = read_books(known), read_guards()
        targets, left_out = _load_targets()
        granted: dict[int, set[int]] = defaultdict(set)
        for model_id, team_id in Grant.objects.order_by().values_list("model_id", "team_id"):
            granted[model_id].add(team_id)
        routes: dict[int, dict[int, list[Member]]] = defaultdict(lambda: defaultdict(list))
        fallbacks: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for model_id, cause, name in Fallback.objects.order_by("position", "pk").values_list(
            "model_id", "cause", "to__name"
        ):
            fallbacks[model_id].append((cause, name))
        content_routes: dict[int, dict[str, str]] = defaultdict(dict)
        for model_id, suit, name in ContentRoute.objects.order_by().values_list(
            "model_id", "suit", "to__name"
        ):
            content_routes[model_id][suit] = name
        draining = _list_models_with_draining_backends()
        for model_id, backend_id, priority, weight in Route.objects.order_by(
            "priority", "backend__name"
        ).values_list("model_id", "backend_id", "priority", "weight"):
            if backend_id in targets:
                routes[model_id][priority].append(Member(targets[backend_id], weight))
        models = {
            model.name: ServedModel(
                model_id=model.pk,
                name=model.name,
                created_at=model.created_at,
                max_output_tokens=model.max_output_tokens,
                strategy=model.strategy,
                quality_floor=model.quality_floor,
                content_routes=content_routes[model.pk],
                groups=tuple(tuple(group) for group in routes[model.pk].values()),
                targets=tuple(member.target for group in routes[model.pk].values() for member in group),
                granted_teams=frozenset(granted[model.pk]),
                is_draining=model.pk in draining and not routes[model.pk],
                fallbacks=tuple(fallbacks[model.pk]),
            )
            for model in CatalogueModel.objects.filter(is_active=True)
        }
        for alias, name in ModelAlias.objects.order_by().values_list("name", "model__name"):
            if name in models:
                models[alias] = replace(models[name], name=alias, alias_of=name)
    return Snapshot(version, models, tuple(left_out), rule_books, guard_book)


def _list_models_with_draining_backends() -> set[int]:
    draining = Route.objects.filter(backend__is_active=True, backend__is_draining=True)
    return set(draining.order_by().values_list("model_id", flat=True))


def _load_targets() -> tuple[dict[int, Target], list[LeftOut]]:
    prices: dict[int, list[Price]] = defaultdict(list)
    for entry in PriceEntry.objects.order_by("effective_from"):
        prices[entry.backend_id].append(_price(entry))
    serving = Backend.objects.filter(is_active=True, is_draining=False)
    backends = list(serving.prefetch_related("breaker_rules"))
    listed = _load_list_prices(backends)
    targets, left_out = {}, []
    for backend in backends:
        try:
            list_prices = tuple(listed[backend.list_price_provider, backend.listed_model])
            targets[backend.pk] = _target(backend, tuple(prices[backend.pk]), list_prices)
        except (CredentialError, ForbiddenAddress) as error:
            left_out.append(LeftOut(backend.name, str(error)))
            logger.error("A backend is left out: %s", error, extra={"backend": backend.name})
    return targets, left_out


def _load_list_prices(backends: list[Backend]) -> dict[tuple[str, str], list[Price]]:
    """By provider and model, those that `backends` name."""
    named = {(backend.list_price_provider, backend.listed_model) for backend in backends}
    listed: dict[tuple[str, str], list[Price]] = defaultdict(list)
    known = ListPrice.objects.filter(
        provider__in={provider for provider, _ in named},
        model__in={model for _, model in named},
    )
    for entry in known.order_by("effective_from"):
        listed[entry.provider, entry.model].append(_price(entry))
    return listed


def _target(backend: Backend, prices: tuple[Price, ...], list_prices: tuple[Price, ...]) -> Target:
    return Target(
        backend_id=backend.pk,
        name=backend.name,
        provider=backend.provider,
        base_url=backend.base_url.rstrip("/"),
        upstream_model=backend.upstream_model,
        credential=backend.resolve(),
        connect_timeout_s=backend.connect_timeout_s,
        first_byte_timeout_s=backend.first_byte_timeout_s,
        idle_timeout_s=backend.idle_timeout_s,
        total_timeout_s=backend.total_timeout_s,
        prices=prices,
        longest_trip_s=backend.longest_trip_s,
        breaker_rules=_rules(backend),
        tags=frozenset(backend.tags),
        region=backend.region,
        check_every_s=backend.check_every_s,
        rest=Rest(backend.keep_alive_s, backend.most_idle),
        quality=backend.quality,
        quota=Quota(backend.most_calls or 0, backend.tokens_per_minute or 0, backend.adapts),
        api_version=backend.api_version,
        passes_responses=backend.passes_responses,
        entra=Entra(backend.entra_tenant, backend.entra_client_id) if backend.entra_tenant else None,
        list_prices=list_prices,
    )


def _rules(backend: Backend) -> tuple[Rule, ...]:
    rules = sorted(backend.breaker_rules.all(), key=lambda rule: rule.name)
    return tuple(rule.to_rule() for rule in rules) or USUAL


def _price(entry: PriceEntry | ListPrice) -> Price:
    whole = nanousd_per_million(entry.input_usd_per_million)
    cached, written = entry.cached_input_usd_per_million, entry.cache_write_usd_per_million
    return Price(
        entry_id=entry.pk,
        effective_from=entry.effective_from.astimezone(UTC),
        input=whole,
        cached_input=whole if cached is None else nanousd_per_million(cached),
        cache_write=whole if written is None else nanousd_per_million(written),
        output=nanousd_per_million(entry.output_usd_per_million),
        is_list=isinstance(entry, ListPrice),
    )
