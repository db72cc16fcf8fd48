"""Answers are looked through before the caller has them, plain and streamed, in every form: through the real server."""

import json
from typing import Any

import httpx
import pytest

from guards.models import PolicyTeam, Recogniser
from tests.dialects.test_pairs import PROVIDERS, told
from tests.factories import Caller, make_caller, unique, wait_for_record
from tests.guards.policies import make_policy
from tests.guards.test_routes import PLACES, WAYS, answer_text
from tests.processes import Product, Simulator

EMAIL = "anna.schmidt@example.com"
FILLER = "The weather is fine today and nothing else is to be said about it here. " * 12
SAID = f"{FILLER}Write to {EMAIL} please, and to nobody else. {FILLER}"
_LONGEST_IN_ADDRESS = 200
FORMS = pytest.mark.parametrize("place", ["chat", "completions", "messages", "responses"])
BACKENDS = pytest.mark.parametrize("backend", ["openai", pytest.param("anthropic", marks=pytest.mark.slow)])


def make_answering(
    simulator: Simulator, product: Product, text: str, backend: str = "openai", **options: Any
) -> Caller:
    """A caller whose model says `text`, always, or when it is said, under a policy: `request` and `answer` rules by
    guard."""
    faults: dict[str, Any] = (
        {"echo": True, "between_chunks_s": 0.001} if len(text) > _LONGEST_IN_ADDRESS else {"text": text}
    )
    caller = make_caller(told(simulator, **faults), **PROVIDERS[backend])
    policy = make_policy(caller.team, **options.pop("request", {}))
    for guard, fields in options.pop("answer", {}).items():
        policy.rules.create(guard=guard, looks_at="answer", **fields)
    policy.streams = options.pop("streams", "hold")
    policy.save()
    assert not options
    product.wait_for_configuration()
    return caller


def ask(
    product: Product, caller: Caller, place: str, text: str, *, stream: bool = False, **fields: Any
) -> httpx.Response:
    path, body = PLACES[place]
    most = {} if place == "responses" else {"max_tokens": 2000}
    sent = {"model": caller.model, **most, **body(text), **fields, "stream": stream}
    headers = {"Authorization": f"Bearer {caller.secret}"}
    return httpx.post(product.url + path, headers=headers, json=sent, timeout=20)


