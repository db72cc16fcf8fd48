"""The demo data: made once, told again, and following what changes around it."""

import json
import stat
from pathlib import Path

import httpx
import pytest
from django.contrib.auth import authenticate
from django.core.management import call_command
from django.test import override_settings

from gateway_site import demo
from routing.models import Backend
from teams.models import ApiKey, Department
from teams.services import revoke_key
from tests.factories import wait_for_record
from tests.processes import Product, Simulator


@pytest.fixture
def described(simulator: Simulator, tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "demo.json"
    arguments = {"write": path, "base_url": "http://127.0.0.1:1", "simulator_url": simulator.base_url}
    call_command("load_demo", **arguments, verbosity=0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    described: dict[str, object] = json.loads(path.read_text())
    return described


def first_call(product: Product, key: object) -> httpx.Response:
    product.wait_for_configuration()
    return httpx.post(
        f"{product.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={"model": demo.MODEL, "messages": [{"role": "user", "content": "Say hello."}]},
    )


def test_its_key_calls_its_model_and_its_people_can_sign_in(
    product: Product, described: dict[str, object]
) -> None:
    assert set(described) == {"base_url", "portal_url", "api_key", "model", "users"}
    response = first_call(product, described["api_key"])
    assert response.status_code == 200
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.team, record.application, record.cost_nanousd) == ("demo-team", "demo-app", 10_050)
    users = described["users"]
    assert isinstance(users, dict)
    assert set(users) == {"admin", "auditor", "finance", "department_manager", "team_owner", "member"}
    for person in users.values():
        assert authenticate(username=person["username"], password=person["password"]) is not None


def test_loading_again_changes_nothing(described: dict[str, object], simulator: Simulator) -> None:
    before = (Department.objects.count(), ApiKey.objects.count(), Backend.objects.count())
    assert not demo.load(simulator.base_url)
    assert (Department.objects.count(), ApiKey.objects.count(), Backend.objects.count()) == before
    assert demo.describe("http://127.0.0.1:1") == described


def test_its_backend_follows_the_simulator(described: dict[str, object], simulator: Simulator) -> None:
    demo.load("http://127.0.0.1:9/v1")
    assert Backend.objects.get(name=demo.BACKEND).base_url == "http://127.0.0.1:9/v1"
    demo.load(simulator.base_url)
    assert Backend.objects.get(name=demo.BACKEND).base_url == simulator.base_url


def test_with_new_secrets_the_key_and_passwords_are_made_anew(
    product: Product, described: dict[str, object], simulator: Simulator
) -> None:
    with override_settings(SECRET_KEY="another secret key, as long as it should be"):
        demo.load(simulator.base_url)
        renewed = demo.describe("http://127.0.0.1:1")
    assert renewed["api_key"] != described["api_key"]
    assert first_call(product, renewed["api_key"]).status_code == 200
    assert first_call(product, described["api_key"]).status_code == 401


def test_a_revoked_demo_key_stays_revoked(described: dict[str, object], simulator: Simulator) -> None:
    with override_settings(SECRET_KEY="a third secret key, also as long as it should be"):
        demo.load(simulator.base_url)
        key = ApiKey.objects.get(digest=demo._current_digest())
        revoke_key(key, actor="tests")
        demo.load(simulator.base_url)
        assert ApiKey.objects.get(digest=demo._current_digest()).revoked_at is not None
