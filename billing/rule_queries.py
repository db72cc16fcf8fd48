"""Reads limits and budgets for pages."""

from datetime import datetime
from typing import Any

from django.db.models import Model, Q, QuerySet

from billing.admission.books import zone_of
from billing.admission.windows import Period, window_at
from billing.rule_models import OWNERS, Budget, OwnedRule
from teams.models import ApiKey, Application, Department, Team

# What tells whose a rule is, with the owner's department.
OWNER_PATHS = ("department", "team__department", "application__team__department", "api_key__team__department")

Owner = Department | Team | Application | ApiKey


def list_rules_over(kind: type[OwnedRule], target: Owner) -> "QuerySet[Any]":
    """The rules of one kind that count calls of `target`: its own first, then those of what it belongs to."""
    wanted = Q()
    for name, pk in owners_over(target).items():
        wanted |= Q(**{f"{name}_id": pk})
    rows: QuerySet[Any] = kind._default_manager.filter(wanted).select_related(*OWNER_PATHS)
    return rows.order_by(*(f"{name}_id" for name in reversed(OWNERS)), "end_user", "model_id", "pk")


def owners_over(target: Owner) -> dict[str, int]:
    """The fields of a rule's owner that would name `target` or what it belongs to, with the ids."""
    owners: dict[str, int] = {}
    if isinstance(target, ApiKey):
        owners["api_key"] = target.pk
        if target.application_id is not None:
            owners["application"] = target.application_id
    if isinstance(target, Application):
        owners["application"] = target.pk
    if isinstance(target, Application | ApiKey):
        target = target.team
    if isinstance(target, Team):
        owners |= {"team": target.pk, "department": target.department_id}
    if isinstance(target, Department):
        owners["department"] = target.pk
    return owners


def field_of_owner(target: Model) -> str:
    """The field of a rule that would name `target`; empty for what has no rules."""
    names = {Department: "department", Team: "team", Application: "application", ApiKey: "api_key"}
    return names.get(type(target), "")


def tell_window(budget: Budget, moment_s: int) -> str:
    """The window of `moment_s` (seconds since 1970): 2026-09-01 00:00 to 2026-10-01 00:00 Europe/Berlin."""
    zone = zone_of(budget.in_department.time_zone)
    window = window_at(Period(budget.period), zone, moment_s)
    start, end = (
        f"{datetime.fromtimestamp(edge, zone):%Y-%m-%d %H:%M}" for edge in (window.start, window.end)
    )
    return f"{start} to {end} {zone.key}"
