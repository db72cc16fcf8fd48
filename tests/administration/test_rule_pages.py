"""The pages of limits and budgets."""

import re
from typing import Any

import pytest
from django.db import connection, models
from django.test.utils import CaptureQueriesContext

from billing.admission.rules import MOST_AMOUNT
from billing.rule_models import Budget, Limit
from teams.models import Application, Department, Role, Team
from teams.services import create_key, revoke_key
from tests.administration.desk import HOSTILE, Desk, body, page
from tests.factories import make_budget, make_limit, make_model, make_team, unique
from tests.people import make_person

USD = 1_000_000_000


def budget_form(**fields: Any) -> dict[str, Any]:
    return {"unit": "money", "period": "month", "amount": "12.50", "is_hard": "on"} | fields


def test_a_budget_is_typed_in_dollars_and_stored_in_nano_dollars(desk: Desk) -> None:
    team = make_team()
    assert desk.add(Budget, **budget_form(team=team.pk, end_user="*")).status_code == 302
    budget = Budget.objects.get(team=team)
    assert (budget.amount, budget.is_hard, budget.end_user) == (12_500_000_000, True, "*")
    (created,) = desk.events(budget)
    assert (created.action, created.after["amount"], created.after["team"]) == (
        "budget.create",
        "$12.50",
        team.slug,
    )
    assert 'value="12.50"' in body(desk.get(page(Budget, "change", budget)))
    assert desk.change(budget, amount="1000.000000001").status_code == 302
    changed = desk.events(budget)[-1]
    assert changed.before == {"amount": "$12.50", "is_hard": True}
    assert changed.after == {"amount": "$1,000.000000001", "is_hard": False}
    assert Budget.objects.get(pk=budget.pk).amount == 1_000_000_000_001


def faulty_fields(response: Any) -> list[str]:
    return re.findall(r'class="errorlist" id="id_([a-z_]+)_error"', body(response))


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("0.000000001", 1),
        ("9000000000", MOST_AMOUNT),
        ("$7", 7 * USD),
        (" 7.1 ", 7_100_000_000),
        ("0.1", 100_000_000),
        ("9007199.254740993", 9_007_199_254_740_993),  # beyond a double
    ],
)
def test_amounts_of_money_are_exact(desk: Desk, typed: str, stored: int) -> None:
    team = make_team()
    assert desk.add(Budget, **budget_form(team=team.pk, amount=typed)).status_code == 302
    budget = Budget.objects.get(team=team)
    assert budget.amount == stored
    shown = body(desk.get(page(Budget, "change", budget)))
    again = shown.partition('name="amount" value="')[2].partition('"')[0]
    assert desk.change(budget, amount=again, is_hard="on").status_code == 302
    assert Budget.objects.get(pk=budget.pk).amount == stored
    assert len(desk.events(budget)) == 1  # nothing had changed


@pytest.mark.parametrize("unit", ["money", "tokens"])
@pytest.mark.parametrize(
    "typed",
    *[
        [
            *(
                "",
                "0",
                "-1",
                "1e3",
                "1_000",
                "1,000",
                "1.0000000001",
                "NaN",
                "Infinity",
                "१२",
                "0x10",
                "1 000",
            ),
            *(
                "9000000000000000000.000000001",
                "9999999999999999999999999999999",
                "9" * 5000,
                "1.",
                ".5",
                "€1",
            ),
        ]
    ],
)
def test_amounts_that_are_none_are_refused_and_nothing_is_stored(desk: Desk, unit: str, typed: str) -> None:
    team = make_team()
    response = desk.add(Budget, **budget_form(team=team.pk, amount=typed, unit=unit))
    assert response.status_code == 200
    assert faulty_fields(response) == ["amount"]
    assert not Budget.objects.filter(team=team).exists()


def test_tokens_are_whole(desk: Desk) -> None:
    team = make_team()
    for typed, answer in (("1.5", 200), ("$5", 200), ("1000000", 302)):
        assert (
            desk.add(Budget, **budget_form(team=team.pk, unit="tokens", amount=typed)).status_code == answer
        )
    budget = Budget.objects.get(team=team)
    assert budget.amount == 1_000_000
    (created,) = desk.events(budget)
    assert created.after["amount"] == "1,000,000 tokens"


