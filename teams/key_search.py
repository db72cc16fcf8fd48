"""Finds keys among very many by what people know of them."""

from django.db.models import Q, QuerySet

from teams.keys import PREFIX
from teams.models import ApiKey, Application, Team

MOST_OWNERS = 500  # teams, and applications, whose keys are taken in; a term that fits more is too short


def find_keys(keys: "QuerySet[ApiKey]", term: str) -> "QuerySet[ApiKey]":
    """Those of `keys` that `term` fits: a hint in full, or part of the name of a key, a team or an application.

    Owners are looked up first, so that each part of the condition is about the keys' own table.
    """
    term = term.strip()[:200]
    if term.startswith(PREFIX):
        return keys.filter(hint=term)
    named = Q(slug__icontains=term) | Q(name__icontains=term)
    teams = Team.objects.filter(named).order_by("pk").values_list("pk", flat=True)[:MOST_OWNERS]
    applications = Application.objects.filter(named).order_by("pk").values_list("pk", flat=True)[:MOST_OWNERS]
    return keys.filter(
        Q(name__icontains=term) | Q(team_id__in=list(teams)) | Q(application_id__in=list(applications))
    )
