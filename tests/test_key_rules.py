"""Every rule of a key on every route, through the real server: one right answer, recorded once, at no cost.

`ROUTES` and `RULES` are the tables: a new route needs one line, and meets every rule.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.utils import timezone

from routing.models import Grant
from teams.key_rules import Endpoint
from teams.keys import generate_key
from teams.models import ApiKey, ApiKeyUse, Application, Team
from teams.services import CreatedKey, change_key, create_key, pause_key, resume_key, revoke_key, rotate_key
from tests.factories import Caller, make_caller, make_team, unique, wait_for_record
from tests.processes import Processes, Product, Simulator, free_ports, wait_for
from tests.routes import AZURE_CHAT, WAYS

ALL_BUT = {one: [other.value for other in Endpoint if other is not one] for one in Endpoint}


@dataclass(frozen=True)
class Route:
    """A way into the gateway. `names_model`: its request is refused for a model that the key may not use."""

    name: str
    endpoint: Endpoint
    path: str
    content: dict[str, Any] | None = None
    names_model: bool = True

    def call(self, product: Product, caller: Caller, headers: dict[str, str]) -> httpx.Response:
        """A request that is right in everything but what `headers` and the key say."""
        return httpx.request(
            "GET" if self.content is None else "POST",
            product.url + self.path.format(model=caller.model),
            headers=headers,
            json=None if self.content is None else {"model": caller.model, **self.content},
            timeout=20,
            verify=False,  # noqa: S501 - plain http, and to load certificates would take longer than the call
        )


ROUTES = [
    *(
        Route(
            f"{'streamed' if stream else 'plain'} {route.name}",
            Endpoint(route.name),
            route.path,
            {**route.content, "stream": stream} if route.streams else route.content,
        )
        for route, stream in WAYS
    ),
    Route("azure chat", Endpoint.CHAT, AZURE_CHAT.path, AZURE_CHAT.content),
    Route("list of models", Endpoint.MODELS, "/v1/models", names_model=False),
    Route("one model", Endpoint.MODELS, "/v1/models/{model}"),
]
CHAT = ROUTES[0]
MAKING_CALLS = [route for route in ROUTES if route.content is not None]


def expire(key: ApiKey) -> None:
    created = timezone.now() - timedelta(days=2)
    ApiKey.objects.filter(pk=key.pk).update(created_at=created, expires_at=created + timedelta(days=1))


def forget(key: ApiKey) -> None:
    key.delete()


@dataclass(frozen=True)
class Rule:
    """What is wrong with a key or with how it is sent, and the answer."""

    name: str
    status: int
    code: str
    reason: str
    fields: Callable[[Route], dict[str, Any]] = lambda route: {}
    befalls: Callable[[ApiKey], Any] = lambda key: None
    headers: dict[str, str] = field(default_factory=dict)
    is_ours: bool = True  # whether the record can say whose key it was
    only_with_model: bool = False


_INVALID = (401, "invalid_api_key", "key_invalid")
_ADDRESS = (401, "ip_not_authorized", "key_address")
_APPLICATION = (403, "application_not_allowed", "application_unknown")
RULES = [
    Rule("unknown", *_INVALID, befalls=forget, is_ours=False),
    Rule("revoked", *_INVALID, befalls=lambda key: revoke_key(key, actor="tests")),
    Rule("paused", *_INVALID, befalls=lambda key: pause_key(key, actor="tests")),
    Rule("expired", *_INVALID, befalls=expire),
    Rule(
        "rotated without overlap",
        *_INVALID,
        befalls=lambda key: rotate_key(key, actor="tests", overlap=timedelta(0)),
    ),
    Rule(
        "revoked and restricted",
        *_INVALID,
        fields=lambda route: {"scopes": ALL_BUT[route.endpoint], "ip_ranges": ["192.0.2.0/24"]},
        befalls=lambda key: revoke_key(key, actor="tests"),
    ),
    Rule("other addresses", *_ADDRESS, fields=lambda route: {"ip_ranges": ["192.0.2.0/24", "10.0.0.0/8"]}),
    Rule("IPv6 only", *_ADDRESS, fields=lambda route: {"ip_ranges": ["2001:db8::/32", "::1"]}),
    Rule(
        "a claimed address",
        *_ADDRESS,
        fields=lambda route: {"ip_ranges": ["192.0.2.0/24"]},
        headers={"X-Forwarded-For": "192.0.2.7", "X-Real-IP": "192.0.2.7", "Forwarded": "for=192.0.2.7"},
    ),
    Rule(
        "other scopes",
        403,
        "insufficient_permissions",
        "key_scope",
        fields=lambda route: {"scopes": ALL_BUT[route.endpoint]},
    ),
    Rule(
        "other models",
        403,
        "model_not_allowed",
        "key_model",
        fields=lambda route: {"allowed_models": ["another-model"]},
        only_with_model=True,
    ),
    Rule("no such application", *_APPLICATION, headers={"X-App-Name": "no-such-app"}),
    Rule("another team's application", *_APPLICATION, headers={"X-App-Name": "theirs"}),
    Rule("an application's id", *_APPLICATION, headers={"X-App-Name": "1"}),
    Rule("a hostile application", *_APPLICATION, headers={"X-App-Name": "'; DROP TABLE x --" * 50}),
    Rule(
        "two keys",
        401,
        "invalid_api_key",
        "key_conflict",
        headers={"x-api-key": generate_key()},
        is_ours=False,
    ),
]
MATRIX = [
    (route, rule) for route in ROUTES for rule in RULES if route.names_model or not rule.only_with_model
]


@pytest.fixture(scope="module")
def caller(product: Product, simulator: Simulator) -> Caller:
    Application.objects.create(team=make_team(), slug="theirs", name="Another team's")
    caller = make_caller(simulator.base_url, product)
    Application.objects.create(team=caller.team, slug="sibling", name="Another one of the team")
    wait_for(lambda: CHAT.call(product, caller, named(caller, "sibling")).status_code == 200, "the team")
    return caller


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def named(caller: Caller, application: str) -> dict[str, str]:
    return {**bearer(caller.secret), "X-App-Name": application}


def make_key(caller: Caller, **fields: Any) -> CreatedKey:
    return create_key(caller.team, unique("key"), actor="tests", application=caller.application, **fields)


@pytest.fixture(scope="module")
def refusals(product: Product, caller: Caller) -> dict[str, tuple[CreatedKey, httpx.Response]]:
    """The key and the answer of every cell of the matrix, all asked in one go: their records take a while."""
    answers = {}
    for route, rule in MATRIX:
        created = make_key(caller, **rule.fields(route))
        rule.befalls(created.key)
        answers[f"{route.name}, {rule.name}"] = (
            created,
            route.call(product, caller, {**bearer(created.secret), **rule.headers}),
        )
    return answers


@pytest.mark.parametrize(
    ("route", "rule"), MATRIX, ids=[f"{route.name}, {rule.name}" for route, rule in MATRIX]
)
def test_a_rule_refuses(
    refusals: dict[str, tuple[CreatedKey, httpx.Response]], caller: Caller, route: Route, rule: Rule
) -> None:
    created, response = refusals[f"{route.name}, {rule.name}"]
    assert (response.status_code, response.headers["x-gateway-reason"]) == (rule.status, rule.reason)
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", rule.code)
    assert created.secret not in response.text + str(response.headers)
    record = wait_for_record(response.headers["x-request-id"])
    assert (record.status, record.http_status, record.reason) == ("refused", rule.status, rule.reason)
    assert (record.operation, record.cost_nanousd, record.attempts) == (route.endpoint, 0, 0)
    whose = (created.key.hint, caller.team.slug) if rule.is_ours else ("", "")
    assert (record.api_key_hint, record.team) == whose


def test_a_key_that_its_own_rules_refuse_was_not_used(
    refusals: dict[str, tuple[CreatedKey, httpx.Response]], caller: Caller
) -> None:
    used = {
        created.key.pk for created, response in refusals.values() if "key_model" in response.headers.values()
    }
    wait_for(lambda: ApiKeyUse.objects.filter(key__in=used).count() == len(used), "the uses to be written")
    others = {created.key.pk for created, _ in refusals.values()} - used
    assert not ApiKeyUse.objects.filter(key__in=others).exists()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_an_outsider_cannot_tell_why_a_key_does_not_work(
    product: Product, caller: Caller, route: Route
) -> None:
    answers = set()
    for rule in RULES:
        if rule.reason == "key_invalid":
            created = make_key(caller, **rule.fields(route))
            rule.befalls(created.key)
            response = route.call(product, caller, bearer(created.secret))
            headers = {
                name: value
                for name, value in response.headers.items()
                if name not in ("date", "x-request-id")
            }
            answers.add((response.status_code, response.text, json.dumps(headers)))
    assert len(answers) == 1


ALLOWED: dict[str, Callable[[Route, Caller], dict[str, Any]]] = {
    "nothing": lambda route, caller: {},
    "this scope": lambda route, caller: {"scopes": [route.endpoint]},
    "this model": lambda route, caller: {"allowed_models": ["another-model", caller.model]},
    "this address": lambda route, caller: {"ip_ranges": ["192.0.2.0/24", "127.0.0.1"]},
    "everywhere": lambda route, caller: {"ip_ranges": ["0.0.0.0/0", "::/0"]},
    "all of it": lambda route, caller: {
        "scopes": [route.endpoint],
        "allowed_models": [caller.model],
        "ip_ranges": ["127.0.0.0/8"],
    },
}


@pytest.mark.parametrize("allowed", ALLOWED)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_rule_that_is_met_hinders_nothing(
    product: Product, caller: Caller, route: Route, allowed: str
) -> None:
    created = make_key(caller, **ALLOWED[allowed](route, caller))
    response = route.call(product, caller, bearer(created.secret))
    assert response.status_code == 200
    assert "x-gateway-reason" not in response.headers


def test_the_list_of_models_has_only_those_of_the_key(product: Product, caller: Caller) -> None:
    for allowed, expected in (([], [caller.model]), ([caller.model], [caller.model]), (["another"], [])):
        created = make_key(caller, allowed_models=allowed)
        response = httpx.get(f"{product.base_url}/models", headers=bearer(created.secret))
        assert [model["id"] for model in response.json()["data"]] == expected


# --- How a key is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda key: {"Authorization": f"Bearer {key}"},
        lambda key: {"Authorization": f"bearer   {key}"},
        lambda key: {"x-api-key": key},
        lambda key: {"api-key": key},
        lambda key: {"api-key": key, "x-api-key": key, "Authorization": f"Bearer {key}"},
        lambda key: {"api-key": key, "Authorization": "Basic Zm9vOmJhcg=="},
        lambda key: {"api-key": key, "x-api-key": ""},
    ],
)
def test_a_key_may_come_in_three_headers(
    product: Product, caller: Caller, form: Callable[[str], dict[str, str]]
) -> None:
    assert CHAT.call(product, caller, form(caller.secret)).status_code == 200


@pytest.mark.parametrize(
    "form",
    [
        lambda key, other: [("Authorization", f"Bearer {key}"), ("x-api-key", other)],
        lambda key, other: [("Authorization", f"Bearer {other}"), ("api-key", key)],
        lambda key, other: [("x-api-key", key), ("api-key", other)],
        lambda key, other: [("Authorization", f"Bearer {other}"), ("Authorization", f"Bearer {key}")],
        lambda key, other: [("x-api-key", other), ("x-api-key", key)],
        lambda key, other: [("api-key", key), ("api-key", other)],
    ],
)
def test_keys_that_differ_are_refused_whichever_is_right(
    product: Product, caller: Caller, form: Callable[[str, str], list[tuple[str, str]]]
) -> None:
    for first, second in ((caller.secret, generate_key()), (generate_key(), caller.secret)):
        response = httpx.get(f"{product.base_url}/models", headers=form(first, second))
        assert (response.status_code, response.headers["x-gateway-reason"]) == (401, "key_conflict")


def test_the_same_header_twice_with_the_same_key_is_one_key(product: Product, caller: Caller) -> None:
    headers = [("x-api-key", caller.secret), ("x-api-key", caller.secret)]
    assert httpx.get(f"{product.base_url}/models", headers=headers).status_code == 200


# --- Applications ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_bound", [True, False], ids=["an application's key", "a team's key"])
@pytest.mark.parametrize("route", MAKING_CALLS, ids=lambda route: route.name)
def test_a_call_counts_for_the_application_it_names(
    product: Product, caller: Caller, route: Route, is_bound: bool
) -> None:
    own = caller.application if is_bound else None
    secret = create_key(caller.team, "A key", actor="tests", application=own).secret
    sibling = Application.objects.get(team=caller.team, slug="sibling")
    for name, application in (("", own), ("app", caller.application), ("sibling", sibling)):
        response = route.call(product, caller, {**bearer(secret), "X-App-Name": name})
        assert response.status_code == 200
        record = wait_for_record(response.headers["x-request-id"])
        expected = (application.pk, application.slug) if application else (None, "")
        assert (record.application_id, record.application) == expected


# --- Changes reach every process within a second --------------------------------------------------------


@pytest.fixture(scope="module")
def cut_off(processes: Processes) -> Product:
    """A second process of the same gateway, which no announcement reaches, and which looks as often as by default."""
    (port,) = free_ports(1)
    return processes.start_product(
        with_shipper=False, REDIS_URL=f"redis://127.0.0.1:{port}/0", GATEWAY_CONFIGURATION_POLL_MS="500"
    )


@dataclass(frozen=True)
class Change:
    """What happens to a key that worked, and the reason for which it is then refused."""

    name: str
    reason: str
    act: Callable[[ApiKey], Any]
    application: str = ""


def _deactivate(key: ApiKey) -> None:
    Team.objects.filter(pk=key.team_id).update(is_active=False)


def _drop_application(key: ApiKey) -> None:
    Application.objects.filter(team=key.team_id, slug="temporary").delete()


def _rename_application(key: ApiKey) -> None:
    Application.objects.filter(team=key.team_id, slug="temporary").update(slug="renamed")


CHANGES = [
    Change("revoked", "key_invalid", lambda key: revoke_key(key, actor="tests")),
    Change("paused", "key_invalid", lambda key: pause_key(key, actor="tests")),
    Change("re-scoped", "key_scope", lambda key: change_key(key, actor="tests", scopes=["embeddings"])),
    Change(
        "other models", "key_model", lambda key: change_key(key, actor="tests", allowed_models=["another"])
    ),
    Change("moved", "key_address", lambda key: change_key(key, actor="tests", ip_ranges=["192.0.2.0/24"])),
    Change("rotated", "key_invalid", lambda key: rotate_key(key, actor="tests", overlap=timedelta(0))),
    Change("team inactive", "key_invalid", _deactivate),
    Change("application gone", "application_unknown", _drop_application, application="temporary"),
    Change("application renamed", "application_unknown", _rename_application, application="temporary"),
]


def refusal(product: Product, caller: Caller, headers: dict[str, str]) -> str:
    """The reason, or nothing when the call was answered."""
    reason: str = CHAT.call(product, caller, headers).headers.get("x-gateway-reason", "")
    return reason


def until(product: Product, caller: Caller, headers: dict[str, str], reason: str, started: float) -> float:
    wait_for(lambda: refusal(product, caller, headers) == reason, reason or "an answer")
    return time.monotonic() - started


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_acts_on_every_process_within_a_second(
    product: Product, cut_off: Product, simulator: Simulator, change: Change
) -> None:
    caller = make_caller(simulator.base_url, product)
    cut_off.wait_for_configuration()
    headers = bearer(caller.secret)
    if change.application:
        Application.objects.create(team=caller.team, slug=change.application, name="A new one")
        headers["X-App-Name"] = change.application
    for process in (product, cut_off):
        assert refusal(process, caller, headers) == ""
    started = time.monotonic()
    change.act(caller.key)
    for process in (cut_off, product):
        assert until(process, caller, headers, change.reason, started) < 1


def test_what_is_given_back_acts_within_a_second_too(
    product: Product, cut_off: Product, simulator: Simulator
) -> None:
    caller = make_caller(simulator.base_url, product)
    cut_off.wait_for_configuration()
    headers = bearer(caller.secret)
    pause_key(caller.key, actor="tests")
    for process in (product, cut_off):
        assert refusal(process, caller, headers) == "key_invalid"
        assert refusal(process, caller, named(caller, "late")) == "key_invalid"
    started = time.monotonic()
    resume_key(caller.key, actor="tests")
    Application.objects.create(team=caller.team, slug="late", name="A new one")
    for process in (cut_off, product):
        assert until(process, caller, named(caller, "late"), "", started) < 1


def test_a_key_that_was_tried_before_it_was_made_works_within_a_second(
    product: Product, cut_off: Product, caller: Caller
) -> None:
    cut_off.wait_for_configuration()
    secret = generate_key()
    for process in (product, cut_off):
        assert refusal(process, caller, bearer(secret)) == "key_invalid"
    started = time.monotonic()
    create_key(caller.team, "A given key", actor="tests", secret=secret)
    for process in (cut_off, product):
        assert until(process, caller, bearer(secret), "", started) < 1


def test_a_withdrawn_grant_acts_within_a_second(cut_off: Product, simulator: Simulator) -> None:
    caller = make_caller(simulator.base_url)
    cut_off.wait_for_configuration()
    assert refusal(cut_off, caller, bearer(caller.secret)) == ""
    started = time.monotonic()
    Grant.objects.filter(team=caller.team).delete()
    assert until(cut_off, caller, bearer(caller.secret), "model_not_granted", started) < 1


def test_the_process_that_hears_no_announcement_says_so_once(cut_off: Product) -> None:
    assert cut_off.log.read_text().count("not announced, but found by looking") == 1


def test_a_new_key_makes_no_worker_load_its_configuration_again(product: Product, caller: Caller) -> None:
    def version() -> int:
        return int(httpx.get(f"{product.url}/readyz").json()["configuration_version"])

    product.wait_for_configuration()
    before = version()
    secret = make_key(caller).secret
    assert refusal(product, caller, bearer(secret)) == ""
    assert version() == before


def test_both_keys_work_while_a_rotation_overlaps(product: Product, caller: Caller) -> None:
    old = make_key(caller)
    new = rotate_key(old.key, actor="tests", overlap=timedelta(hours=1))
    assert [refusal(product, caller, bearer(created.secret)) for created in (old, new)] == ["", ""]


# --- Behind a proxy, and the last use -------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxied(processes: Processes) -> Product:
    """A process that believes what a proxy on this host says."""
    return processes.start_product(with_shipper=False, GATEWAY_TRUSTED_PROXIES="127.0.0.0/8,10.0.0.0/8")


@pytest.mark.parametrize(
    ("forwarded", "reason"),
    [
        (["192.0.2.7"], ""),
        (["192.0.2.7, 10.0.0.1"], ""),
        (["198.51.100.1, 192.0.2.7"], ""),
        (["192.0.2.7, 198.51.100.1"], "key_address"),
        (["192.0.2.7", "198.51.100.1"], "key_address"),
        (["unknown"], "key_address"),
        ([], "key_address"),
    ],
    ids=str,
)
def test_behind_a_trusted_proxy_the_callers_address_counts(
    proxied: Product, caller: Caller, forwarded: list[str], reason: str
) -> None:
    proxied.wait_for_configuration()
    secret = make_key(caller, ip_ranges=["192.0.2.0/24"]).secret
    headers = [("Authorization", f"Bearer {secret}"), *(("X-Forwarded-For", line) for line in forwarded)]
    response = httpx.get(f"{proxied.base_url}/models", headers=headers)
    assert response.headers.get("x-gateway-reason", "") == reason


@pytest.mark.slow
def test_the_last_use_is_written_with_the_callers_address(proxied: Product, caller: Caller) -> None:
    proxied.wait_for_configuration()
    created = make_key(caller)
    before = timezone.now()
    for address in ("192.0.2.1", "192.0.2.2"):
        headers = {**bearer(created.secret), "X-Forwarded-For": address}
        assert httpx.get(f"{proxied.base_url}/models", headers=headers).status_code == 200
    use = wait_for(lambda: ApiKeyUse.objects.filter(key=created.key).first(), "the last use")
    assert use.last_used_ip == "192.0.2.2"
    assert before <= use.last_used_at <= timezone.now()
