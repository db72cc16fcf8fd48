"""A real browser: headless Chromium, with a fresh profile for the session and fresh cookies for each test."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.processes import Product

if TYPE_CHECKING:  # pytest loads this file before Django is set up
    from tests.people import Account

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)
PATIENCE_S = 10


class Browser:
    """What the tests do with a page, in their words."""

    def __init__(self, driver: webdriver.Chrome, product: Product) -> None:
        self.driver = driver
        self.product = product

    def open(self, path: str) -> None:
        """Go to a page of the product, and wait for all of it: now and then the driver returns before."""
        self.driver.get(f"{self.product.url}{path}")
        state = "return document.readyState"
        WebDriverWait(self.driver, PATIENCE_S).until(
            lambda driver: driver.execute_script(state) == "complete"
        )

    @property
    def path(self) -> str:
        """Where the browser is."""
        return self.driver.current_url.removeprefix(self.product.url)

    @property
    def text(self) -> str:
        """What the page says."""
        return self.find("body").text

    def find(self, selector: str) -> WebElement:
        """The first element that matches a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        """How many elements match."""
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def fill(self, name: str, value: str) -> None:
        """Type into the field of this name, or choose from its list."""
        field = self.driver.find_element(By.NAME, name)
        if field.tag_name == "select":
            Select(field).select_by_visible_text(value)
            return
        field.clear()
        field.send_keys(value)

    def click(self, selector: str) -> None:
        """Click, and wait for the page that follows."""
        element = self.find(selector)
        old = self.find("html")
        element.click()
        WebDriverWait(self.driver, PATIENCE_S).until(lambda driver: self.find("html") != old)

    def wait_for(self, selector: str) -> WebElement:
        """The element, as soon as the page's script has made it."""
        WebDriverWait(self.driver, PATIENCE_S).until(lambda driver: self.count(selector))
        return self.find(selector)

    def sign_in(self, account: "Account", password: str = "") -> None:
        """Through the sign-in page."""
        self.open("/sign-in/")
        self.fill("username", account.username)
        self.fill("password", password or account.password)
        self.click("main button[type=submit]")

    @contextlib.contextmanager
    def seen_as(self, width: int, scheme: str) -> Iterator[None]:
        """A window of this width, in this colour scheme."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def cut_off(self) -> list[str]:
        """The form fields and buttons of the content that reach beyond the window."""
        found: list[str] = self.driver.execute_script(
            """
            const edge = document.documentElement.clientWidth;
            const fields = document.querySelectorAll("main :is(input, select, textarea, button, .selector)");
            return [...fields].filter((field) => field.getBoundingClientRect().right > edge)
                .filter((field) => !field.closest(".inline-group"))
                .map((field) => field.id || field.className || field.name);
            """
        )
        return found

    def complaints(self) -> list[str]:
        """What the console holds since last asked: policy violations, script errors, failed loads."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium, if this machine has it."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile: Path = tmp_path_factory.mktemp("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome, product: Product) -> Iterator[Browser]:
    """A signed-out browser; a test fails if its pages leave a complaint in the console."""
    browser = Browser(driver, product)
    driver.get("about:blank")
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.complaints()
    yield browser
    assert browser.complaints() == []
