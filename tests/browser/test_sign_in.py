"""Signing in and out in a browser."""

import pytest

from tests.browser.conftest import Browser
from tests.people import make_account


def test_a_wrong_password_is_told_and_the_name_is_kept(browser: Browser) -> None:
    account = make_account()
    browser.sign_in(account, "wrong")
    assert browser.path == "/sign-in/"
    assert "Please enter a correct username and password" in browser.find("[role=alert]").text
    assert browser.find("[name=username]").get_attribute("value") == account.username
    assert browser.find("[name=password]").get_attribute("value") == ""


def test_a_person_signs_in_and_out(browser: Browser) -> None:
    account = make_account()
    browser.sign_in(account)
    assert account.username in browser.find("header").text
    browser.click("header button[type=submit]")
    assert browser.path == "/"
    assert "Sign in" in browser.find("header").text
    assert browser.driver.get_cookie("sessionid") is None


@pytest.mark.slow
def test_a_person_changes_the_password(browser: Browser) -> None:
    account, new = make_account(), "staple battery horse correct"
    browser.sign_in(account)
    browser.click(".account a")
    assert browser.path == "/password/"
    for name, value in (("old_password", account.password), ("new_password1", new), ("new_password2", new)):
        browser.fill(name, value)
    browser.click("main button[type=submit]")
    assert "Your password was changed" in browser.find("[role=status]").text
    browser.click("header button[type=submit]")
    browser.sign_in(account, new)
    assert account.username in browser.find("header").text


@pytest.mark.slow  # some ten pages; the same is quick without a browser in tests/test_sign_in.py
def test_too_many_attempts_are_told_and_not_looked_at(browser: Browser) -> None:
    account = make_account()
    for _ in range(2 * 10):  # ten are allowed in a window, and one may end meanwhile
        browser.sign_in(account, "wrong")
        if "Too many attempts" in browser.text:
            break
    browser.sign_in(account)
    assert "Too many attempts" in browser.find("[role=alert]").text
    assert browser.path == "/sign-in/"
    assert [line for line in browser.complaints() if "429" not in line] == []
