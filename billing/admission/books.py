"""Reads the rules of departments out of the database."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce

from billing.admission.rules import Budget, Limit, Owner, Rate, Rule, RuleBook, Scope, Unit
from billing.admission.windows import Period
from billing.rule_models import Budget as BudgetRow
from billing.rule_models import DepartmentEpoch
from billing.rule_models import Limit as LimitRow
from teams.models import Team

logger = logging.getLogger(__name__)

Books = Mapping[int, RuleBook]
NO_BOOKS: Books = MappingProxyType({})

# From a rule to the department it is in, by each of its owners.
_DEPARTMENTS = (
    "department_id",
    "team__department_id",
    "application__team__department_id",
    "api_key__team__department_id",
)
_OWNERS = (
    *("department_id", "department__slug", "team_id", "team__slug"),
    *("application_id", "application__slug", "api_key_id", "api_key__hint"),
)


class UnknownDepartment(LookupError):
    """There is no such department, or it was deleted."""


def read_book(department_id: int) -> RuleBook:
    """The rules of a department, also of one that has none. Run it in one snapshot of the database.

    Raises UnknownDepartment.
    """
    rules = _read_rules(department_id).get(department_id, [])
    for book in _make_books({department_id: rules}):
        return book
    raise UnknownDepartment(department_id)


def read_books(known: Books = NO_BOOKS) -> Books:
    """The books of all departments that have rules, in four queries. Run it in one snapshot of the database.

    A book that says what the one in `known` says is that one, so that the plans it keeps live on.
    """
    books = {}
    for book in _make_books(_read_rules()):
        before = known.get(book.department_id)
        books[book.department_id] = before if before is not None and before.says_as(book) else book
    return MappingProxyType(books)


def list_ruled_departments() -> list[int]:
    """The departments that have a limit or a budget, on whatever level."""
    found: set[int] = set()
    for table in (LimitRow, BudgetRow):
        rows = _in_department(table._default_manager.all(), None).order_by()
        found.update(rows.values_list("in_department", flat=True).distinct())
    return sorted(found)


def _make_books(rules: Mapping[int, Iterable[Rule]]) -> Iterator[RuleBook]:
    teams: dict[int, list[int]] = defaultdict(list)
    departments = Team.objects.filter(department_id__in=rules).order_by()
    for department_id, team_id in departments.values_list("department_id", "pk"):
        teams[department_id].append(team_id)
    epochs = DepartmentEpoch.objects.filter(pk__in=rules).order_by()
    for department_id, epoch, zone in epochs.values_list("pk", "n", "department__time_zone"):
        yield RuleBook(
            department_id=department_id,
            epoch=epoch,
            zone=zone_of(zone),
            rules=tuple(rules[department_id]),
            team_ids=frozenset(teams[department_id]),
        )


def _read_rules(department_id: int | None = None) -> dict[int, list[Rule]]:
    """By department: those of one, or of all."""
    owner = cache(Owner)  # what has many rules is in memory once
    rules: dict[int, list[Rule]] = defaultdict(list)
    limits = _in_department(LimitRow.objects.all(), department_id)
    for place, pk, kind, amount, end_user, model, *owners in limits.values_list(
        "in_department", "pk", "kind", "amount", "end_user", "model_id", *_OWNERS
    ).iterator():
        rules[place].append(Limit(pk, _owner(owner, owners), Rate(kind), amount, end_user, model or ""))
    budgets = _in_department(BudgetRow.objects.all(), department_id)
    for place, pk, unit, period, amount, is_hard, end_user, model, *owners in budgets.values_list(
        "in_department", "pk", "unit", "period", "amount", "is_hard", "end_user", "model_id", *_OWNERS
    ).iterator():
        rules[place].append(
            Budget(
                id=pk,
                owner=_owner(owner, owners),
                unit=Unit(unit),
                period=Period(period),
                amount=amount,
                is_hard=is_hard,
                end_user=end_user,
                model=model or "",
            )
        )
    return rules


def _in_department(rows: "QuerySet[Any]", department_id: int | None) -> "QuerySet[Any]":
    """With the department that each is in; of one department, or all."""
    rows = rows.annotate(in_department=Coalesce(*map(F, _DEPARTMENTS))).order_by("pk")
    if department_id is None:
        return rows
    mine = Q()
    for path in _DEPARTMENTS:
        mine |= Q(**{path: department_id})
    return rows.filter(mine)


def _owner(make: Callable[..., Owner], owners: list[Any]) -> Owner:
    for scope, number, name in zip(Scope, owners[::2], owners[1::2], strict=True):
        if number is not None:
            return make(scope, number, name)
    raise AssertionError("The database holds a rule without an owner.")


def zone_of(name: str) -> ZoneInfo:
    """The zone, or UTC where there is none of that name: one bad department does not stop the others."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        logger.error("There is no time zone %r; windows are of UTC.", name)
        return ZoneInfo("UTC")
