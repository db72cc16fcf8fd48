"""External guards, each asked in its documented form; away, late or broken the policy decides, and nothing waits."""

import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from django.core.exceptions import ValidationError

from guards.external.asking import ExternalAway, Externals
from guards.external.base import External
from guards.external.forms import FORMS
from guards.external_models import ExternalForm, ExternalGuard
from guards.models import GuardRule
from outbound.credentials import encrypt_credential
from outbound.dial import Dialer
from outbound.pool import Pool
from tests.factories import Caller, unique, wait_for_record
from tests.guards.policies import make_policy
from tests.guards.stand_in import CREDENTIAL, StandIn, standing_in
from tests.guards.test_answers import ask, assert_stopped, make_answering
from tests.guards.test_routes import WAYS, answer_text
from tests.processes import Product, Simulator

SETTINGS = {"lakera": "project-1", "guardrails": "my-guard"}
RULES = {
    "lakera": [("prompt_attack", 1.0)],
    "azure_shield": [("attackDetected", 1.0)],
    "azure_categories": [("Violence", 4 / 6)],
    "guardrails": [("DetectJailbreak", 1.0)],
    "moderation": [("violence", 0.91)],
    "http": [("bad", 0.7)],
}
PATHS = {"moderation": "/v1", "http": "/classify"}


@pytest.fixture
def stand_in(backend_port: int) -> Iterator[StandIn]:
    with standing_in(backend_port) as started:
        yield started


@asynccontextmanager
async def asking(stand_in: StandIn) -> AsyncIterator[Externals]:
    pool = Pool(Dialer({f"127.0.0.1:{stand_in.port}"}))
    try:
        yield Externals(pool, 5)
    finally:
        pool.close()


def external(stand_in: StandIn, form: str = "http", **fields: Any) -> External:
    url = stand_in.url + PATHS.get(form, "")
    return External(
        name="X", form=form, base_url=url, setting=SETTINGS.get(form, ""), credential=CREDENTIAL, **fields
    )


def test_every_form_can_be_chosen() -> None:
    assert set(FORMS) == set(ExternalForm.values) == set(RULES)


@pytest.mark.parametrize("form", FORMS)
class TestForms:
    async def test_says_what_the_service_says(self, stand_in: StandIn, form: str) -> None:
        async with asking(stand_in) as externals:
            texts = ["this is fine", "this is an attack", "", "fine as well"]
            found = await externals.find(external(stand_in, form), texts, "request")
        assert [bool(each) for each in found] == [False, True, False, False]
        assert [(each.rule, each.score) for each in found[1]] == RULES[form]
        assert {(each.guard, each.type, each.start, each.end) for each in found[1]} == {
            ("external", "X", 0, len(texts[1]))
        }
        assert sorted(stand_in.texts()) == sorted(text for text in texts if text)

    async def test_long_texts_are_asked_about_in_parts(self, stand_in: StandIn, form: str) -> None:
        async with asking(stand_in) as externals:
            text = "".join(f"fine {number} " for number in range(7_000)) + "attack"
            (found,) = await externals.find(external(stand_in, form), [text], "answer")
        assert [each.rule for each in found] == [RULES[form][0][0]]
        assert all(len(each) <= FORMS[form].most_characters for each in stand_in.texts())
        assert sum(map(len, stand_in.texts())) >= len(text)

    async def test_what_is_no_answer_is_no_all_clear(self, stand_in: StandIn, form: str) -> None:
        for garbage in (
            b"",
            b"null",
            b"[]",
            b"{}",
            b'{"flagged": 1}',
            b'{"results": []}',
            b"\xff",
            b"[" * 9000,
        ):
            async with asking(stand_in) as externals:
                stand_in.garbage = garbage
                with pytest.raises(ExternalAway, match="X: an answer of another form"):
                    await externals.find(external(stand_in, form), ["fine"], "request")

    async def test_refusals_and_redirects(self, stand_in: StandIn, form: str) -> None:
        stand_in.headers = {"Location": stand_in.url + "/classify"}
        for status in (302, 401, 404, 429, 500):
            async with asking(stand_in) as externals:
                stand_in.status = status
                with pytest.raises(ExternalAway, match=f"X: status {status}"):
                    await externals.find(external(stand_in, form), ["fine"], "request")
        assert len(stand_in.seen) == 5


