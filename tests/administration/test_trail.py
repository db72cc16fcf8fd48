"""What the administration records."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import models

from audit import admin_trail
from audit.admin_trail import SECRET_FIELDS, read_facts
from audit.models import AdminEvent
from audit.services import record_event
from routing.models import Fallback, ModelAlias, Route
from teams.models import ApiKey, Department, Member, Team
from tests.administration.desk import ADDRESS, OURS, Desk, page
from tests.factories import make_backend, make_model, make_team, unique
from tests.people import make_team_member


def test_adding_changing_and_deleting_leave_one_event_each(desk: Desk) -> None:
    slug = unique("department")
    form = {"slug": slug, "name": "First", "cost_centre": "1", "time_zone": "UTC"}
    assert desk.add(Department, **form).status_code == 302
    department = Department.objects.get(slug=slug)
    assert desk.change(department, **{**form, "name": "Second"}).status_code == 302
    assert desk.change(department, **{**form, "name": "Second"}).status_code == 302
    assert desk.post(page(Department, "delete", department), {"post": "yes"}).status_code == 302
    created, changed, deleted = desk.events(department)
    assert [event.action for event in (created, changed, deleted)] == [
        "department.create",
        "department.change",
        "department.delete",
    ]
    assert created.before is None
    assert created.after["name"] == "First"
    assert (changed.before, changed.after) == ({"name": "First"}, {"name": "Second"})
    assert (deleted.before["name"], deleted.after) == ("Second", None)


def test_bulk_deletion_records_each_and_what_went_with_it(desk: Desk) -> None:
    teams = [make_team(), make_team()]
    member = Member.objects.get(user=make_team_member(teams[0]).user)
    form = {"action": "delete_selected", "_selected_action": [team.pk for team in teams], "post": "yes"}
    assert desk.post(page(Team, "changelist"), form).status_code == 302
    assert not Team.objects.filter(pk__in=[team.pk for team in teams]).exists()
    for row in (*teams, member):
        (event,) = desk.events(row)
        assert event.action == f"{row._meta.model_name}.delete"


def test_inline_rows_have_events_of_their_own(desk: Desk) -> None:
    first, second = make_backend(ADDRESS), make_backend(ADDRESS)
    model = make_model(first)
    route = Route.objects.get(model=model)
    form: dict[str, Any] = {
        "name": model.name,
        "is_active": "on",
        "strategy": "weighted",
        "quality_floor": 0,
        "fallbacks-TOTAL_FORMS": 1,
        "fallbacks-INITIAL_FORMS": 0,
        "fallbacks-0-model": model.pk,
        "fallbacks-0-cause": "context",
        "fallbacks-0-position": 1,
        "fallbacks-0-to": (other := make_model()).pk,
        "content_routes-TOTAL_FORMS": 0,
        "content_routes-INITIAL_FORMS": 0,
        "aliases-TOTAL_FORMS": 1,
        "aliases-INITIAL_FORMS": 0,
        "aliases-0-name": (alias := unique("alias")),
        "aliases-0-model": model.pk,
        "routes-TOTAL_FORMS": 2,
        "routes-INITIAL_FORMS": 1,
        "routes-0-id": route.pk,
        "routes-0-model": model.pk,
        "routes-0-backend": first.pk,
        "routes-0-priority": 5,
        "routes-0-weight": 100,
        "routes-1-model": model.pk,
        "routes-1-backend": second.pk,
        "routes-1-priority": 2,
        "routes-1-weight": 100,
    }
    assert desk.change(model, **form).status_code == 302
    added = Route.objects.get(model=model, backend=second)
    assert [(event.before, event.after) for event in desk.events(route)] == [
        ({"priority": 1}, {"priority": 5})
    ]
    assert [event.after["backend"] for event in desk.events(added)] == [second.name]
    assert [event.after["to"] for event in desk.events(Fallback.objects.get(model=model))] == [other.name]
    assert len(desk.events(ModelAlias.objects.get(name=alias, model=model))) == 1
    assert desk.events(model) == []
    form |= {
        "aliases-TOTAL_FORMS": 0,
        "fallbacks-TOTAL_FORMS": 0,
        "routes-INITIAL_FORMS": 2,
        "routes-0-DELETE": "on",
        "routes-1-id": added.pk,
    }
    assert desk.change(model, **form).status_code == 302
    assert desk.events(route)[-1].action == "route.delete"


@pytest.fixture
def failing_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event is written, and then the transaction fails."""
    write = record_event

    def write_and_fail(*arguments: Any, **words: Any) -> None:
        write(*arguments, **words)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(admin_trail, "record_event", write_and_fail)


@pytest.mark.usefixtures("failing_trail")
def test_change_and_event_are_kept_or_lost_together(desk: Desk) -> None:
    slug, team, events = unique("department"), make_team(), AdminEvent.objects.count()
    attempts: list[Callable[[], object]] = [
        lambda: desk.add(Department, slug=slug, name="A name", time_zone="UTC"),
        lambda: desk.change(
            team,
            department=team.department_id,
            slug=team.slug,
            name="Another",
            counters_away="refuse",
            reserve="most",
            max_queue_s=0,
            priority="normal",
        ),
        lambda: desk.post(page(Team, "delete", team), {"post": "yes"}),
        lambda: desk.post(
            page(Team, "changelist"),
            {"action": "delete_selected", "_selected_action": team.pk, "post": "yes"},
        ),
    ]
    for attempt in attempts:
        with pytest.raises(RuntimeError, match="the disk is full"):
            attempt()
    assert not Department.objects.filter(slug=slug).exists()
    assert Team.objects.get(pk=team.pk).name == team.name
    assert AdminEvent.objects.count() == events


def test_a_new_key_and_its_event_are_kept_or_lost_together(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, events = unique("key"), AdminEvent.objects.count()
    monkeypatch.setattr("teams.admin.keys.ApiKeyAdmin.log_addition", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        desk.add(ApiKey, team=make_team().pk, name=name)
    assert not ApiKey.objects.filter(name=name).exists()
    assert AdminEvent.objects.count() == events


@pytest.mark.parametrize("model", [*OURS, User])
def test_what_could_hold_a_secret_is_told_as_set_or_not(
    rows: dict[type[models.Model], models.Model], model: type[models.Model]
) -> None:
    words = ("password", "secret", "digest", "pepper", "encrypted")
    for name, fact in read_facts(rows[model]).items():
        field = model._meta.get_field(name)
        if any(word in name for word in words) or isinstance(field, models.BinaryField):
            assert name in SECRET_FIELDS
            assert fact.told in {"set", "not set"}
