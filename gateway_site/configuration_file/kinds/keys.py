"""API keys. A key is recognised by its digest, which the file holds or which follows from a value given in it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import timezone

from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import (
    Flag,
    ListOf,
    MomentOrNever,
    OneOf,
    Reference,
    Secret,
    Text,
    misfit,
)
from gateway_site.configuration_file.kinds.base import Difference, Kind, Row
from gateway_site.configuration_file.schema import Entry, Field, Identity
from gateway_site.configuration_file.yaml_tree import Node
from teams.key_digests import StoredDigest, digest_secret, is_of_this_installation
from teams.key_rules import Endpoint, parse_network
from teams.keys import PREFIX, Peppers, hint_of, is_well_formed
from teams.models import ApiKey, Application, KeyState, Team
from teams.services import adopt_key, change_key, pause_key, resume_key, revoke_key

_CHANGEABLE = ("name", "application", "expires_at", "scopes", "allowed_models", "ip_ranges", "required_tags")


class IpRange(Text):
    """An address range in CIDR form; a single address is one too."""

    described = "an address range"

    def read(self, node: Node) -> str:
        """As it is stored."""
        text = super().read(node)
        try:
            return str(parse_network(text))
        except ValueError as error:
            raise misfit(node.mark, str(error)) from None


class Hint(Text):
    """A key's prefix and last four characters: never more of it."""

    described = "a hint"

    def read(self, node: Node) -> str:
        """The text itself."""
        text = super().read(node)
        if not re.match(rf"\A{PREFIX}\.\.\.[0-9A-Za-z]{{4}}\Z", text):
            raise misfit(node.mark, f"a hint such as {PREFIX}...AbC1 is expected here")
        return text


class Keys(Kind):
    """Keys of teams, without their secrets."""

    section = "keys"
    noun = "key"
    identity = ("digest",)
    may_be_absent = False
    why_never_absent = "a key is not removed, for the ledger names it; write is_revoked: true"
    fields = (
        Field("team", Reference("teams"), "Whose key it is; it stays with that team.", is_needed=True),
        Field("name", Text(), "Its name for people.", is_needed=True),
        Field(
            "secret",
            Secret(),
            "The key itself, made elsewhere in the form of a key. Only its digest is stored.",
            is_exported=False,
        ),
        Field("digest", Text(), "Instead of the secret: the digest that an export wrote."),
        Field("hint", Hint(), "With a digest: what may be shown of the key."),
        Field("application", Text(), "The team's application that it belongs to.", is_nullable=True),
        Field("expires_at", MomentOrNever(), "When it ends. Of a new key not given: after 90 days."),
        Field("scopes", ListOf(OneOf(Endpoint.values)), "Endpoints it may call. Empty: all."),
        Field("allowed_models", ListOf(Text()), "Models it may use. Empty: all that the team is granted."),
        Field("ip_ranges", ListOf(IpRange()), "Where it may be used from, as CIDR. Empty: anywhere."),
        Field("required_tags", ListOf(Text()), "Its calls only go to backends that have all of these."),
        Field("is_paused", Flag(), "`true`: it is refused until it is resumed."),
        Field("is_revoked", Flag(), "`true`: it is ended for good.", is_exported=False),
    )

    def identify(self, values: Mapping[str, Any]) -> Identity:
        """By the digest under the pepper that new keys use. Raises ValueError."""
        secret, digest = values.get("secret"), values.get("digest")
        if (secret is None) == (digest is None):
            raise ValueError("a key needs its secret or its digest, and not both")
        if secret is None:
            return (StoredDigest.parse(str(digest)).digest,)
        if not is_well_formed(secret):
            raise ValueError("secret: this is not a well-formed key")
        return (digest_secret(secret).digest,)

    def tell(self, identity: Identity, values: Mapping[str, Any]) -> str:
        """By its name and team; never by its digest."""
        return (
            " / ".join(str(values[name]) for name in ("team", "name") if name in values) or "without a name"
        )

    def rows(self, entries: Sequence[Entry]) -> dict[Identity, Row]:
        """The keys that the entries are about: there may be very many others."""
        wanted = {digest: entry.identity for entry in entries for digest in _digests(entry)}
        found = _keys().filter(digest__in=list(wanted))
        return {wanted[bytes(key.digest)]: Row(key, _read(key)) for key in found}

    def all_rows(self) -> Iterator[Row]:
        """Those that work or are paused: what has ended is history."""
        now = timezone.now()
        for key in _keys().order_by("team__slug", "name", "id").iterator(chunk_size=2000):
            if key.state_at(now) in (KeyState.ACTIVE, KeyState.PAUSED):
                yield Row(key, _read(key))

    def check(self, entry: Entry, row: Row | None) -> Iterator[Fault]:
        """What the stored key, and what a new one, cannot be."""
        return self._check_stored(entry, row) if row else self._check_new(entry)

    def _check_stored(self, entry: Entry, row: Row) -> Iterator[Fault]:
        if entry.values.get("team", row.values["team"]) != row.values["team"]:
            yield entry.fault(f"this is a key of the team {row.values['team']}, and stays so", "team")
        if entry.values.get("is_revoked") is False and row.target.revoked_at is not None:
            yield entry.fault("this key is revoked, and that is final", "is_revoked")

    def _check_new(self, entry: Entry) -> Iterator[Fault]:
        if "digest" not in entry.values or _has_ended(entry):
            return
        if "hint" not in entry.values:
            yield entry.fault("a new key with a digest needs its hint")
        if not is_of_this_installation(StoredDigest.parse(entry.values["digest"])):
            yield entry.fault(
                "this key was made with a pepper that GATEWAY_KEY_PEPPERS does not have, so it could never work "
                "here; take it out of the file, or give the pepper",
                "digest",
            )

    def compare(self, entry: Entry, row: Row) -> dict[str, Difference]:
        """What has ended is left as it is, but for being revoked; so is the end that a rotation set."""
        if entry.values.get("is_revoked"):
            return {} if row.target.revoked_at is not None else {"is_revoked": (False, True)}
        if _ended_as(row.target) is not None:
            return {}
        names = {*_CHANGEABLE, "is_paused"} - ({"expires_at"} if _is_replaced(row.target) else set())
        return {
            name: (row.values[name], value)
            for name, value in entry.values.items()
            if name in names and row.values[name] != value
        }

    def describe_new(self, entry: Entry) -> dict[str, Any]:
        """Without the digest, which tells people nothing."""
        told = super().describe_new(entry)
        return {name: value for name, value in told.items() if name not in {"digest", "hint", "team", "name"}}

    def notes(self, entry: Entry, row: Row | None) -> Iterable[str]:
        """Keys that an old file still has."""
        name = self.tell(entry.identity, entry.values)
        if row is None:
            if _has_ended(entry):
                yield f"the key {name} has ended and is not made"
        elif (end := _ended_as(row.target)) is not None and not entry.values.get("is_revoked"):
            yield f"the key {name} is {end} and stays so"
        elif (
            _is_replaced(row.target)
            and entry.values.get("expires_at", row.target.expires_at) != row.target.expires_at
        ):
            yield f"the key {name} was rotated, and ends as the rotation said"

    def is_left_out(self, entry: Entry) -> bool:
        """What has ended is not made anew."""
        return _has_ended(entry)

    def add(self, entry: Entry, actor: str) -> None:
        """By the service, which records it."""
        values = entry.values
        team = Team.objects.get(slug=values["team"])
        expires_at: datetime | None = values.get("expires_at")
        key = adopt_key(
            team,
            values["name"],
            actor=actor,
            digest=_digest(entry),
            hint=hint_of(values["secret"]) if "secret" in values else values["hint"],
            application=_application(team, values.get("application")),
            expires_at=expires_at,
            never_expires="expires_at" in values and expires_at is None,
            scopes=values.get("scopes", ()),
            allowed_models=values.get("allowed_models", ()),
            ip_ranges=values.get("ip_ranges", ()),
            required_tags=values.get("required_tags", ()),
        )
        if values.get("is_paused"):
            pause_key(key, actor=actor)

    def change(self, entry: Entry, row: Row, names: Sequence[str], actor: str) -> None:
        """By the services, which record it."""
        key, values = row.target, entry.values
        if "is_revoked" in names:
            revoke_key(key, actor=actor)
            return
        fields = {name: values[name] for name in names if name in _CHANGEABLE}
        if "application" in fields:
            fields["application"] = _application(key.team, fields["application"])
        if fields:
            change_key(key, actor=actor, **fields)
        if "is_paused" in names:
            (pause_key if values["is_paused"] else resume_key)(key, actor=actor)


