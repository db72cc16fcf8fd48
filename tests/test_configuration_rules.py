"""Limits and budgets in the configuration file: whose they are, how much, what is refused, and the way back."""

from datetime import timedelta
from typing import Any

import pytest
import yaml

from audit.models import AdminEvent
from billing.admission.rules import MOST_AMOUNT
from billing.rule_models import Budget, Limit
from gateway_site.configuration_file.exporting import export_pieces
from teams.keys import generate_key
from teams.models import Application
from teams.services import create_key, revoke_key, rotate_key
from tests.configuration_files import ACTOR, apply, counts, dump, export, faults_of, tell, undone
from tests.factories import make_budget, make_limit, make_model, make_team, unique

USD = 1_000_000_000


def of_team(kind: type[Limit] | type[Budget], team: Any) -> list[Any]:
    return list(kind.objects.filter(team=team).order_by("pk"))


def exported(section: str, team: str) -> list[dict[str, Any]]:
    return [entry for entry in export().get(section, []) if entry.get("team") == team]


def test_an_entry_is_made_kept_changed_and_removed() -> None:
    team = make_team()
    entry: dict[str, Any] = {"team": team.slug, "per": "month", "money_usd": "500.00"}
    assert apply({"budgets": [entry]}) == counts(added=1)
    (budget,) = of_team(Budget, team)
    assert (budget.amount, budget.is_hard, budget.unit, budget.period) == (500 * USD, True, "money", "month")
    assert apply({"budgets": [entry]}) == counts(unchanged=1)
    told = tell({"budgets": [entry | {"money_usd": "0.000000001", "hard": False}]})
    assert f"  ~ team {team.slug}: money per month" in told
    assert "money_usd: 500 -> 0.000000001" in told
    assert "hard: true -> false" in told
    budget.refresh_from_db()
    assert (budget.amount, budget.is_hard) == (1, False)
    assert apply({"budgets": [entry | {"money_usd": "7", "state": "absent"}]}) == counts(removed=1)
    assert apply({"budgets": [entry | {"state": "absent"}]}) == counts(unchanged=1)
    events = AdminEvent.objects.filter(object_type="billing.budget", object_id=str(budget.pk)).order_by("id")
    assert [(event.actor, event.action) for event in events] == [
        (ACTOR, f"budget.{verb}") for verb in ("create", "change", "delete")
    ]
    assert events[1].before == {"amount": "$500.00", "is_hard": True}


def test_the_rates_of_an_owner_are_one_entry() -> None:
    team = make_team()
    entry: dict[str, Any] = {"team": team.slug, "requests_per_minute": 600, "requests_at_a_time": 5}
    assert apply({"limits": [entry]}) == counts(added=1)
    assert [(limit.kind, limit.amount) for limit in of_team(Limit, team)] == [
        ("rpm", 600),
        ("concurrency", 5),
    ]
    assert apply({"limits": [{"team": team.slug, "tokens_per_minute": 100_000_000_000}]}) == counts(changed=1)
    assert len(of_team(Limit, team)) == 3  # what is not given is kept
    change = {"requests_per_minute": 601, "tokens_per_minute": None}
    told = tell({"limits": [entry | change]})
    assert "requests_per_minute: 600 -> 601" in told
    assert "tokens_per_minute: 100000000000 -> none" in told
    assert [(limit.kind, limit.amount) for limit in of_team(Limit, team)] == [
        ("rpm", 601),
        ("concurrency", 5),
    ]
    nothing = {"team": team.slug, "requests_per_minute": None, "requests_at_a_time": None}
    assert apply({"limits": [nothing]}) == counts(changed=1)
    assert apply({"limits": [nothing]}) == counts(unchanged=1)
    assert of_team(Limit, team) == []
    apply({"limits": [entry]})
    assert apply({"limits": [{"team": team.slug, "requests_per_minute": 1, "state": "absent"}]}) == counts(
        removed=1
    )
    assert of_team(Limit, team) == []


