"""The rules as workers know them: read for all departments at once, as of one moment, and kept while they hold."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.admission import books
from billing.admission.books import Books, read_book, read_books
from billing.admission.rules import Dimensions, RuleBook
from billing.rule_models import Budget, DepartmentEpoch
from routing.configuration import Configuration, DatabaseThreads
from routing.snapshot import load_snapshot
from teams.models import Application, Department, Team
from teams.services import create_key
from tests.factories import make_budget, make_limit, make_model, make_team

NOON = 1_790_164_800  # 2026-09-23T12:00Z


def call_of(team: Team) -> Dimensions:
    return Dimensions(team.department_id, team.pk, None, None, "", "large")


def book_of(team: Team, known: Books = books.NO_BOOKS) -> RuleBook:
    return load_snapshot(known).rule_books[team.department_id]


def test_a_snapshot_holds_the_book_of_each_department_that_has_rules() -> None:
    first, second, third = make_team(), make_team(), make_team()
    application = Application.objects.create(team=first, slug="app", name="An application")
    key = create_key(first, "A key", actor="tests").key
    make_budget(department=first.department)
    make_budget(application=application, model=make_model())
    make_limit(team=first, end_user="*")
    make_limit(api_key=key)
    make_limit(team=second)
    found = load_snapshot().rule_books
    for team in (first, second):
        assert found[team.department_id].says_as(read_book(team.department_id))
        assert found[team.department_id].epoch <= DepartmentEpoch.objects.get(pk=team.department_id).n
    assert len(found[first.department_id].rules) == 4
    assert third.department_id not in found
    assert read_book(third.department_id).rules == ()


def test_all_books_are_read_with_four_queries() -> None:
    for _ in range(3):
        team = make_team()
        make_budget(team=team)
        make_limit(department=team.department)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert len(read_books()) >= 3
    assert len(queries) == 4


def test_an_unchanged_book_is_the_same_with_its_plans() -> None:
    mine, other = make_team(), make_team()
    make_budget(team=mine)
    budget = make_budget(team=other)
    before = load_snapshot().rule_books
    plan = before[mine.department_id].plan(call_of(mine), NOON)
    Budget.objects.filter(pk=budget.pk).update(amount=7)
    after = load_snapshot(before).rule_books
    assert after[other.department_id] is not before[other.department_id]
    assert after[mine.department_id] is before[mine.department_id]
    assert after[mine.department_id].plan(call_of(mine), NOON) is plan


def test_an_edited_amount_makes_a_new_book_of_the_same_epoch() -> None:
    team = make_team()
    budget, limit = make_budget(team=team), make_limit(team=team)
    before = load_snapshot().rule_books
    budget.amount, budget.is_hard, limit.amount = 7, False, 8
    budget.save()
    limit.save()
    old, new = before[team.department_id], book_of(team, before)
    assert new.epoch == old.epoch
    assert [rule.amount for rule in new.rules] == [8, 7]
    assert new.plan(call_of(team), NOON).names == old.plan(call_of(team), NOON).names
    assert new.plan(call_of(team), NOON).entries != old.plan(call_of(team), NOON).entries


def test_another_period_makes_a_book_of_a_later_epoch() -> None:
    team = make_team()
    budget = make_budget(team=team)
    before = load_snapshot().rule_books
    budget.period = "day"
    budget.save()
    old, new = before[team.department_id], book_of(team, before)
    assert new.epoch > old.epoch
    assert new.plan(call_of(team), NOON).names != old.plan(call_of(team), NOON).names


def test_another_time_zone_makes_a_book_of_a_later_epoch() -> None:
    team = make_team()
    make_budget(team=team)
    before = load_snapshot().rule_books
    Department.objects.filter(pk=team.department_id).update(time_zone="Asia/Kolkata")
    old, new = before[team.department_id], book_of(team, before)
    assert new.epoch > old.epoch
    assert new.zone.key == "Asia/Kolkata"


def test_a_team_that_moves_takes_its_rules_to_the_other_book() -> None:
    team, stays = make_team(), make_team()
    make_budget(team=team)
    make_budget(department=team.department)
    make_budget(team=stays)
    before = load_snapshot().rule_books
    left = team.department_id
    team.department = stays.department
    team.save()
    after = load_snapshot(before).rule_books
    assert [rule.owner.scope for rule in after[left].rules] == ["d"]
    assert {rule.owner.id for rule in after[team.department_id].rules} == {team.pk, stays.pk}
    assert after[left].team_ids == set()
    assert after[team.department_id].team_ids == {team.pk, stays.pk}
    assert after[left].epoch > before[left].epoch
    assert after[team.department_id].epoch > before[team.department_id].epoch


def test_a_new_name_of_an_owner_is_told_to_the_refused() -> None:
    team = make_team()
    make_limit(team=team)
    before = load_snapshot().rule_books
    Team.objects.filter(pk=team.pk).update(slug=f"{team.slug}-renamed")
    assert book_of(team, before).rules[0].owner.name == f"{team.slug}-renamed"


def test_a_department_whose_last_rule_is_gone_has_no_book() -> None:
    team = make_team()
    limit = make_limit(team=team)
    before = load_snapshot().rule_books
    limit.delete()
    assert team.department_id not in load_snapshot(before).rule_books


def test_rules_and_epoch_are_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    team = make_team()
    budget = make_budget(team=team)
    make_limit(team=team)
    before = DepartmentEpoch.objects.get(pk=team.department_id).n

    def change() -> None:
        Budget.objects.filter(pk=budget.pk).update(period="day")
        connection.close()

    read_rules = books._read_rules

    def read_while_another_changes(*place: Any) -> Any:
        found = read_rules(*place)
        other = threading.Thread(target=change)
        other.start()
        other.join()
        return found

    monkeypatch.setattr(books, "_read_rules", read_while_another_changes)
    book = book_of(team)
    assert book.epoch == before
    assert book.periods() == {"month"}
    monkeypatch.undo()
    assert book_of(team).epoch > before


def test_a_department_with_an_impossible_time_zone_does_not_stop_the_others() -> None:
    bad, good = make_team(), make_team()
    for team in (bad, good):
        make_budget(team=team)
    for zone in ("Nowhere/Land", "", "Europe", "../etc/passwd"):
        Department.objects.filter(pk=bad.department_id).update(time_zone=zone)
        found = load_snapshot().rule_books
        assert found[bad.department_id].zone.key == "UTC"
        assert good.department_id in found
    Budget.objects.filter(team=bad).delete()


@contextmanager
def watching() -> Iterator[Configuration]:
    threads = DatabaseThreads()
    try:
        yield Configuration(threads)
    finally:
        threads.close()


def test_a_worker_keeps_the_books_that_hold_and_swaps_the_others() -> None:
    mine, other = make_team(), make_team()
    make_budget(team=mine)
    with watching() as configuration:
        asyncio.run(configuration.refresh())
        before = configuration.snapshot.rule_books[mine.department_id]
        make_budget(team=other)
        asyncio.run(configuration.refresh())
        assert configuration.snapshot.rule_books[mine.department_id] is before
        make_limit(team=mine)
        asyncio.run(configuration.refresh())
        assert len(configuration.snapshot.rule_books[mine.department_id].rules) == 2
        assert configuration.snapshot.rule_books[other.department_id].epoch > before.epoch