def _keys() -> Any:
    return ApiKey.objects.select_related("team", "application", "replacement")


def _is_replaced(key: ApiKey) -> bool:
    return hasattr(key, "replacement")


def _ended_as(key: ApiKey) -> str | None:
    """The word for how it ended; None while it has not."""
    state = key.state_at(timezone.now())
    return str(state.label.lower()) if state in (KeyState.REVOKED, KeyState.EXPIRED) else None


def _digest(entry: Entry) -> StoredDigest:
    if (secret := entry.values.get("secret")) is not None:
        return digest_secret(secret)
    return StoredDigest.parse(entry.values["digest"])


def _digests(entry: Entry) -> list[bytes]:
    """Every digest that the entry's key may be stored under."""
    if (secret := entry.values.get("secret")) is not None:
        return Peppers.parse(settings.GATEWAY_KEY_PEPPERS).digests(secret)
    return [StoredDigest.parse(entry.values["digest"]).digest]


def _read(key: ApiKey) -> dict[str, Any]:
    return {
        "team": key.team.slug,
        "name": key.name,
        "digest": str(StoredDigest.of(key)),
        "hint": key.hint,
        "application": key.application.slug if key.application else None,
        "expires_at": key.expires_at,
        "scopes": sorted(key.scopes),
        "allowed_models": sorted(key.allowed_models),
        "ip_ranges": sorted(key.ip_ranges),
        "required_tags": sorted(key.required_tags),
        "is_paused": key.paused_at is not None,
    }


def _application(team: Team, slug: str | None) -> Application | None:
    if slug is None:
        return None
    application = Application.objects.filter(team=team, slug=slug).first()
    if application is None:
        raise ValidationError({"application": f"The team {team.slug} has no application {slug}."})
    return application


def _has_ended(entry: Entry) -> bool:
    expires_at = entry.values.get("expires_at")
    return bool(entry.values.get("is_revoked")) or (expires_at is not None and expires_at <= timezone.now())