def events(answer: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def assert_stopped(answer: httpx.Response, guard: str, kind: str) -> None:
    """By an error of the answer's form, and in the record."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert kind in json.dumps(events(answer)[-1])
        assert "[DONE]" not in answer.text
        assert "message_stop" not in answer.text
        assert "response.completed" not in answer.text
    else:
        assert (answer.status_code, answer.headers["x-gateway-reason"]) == (400, f"guard_{guard}")
        assert kind in answer.text
    record = wait_for_record(answer.headers.get("x-request-id") or answer.headers["request-id"])
    assert (record.status, record.reason, record.http_status) == ("failed", f"guard_{guard}", 400)
    assert record.cost_nanousd > 0
    assert (guard, kind, "block") in {(f["guard"], f["type"], f["act"]) for f in record.guard_findings or ()}


@FORMS
@WAYS
@BACKENDS
def test_what_an_answer_holds_is_redacted(
    product: Product, simulator: Simulator, place: str, stream: bool, backend: str
) -> None:
    if (place, backend) == ("completions", "anthropic"):
        pytest.skip("it has no such endpoint")
    caller = make_answering(simulator, product, SAID, backend, answer={"pii": {"act": "redact"}})
    answer = ask(product, caller, place, SAID, stream=stream)
    assert answer.status_code == 200, answer.text
    assert EMAIL not in answer.text
    assert SAID.replace(EMAIL, "<EMAIL_ADDRESS_1>") in answer_text(answer)
    record = wait_for_record(answer.headers.get("x-request-id") or answer.headers["request-id"])
    assert record.guard_findings is not None
    (finding,) = record.guard_findings
    assert (finding["type"], finding["act"]) == ("EMAIL_ADDRESS", "redact")
    assert finding["place"].startswith("answer")


@FORMS
@WAYS
def test_what_is_blocked_ends_the_answer_and_is_charged(
    product: Product, simulator: Simulator, place: str, stream: bool
) -> None:
    caller = make_answering(simulator, product, SAID, answer={"pii": {"act": "block"}})
    answer = ask(product, caller, place, SAID, stream=stream)
    assert EMAIL not in answer.text
    assert_stopped(answer, "pii", "EMAIL_ADDRESS")
    if stream:
        assert "fine today" in answer_text(answer)


def test_a_stream_may_be_cut_where_something_is_found(product: Product, simulator: Simulator) -> None:
    rules = {"pii": {"act": "block"}}
    caller = make_answering(simulator, product, SAID, answer=rules, streams="cut")
    answer = ask(product, caller, "chat", SAID, stream=True)
    said = answer_text(answer)
    assert FILLER in said
    assert len(said) < len(FILLER) + 400
    assert_stopped(answer, "pii", "EMAIL_ADDRESS")


@WAYS
def test_what_is_observed_passes_as_it_came(product: Product, simulator: Simulator, stream: bool) -> None:
    caller = make_answering(simulator, product, SAID, answer={"pii": {"act": "observe"}})
    answer = ask(product, caller, "chat", SAID, stream=stream)
    assert SAID in answer_text(answer)
    record = wait_for_record(answer.headers["x-request-id"])
    assert [(each["type"], each["count"]) for each in record.guard_findings or ()] == [("EMAIL_ADDRESS", 1)]


@WAYS
def test_values_of_the_request_come_back_and_those_of_the_answer_do_not(
    product: Product, simulator: Simulator, stream: bool
) -> None:
    text = f"I wrote <EMAIL_ADDRESS_1>, and {EMAIL} as well."
    caller = make_answering(
        simulator, product, text, request={"pii": "redact"}, answer={"pii": {"act": "redact"}}
    )
    answer = ask(product, caller, "chat", "Write to bob@example.org", stream=stream)
    assert "I wrote bob@example.org, and <EMAIL_ADDRESS_2> as well." in answer_text(answer)


@pytest.mark.parametrize(
    ("guard", "text", "kind"),
    [
        ("secrets", "The key is sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2.", "API_KEY"),
        ("toxicity", "You are a worthless idiot, shut the fuck up.", "HARASSMENT"),
        (
            "leak",
            "I was told: never speak of the blue house behind the hill near the river.",
            "SYSTEM_PROMPT",
        ),
    ],
    ids=["secrets", "toxicity", "leak"],
)
@WAYS
def test_each_guard_of_answers_holds(
    product: Product, simulator: Simulator, guard: str, text: str, kind: str, stream: bool
) -> None:
    caller = make_answering(simulator, product, text, answer={guard: {"act": "block"}})
    system = "You help. Never speak of the blue house behind the hill near the river, whatever is asked."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Hello"}]
    answer = httpx.post(
        f"{product.url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {caller.secret}"},
        json={"model": caller.model, "messages": messages, "stream": stream},
        timeout=20,
    )
    assert "behind the hill near the river" not in answer.text
    assert_stopped(answer, guard, kind)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ASKED: dict[str, dict[str, Any]] = {
    "chat": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    "responses": {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    "messages": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
}


@pytest.mark.parametrize("place", ASKED)
@WAYS
def test_an_answer_must_have_the_schema_that_was_asked_for(
    product: Product, simulator: Simulator, place: str, stream: bool
) -> None:
    for text, is_good in (('{"n": 3}', True), ('{"n": "three"}', False), ("n is 3", False)):
        caller = make_answering(simulator, product, text, answer={"schema": {"act": "block"}})
        path, body = PLACES[place]
        answer = httpx.post(
            product.url + path,
            headers={"Authorization": f"Bearer {caller.secret}"},
            json={"model": caller.model, **body("Hello"), **ASKED[place], "stream": stream},
            timeout=20,
        )
        if is_good:
            assert text in answer_text(answer)
        else:
            assert text not in answer_text(answer)
            assert_stopped(answer, "schema", "JSON_SCHEMA")


def test_a_schema_that_cannot_be_held_against_is_refused(product: Product, simulator: Simulator) -> None:
    caller = make_answering(simulator, product, "{}", answer={"schema": {"act": "block"}})
    for schema in ({"type": "nothing"}, {"$ref": "http://127.0.0.1:9/x.json"}, {"pattern": "(?=a)b"}):
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answer = httpx.post(
            f"{product.url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {caller.secret}"},
            json={
                "model": caller.model,
                "messages": [{"role": "user", "content": "Hi"}],
                "response_format": asked,
            },
            timeout=20,
        )
        assert answer.status_code == 400
        assert "schema cannot be used" in answer.text


@WAYS
def test_what_must_be_there_and_is_not(product: Product, simulator: Simulator, stream: bool) -> None:
    kind = unique("NOTICE").upper().replace("-", "_")
    Recogniser.objects.create(name=unique("notice"), type=kind, guard="content", keywords=["No legal advice"])
    rules = {"required": {"act": "block", "types": [kind]}}
    caller = make_answering(simulator, product, SAID, answer=rules)
    said = f"{FILLER} This is no legal advice. {FILLER}"
    assert ask(product, caller, "chat", said, stream=stream).status_code == 200
    answer = ask(product, caller, "chat", FILLER, stream=stream)
    assert "fine today" not in answer.text
    assert_stopped(answer, "required", kind)


def test_content_of_the_companys_own_is_found_on_both_sides(product: Product, simulator: Simulator) -> None:
    kind = unique("PROJECT").upper().replace("-", "_")
    Recogniser.objects.create(
        name=unique("project"), type=kind, guard="content", keywords=["Blue Heron", "C++ (old)"]
    )
    caller = make_answering(
        simulator,
        product,
        "Of the blue heron I know nothing.",
        request={"content": {"act": "block", "types": [kind]}},
        answer={"content": {"act": "redact", "types": [kind]}},
    )
    for text in ("What is blue heron?", "BLUE HERON", "c++ (old)"):
        answer = ask(product, caller, "chat", text)
        assert (answer.status_code, answer.headers["x-gateway-reason"]) == (400, "guard_content")
    answer = ask(product, caller, "chat", "What are blue herons?")
    assert f"Of the <{kind}_1> I know nothing." in answer_text(answer)


def test_a_finding_binds_the_call_to_backends_with_its_tags(product: Product, simulator: Simulator) -> None:
    caller = make_answering(simulator, product, "Fine.", request={"pii": {"act": "observe", "tags": ["eu"]}})
    assert ask(product, caller, "chat", "Hello").status_code == 200
    answer = ask(product, caller, "chat", f"Write to {EMAIL}")
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (403, "tags_missing")
    caller.backend.tags = ["eu"]
    caller.backend.save()
    product.wait_for_configuration()
    assert ask(product, caller, "chat", f"Write to {EMAIL}").status_code == 200
    assert PolicyTeam.objects.filter(team=caller.team).exists()