def test_a_dry_run_tells_and_changes_nothing() -> None:
    team = make_team()
    document = {"budgets": [{"team": team.slug, "per": "day", "tokens": 5, "hard": False}]}
    assert apply(document, dry_run=True) == counts(added=1)
    assert of_team(Budget, team) == []


@pytest.mark.slow  # it applies many files
def test_rules_of_every_level_are_told_apart() -> None:
    team, model = make_team(), make_model()
    Application.objects.create(team=team, slug="app", name="An application")
    create_key(team, "A key", actor="tests")
    owners = [
        {"department": team.department.slug},
        {"team": team.slug},
        {"team": team.slug, "application": "app"},
        {"team": team.slug, "key": "A key"},
    ]
    whom = [
        {},
        {"end_user": "*"},
        {"end_user": "ann"},
        {"model": model.name},
        {"end_user": "*", "model": model.name},
    ]
    entries = [owner | calls for owner in owners for calls in whom]
    limits = [entry | {"requests_per_minute": number} for number, entry in enumerate(entries, 1)]
    budgets = [
        entry | {"per": per} | amount
        for entry in entries
        for per in ("hour", "year")
        for amount in ({"tokens": 7}, {"money_usd": "0.5"})
    ]
    document = {"limits": limits, "budgets": budgets}
    assert apply(document) == counts(added=20 + 80)
    assert apply(document) == counts(unchanged=20 + 80)
    names = {team.slug, team.department.slug}
    whole = export()
    ours = {
        section: [entry for entry in whole[section] if names & {entry.get("team"), entry.get("department")}]
        for section in ("limits", "budgets")
    }
    assert [len(found) for found in ours.values()] == [20, 80]
    assert apply(ours) == counts(unchanged=20 + 80)
    with undone():
        Limit.objects.all().delete()
        Budget.objects.all().delete()
        assert apply(ours) == counts(added=20 + 80)
        again = export()
        assert {section: again[section] for section in ours} == ours


def test_everything_may_come_with_one_file() -> None:
    name = unique("rules")
    document: dict[str, list[dict[str, Any]]] = {
        "budgets": [
            {"team": name, "key": "A key", "per": "week", "money_usd": 1, "model": name},
            {"team": name, "application": "app", "per": "week", "tokens": 1},
        ],
        "limits": [{"department": name, "end_user": "*", "requests_at_a_time": 2}],
        "keys": [{"team": name, "name": "A key", "secret": generate_key()}],
        "applications": [{"team": name, "slug": "app", "name": "A"}],
        "models": [{"name": name}],
        "teams": [{"slug": name, "department": name, "name": "T"}],
        "departments": [{"slug": name, "name": "D"}],
    }
    assert apply(document) == counts(added=8)
    assert apply(document) == counts(unchanged=8)
    absent = {"state": "absent"}
    gone = {
        "limits": [entry | absent for entry in document["limits"]],
        "budgets": [entry | absent for entry in document["budgets"]],
        "applications": [entry | absent for entry in document["applications"]],
        "models": [entry | absent for entry in document["models"]],
    }
    assert apply(gone) == counts(removed=5)
    assert apply(gone) == counts(unchanged=5)


def test_an_export_writes_amounts_that_people_can_read() -> None:
    team = make_team()
    make_budget(team=team, amount=1_234_500_000_000)
    make_budget(team=team, amount=1, period="day", is_hard=False)
    make_budget(team=team, amount=MOST_AMOUNT, period="year")
    text = "".join(export_pieces())
    for amount in ("1234.50", "0.000000001", "9000000000.00"):
        assert f"    money_usd: '{amount}'\n" in text
    assert apply(yaml.safe_dump({"budgets": exported("budgets", team.slug)})) == counts(unchanged=3)


