"""The landing page in a browser, signed out and in."""

import pytest

from tests.browser.conftest import Browser
from tests.factories import make_team
from tests.people import make_team_member


def test_a_visitor_sees_the_first_call_and_can_copy_it(browser: Browser) -> None:
    browser.open("/")
    assert "One endpoint for every model" in browser.text
    assert f"curl {browser.product.base_url}/models" in browser.text
    assert browser.wait_for("button.copy").text == "Copy"
    assert "Sign in" in browser.find("header").text


def test_it_is_readable_without_scripts(browser: Browser) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open("/")
        assert "curl" in browser.text
        assert browser.count("button.copy") == 0
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_member_sees_the_name_and_the_role(browser: Browser) -> None:
    team = make_team()
    account = make_team_member(team)
    browser.sign_in(account)
    assert browser.path == "/"
    assert f"Signed in as {account.username}" in browser.find("header").text
    assert f"Team member of the team {team.slug}" in browser.text


def test_the_keyboard_reaches_the_content_first(browser: Browser) -> None:
    browser.open("/")
    browser.find("body").send_keys("\ue004")  # Tab
    skip = browser.driver.switch_to.active_element
    assert skip.text == "Skip to the content"
    skip.send_keys("\ue007")  # Enter
    assert browser.driver.switch_to.active_element.get_attribute("id") == "content"


@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_narrow_and_wide_and_follows_the_colour_scheme(
    browser: Browser, width: int, scheme: str
) -> None:
    with browser.seen_as(width, scheme):
        browser.open("/")
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width
        background = browser.find("body").value_of_css_property("background-color")
        assert background == {"light": "rgba(246, 247, 249, 1)", "dark": "rgba(16, 21, 28, 1)"}[scheme]
