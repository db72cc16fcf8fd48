"""Signing in and out in a browser."""

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
