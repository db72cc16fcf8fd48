"""What would become of a request, told without a call: to people as text, to programs as JSON."""

import json
import os
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import CommandError, call_command

from billing.models import UsageRecord
from routing.models import ContentRoute, Fallback, Route, Suit
from tests.factories import Caller, make_backend, make_budget, make_caller, make_limit, make_model
from tests.guards.policies import make_policy
from tests.processes import Product, Simulator, manage


def say(*arguments: str, code: int = 0) -> str:
    """What the command prints; in this process, for a new one takes two seconds."""
    out = StringIO()
    try:
        call_command("explain", *arguments, stdout=out)
        ended = 0
    except CommandError as error:
        ended = error.returncode
        out.write(f"\n{error}")
    assert ended == code, out.getvalue()
    return out.getvalue()


def explain(*arguments: str, code: int = 0) -> dict[str, Any]:
    text = say(*arguments, "--json", code=code)
    told: dict[str, Any] = json.loads(text[: text.rindex("}") + 1])
    return told


@pytest.fixture
def caller(simulator: Simulator) -> Caller:
    """Of a model with a pool, a fallback, and rules."""
    caller = make_caller(simulator.base_url, tags=["eu"], region="north")
    model = caller.backend.catalogue_models.get()
    claude = make_backend(simulator.base_url, provider="anthropic", tags=["eu"])
    Route.objects.create(model=model, backend=claude, priority=2, weight=7)
    Route.objects.create(model=model, backend=make_backend(simulator.base_url, prices={}), priority=2)
    Fallback.objects.create(model=model, to=make_model(make_backend(simulator.base_url)), cause="context")
    make_budget(team=caller.team, amount=5_000_000_000)
    make_limit(api_key=caller.key)
    make_budget(team=caller.team, amount=7, period="day", is_hard=False)
    caller.team.required_tags, caller.team.regions = ["eu"], ["north"]
    caller.team.save()
    return caller


def test_it_tells_backends_rules_and_what_is_held(
    caller: Caller, simulator: Simulator, tmp_path: Path
) -> None:
    body = {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 50, "seed": 1}
    (tmp_path / "request.json").write_text(json.dumps(body))
    request = ["--request", str(tmp_path / "request.json"), "--model", caller.model]
    before = httpx.get(f"{simulator.url}/simulator/served").json()["count"]
    told = explain("--key", str(caller.key.pk), *request)
    assert (told["model"], told["refusal"], told["strategy"]) == (caller.model, None, "weighted")
    assert (told["required_tags"], told["preferred_regions"]) == (["eu"], ["north"])
    first, claude, unpriced, other = told["ways"]
    assert (first["backend"], first["group"], first["translated"], first["obstacle"]) == (
        caller.backend.name, 1, False, "",
    )  # fmt: skip
    assert (claude["group"], claude["weight"], claude["translated"], claude["dropped"]) == (
        2,
        7,
        True,
        ["seed"],
    )
    assert unpriced["obstacle"] == "it lacks eu"
    assert (other["cause"], other["obstacle"]) == ("context", "the caller may not use this model")
    assert len(told["rules"]) == 3
    assert any("5.000000000 USD per month (team" in rule for rule in told["rules"])
    assert any("100 requests per minute (API key" in rule for rule in told["rules"])
    assert any(rule.endswith("which only counts") for rule in told["rules"])
    assert told["output_tokens"] == 50
    assert told["input_tokens"] >= 3
    assert float(told["most_usd"]) > 50 * 600e-9
    assert httpx.get(f"{simulator.url}/simulator/served").json()["count"] == before
    assert not UsageRecord.objects.filter(team_id=caller.team.pk).exists()


def test_the_text_says_the_same_and_how_it_ends(caller: Caller) -> None:
    text = manage(["explain", "--team", caller.team.slug, "--model", caller.model], dict(os.environ))
    assert text == say("--team", caller.team.slug, "--model", caller.model)
    assert f"Model: {caller.model}" in text
    assert f"  1. {caller.backend.name} (openai, upstream-model, weight 100): passed" in text
    assert "Required tags: eu" in text
    assert "Refused" not in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "nothing-like-it"], "model_unknown"),
        (["--operation", "embeddings"], "model"),
        (["--operation", "messages"], ""),
    ],
)
def test_a_refusal_is_told_and_is_the_status(caller: Caller, arguments: list[str], reason: str) -> None:
    given = ["--team", caller.team.slug, "--model", caller.model, *arguments]
    if not reason:
        assert explain(*given)["ways"][1]["translated"] is False
    elif reason == "model_unknown":
        assert reason in explain(*given, code=1)["refusal"]
    else:  # one backend of the pool has no such endpoint
        told = explain(*given)
        assert [way["obstacle"] != "" for way in told["ways"]] == [False, True, True, True]


def test_content_is_told_where_it_decides(caller: Caller, simulator: Simulator) -> None:
    passing = make_model(team=caller.team)
    model = caller.backend.catalogue_models.get()
    ContentRoute.objects.create(model=passing, suit=Suit.SIMPLE, to=model)
    told = explain("--team", caller.team.slug, "--model", passing.name)
    assert (told["asked_model"], told["model"]) == (passing.name, caller.model)
    assert told["content"]["suit"] == "simple"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--team", "nobody's"],
        ["--key", "999999999"],
        ["--key", "1", "--team", "x"],
        [],
        ["--team", "{team}", "--application", "none"],
        ["--team", "{team}", "--request", "/nowhere"],
        ["--team", "{team}", "--operation", "speech"],
    ],
)
def test_a_mistake_is_said(caller: Caller, arguments: list[str]) -> None:
    given = [argument.format(team=caller.team.slug) for argument in arguments]
    assert say(*given, code=1)


def test_what_it_tells_is_what_happens(caller: Caller, product: Product) -> None:
    product.wait_for_configuration()
    told = explain("--key", str(caller.key.pk), "--model", caller.model)
    answer = httpx.post(
        f"{product.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {caller.secret}"},
        json={"model": caller.model, "messages": [{"role": "user", "content": "Hello."}]},
    )
    assert answer.headers["x-gateway-backend"] == told["ways"][0]["backend"]


def test_it_says_what_guards_would_find(tmp_path: Path, caller: Caller) -> None:
    policy = make_policy(caller.team, pii="redact", secrets="block")
    try:
        said = "Write to anna@example.com."
        body = tmp_path / "body.json"
        arguments = ["--team", caller.team.slug, "--model", caller.model, "--request", str(body)]
        body.write_text(json.dumps({"messages": [{"role": "user", "content": said}]}))
        text = say(*arguments)
        assert f"Guards, by the policy {policy.name}:" in text
        assert "  redact: 1 EMAIL_ADDRESS in messages[0].content" in text
        assert "anna" not in text
        body.write_text(json.dumps({"messages": [{"role": "user", "content": "password: hunter2!"}]}))
        refused = say(*arguments, code=1)
        assert "Refused: 400 guard_secrets" in refused
    finally:
        policy.delete()
