"""Writes to teams and keys; each with its administrative event in one transaction."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from audit.services import record_event
from teams.announcements import announce_key_change
from teams.key_digests import StoredDigest, is_of_this_installation
from teams.keys import Peppers, generate_key, hint_of, is_well_formed
from teams.models import ApiKey, Application, KeyState, Team

DEFAULT_KEY_LIFE = timedelta(days=90)
LONGEST_OVERLAP = timedelta(days=7)
CHANGEABLE = ("name", "application", "expires_at", "scopes", "allowed_models", "ip_ranges", "required_tags")


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
    scopes: Iterable[str] = (),
    allowed_models: Iterable[str] = (),
    ip_ranges: Iterable[str] = (),
    required_tags: Iterable[str] = (),
) -> CreatedKey:
    """Make a key for `team`; it expires after 90 days unless told otherwise.

    `secret`: a well-formed key made elsewhere, for automation; normally one is generated here. Raises
    ValidationError, with the field's name where it is one field's fault.
    """
    if expires_at is not None and never_expires:
        raise ValidationError({"expires_at": "Give a moment or choose never, not both."})
    _refuse_past(expires_at)
    key = ApiKey(
        team=team,
        application=application,
        name=name,
        scopes=list(scopes),
        allowed_models=list(allowed_models),
        ip_ranges=list(ip_ranges),
        required_tags=list(required_tags),
        created_by=actor,
        expires_at=None if never_expires else expires_at or timezone.now() + DEFAULT_KEY_LIFE,
    )
    return _store_new(key, secret or generate_key(), actor)


@transaction.atomic
def adopt_key(
    team: Team,
    name: str,
    *,
    actor: str,
    digest: StoredDigest,
    hint: str,
    application: Application | None = None,
    expires_at: datetime | None = None,
    never_expires: bool = False,
    scopes: Iterable[str] = (),
    allowed_models: Iterable[str] = (),
    ip_ranges: Iterable[str] = (),
    required_tags: Iterable[str] = (),
) -> ApiKey:
    """Make a key whose secret is not known here, by the digest under a pepper of this installation.

    The rest is as for `create_key`. Raises ValidationError.
    """
    if not is_of_this_installation(digest):
        raise ValidationError({"digest": "It was made with a pepper that is not in GATEWAY_KEY_PEPPERS."})
    _refuse_past(expires_at)
    key = ApiKey(
        team=team,
        application=application,
        name=name,
        digest=digest.digest,
        pepper_version=digest.version,
        hint=hint,
        scopes=list(scopes),
        allowed_models=list(allowed_models),
        ip_ranges=list(ip_ranges),
        required_tags=list(required_tags),
        created_by=actor,
        expires_at=None if never_expires else expires_at or timezone.now() + DEFAULT_KEY_LIFE,
    )
    _save_new(key, actor)
    return key


@transaction.atomic
def change_key(key: ApiKey, *, actor: str, **fields: Any) -> bool:
    """Change some of `CHANGEABLE`; returns whether anything differs now.

    Others that were changed meanwhile stay as they are. A key that has ended can only be renamed: it does not
    come back by a later expiry. Raises ValidationError.
    """
    if unknown := fields.keys() - set(CHANGEABLE):
        raise TypeError(f"not a changeable field of a key: {', '.join(sorted(unknown))}")
    stored = _lock(key)
    before = _describe(stored)
    if fields.keys() - {"name"}:
        _refuse_ended(stored)
    if fields.get("expires_at") != stored.expires_at:
        _refuse_past(fields.get("expires_at"))
    for name, value in fields.items():
        setattr(stored, name, value)
    stored.full_clean(exclude=["digest"])
    after = _describe(stored)
    changed = [name for name in after if after[name] != before[name]]
    if changed:
        stored.save(update_fields=changed)
        old, new = ({name: facts[name] for name in changed} for facts in (before, after))
        _record(actor, "key.change", stored, before=old, after=new)
    key.refresh_from_db()
    return bool(changed)


@transaction.atomic
def pause_key(key: ApiKey, *, actor: str) -> bool:
    """Refuse the key until it is resumed. Returns False when it was paused before; a key that has ended raises
    ValidationError."""
    return _switch_pause(key, actor, "key.pause", Q(paused_at=None), timezone.now())


@transaction.atomic
def resume_key(key: ApiKey, *, actor: str) -> bool:
    """Accept a paused key again. Returns False when it was not paused; a key that has ended raises
    ValidationError."""
    return _switch_pause(key, actor, "key.resume", Q(paused_at__isnull=False), None)


@transaction.atomic
def revoke_key(key: ApiKey, *, actor: str, reason: str = "") -> bool:
    """End a key for good. Returns False when it was revoked before. Raises ValidationError for a long reason."""
    now, reason = timezone.now(), ApiKey._meta.get_field("revoked_reason").clean(reason.strip(), key)
    if not _claim(key, Q(revoked_at=None), revoked_at=now, revoked_reason=reason):
        return False
    after = {"revoked_at": now.isoformat(), "reason": reason}
    _record(actor, "key.revoke", key, before={"revoked_at": None}, after=after)
    return True


@transaction.atomic
def rotate_key(key: ApiKey, *, actor: str, overlap: timedelta) -> CreatedKey:
    """Make a key with the same rights and the same length of life; the old one ends after `overlap` (0 h to 7 d).

    What is paused stays paused, so that nobody gets round a pause. Raises ValidationError when the key has
    ended, or has a replacement already: then that one is to be rotated.
    """
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise ValidationError({"overlap": f"Choose from 0 hours to {LONGEST_OVERLAP.days} days."})
    old, now = _lock(key), timezone.now()
    _refuse_ended(old)
    if ApiKey.objects.filter(replaces=old).exists():
        raise ValidationError("This key has been rotated already; rotate the key that replaced it.")
    new = ApiKey(
        **{name: getattr(old, name) for name in ("team", *CHANGEABLE, "paused_at")},
        replaces=old,
        created_by=actor,
    )
    new.expires_at = None if old.expires_at is None else now + (old.expires_at - old.created_at)
    created = _store_new(new, generate_key(), actor)
    _end_after(old, now + overlap, new, actor)
    key.refresh_from_db()
    return created


def _end_after(old: ApiKey, end: datetime, new: ApiKey, actor: str) -> None:
    """Let `old` expire at `end`, or when it would have anyway if that is sooner."""
    before = _describe(old)["expires_at"]
    old.expires_at = end if old.expires_at is None else min(end, old.expires_at)
    old.save(update_fields=["expires_at"])
    after = {"expires_at": old.expires_at.isoformat(), "replacement": str(new)}
    _record(actor, "key.rotate", old, before={"expires_at": before}, after=after)


def _store_new(key: ApiKey, secret: str, actor: str) -> CreatedKey:
    peppers = Peppers.parse(settings.GATEWAY_KEY_PEPPERS)
    if not is_well_formed(secret):
        raise ValidationError({"secret": "The given key is not well formed."})
    if ApiKey.objects.filter(digest__in=peppers.digests(secret)).exists():
        raise _secret_in_use()
    key.digest, key.pepper_version = peppers.digest(secret, peppers.current), peppers.current
    key.hint = hint_of(secret)
    _save_new(key, actor)
    return CreatedKey(key, secret)


def _save_new(key: ApiKey, actor: str) -> None:
    key.full_clean(exclude=["digest"])
    try:
        with transaction.atomic():
            key.save()
    except IntegrityError as error:
        if ApiKey.objects.filter(digest=key.digest).exists():  # by somebody else, since we looked
            raise _secret_in_use() from error
        raise
    facts = {"team": key.team.slug, "hint": key.hint, **_describe(key)}
    if key.replaces is not None:
        facts["replaces"] = str(key.replaces)
    _record(actor, "key.create", key, after=facts)


def _record(actor: str, action: str, key: ApiKey, **facts: dict[str, Any]) -> None:
    """Append the event and announce the change, both with the transaction."""
    record_event(actor, action, key, **facts)
    announce_key_change()


def _secret_in_use() -> ValidationError:
    return ValidationError({"secret": "The given key is in use already; generate another one."})


def _switch_pause(key: ApiKey, actor: str, action: str, when: Q, paused_at: datetime | None) -> bool:
    lives = Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))
    if not _claim(key, when & lives, paused_at=paused_at):
        key.refresh_from_db()
        _refuse_ended(key)
        return False
    _record(actor, action, key, after={"paused_at": paused_at.isoformat() if paused_at else None})
    return True


def _claim(key: ApiKey, when: Q, **changes: Any) -> bool:
    """Change the key's row if it is still as expected; one row changed: the change is ours."""
    if not ApiKey.objects.filter(when, pk=key.pk).update(**changes):
        return False
    for name, value in changes.items():
        setattr(key, name, value)
    return True


def _lock(key: ApiKey) -> ApiKey:
    """The stored row, which nobody else can change until the transaction ends."""
    return ApiKey.objects.select_for_update(of=("self",)).get(pk=key.pk)


def _refuse_ended(key: ApiKey) -> None:
    state = key.state_at(timezone.now())
    if state in (KeyState.REVOKED, KeyState.EXPIRED):
        raise ValidationError(f"This key is {state.label.lower()}, and that is final. Make a new one.")


def _refuse_past(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= timezone.now():
        raise ValidationError({"expires_at": "This moment has passed."})


def _describe(key: ApiKey) -> dict[str, Any]:
    """The changeable fields as the trail tells them."""
    facts = {name: getattr(key, name) for name in CHANGEABLE}
    facts["application"] = key.application.slug if key.application else None
    facts["expires_at"] = key.expires_at.isoformat() if key.expires_at else None
    return facts
