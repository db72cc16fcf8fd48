"""The tutorials, word by word: the forms in a browser, the commands in a shell."""

import json
import os
import re
from pathlib import Path

import pytest
from django.core.management import call_command
from selenium.webdriver.common.by import By

from billing.models import UsageRecord
from gateway_site import demo
from teams.models import Application
from teams.services import create_key
from tests.browser.conftest import Browser
from tests.factories import wait_for_record
from tests.people import make_admin
from tests.processes import Product, Simulator, wait_for
from tests.tutorial import Form, Terminal, commands_of, forms_of, outputs_of, read_page


@pytest.fixture
def terminal(product: Product, simulator: Simulator, tmp_path: Path) -> Terminal:
    """A shell beside the running product, with the demo's data."""
    described = tmp_path / "described.json"
    call_command(
        "load_demo", write=described, base_url=product.url, simulator_url=simulator.base_url, verbosity=0
    )
    told = json.loads(described.read_text())
    application = Application.objects.get(slug=demo.APPLICATION, team__slug=demo.TEAM)
    # Other tests revoke the demo's own key.
    told["api_key"] = create_key(application.team, "Tutorial", actor="tests", application=application).secret
    product.wait_for_configuration()
    words = {"http://127.0.0.1:8000": product.url, "http://127.0.0.1:8001": simulator.url}
    folder = tmp_path / "project"
    folder.mkdir()
    terminal = Terminal(folder, words)
    terminal.write("demo.json", json.dumps(told))
    terminal.write("environment", f"A=b\nGATEWAY_METRICS_TOKEN={os.environ['GATEWAY_METRICS_TOKEN']}\n")
    return terminal


def pick(browser: Browser, field: str, word: str) -> None:
    """Type into an autocomplete field, and take what is listed."""
    browser.find(f".field-{field} .select2-selection").click()
    browser.wait_for(".select2-search__field").send_keys(word)
    option = f"//li[contains(@class, 'select2-results__option') and contains(text(), '{word}')]"
    wait_for(lambda: browser.driver.find_elements("xpath", option), f"the choice {word}")[0].click()


def fill_in(browser: Browser, form: Form, simulator: Simulator) -> None:
    """Open the form, fill each field by its label, and save."""
    browser.open(form.path)
    for label, value in form.values.items():
        element = browser.driver.find_element(By.XPATH, f"//label[normalize-space(.)='{label}:']")
        name = element.get_attribute("for")
        assert name is not None
        name = name.removeprefix("id_")
        if browser.count(f".field-{name} .select2-selection"):
            pick(browser, name, value)
            if browser.count(".step-buttons button"):
                browser.click(".step-buttons button")
        else:
            browser.fill(name, value.replace("http://127.0.0.1:8001", simulator.url))
    browser.click("[name=_save]")
    assert browser.count(".errornote") == 0, browser.text


def test_the_first_call(terminal: Terminal) -> None:
    curl, client, refused, ledger = commands_of(read_page("first-call.md"))
    answer = terminal.paste(curl)
    assert answer.startswith("HTTP/1.1 200 OK")
    assert '"prompt_tokens":3,"completion_tokens":16' in answer.replace(" ", "")
    assert "request 01" in terminal.paste(client)
    answer = terminal.paste(refused)
    assert answer.startswith("HTTP/1.1 403 Forbidden")
    assert "x-gateway-reason: model_not_granted" in answer
    wait_for_record(re.findall(r"x-request-id: (\S+)", answer)[0])
    assert "refused 403 model_not_granted demo-restricted 0 0 0" in terminal.paste(ledger)


@pytest.mark.slow  # the whole page, form by form
def test_a_second_team(browser: Browser, terminal: Terminal, product: Product, simulator: Simulator) -> None:
    page = read_page("a-second-team.md")
    people, paste_key, models, call, refused, client, ledger, metrics = commands_of(page)
    assert "'username': 'demo-admin'" in terminal.paste(people)
    browser.sign_in(make_admin())
    forms = forms_of(page)
    assert len(forms) == 9
    for form in forms:
        fill_in(browser, form, simulator)
    terminal.paste(paste_key.replace("sk-gw_...", browser.find("#secret").text))
    product.wait_for_configuration()

    listed = json.loads(terminal.paste(models))
    assert [model["id"] for model in listed["data"]] == ["research-chat"]
    assert terminal.paste(call).startswith("HTTP/1.1 200 OK")
    answer = terminal.paste(refused)
    assert answer.startswith("HTTP/1.1 403 Forbidden")
    assert "x-gateway-reason: model_not_granted" in answer
    assert "3 + 16 tokens" in terminal.paste(client)

    printed = outputs_of(page)
    wait_for(lambda: UsageRecord.objects.filter(team="search").count() == 3, "the ledger rows")
    assert terminal.paste(ledger) == printed[0]
    seen = terminal.paste(metrics)
    for line in printed[1].splitlines():
        assert line in seen.splitlines()
