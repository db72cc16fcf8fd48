"""Deactivating a team: its keys are refused, nothing is deleted; each change with its event in one transaction."""

from django.db import transaction

from audit.services import record_event
from teams.announcements import announce_key_change
from teams.models import Team


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
    announce_key_change()
    return True
