"""The rules in the database: what it refuses, and which changes make a new epoch."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, transaction

from billing.admission.books import UnknownDepartment, read_book
from billing.admission.rules import MOST_AMOUNT, MOST_RATE, Scope
from billing.rule_models import Budget, DepartmentEpoch, Limit
from routing.snapshot import read_version
from teams.models import Application, Department, Team
from teams.services import create_key
from tests.factories import make_team, unique


def make_budget(**fields: Any) -> Budget:
    return Budget.objects.create(**{"unit": "money", "period": "month", "amount": 100} | fields)


def make_limit(**fields: Any) -> Limit:
    return Limit.objects.create(**{"kind": "rpm", "amount": 100} | fields)


def epoch_of(department: Department) -> int:
    return DepartmentEpoch.objects.get(pk=department.pk).n


@pytest.mark.parametrize("make", [make_budget, make_limit])
def test_a_rule_has_exactly_one_owner(make: Callable[..., Any]) -> None:
    team = make_team()
    for owners in ({}, {"team": team, "department": team.department}):
        with pytest.raises(IntegrityError, match="one_owner"), transaction.atomic():
            make(**owners)
    with pytest.raises(ValidationError, match="Choose one owner"):
        Budget(unit="money", period="month", amount=1).full_clean()


@pytest.mark.parametrize(
    ("make", "fields", "named"),
    [
        (make_budget, {"amount": 0}, "budget_amount_bounded"),
        (make_budget, {"amount": MOST_AMOUNT + 1}, "budget_amount_bounded"),
        (make_budget, {"unit": "cows"}, "budget_unit_known"),
        (make_budget, {"period": "decade"}, "budget_period_known"),
        (make_limit, {"amount": 0}, "limit_amount_bounded"),
        (make_limit, {"amount": MOST_RATE + 1}, "limit_amount_bounded"),
        (make_limit, {"kind": "wpm"}, "limit_kind_known"),
    ],
)
def test_the_database_refuses_impossible_rules(
    make: Callable[..., Any], fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(IntegrityError, match=named), transaction.atomic():
        make(team=make_team(), **fields)


def test_an_amount_past_64_bits_is_refused() -> None:
    with pytest.raises((DataError, OverflowError)), transaction.atomic():
        make_budget(team=make_team(), amount=2**63)


def test_several_rules_of_one_level_differ_in_what_they_count() -> None:
    team = make_team()
    make_budget(team=team)
    for fields in (
        {"period": "day"},
        {"unit": "tokens"},
        {"model": "large"},
        {"end_user": "*"},
        {"end_user": "a"},
    ):
        make_budget(team=team, **fields)
    with pytest.raises(IntegrityError, match="budget_once"), transaction.atomic():
        make_budget(team=team, amount=7, is_hard=False)
    make_limit(team=team)
    with pytest.raises(IntegrityError, match="limit_once"), transaction.atomic():
        make_limit(team=team, amount=7)


def test_a_budget_that_counts_anew_makes_a_new_epoch() -> None:
    team = make_team()
    application = Application.objects.create(team=team, slug="app", name="An application")
    key = create_key(team, "A key", actor="tests").key
    before = epoch_of(team.department)
    for owner in (
        {"department": team.department},
        {"team": team},
        {"application": application},
        {"api_key": key},
    ):
        budget = make_budget(**owner)
        assert epoch_of(team.department) > before
        before = epoch_of(team.department)
    for field, value in (("period", "day"), ("unit", "tokens"), ("model", "large"), ("end_user", "*")):
        setattr(budget, field, value)
        budget.save()
        assert epoch_of(team.department) > before, field
        before = epoch_of(team.department)


def test_an_edited_amount_keeps_the_epoch() -> None:
    team = make_team()
    budget, limit = make_budget(team=team), make_limit(team=team)
    before = epoch_of(team.department)
    budget.amount, budget.is_hard = 7, False
    budget.save()
    limit.amount = 8
    limit.save()
    make_limit(department=team.department)
    budget.delete()
    assert epoch_of(team.department) == before


def test_another_time_zone_makes_a_new_epoch() -> None:
    department = make_team().department
    before = epoch_of(department)
    department.name = "Another name"
    department.save()
    assert epoch_of(department) == before
    department.time_zone = "Asia/Kolkata"
    department.save()
    assert epoch_of(department) > before


def test_a_team_that_moves_makes_new_epochs_on_both_sides() -> None:
    team, other = make_team(), make_team().department
    first = team.department
    before = epoch_of(first), epoch_of(other)
    team.department = other
    team.save()
    assert epoch_of(first) > before[0]
    assert epoch_of(other) > before[1]


def test_changes_of_rules_raise_the_configuration_version() -> None:
    team = make_team()
    before = read_version()
    limit = make_limit(team=team)
    assert read_version() > before
    before = read_version()
    limit.delete()
    assert read_version() > before


def test_a_book_holds_the_rules_of_the_whole_department_and_no_others() -> None:
    team = make_team()
    application = Application.objects.create(team=team, slug="app", name="An application")
    key = create_key(team, "A key", actor="tests").key
    sibling = Team.objects.create(department=team.department, slug=unique("team"), name="A sibling")
    mine = [
        make_budget(department=team.department),
        make_budget(team=team, end_user="*"),
        make_budget(application=application, model="large"),
        make_budget(api_key=key, is_hard=False),
    ]
    make_limit(team=sibling)
    make_budget(team=make_team())
    book = read_book(team.department_id)
    assert [rule.id for rule in book.rules[1:]] == [budget.pk for budget in mine]
    assert [rule.owner.scope for rule in book.rules[1:]] == list(Scope)
    assert book.rules[0].owner.name == sibling.slug
    assert book.team_ids == {team.pk, sibling.pk}
    assert book.epoch == epoch_of(team.department)


def test_a_department_that_is_gone_has_no_book() -> None:
    with pytest.raises(UnknownDepartment):
        read_book(2**40)
