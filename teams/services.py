"""Writes to teams and keys; each with its administrative event in one transaction."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from audit.services import record_event
from teams.keys import Peppers, generate_key, hint_of, is_well_formed
from teams.models import ApiKey, Application, Team

DEFAULT_KEY_LIFE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key's row, and its secret: the only time it can be seen."""

    key: ApiKey
    secret: str = field(repr=False)


@transaction.atomic
def create_key(
    team: Team,
    name: str,
    *,
    actor: str,
    application: Application | None = None,
    expires_at: datetime | None = None,
    never_expires: bool = False,
    secret: str | None = None,
) -> CreatedKey:
    """Make a key for `team`; it expires after 90 days unless told otherwise.

    `secret`: a well-formed key made elsewhere, for automation; normally one is generated here.
    """
    if expires_at is not None and expires_at <= timezone.now():
        raise ValidationError({"expires_at": "This moment has passed."})
    secret, peppers = secret or generate_key(), Peppers.parse(settings.GATEWAY_KEY_PEPPERS)
    if not is_well_formed(secret):
        raise ValidationError("The given key is not well formed.")
    key = ApiKey(
        team=team,
        application=application,
        name=name,
        digest=peppers.digest(secret, peppers.current),
        pepper_version=peppers.current,
        hint=hint_of(secret),
        created_by=actor,
        expires_at=None if never_expires else expires_at or timezone.now() + DEFAULT_KEY_LIFE,
    )
    key.full_clean(exclude=["digest"])
    key.save()
    record_event(actor, "key.create", key, after={"team": team.slug, "name": name, "hint": key.hint})
    return CreatedKey(key, secret)


@transaction.atomic
def revoke_key(key: ApiKey, *, actor: str) -> bool:
    """End a key for good. Returns False when it was revoked before."""
    now = timezone.now()
    if not ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now):
        return False
    key.revoked_at = now
    record_event(actor, "key.revoke", key, before={"revoked_at": None}, after={"revoked_at": now.isoformat()})
    return True


def deactivate_team(team: Team, *, actor: str) -> bool:
    """Refuse a team's keys from now on. Returns False when they were refused already."""
    return _set_active(team, False, "team.deactivate", actor)


def activate_team(team: Team, *, actor: str) -> bool:
    """Let a team's keys work again. Returns False when the team was active."""
    return _set_active(team, True, "team.activate", actor)


@transaction.atomic
def _set_active(team: Team, is_active: bool, action: str, actor: str) -> bool:
    if not Team.objects.filter(pk=team.pk, is_active=not is_active).update(is_active=is_active):
        return False
    team.is_active = is_active
    record_event(actor, action, team, before={"is_active": not is_active}, after={"is_active": is_active})
    return True
