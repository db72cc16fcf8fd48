"""The providers' own packages read guarded answers: plain, streamed, and stopped."""

from typing import Any

import anthropic
import openai
import pytest

from tests.factories import Caller
from tests.guards.test_answers import EMAIL, SAID, make_answering
from tests.processes import Product, Simulator
from tests.sdk import kept

ASKED: Any = [{"role": "user", "content": SAID}]
REDACTED = SAID.replace(EMAIL, "<EMAIL_ADDRESS_1>")


def openai_client(product: Product, caller: Caller) -> openai.OpenAI:
    return kept(openai.OpenAI(base_url=f"{product.url}/v1", api_key=caller.secret, max_retries=0))


def anthropic_client(product: Product, caller: Caller) -> anthropic.Anthropic:
    return kept(anthropic.Anthropic(base_url=product.url, api_key=caller.secret, max_retries=0))


def test_openai_reads_what_is_redacted(product: Product, simulator: Simulator) -> None:
    caller = make_answering(simulator, product, SAID, answer={"pii": {"act": "redact"}})
    client = openai_client(product, caller)
    plain = client.chat.completions.create(model=caller.model, messages=ASKED)
    assert REDACTED in (plain.choices[0].message.content or "")
    with client.chat.completions.stream(model=caller.model, messages=ASKED) as stream:
        final = stream.get_final_completion()
    assert REDACTED in (final.choices[0].message.content or "")
    assert final.choices[0].message.role == "assistant"
    with client.responses.stream(model=caller.model, input=SAID) as responses:
        told = "".join(event.delta for event in responses if event.type == "response.output_text.delta")
        assert REDACTED in told
        assert REDACTED in responses.get_final_response().output_text


def test_openai_is_told_what_was_stopped(product: Product, simulator: Simulator) -> None:
    caller = make_answering(simulator, product, SAID, answer={"pii": {"act": "block"}})
    client = openai_client(product, caller)
    with pytest.raises(openai.BadRequestError, match="EMAIL_ADDRESS") as refused:
        client.chat.completions.create(model=caller.model, messages=ASKED)
    assert refused.value.code == "guard_blocked"
    with pytest.raises(openai.APIError, match="EMAIL_ADDRESS"):
        list(client.chat.completions.create(model=caller.model, messages=ASKED, stream=True))


def test_anthropic_reads_what_is_redacted_and_what_was_stopped(
    product: Product, simulator: Simulator
) -> None:
    caller = make_answering(simulator, product, SAID, answer={"pii": {"act": "redact"}})
    client = anthropic_client(product, caller)
    with client.messages.stream(model=caller.model, max_tokens=2000, messages=ASKED) as stream:
        assert REDACTED in stream.get_final_text()
    caller = make_answering(simulator, product, SAID, answer={"pii": {"act": "block"}})
    client = anthropic_client(product, caller)
    with pytest.raises(anthropic.APIStatusError, match="EMAIL_ADDRESS"):
        client.messages.create(model=caller.model, max_tokens=2000, messages=ASKED)
    with (
        pytest.raises(anthropic.APIStatusError, match="EMAIL_ADDRESS"),
        client.messages.stream(model=caller.model, max_tokens=2000, messages=ASKED) as stream,
    ):
        stream.get_final_text()
