"""Reads of teams and people."""

from collections.abc import Sequence
from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from teams.models import Member, Team


def list_memberships(user: AbstractBaseUser) -> Sequence[Member]:
    """The roles of `user`, each with its department or team."""
    return list(Member.objects.filter(user_id=user.pk).select_related("department", "team"))


def list_granted_models(team: Team) -> list[str]:
    """The names of the active models that `team` may use."""
    grants: Any = team.grants  # of routing, which stands above this app
    return list(
        grants.filter(model__is_active=True).order_by("model__name").values_list("model__name", flat=True)
    )