class TestKeys:
    """A rule of a key."""

    def test_is_of_the_newer_one_after_a_rotation(self) -> None:
        team = make_team()
        old = create_key(team, "A key", actor="tests").key
        entry = {"team": team.slug, "key": "A key", "requests_per_minute": 5}
        apply({"limits": [entry]})
        new = rotate_key(old, actor="tests", overlap=timedelta(hours=1)).key
        assert apply({"limits": [entry | {"requests_per_minute": 6}]}) == counts(changed=1)
        assert Limit.objects.get(api_key=new).amount == 6
        assert Limit.objects.get(api_key=old).amount == 5
        found = exported("limits", team.slug)
        assert len(found) == 2  # by their digests, for both work under one name
        assert apply({"limits": found}) == counts(unchanged=2)

    def test_is_named_by_the_digest_where_names_are_not_enough(self) -> None:
        team = make_team()
        keys = [create_key(team, "A key", actor="tests").key for _ in range(2)]
        make_budget(api_key=keys[0])
        (fault,) = faults_of({"limits": [{"team": team.slug, "key": "A key", "requests_per_minute": 5}]})
        assert "has several keys A key" in fault
        (found,) = exported("budgets", team.slug)
        told = tell({"budgets": [found | {"money_usd": "3"}]})
        assert found["key"] not in told
        assert Budget.objects.get(api_key=keys[0]).amount == 3 * USD

    def test_is_neither_made_nor_exported_once_the_key_has_ended(self) -> None:
        team = make_team()
        key = create_key(team, "A key", actor="tests").key
        make_limit(api_key=key)
        revoke_key(key, actor="tests")
        assert exported("limits", team.slug) == []
        (fault,) = faults_of({"limits": [{"team": team.slug, "key": "A key", "requests_per_minute": 5}]})
        assert "has no key A key that works or is paused" in fault

    def test_goes_where_the_key_goes(self) -> None:
        team = make_team()
        make_limit(api_key=create_key(team, "A key", actor="tests").key)
        make_limit(team=team)
        document = yaml.safe_load("".join(export_pieces(without=["keys"])))
        assert [e.get("key") for e in document["limits"] if e.get("team") == team.slug] == [None]

    def test_is_not_taken_by_the_key_itself(self) -> None:
        secret = generate_key()
        faults = faults_of({"limits": [{"team": make_team().slug, "key": secret, "requests_per_minute": 5}]})
        assert "never a key" in faults[0]
        assert secret not in str(faults)


LIMIT = "limits:\n  - team: {team}\n    {{}}\n"
BUDGET = "budgets:\n  - team: {team}\n    per: month\n    {{}}\n"
OWNER = "one owner is needed"
WHOLE = "a whole number from 1 to"
MONEY = "an amount of US dollars such as 500.00"


@pytest.mark.parametrize(
    ("form", "line", "fault"),
    [
        (
            LIMIT,
            "requests_per_minute: 0",
            f"3:26: requests_per_minute: {WHOLE} 100000000000 is expected here",
        ),
        (LIMIT, "requests_per_minute: -1", WHOLE),
        (LIMIT, "requests_per_minute: 1.5", WHOLE),
        (LIMIT, "requests_per_minute: 100000000001", WHOLE),
        (LIMIT, "requests_per_minut: 1", "there is no field of a limit requests_per_minut; did you mean"),
        (
            LIMIT,
            "end_user: x",
            "2:5: a limit needs one of requests_per_minute, tokens_per_minute, requests_at_a_time",
        ),
        (LIMIT, 'end_user: "a\\u202eb"', "3:15: end_user: Control characters and characters that turn"),
        (BUDGET, "hard: true", "2:5: a budget needs money_usd or tokens, and not both"),
        (BUDGET, "money_usd: 1\n    tokens: 1", "2:5: a budget needs money_usd or tokens, and not both"),
        (BUDGET, "money_usd: 0", f"4:16: money_usd: {MONEY}"),
        (BUDGET, "money_usd: -5", MONEY),
        (BUDGET, "money_usd: 1e3", MONEY),
        (BUDGET, "money_usd: 0.0000000001", MONEY),
        (BUDGET, "money_usd: 9000000000.000000001", MONEY),
        (BUDGET, "money_usd: $5", MONEY),
        (BUDGET, "tokens: 0", WHOLE),
        (BUDGET, "tokens: 9000000000000000001", WHOLE),
        (BUDGET, "tokens: 1\n    hard: yes", "5:11: hard: true or false is expected here"),
        (BUDGET, "tokens: 1\n    model: no-such-model", "5:5: model: there is no no-such-model in models"),
        (BUDGET, "tokens: 1\n    application: no", "5:5: application: There is no application"),
        (BUDGET, "tokens: 1\n    key: no", "5:5: key: The team"),
        (BUDGET, "tokens: 1\n    department: d", OWNER),
        (BUDGET, "tokens: 1\n    application: a\n    key: k", OWNER),
    ],
)
def test_what_cannot_be_is_told_with_its_place(form: str, line: str, fault: str) -> None:
    faults = faults_of(form.format(team=make_team().slug).format(line))
    assert any(fault in told for told in faults), faults


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({}, OWNER),
        ({"application": "a"}, OWNER),
        ({"key": "a"}, OWNER),
        ({"team": "no-such-team"}, "there is no no-such-team in teams"),
        ({"department": "no-such"}, "there is no no-such in departments"),
    ],
)
def test_a_rule_needs_one_owner_that_is_there(entry: dict[str, Any], fault: str) -> None:
    for document in (
        {"limits": [entry | {"requests_per_minute": 1}]},
        {"budgets": [entry | {"per": "day", "tokens": 1}]},
    ):
        assert any(fault in told for told in faults_of(document))