def test_an_amount_without_a_unit_is_asked_again(desk: Desk) -> None:
    response = desk.add(Budget, **budget_form(team=make_team().pk, unit=""))
    assert response.status_code == 200
    assert faulty_fields(response) == ["unit"]


@pytest.mark.parametrize(("kind", "form"), [(Budget, budget_form()), (Limit, {"kind": "rpm", "amount": "9"})])
def test_a_rule_has_one_owner_and_is_there_once(
    desk: Desk, kind: type[models.Model], form: dict[str, Any]
) -> None:
    team = make_team()
    for owners in ({}, {"team": team.pk, "department": team.department_id}):
        page = body(desk.add(kind, **form, **owners))
        assert "Choose one owner" in page
        assert "is violated" not in page
    assert desk.add(kind, **form, team=team.pk).status_code == 302
    assert "like this already" in body(desk.add(kind, **form, team=team.pk))
    assert kind._default_manager.filter(team=team).count() == 1


def test_what_a_rule_names_must_be_there(desk: Desk) -> None:
    team = make_team()
    key = create_key(team, "A key", actor="tests").key
    revoke_key(key, actor="tests")
    form = {"kind": "rpm", "amount": "9"}
    wrong: dict[str, Any]
    for wrong, message in (
        ({"team": team.pk, "model": "no-such-model"}, "Select a valid choice"),
        ({"team": team.pk, "end_user": "a\u202eb"}, "turn the direction"),
        ({"api_key": key.pk}, "revoked"),
        ({"team": 2**40}, "Select a valid choice"),
    ):
        response = desk.post(page(Limit, "add"), form | wrong)
        assert response.status_code == 200
        assert message in body(response)
    assert not Limit.objects.filter(team=team).exists()


def test_what_a_rule_counts_stays(desk: Desk) -> None:
    team, other = make_team(), make_team()
    budget = make_budget(team=team)
    form = budget_form(team=other.pk, period="day", unit="tokens", end_user="x", amount="2")
    assert desk.change(budget, **form).status_code == 302
    budget.refresh_from_db()
    assert (budget.team, budget.period, budget.unit, budget.end_user) == (team, "month", "money", "")
    assert budget.amount == 2 * USD


def test_deleting_a_rule_asks_and_is_recorded(desk: Desk) -> None:
    budget = make_budget(team=make_team(), amount=5 * USD)
    assert "Are you sure" in body(desk.get(page(Budget, "delete", budget)))
    assert Budget.objects.filter(pk=budget.pk).exists()
    assert desk.post(page(Budget, "delete", budget), {"post": "yes"}).status_code == 302
    (deleted,) = desk.events(budget)
    assert (deleted.action, deleted.before["amount"]) == ("budget.delete", "$5.00")


def test_rules_that_go_with_their_owner_or_model_are_told_and_recorded(desk: Desk) -> None:
    team, model = make_team(), make_model()
    of_team, of_model = make_budget(team=team), make_limit(department=team.department, model=model)
    for target, rule in ((team, of_team), (model, of_model)):
        asked = body(desk.get(page(type(target), "delete", target)))
        assert page(type(rule), "change", rule) in asked
        assert desk.post(page(type(target), "delete", target), {"post": "yes"}).status_code == 302
        assert [event.action for event in desk.events(rule)] == [f"{rule._meta.model_name}.delete"]


def test_a_model_with_rules_is_not_renamed(desk: Desk) -> None:
    model = make_model()
    make_limit(team=make_team(), model=model)
    counts = {
        f"{prefix}-{kind}_FORMS": "0" for prefix in ("aliases", "routes") for kind in ("TOTAL", "INITIAL")
    }
    counts |= {f"route_set-{kind}_FORMS": "0" for kind in ("TOTAL", "INITIAL")}
    response = desk.change(model, name=unique("renamed"), is_active="on", **counts)
    assert response.status_code == 200
    assert "limits or budgets" in body(response)


