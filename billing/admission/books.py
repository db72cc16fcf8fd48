"""Reads the rules of a department out of the database."""

from collections.abc import Iterable
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Q
from django.db.models.functions import Coalesce

from billing.admission.rules import Budget, Limit, Owner, Rate, Rule, RuleBook, Scope, Unit
from billing.admission.windows import Period
from billing.rule_models import Budget as BudgetRow
from billing.rule_models import DepartmentEpoch
from billing.rule_models import Limit as LimitRow
from teams.models import Team


class UnknownDepartment(LookupError):
    """There is no such department, or it was deleted."""


def read_book(department_id: int) -> RuleBook:
    """The rules of a department, its time zone and its epoch. Run it in one snapshot of the database.

    Raises UnknownDepartment.
    """
    epoch = DepartmentEpoch.objects.select_related("department").filter(pk=department_id).first()
    if epoch is None:
        raise UnknownDepartment(department_id)
    teams = Team.objects.filter(department_id=department_id).order_by()
    return RuleBook(
        department_id=department_id,
        epoch=epoch.n,
        zone=ZoneInfo(epoch.department.time_zone),
        rules=tuple(_read_rules(department_id)),
        team_ids=frozenset(teams.values_list("pk", flat=True)),
    )


def list_ruled_departments() -> list[int]:
    """The departments that have a limit or a budget, on whatever level."""
    owner = Coalesce(
        "department_id",
        "team__department_id",
        "application__team__department_id",
        "api_key__team__department_id",
    )
    found: set[int] = set()
    for table in (LimitRow, BudgetRow):
        found.update(table._default_manager.order_by().values_list(owner, flat=True).distinct())
    return sorted(found)


def _read_rules(department_id: int) -> Iterable[Rule]:
    mine = (
        Q(department_id=department_id)
        | Q(team__department_id=department_id)
        | Q(application__team__department_id=department_id)
        | Q(api_key__team__department_id=department_id)
    )
    owners = ("department", "team", "application", "api_key")
    for limit in LimitRow.objects.filter(mine).select_related(*owners):
        yield Limit(limit.pk, _owner(limit), Rate(limit.kind), limit.amount, limit.end_user, limit.model)
    for budget in BudgetRow.objects.filter(mine).select_related(*owners):
        yield Budget(
            id=budget.pk,
            owner=_owner(budget),
            unit=Unit(budget.unit),
            period=Period(budget.period),
            amount=budget.amount,
            is_hard=budget.is_hard,
            end_user=budget.end_user,
            model=budget.model,
        )


def _owner(row: Any) -> Owner:
    if row.department is not None:
        return Owner(Scope.DEPARTMENT, row.department_id, row.department.slug)
    if row.team is not None:
        return Owner(Scope.TEAM, row.team_id, row.team.slug)
    if row.application is not None:
        return Owner(Scope.APPLICATION, row.application_id, row.application.slug)
    return Owner(Scope.KEY, row.api_key_id, row.api_key.hint)
