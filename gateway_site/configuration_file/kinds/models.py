"""Models of the catalogue, with their aliases and the teams that may use them."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.exceptions import ValidationError

from audit.admin_trail import record_addition
from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import Flag, ListOf, OneOf, Reference, Text, Whole
from gateway_site.configuration_file.kinds.base import Row, RowKind
from gateway_site.configuration_file.removal import remove_with_trail
from gateway_site.configuration_file.schema import Entry, Field
from routing.models import CatalogueModel, Grant, ModelAlias, Strategy
from teams.models import Team

_LISTS = ("aliases", "granted_teams")


class Models(RowKind):
    """The catalogue. Aliases and grants are rows of their own, written last, with events of their own."""

    section = "models"
    noun = "model"
    model = CatalogueModel
    identity = ("name",)
    fields = (
        Field("name", Text(), "What applications ask for."),
        Field("description", Text(), "For people."),
        Field("is_active", Flag(), "`false`: it is unknown to every caller."),
        Field(
            "max_output_tokens",
            Whole(),
            "The longest answer that may be asked for. Null: as the gateway allows.",
            is_nullable=True,
        ),
        Field(
            "strategy",
            OneOf(Strategy.values),
            "How backends of the same priority share its calls. A new one has `weighted`.",
        ),
        Field(
            "quality_floor",
            Whole(),
            "Backends of a lower quality are only called where none of at least this can be. A new one has 0.",
        ),
        Field("aliases", ListOf(Text()), "All its other names: those not in the list are removed."),
        Field(
            "granted_teams",
            ListOf(Reference("teams")),
            "All teams that may use it: from those not in the list the grant is withdrawn.",
        ),
    )

    def queryset(self) -> Any:
        """With both lists."""
        return super().queryset().prefetch_related("aliases", "grants__team")

    def read(self, target: CatalogueModel) -> dict[str, Any]:
        """With both lists."""
        return {
            "name": target.name,
            "description": target.description,
            "is_active": target.is_active,
            "max_output_tokens": target.max_output_tokens,
            "strategy": target.strategy,
            "quality_floor": target.quality_floor,
            "aliases": sorted(alias.name for alias in target.aliases.all()),
            "granted_teams": sorted(grant.team.slug for grant in target.grants.all()),
        }

    def check(self, entry: Entry, row: Row | None) -> Iterator[Fault]:
        """A model's own name is no alias of it."""
        if entry.values["name"] in entry.values.get("aliases", ()):
            yield entry.fault("aliases: the model's own name is not an alias", "aliases")

    def add(self, entry: Entry, actor: str) -> None:
        """The row; `settle` does the rest."""
        target = CatalogueModel()
        self.assign(target, {name: value for name, value in entry.values.items() if name not in _LISTS})
        target.full_clean()
        target.save()
        record_addition(actor, target)

    def change(self, entry: Entry, row: Row, names: Sequence[str], actor: str) -> None:
        """The row; `release` and `settle` do the rest."""
        if own := [name for name in names if name not in _LISTS]:
            super().change(entry, row, own, actor)

    def release(self, entry: Entry, row: Row, actor: str) -> None:
        """Remove what is not in the lists any more: another model may take an alias then."""
        keeps = {} if entry.is_absent else entry.values
        for alias in row.target.aliases.all():
            if entry.is_absent or ("aliases" in keeps and alias.name not in keeps["aliases"]):
                remove_with_trail(alias, actor)
        for grant in row.target.grants.all():
            if "granted_teams" in keeps and grant.team.slug not in keeps["granted_teams"]:
                remove_with_trail(grant, actor)

    def settle(self, entry: Entry, actor: str) -> None:
        """Add what is new in the lists."""
        target = CatalogueModel.objects.get(name=entry.values["name"])
        aliases = set(entry.values.get("aliases", ())) - set(target.aliases.values_list("name", flat=True))
        for name in sorted(aliases):
            _save_new(ModelAlias(name=name, model=target), "aliases", actor)
        given = set(entry.values.get("granted_teams", ()))
        for slug in sorted(given - set(target.grants.values_list("team__slug", flat=True))):
            _save_new(Grant(team=Team.objects.get(slug=slug), model=target), "granted_teams", actor)


def _save_new(target: ModelAlias | Grant, field: str, actor: str) -> None:
    try:
        target.full_clean()
    except ValidationError as error:
        raise ValidationError({field: f"{_value(target)}: {' '.join(error.messages)}"}) from None
    target.save()
    record_addition(actor, target)


def _value(target: ModelAlias | Grant) -> str:
    return target.name if isinstance(target, ModelAlias) else target.team.slug
