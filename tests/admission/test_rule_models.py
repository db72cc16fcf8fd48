"""The rules in the database: what it refuses, and which changes make a new epoch."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, connection, transaction

from audit.models import AdminEvent
from billing.admission.books import UnknownDepartment, read_book
from billing.admission.rules import MOST_AMOUNT, MOST_RATE, Scope
from billing.ids import uuid7
from billing.rule_models import Budget, DepartmentEpoch, Limit, SweptCall
from routing.models import CatalogueModel, ModelAlias
from routing.snapshot import read_version
from teams.models import Application, Department, Team
from teams.services import create_key, revoke_key, rotate_key
from tests.factories import make_budget, make_limit, make_model, make_team, unique


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
        {"model": make_model()},
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
    for field, value in (("period", "day"), ("unit", "tokens"), ("model", make_model()), ("end_user", "*")):
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
        make_budget(application=application, model=make_model()),
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


@pytest.mark.parametrize("make", [make_budget, make_limit])
@pytest.mark.parametrize(
    "bad", ["a\nb", "\x1b[31m", "x\x7f", "a\u202eb", "\u2066a", "\u200f", "a\u2028b", "\x85"]
)
def test_an_end_user_that_misleads_is_refused(make: Callable[..., Any], bad: str) -> None:
    team = make_team()
    with pytest.raises(IntegrityError, match="end_user_plain"), transaction.atomic():
        make(team=team, end_user=bad)
    with pytest.raises(ValidationError, match="turn the direction"):
        Limit(team=team, kind="rpm", amount=1, end_user=bad).full_clean()


@pytest.mark.parametrize("good", ["ann", "*", "Зоя", "a b@c.example", "👩\u200d💻", "שלום", "a" * 200])
def test_end_users_of_all_languages_can_be_named(good: str) -> None:
    rule = Budget(team=make_team(), unit="money", period="month", amount=1, end_user=good)
    rule.full_clean()
    rule.save()


def test_a_rule_names_a_model_of_the_catalogue_and_no_alias() -> None:
    team, model = make_team(), make_model()
    alias = ModelAlias.objects.create(name=unique("alias"), model=model)
    for name in ("no-such-model", alias.name):
        with pytest.raises(ValidationError, match=name):
            Limit(team=team, kind="rpm", amount=1, model_id=name).full_clean()
        with pytest.raises(IntegrityError, match="model_id"), transaction.atomic():
            make_limit(team=team, model_id=name)


def test_a_model_with_rules_keeps_its_name() -> None:
    model = make_model()
    make_budget(team=make_team(), model=model)
    renamed = CatalogueModel.objects.get(pk=model.pk)
    renamed.name = unique("renamed")
    with pytest.raises(ValidationError, match="limits or budgets"):
        renamed.full_clean()
    with pytest.raises(IntegrityError, match="model_id"), transaction.atomic():
        renamed.save()
    Budget.objects.filter(model=model).delete()
    renamed.full_clean()
    renamed.save()


def test_rules_go_with_their_owner_and_their_model() -> None:
    team, model = make_team(), make_model()
    application = Application.objects.create(team=team, slug="app", name="An application")
    make_budget(application=application)
    make_limit(team=team)
    make_limit(team=team, model=model)
    model.delete()
    assert len(read_book(team.department_id).rules) == 2
    application.delete()
    assert len(read_book(team.department_id).rules) == 1
    team.delete()
    assert read_book(team.department_id).rules == ()


def test_a_new_rule_of_a_revoked_key_is_refused() -> None:
    key = create_key(make_team(), "A key", actor="tests").key
    old = make_limit(api_key=key)
    revoke_key(key, actor="tests")
    with pytest.raises(ValidationError, match="revoked"):
        Budget(api_key=key, unit="money", period="month", amount=1).full_clean()
    Limit.objects.get(pk=old.pk).full_clean()


def test_a_rotated_key_keeps_its_rules() -> None:
    key = create_key(make_team(), "A key", actor="tests").key
    make_budget(api_key=key, amount=7, is_hard=False, end_user="*")
    make_limit(api_key=key, kind="tpm")
    new = rotate_key(key, actor="somebody", overlap=timedelta(hours=1)).key
    for kind in (Budget, Limit):
        (old,), (copy,) = kind.objects.filter(api_key=key), kind.objects.filter(api_key=new)
        ours = {"id", "api_key_id", "created_at", "_state"}
        assert {k: v for k, v in vars(copy).items() if k not in ours} == {
            k: v for k, v in vars(old).items() if k not in ours
        }
        event = AdminEvent.objects.get(object_type=kind._meta.label_lower, object_id=str(copy.pk))
        assert (event.actor, event.action) == ("somebody", f"{kind._meta.model_name}.create")
    assert {rule.owner.id for rule in read_book(new.team.department_id).rules} == {key.pk, new.pk}


def test_an_epoch_only_rises() -> None:
    epoch = DepartmentEpoch.objects.get(pk=make_team().department_id)
    with pytest.raises(IntegrityError, match="only rises"), transaction.atomic():
        DepartmentEpoch.objects.filter(pk=epoch.pk).update(n=epoch.n - 1)
    other = make_team().department
    with pytest.raises(IntegrityError, match="only rises"), transaction.atomic():
        DepartmentEpoch.objects.filter(pk=epoch.pk).update(department=other)
    with pytest.raises(IntegrityError, match="departmentepoch_positive"), transaction.atomic():
        DepartmentEpoch.objects.create(department_id=2**40, n=0)


def test_an_epoch_goes_only_with_its_department() -> None:
    team = make_team()
    department = team.department
    with pytest.raises(IntegrityError, match="only with its department"), transaction.atomic():
        DepartmentEpoch.objects.filter(pk=department.pk).delete()
    team.delete()
    department.delete()
    assert not DepartmentEpoch.objects.filter(pk=department.pk).exists()


def test_epochs_rise_for_whoever_comes_later() -> None:
    """Several that change a department's rules at once: what each commits is above what was there."""
    department = make_team().department
    seen: list[int] = []

    def raise_often() -> None:
        for _ in range(30):
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT billing_raise_epoch(%s)", [department.pk])
                seen.append(epoch_of(department))  # the row is ours until the commit
        connection.close()

    threads = [threading.Thread(target=raise_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 120
    assert seen == sorted(seen)


def test_a_swept_call_is_remembered_once() -> None:
    request_id = uuid7()
    SweptCall.objects.create(request_id=request_id, department_id=1)
    with pytest.raises(IntegrityError, match="billing_sweptcall_pkey"), transaction.atomic():
        SweptCall.objects.create(request_id=request_id, department_id=1)