def test_a_budget_needs_a_period_of_the_calendar() -> None:
    team = make_team().slug
    assert "a budget needs per" in faults_of({"budgets": [{"team": team, "tokens": 1}]})[0]
    assert (
        "quarter is not one of hour, day"
        in faults_of({"budgets": [{"team": team, "per": "quarter", "tokens": 1}]})[0]
    )


def test_one_rule_under_two_entries() -> None:
    team = make_team().slug
    entry: dict[str, Any] = {"team": team, "per": "day", "tokens": 1}
    assert "is there twice, first in line 2" in faults_of({"budgets": [entry, entry | {"end_user": ""}]})[0]
    assert apply({"budgets": [entry, entry | {"per": "hour"}]}) == counts(added=2)


def test_an_alias_is_not_a_model() -> None:
    model = unique("model")
    document = {
        "models": [{"name": model, "aliases": [f"{model}-alias"]}],
        "limits": [{"team": make_team().slug, "model": f"{model}-alias", "requests_per_minute": 1}],
    }
    assert f"there is no {model}-alias in models; did you mean {model}?" in faults_of(document)[0]


def test_what_a_rule_is_for_is_not_removed_by_the_same_file() -> None:
    team = make_team()
    Application.objects.create(team=team, slug="app", name="An application")
    document = {
        "applications": [{"team": team.slug, "slug": "app", "state": "absent"}],
        "limits": [{"team": team.slug, "application": "app", "requests_per_minute": 1}],
    }
    (fault,) = faults_of(document)
    assert "There is no application" in fault
    assert Application.objects.filter(team=team).exists()


def test_rules_of_what_is_removed_go_with_events() -> None:
    team, model = make_team(), make_model()
    rules = [make_limit(team=team), make_budget(department=team.department, model=model)]
    apply(
        {
            "teams": [{"slug": team.slug, "state": "absent"}],
            "models": [{"name": model.name, "state": "absent"}],
        }
    )
    for rule in rules:
        event = AdminEvent.objects.get(object_type=rule._meta.label_lower, object_id=str(rule.pk))
        assert (event.actor, event.action) == (ACTOR, f"{rule._meta.model_name}.delete")


def test_the_text_form() -> None:
    """As the reference shows it."""
    team = make_team().slug
    text = f"""
limits:
  - team: {team}
    requests_per_minute: 600
    requests_at_a_time: 20
budgets:
  - team: {team}
    per: month
    money_usd: "500.00"
    hard: true
  - {{team: {team}, end_user: "*", per: day, money_usd: 0.50, hard: false}}
"""
    assert apply(text) == counts(added=3)
    assert apply(dump(yaml.safe_load(text))) == counts(unchanged=3)
