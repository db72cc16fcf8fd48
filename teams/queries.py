"""Reads of teams and people."""

from collections.abc import Sequence

from django.contrib.auth.models import AbstractBaseUser

from teams.models import Member


def list_memberships(user: AbstractBaseUser) -> Sequence[Member]:
    """The roles of `user`, each with its department or team."""
    return list(Member.objects.filter(user_id=user.pk).select_related("department", "team"))