class TestAsking:
    async def test_a_text_is_asked_about_once(self, stand_in: StandIn) -> None:
        async with asking(stand_in) as externals:
            for _ in range(3):
                (found,) = await externals.find(external(stand_in), ["an attack"], "request")
                assert found
            await externals.find(external(stand_in), ["an attack"], "answer")
            assert len(stand_in.texts()) == 2

    async def test_it_waits_no_longer_than_it_may(self, stand_in: StandIn) -> None:
        stand_in.hangs_s = 1
        async with asking(stand_in) as externals:
            started = time.monotonic()
            with pytest.raises(ExternalAway, match=r"no answer within 0\.2 s"):
                await externals.find(external(stand_in, timeout_s=0.2), ["a", "b"], "request")
            assert time.monotonic() - started < 0.6

    async def test_one_that_fails_is_left_alone_and_asked_again_later(
        self, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in.status = 500
        async with asking(stand_in) as externals:
            for number in range(8):
                with pytest.raises(ExternalAway):
                    await externals.find(external(stand_in), [f"text {number}"], "request")
            assert len(stand_in.seen) == 5
            stand_in.status = 200
            later = time.monotonic() + 11
            monkeypatch.setattr("guards.external.asking.time.monotonic", lambda: later)
            assert await externals.find(external(stand_in), ["fine"], "request") == [[]]

    async def test_a_number_that_is_none_is_no_answer(self, stand_in: StandIn) -> None:
        for score in ("9" * 400, "1.5", "-1", "NaN", '"high"', "null"):
            stand_in.garbage = f'{{"results": [{{"flagged": true, "score": {score}}}]}}'.encode()
            async with asking(stand_in) as externals:
                with pytest.raises(ExternalAway, match="X: an answer of another form"):
                    await externals.find(external(stand_in), ["fine"], "request")

    async def test_a_call_asks_so_much_and_waits_so_long(self, stand_in: StandIn) -> None:
        async with asking(stand_in) as externals:
            with pytest.raises(ExternalAway, match="more than 200 questions"):
                await externals.find(
                    external(stand_in, "lakera"), [f"text {n}" for n in range(201)], "request"
                )
            assert stand_in.seen == []
            assert (
                len(await externals.find(external(stand_in), [f"t {n}" for n in range(300)], "request"))
                == 300
            )
        stand_in.hangs_s = 0.3
        started = time.monotonic()
        pool = Pool(Dialer({f"127.0.0.1:{stand_in.port}"}))
        with pytest.raises(ExternalAway, match=r"no answer to all within 0\.5 s"):
            await Externals(pool, 0.5).find(
                external(stand_in, "lakera"), [f"text {n}" for n in range(100)], "request"
            )
        pool.close()
        assert time.monotonic() - started < 1.0

    async def test_nobody_there(self, stand_in: StandIn) -> None:
        there = external(stand_in)
        async with asking(stand_in) as externals:
            away = External("X", "http", "http://127.0.0.1:9/classify")
            with pytest.raises(ExternalAway, match="X: Unreachable"):
                await externals.find(away, ["fine"], "request")
            assert await externals.find(there, ["fine"], "request") == [[]]

    def test_no_secret_in_its_words(self, stand_in: StandIn) -> None:
        assert CREDENTIAL not in repr(external(stand_in))


def make_external(stand_in: StandIn, form: str = "lakera", **fields: Any) -> ExternalGuard:
    name, url = unique("EXTERNAL").upper().replace("-", "_"), stand_in.url + PATHS.get(form, "")
    return ExternalGuard.objects.create(
        name=name,
        form=form,
        base_url=url,
        setting=SETTINGS.get(form, ""),
        credential_encrypted=encrypt_credential(CREDENTIAL, url),
        **fields,
    )


def rule(guard: ExternalGuard, **fields: Any) -> dict[str, Any]:
    return {"external": {"act": "block", "types": [guard.name], **fields}}


@WAYS
@pytest.mark.parametrize("place", ["chat", "messages", "responses", "embeddings"])
def test_what_it_finds_in_a_request_is_refused(
    product: Product, simulator: Simulator, stand_in: StandIn, place: str, stream: bool
) -> None:
    guard = make_external(stand_in)
    caller = make_answering(simulator, product, "Fine.", request=rule(guard))
    stream = stream and place != "embeddings"
    answer = ask(product, caller, place, "This is an attack.", stream=stream)
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (400, "guard_external")
    assert guard.name in answer.text
    record = wait_for_record(answer.headers.get("x-request-id") or answer.headers["request-id"])
    assert (record.cost_nanousd, record.attempts) == (0, 0)
    assert [(each["type"], each["rule"]) for each in record.guard_findings or ()] == [
        (guard.name, "prompt_attack")
    ]
    assert ask(product, caller, place, "All is well.", stream=stream).status_code == 200


@WAYS
def test_what_it_finds_in_an_answer_is_not_told(
    product: Product, simulator: Simulator, stand_in: StandIn, stream: bool
) -> None:
    guard = make_external(stand_in, "moderation")
    text = "The weather is fine today. " * 60 + "Now attack!"
    caller = make_answering(simulator, product, text, answer=rule(guard))
    answer = ask(product, caller, "chat", text, stream=stream)
    assert "attack" not in answer.text
    assert_stopped(answer, "external", guard.name)


def test_it_is_told_what_the_model_is_told(product: Product, simulator: Simulator, stand_in: StandIn) -> None:
    guard = make_external(stand_in)
    rules = rule(guard) | {"pii": "redact", "secrets": "block"}
    caller = make_answering(simulator, product, "Fine.", request=rules)
    assert ask(product, caller, "chat", "Write to anna@example.com").status_code == 200
    assert ask(product, caller, "chat", "sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2").status_code == 400
    assert stand_in.texts() == ["Write to <EMAIL_ADDRESS_1>"]


def test_only_policies_that_name_it_ask_it(product: Product, simulator: Simulator, stand_in: StandIn) -> None:
    make_external(stand_in)
    caller = make_answering(simulator, product, "Fine.", request={"injection": "observe"})
    assert ask(product, caller, "chat", "This is an attack.").status_code == 200
    assert stand_in.seen == []


@pytest.mark.slow  # seconds of waiting
@pytest.mark.parametrize("fails_open", [False, True])
def test_one_that_hangs_delays_its_own_calls_only(
    product: Product, simulator: Simulator, stand_in: StandIn, fails_open: bool
) -> None:
    stand_in.hangs_s = 1.5
    guard = make_external(stand_in, timeout_ms=500)
    caller = make_answering(simulator, product, "Fine.", request=rule(guard, fails_open=fails_open))
    other = make_answering(simulator, product, "Fine.", request={"pii": "redact"})
    ask(product, other, "chat", "warm")

    def timed(asker: Caller, text: str) -> tuple[httpx.Response, float]:
        started = time.monotonic()
        return ask(product, asker, "chat", text), time.monotonic() - started

    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(timed, caller, f"text {number}") for number in range(4)]
        others = [timed(other, f"Hello {number}") for number in range(40)]
        late = [each.result() for each in waiting]
    for answer, seconds in late:
        assert 0.4 < seconds < 1.5
        if fails_open:
            assert answer.status_code == 200
            record = wait_for_record(answer.headers["x-request-id"])
            assert [(f["type"], f["act"]) for f in record.guard_findings or ()] == [
                (guard.name, "unavailable")
            ]
        else:
            assert (answer.status_code, answer.headers["x-gateway-reason"]) == (503, "guard_unavailable")
    assert all(answer.status_code == 200 for answer, _ in others)
    assert sorted(seconds for _, seconds in others)[len(others) // 2] < 0.2


def test_one_that_is_not_active_cannot_look(
    product: Product, simulator: Simulator, stand_in: StandIn
) -> None:
    guard = make_external(stand_in, is_active=False)
    caller = make_answering(simulator, product, "Fine.", request=rule(guard))
    answer = ask(product, caller, "chat", "Hello")
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (503, "guard_unavailable")


def test_answers_that_cannot_be_looked_at_are_charged_and_not_told(
    product: Product, simulator: Simulator, stand_in: StandIn
) -> None:
    stand_in.status = 500
    guard = make_external(stand_in)
    caller = make_answering(simulator, product, "Fine.", answer=rule(guard))
    for stream in (False, True):
        answer = ask(product, caller, "chat", "Hello", stream=stream)
        assert "Fine." not in answer_text(answer)
        record = wait_for_record(answer.headers["x-request-id"])
        assert (record.status, record.reason) == ("failed", "guard_unavailable")
        assert record.cost_nanousd > 0


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"base_url": "http://169.254.169.254/latest"}, "base_url"),
        ({"base_url": "https://user:pw@host.example"}, "base_url"),
        ({"base_url": "http://10.0.0.8/x"}, "base_url"),
        ({"name": "lakera"}, "name"),
        ({"form": "guardrails"}, "Guardrails"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"credential_reference": "env:HOME"}, "credential_reference"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], word: str) -> None:
    guard = ExternalGuard(**{"name": "LAKERA", "form": "lakera", "base_url": "https://a.example", **fields})
    with pytest.raises(ValidationError, match=word):
        guard.full_clean()


def test_a_rule_names_guards_that_are_there() -> None:
    policy = make_policy()
    for types in ([], ["NOBODY"]):
        with pytest.raises(ValidationError, match="types"):
            GuardRule(policy=policy, guard="external", types=types).full_clean()


def test_short_values_within_json_are_told(product: Product, simulator: Simulator, stand_in: StandIn) -> None:
    guard = make_external(stand_in)
    caller = make_answering(simulator, product, "Fine.", request=rule(guard))
    answer = ask(product, caller, "chat", '{"a_long_name_of_it":"attack"}')
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (400, "guard_external")
