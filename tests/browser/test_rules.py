"""Limits and budgets in a browser: made, read on the pages of what they apply to, changed and deleted."""

import pytest

from billing.rule_models import Budget
from teams.models import Application, Department, Team
from teams.services import create_key
from tests.browser.conftest import Browser
from tests.browser.test_admin import choose
from tests.factories import make_budget, make_limit, make_model, make_team, unique
from tests.people import make_admin

USD = 1_000_000_000
LONG = "an-end-user-with-a-very-long-name-" * 5


@pytest.mark.slow
def test_a_budget_is_made_from_the_teams_page_changed_and_deleted(browser: Browser) -> None:
    team, model = make_team(), make_model()
    browser.sign_in(make_admin())
    browser.open(f"/admin/teams/team/{team.pk}/change/")
    assert "Budgets that apply" in browser.text
    browser.click("section[aria-labelledby=rules-budget] .addlink")
    assert team.slug in browser.find(".field-team").text  # filled in
    browser.fill("end_user", "*")
    choose(browser, "model", model.name)
    browser.fill("unit", "US dollars")
    browser.fill("period", "month")
    browser.fill("amount", "12,50")
    browser.click("[name=_save]")
    assert "Enter an amount such as 12.50" in browser.text
    browser.fill("amount", "12.50")
    browser.click("[name=_save]")
    budget = Budget.objects.get(team=team)
    assert (budget.amount, budget.end_user, budget.model_id) == (12_500_000_000, "*", model.name)

    browser.open(f"/admin/teams/team/{team.pk}/change/")
    assert "$12.50 per month" in browser.text
    browser.click("section[aria-labelledby=rules-budget] td a")
    browser.fill("amount", "20")
    browser.click("[name=_save]")
    budget.refresh_from_db()
    assert budget.amount == 20 * USD
    browser.open(f"/admin/billing/budget/{budget.pk}/delete/")
    browser.click("main [type=submit]")
    assert not Budget.objects.filter(pk=budget.pk).exists()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_of_the_pages_is_cut_off(browser: Browser, width: int, scheme: str) -> None:
    department = Department.objects.create(
        slug=unique("department"), name="A department", time_zone="America/Argentina/ComodRivadavia"
    )
    team = Team.objects.create(department=department, slug=unique("team"), name="A team")
    application = Application.objects.create(team=team, slug="app", name="An application")
    key = create_key(team, "A key", actor="tests", application=application).key
    budget = make_budget(team=team, amount=9 * 10**18, period="year", end_user=LONG, model=make_model())
    make_budget(department=department, unit="tokens", amount=5_000_000, period="day", is_hard=False)
    limit = make_limit(application=application, end_user="*")
    make_limit(team=team, kind="concurrency", amount=20)
    make_budget(api_key=key, period="week", amount=12_500_000_000)
    browser.sign_in(make_admin())
    with browser.seen_as(width, scheme):
        for path in (
            f"/admin/billing/budget/?q={team.slug}",
            f"/admin/billing/limit/?q={team.slug}",
            "/admin/billing/budget/add/",
            "/admin/billing/limit/add/",
            f"/admin/billing/budget/{budget.pk}/change/",
            f"/admin/billing/limit/{limit.pk}/change/",
            f"/admin/teams/department/{department.pk}/change/",
            f"/admin/teams/team/{team.pk}/change/",
            f"/admin/teams/application/{application.pk}/change/",
            f"/admin/teams/apikey/{key.pk}/change/",
        ):
            browser.open(path)
            assert browser.cut_off() == [], path
            wide = browser.driver.execute_script(
                "return document.querySelector('main').scrollWidth > document.documentElement.clientWidth"
            )
            assert not wide, path
