"""The administration in a browser: a key's life, and every page under the strict policy."""

import time

import httpx
import pytest
from django.contrib import admin
from django.urls import reverse

from teams.models import ApiKey
from tests.browser.conftest import Browser
from tests.factories import make_caller, make_model, make_team, unique
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


@pytest.mark.slow  # a long walk
def test_a_key_is_made_shown_once_used_changed_rotated_and_revoked(
    browser: Browser, simulator: Simulator
) -> None:
    caller = make_caller(simulator.base_url, browser.product)
    other = make_model(caller.backend, team=caller.team)
    name = unique("key")
    browser.sign_in(make_admin())
    browser.open("/admin/teams/apikey/add/")
    choose(browser, "team", caller.team.slug)
    browser.click(".step-button")
    browser.fill("name", name)
    browser.find("#id_allowed_models_input").send_keys(other.name)
    browser.find(f"#id_allowed_models_from option[value='{other.name}']").click()
    browser.find("#id_allowed_models_add").click()
    browser.click("[name=_save]")

    secret = browser.find("#secret").text
    key = ApiKey.objects.get(name=name)
    assert key.allowed_models == [other.name]
    assert secret.startswith("sk-gw_")
    assert secret in browser.find("#curl").text
    assert secret not in browser.driver.current_url + str(browser.driver.get_cookies())
    wait_for(lambda: status_of(browser, secret) == 200, "the new key to work")

    browser.open(f"/admin/teams/apikey/{key.pk}/change/")
    assert key.hint in browser.text
    assert secret not in browser.driver.page_source
    browser.find("[name=scopes][value=chat]").click()
    browser.click("[name=_save]")
    wait_for(lambda: status_of(browser, secret) == 403, "the key to be for chat only")

    browser.open(f"/admin/teams/apikey/{key.pk}/change/")
    browser.click(".rotate-link")
    browser.click(".step-button")
    assert browser.find("#secret").text != secret
    assert key.hint in browser.text

    browser.open(f"/admin/teams/apikey/{key.pk}/change/")
    browser.click(".revoke-link")
    assert "This cannot be undone" in browser.text
    assert status_of(browser, secret) == 403
    browser.fill("reason", "Leaked")
    browser.click(".step-button")
    started = time.monotonic()
    assert "1 API key was revoked" in browser.text
    wait_for(lambda: status_of(browser, secret) == 401, "the key to be refused")
    assert time.monotonic() - started < 1


@pytest.mark.slow
def test_several_keys_are_paused_from_the_list(browser: Browser, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url, browser.product)
    browser.sign_in(make_admin())
    browser.open(f"/admin/teams/apikey/?q={caller.team.slug}")
    browser.find("#action-toggle").click()
    browser.find("select[name=action] option[value=pause]").click()
    browser.click("button[name=index]")
    assert caller.key.hint in browser.text
    browser.click(".step-button")
    assert "1 API key was paused" in browser.text


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1400, "dark")])
@pytest.mark.slow
def test_forms_and_confirmations_fit_the_window(
    browser: Browser, simulator: Simulator, width: int, scheme: str
) -> None:
    caller = make_caller(simulator.base_url)
    ApiKey.objects.filter(pk=caller.key.pk).update(name="A name that goes on " * 9)
    key, backend, person = caller.key.pk, caller.backend.pk, make_team_member(caller.team).user.pk
    paths = [
        "/admin/",
        "/password/",
        f"/admin/teams/apikey/{key}/change/",
        f"/admin/teams/apikey/revoke/?id={key}",
        f"/admin/teams/apikey/rotate/?id={key}",
        f"/admin/routing/backend/drain/?id={backend}",
        f"/admin/auth/user/{person}/change/",
    ]
    browser.sign_in(make_admin())
    with browser.seen_as(width, scheme):
        for path in paths:
            browser.open(path)
            assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width, path
            assert browser.cut_off() == [], path


@pytest.mark.slow  # it opens each of them in a browser
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
            assert browser.count("#content") == 1, (path, browser.path, browser.text)
            assert browser.complaints() == [], path


@pytest.mark.parametrize("path", ["/admin/", "/admin/teams/apikey/"])
def test_a_member_is_told_that_the_administration_is_not_open(browser: Browser, path: str) -> None:
    account = make_team_member(make_team())
    browser.sign_in(account)
    browser.open(path)
    assert "You may not do this" in browser.text
    assert [line for line in browser.complaints() if "403" not in line] == []


def test_signing_in_leads_to_the_page_that_was_asked_for(browser: Browser) -> None:
    account = make_admin()
    browser.open("/admin/teams/team/")
    assert browser.path == "/sign-in/?next=/admin/teams/team/"
    browser.fill("username", account.username)
    browser.fill("password", account.password)
    browser.click("main button[type=submit]")
    assert browser.path == "/admin/teams/team/"
    browser.click("#logout-form button")
    assert browser.path == "/"
