"""Whose a limit or a budget is, in the file: `department`, or `team`, or `team` with `application` or `key`.

A key goes by its name among the team's keys that work or are paused; of a rotated one, the newer is meant. Where
several have the name, the digest tells them apart.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Q
from django.utils import timezone

from billing.rule_models import OWNERS, Budget, Limit, OwnedRule
from billing.rule_queries import OWNER_PATHS
from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import Reference, Text, misfit
from gateway_site.configuration_file.schema import Entry, Field
from gateway_site.configuration_file.yaml_tree import Node
from teams.key_digests import StoredDigest
from teams.keys import PREFIX
from teams.models import ApiKey, Application, Department, Team

IDENTITY = ("department", "team", "application", "key", "end_user", "model")
_ALONE = {(), ("application",), ("key",)}  # what may stand beside a team


class KeyName(Text):
    """A key's name or digest, never the key itself."""

    described = "text"

    def read(self, node: Node) -> str:
        """The text."""
        text = super().read(node)
        if PREFIX in text:
            raise misfit(node.mark, "write the key's name here, never a key or a part of one")
        return text


class EndUser(Text):
    """The name of an end user, or `*`; empty is None."""

    def read(self, node: Node) -> Any:
        """The text, if it can be a name."""
        text = super().read(node)
        try:
            OwnedRule._meta.get_field("end_user").run_validators(text)
        except ValidationError as error:
            raise misfit(node.mark, " ".join(error.messages)) from None
        return text or None


OWNER_FIELDS = (
    Field("department", Reference("departments"), "Whose it is, if it is a department's.", is_nullable=True),
    Field(
        "team",
        Reference("teams"),
        "Whose it is else: the team's, or what the next two say.",
        is_nullable=True,
    ),
    Field("application", Text(), "The team's application.", is_nullable=True),
    Field("key", KeyName(), "Or the team's key, by its name or its digest.", is_nullable=True),
    Field(
        "end_user",
        EndUser(),
        'Empty: the owner as a whole. `"*"`: each of its end users. Else the one of that name.',
        is_nullable=True,
    ),
    Field("model", Reference("models"), "Only calls of this model. Null: of all.", is_nullable=True),
)


def check_owner(entry: Entry) -> Iterator[Fault]:
    """Exactly one owner (the database checks it too)."""
    given = tuple(name for name in IDENTITY[:4] if entry.values.get(name) is not None)
    is_one = given == ("department",) or (given[:1] == ("team",) and given[1:] in _ALONE)
    if not is_one:
        yield entry.fault(
            "one owner is needed: a department; or a team; or a team with one of its applications, or with one of "
            "its keys",
            given[0] if given else "",
        )


def tell_owner(values: Mapping[str, Any]) -> str:
    """For people: team a, application b, end user *, model c."""
    told = []
    for name in IDENTITY:
        if (value := values.get(name)) is not None:
            told.append(f"{name.replace('_', ' ')} {'by its digest' if _is_digest(value) else value}")
    return ", ".join(told)


def find_owner(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a rule for what the file names. Raises ValidationError with the file's names of fields."""
    fields: dict[str, Any] = {"end_user": values.get("end_user") or "", "model_id": values.get("model")}
    if (slug := values.get("department")) is not None:
        return fields | {"department": _get(Department.objects.filter(slug=slug), "department", slug)}
    team = _get(Team.objects.filter(slug=values["team"]), "team", values["team"])
    if (slug := values.get("application")) is not None:
        found = Application.objects.filter(team=team, slug=slug)
        return fields | {"application": _get(found, "application", f"{team.slug}/{slug}")}
    if (name := values.get("key")) is not None:
        return fields | {"api_key": _find_key(team, name)}
    return fields | {"team": team}


def place_of(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """Whose a rule with these fields is, and which calls it counts: as `place_of_rule` says it of a stored one."""
    owners = (getattr(fields.get(name), "pk", None) for name in OWNERS)
    return *owners, fields["end_user"], fields["model_id"]


def place_of_rule(rule: OwnedRule) -> tuple[Any, ...]:
    """See `place_of`."""
    return *(getattr(rule, f"{name}_id") for name in OWNERS), rule.end_user, rule.model_id


def find_places(entries: Sequence[Entry]) -> Iterator[tuple[Entry, tuple[Any, ...]]]:
    """The entries whose owner is there, and where their rules would be."""
    for entry in entries:
        if next(iter(check_owner(entry)), None) is not None:
            continue  # told as a fault
        try:
            yield entry, place_of(find_owner(entry.values))
        except ValidationError:  # it comes with this file, or is missing and will be told then
            continue


class StoredRules:
    """The rules of one kind that an export holds: not those of keys that have ended."""

    def __init__(self, kind: type[Limit] | type[Budget]) -> None:
        self._kind: Any = kind

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """Each rule, with its owner's fields as the file has them; by level, then by name."""
        of_living = Q(api_key=None) | Q(api_key__in=_living(ApiKey.objects.all()))
        rules = self._kind.objects.filter(of_living).select_related(*OWNER_PATHS)
        order = ["department__slug", "team__slug", "application__team__slug", "application__slug"]
        order += ["api_key__team__slug", "api_key__name", "api_key_id", "end_user", "model_id", "pk"]
        for rule in rules.order_by(*order).iterator(chunk_size=2000):
            yield self._read(rule), rule

    def _read(self, rule: Any) -> dict[str, Any]:
        team = rule.team or getattr(rule.application or rule.api_key, "team", None)
        return {
            "department": rule.department.slug if rule.department else None,
            "team": team.slug if team else None,
            "application": rule.application.slug if rule.application else None,
            "key": self._name(rule.api_key) if rule.api_key else None,
            "end_user": rule.end_user or None,
            "model": rule.model_id,
        }

    def _name(self, key: ApiKey) -> str:
        return str(StoredDigest.of(key)) if self._names[key.team_id, key.name] > 1 else key.name

    @cached_property
    def _names(self) -> Counter[tuple[int, str]]:
        """How many living keys have each name that a key with a rule has."""
        with_rules = self._kind.objects.exclude(api_key=None).values("api_key__name")
        keys = _living(ApiKey.objects.filter(name__in=with_rules)).order_by()
        return Counter(keys.values_list("team_id", "name"))


def faults_by_file_names(error: ValidationError, names: Mapping[str, str]) -> ValidationError:
    """The same with the file's names of fields; what is of no field of the file is of the whole entry."""
    if not hasattr(error, "error_dict"):
        return error
    told: dict[str, Iterable[str]] = {
        names.get(name, name): messages for name, messages in error.message_dict.items()
    }
    return ValidationError({name: list(messages) for name, messages in told.items()})


def _living(keys: Any) -> Any:
    return keys.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None)


def _is_digest(text: str) -> bool:
    try:
        StoredDigest.parse(text)
    except ValueError:
        return False
    return True


def _find_key(team: Team, name: str) -> ApiKey:
    if _is_digest(name):
        keys = list(_living(team.api_keys.filter(digest=StoredDigest.parse(name).digest)))
        name = "of that digest"
    else:
        keys = list(_living(team.api_keys.filter(name=name, replacement=None))[:2])
    if len(keys) == 1:
        return keys[0]  # type: ignore[no-any-return]
    if keys:
        raise ValidationError(
            {"key": f"The team {team.slug} has several keys {name}: give each a name, or write the digest."}
        )
    raise ValidationError({"key": f"The team {team.slug} has no key {name} that works or is paused."})


def _get(rows: Any, field: str, name: str) -> Any:
    found = rows.first()
    if found is None:
        raise ValidationError({field: f"There is no {field} {name}."})
    return found
