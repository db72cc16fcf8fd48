"""The administration in a browser: a key's life, and every page under the strict policy."""

import time

import httpx
import pytest
from django.contrib import admin
from django.urls import reverse

from routing.models import Grant
from teams.models import ApiKey
from tests.browser.conftest import Browser
from tests.factories import make_caller, make_team, unique
from tests.people import make_admin, make_team_member
from tests.processes import Simulator, wait_for


def status_of(browser: Browser, secret: str) -> int:
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.get(f"{browser.product.base_url}/models", headers=headers).status_code


def choose(browser: Browser, field: str, word: str) -> None:
    """Pick from an autocomplete field as a person does."""
    browser.find(f".field-{field} .select2-selection").click()
    browser.wait_for(".select2-search__field").send_keys(word)
    option = f"//li[contains(@class, 'select2-results__option') and text()='{word}']"
    wait_for(lambda: browser.driver.find_elements("xpath", option), f"the choice {word}")[0].click()


def test_a_key_is_made_shown_once_used_and_revoked(browser: Browser, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url, browser.product)
    assert Grant.objects.filter(team=caller.team).exists()
    name = unique("key")
    browser.sign_in(make_admin())
    browser.open("/admin/teams/apikey/add/")
    choose(browser, "team", caller.team.slug)
    browser.fill("name", name)
    browser.click("[name=_save]")

    secret = browser.find("#secret").text
    key = ApiKey.objects.get(name=name)
    assert secret.startswith("sk-gw_")
    assert secret in browser.find("#curl").text
    assert secret not in browser.driver.current_url + str(browser.driver.get_cookies())
    wait_for(lambda: status_of(browser, secret) == 200, "the new key to work")

    browser.open(f"/admin/teams/apikey/{key.pk}/change/")
    assert key.hint in browser.text
    assert secret not in browser.driver.page_source
    assert browser.count("#content-main input[type=text]") == 1

    browser.click(".revoke-link")
    assert "This cannot be undone" in browser.text
    assert status_of(browser, secret) == 200
    browser.click(".revoke-button")
    started = time.monotonic()
    assert "1 API key was revoked" in browser.text
    wait_for(lambda: status_of(browser, secret) == 401, "the key to be refused")
    assert time.monotonic() - started < 1


def test_several_keys_are_revoked_from_the_list(browser: Browser, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url, browser.product)
    browser.sign_in(make_admin())
    browser.open(f"/admin/teams/apikey/?q={caller.team.slug}")
    browser.find("#action-toggle").click()
    browser.find("select[name=action] option[value=revoke]").click()
    browser.click("button[name=index]")
    assert caller.key.hint in browser.text
    browser.click(".revoke-button")
    assert "1 API key was revoked" in browser.text


def test_every_page_of_the_administration_keeps_the_policy(browser: Browser, simulator: Simulator) -> None:
    make_caller(simulator.base_url)
    browser.sign_in(make_admin())
    browser.open("/admin/")
    for model, page in admin.site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        paths = [reverse(f"{name}_changelist")]
        if getattr(page, "actions", ()) is not None:
            paths.append(reverse(f"{name}_add"))
        if (row := model._default_manager.first()) is not None:
            paths += [reverse(f"{name}_change", args=[row.pk]), reverse(f"{name}_history", args=[row.pk])]
        for path in paths:
            browser.open(path)
            assert browser.count("#content") == 1, path
            assert browser.complaints() == [], path


@pytest.mark.parametrize("path", ["/admin/", "/admin/teams/apikey/"])
def test_a_member_is_told_that_the_administration_is_not_open(browser: Browser, path: str) -> None:
    account = make_team_member(make_team())
    browser.sign_in(account)
    browser.open(path)
    assert browser.path.startswith("/admin/login/")
    assert f"You are authenticated as {account.username}" in browser.text