def test_the_list_tells_everything_of_a_rule(desk: Desk) -> None:
    department = Department.objects.create(slug=unique("dept"), name="D", time_zone="Asia/Kolkata")
    team = Team.objects.create(department=department, slug=unique("team"), name="T")
    model = make_model()
    make_budget(team=team, end_user="*", model=model, amount=1234 * USD, is_hard=False, period="year")
    make_budget(department=department, unit="tokens", amount=5_000_000, period="day")
    make_limit(team=team, end_user="ann", amount=1000)
    shown = body(desk.get(page(Budget, "changelist"), {"q": team.slug}))
    assert "1 result" in shown
    for word in (f"team {team.slug}", f"Each end user, model {model.name}", "$1,234.00 per year", "Soft"):
        assert word in shown
    assert "-01-01 00:00 to " in shown
    assert "-01-01 00:00 Asia/Kolkata" in shown
    shown = body(desk.get(page(Budget, "changelist"), {"q": department.slug}))
    for word in (f"department {department.slug}", "All calls", "5,000,000 tokens per day", "Hard"):
        assert word in shown
    shown = body(desk.get(page(Limit, "changelist"), {"q": "ann"}))
    assert "1,000 requests per minute" in shown
    assert "End user ann" in shown


@pytest.mark.parametrize(
    "query",
    [
        *({"owner": owner} for owner in ("department", "team", "application", "api_key", "nonsense")),
        *({"users": users} for users in ("whole", "each", "named", "nonsense")),
        {"unit__exact": "money"},
        {"period__exact": "hour"},
    ],
)
def test_filters(desk: Desk, query: dict[str, str]) -> None:
    assert desk.get(page(Budget, "changelist"), query).status_code == 200


def test_the_list_asks_no_query_per_row(desk: Desk) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            desk.get(page(Budget, "changelist"), {"o": "1"})
        return len(queries)

    before = count()
    team = make_team()
    key = create_key(team, "A key", actor="tests").key
    application = Application.objects.create(team=team, slug="app", name="An application")
    for owner in ({"team": team}, {"api_key": key}, {"application": application}):
        make_budget(**owner)
    assert count() == before


def test_owners_pages_show_what_applies_to_them(desk: Desk) -> None:
    team = make_team()
    application = Application.objects.create(team=team, slug="app", name="An application")
    key = create_key(team, "A key", actor="tests", application=application).key
    make_limit(department=team.department, amount=111_111)
    make_budget(team=team, amount=222_222 * USD)
    make_limit(application=application, amount=333_333)
    make_budget(api_key=key, amount=444_444 * USD, end_user=HOSTILE)
    make_limit(team=make_team(), amount=555_555)
    words = ["111,111", "$222,222", "333,333", "$444,444", "555,555"]
    for target, seen in ((team.department, 1), (team, 2), (application, 3), (key, 4)):
        shown = body(desk.get(page(type(target), "change", target)))
        assert [word in shown for word in words] == [number < seen for number in range(5)], target
        assert HOSTILE not in shown
        field = {"apikey": "api_key"}.get(str(target._meta.model_name), target._meta.model_name)
        assert f"{page(Limit, 'add')}?{field}={target.pk}" in shown
    form = body(desk.get(page(Limit, "add"), {"team": team.pk}))
    assert f'<option value="{team.pk}" selected' in form


def test_who_may_only_look_sees_dollars_and_no_form(desk: Desk) -> None:
    team = make_team()
    budget = make_budget(team=team, amount=7 * USD)
    for role in (Role.FINANCE, Role.SECURITY_AUDITOR):
        somebody = Desk(make_person(role))
        shown = body(somebody.get(page(Budget, "change", budget)))
        assert "$7.00 per month" in shown
        assert 'name="amount"' not in shown
        assert somebody.change(budget, amount="1").status_code == 403
        of_team = body(somebody.get(page(Team, "change", team)))
        assert "$7.00 per month" in of_team
        assert page(Budget, "add") not in of_team


def test_long_lists_of_an_owner_are_cut(desk: Desk) -> None:
    team = make_team()
    for number in range(51):
        make_limit(team=team, end_user=f"user-{number:03}")
    shown = body(desk.get(page(Team, "change", team)))
    assert "End user user-049" in shown
    assert "End user user-050" not in shown
    assert "These are the first 50." in shown
