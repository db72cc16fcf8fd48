"""Azure's places, its keys, and tokens of Entra ID."""

from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from outbound.credentials import encrypt_credential
from routing.models import Backend
from tests.dialects.clients import OpenAIChat
from tests.dialects.test_failures import caller_of
from tests.dialects.test_pairs import HELLO, told
from tests.factories import BACKEND_SECRET, make_backend, wait_for_record
from tests.processes import Product, Simulator


def call(product: Product, simulator: Simulator, **fields: Any) -> dict[str, Any]:
    """What the provider saw of one call."""
    caller = caller_of(product, ("azure", told(simulator, echo_headers=True)), **fields)
    (served,) = simulator.served(OpenAIChat(product, caller).ask(HELLO).request_id)
    return served


def test_a_deployment_is_called_with_its_version_and_a_key(product: Product, simulator: Simulator) -> None:
    served = call(product, simulator, api_version="2024-10-21")
    assert served["path"] == "/openai/deployments/upstream-model/chat/completions"
    assert served["headers"]["api-key"] == BACKEND_SECRET
    assert "authorization" not in served["headers"]


def test_the_v1_api_needs_no_version(product: Product, simulator: Simulator) -> None:
    served = call(product, simulator)
    assert (served["path"], served["headers"]["api-key"]) == ("/openai/v1/chat/completions", BACKEND_SECRET)


def test_a_token_is_fetched_once_for_many_calls(product: Product, simulator: Simulator) -> None:
    client_id = str(uuid4())
    fields = {"entra_tenant": "contoso.example", "entra_client_id": client_id}
    caller = caller_of(product, ("azure", told(simulator, echo_headers=True)), **fields)
    client = OpenAIChat(product, caller)
    seen = [
        simulator.served(client.ask(HELLO, stream=stream).request_id)[0] for stream in (False, True, False)
    ]
    tokens = {served["headers"]["authorization"] for served in seen}
    assert len(tokens) == 1
    assert tokens.pop().endswith(f"-of-{client_id}-at-contoso.example")
    assert all("api-key" not in served["headers"] for served in seen)


def test_who_cannot_sign_in_is_not_called_and_another_backend_serves(
    product: Product, simulator: Simulator
) -> None:
    caller = caller_of(
        product,
        ("azure", simulator.base_url),
        ("openai", simulator.base_url),
        entra_tenant="contoso.example",
        entra_client_id=str(uuid4()),
    )
    wrong = encrypt_credential("wrong", simulator.base_url)
    Backend.objects.filter(pk=caller.backend.pk).update(credential_encrypted=wrong)
    product.wait_for_configuration()
    said = OpenAIChat(product, caller).ask(HELLO)
    record = wait_for_record(said.request_id)
    assert record.attempts == 2
    assert record.failed_attempts is not None
    assert record.failed_attempts[0]["reason"] == "backend_misconfigured"
    assert record.failed_attempts[0]["cost_nanousd"] == 0
    assert len(simulator.served(said.request_id)) == 1


def test_a_tenant_needs_its_client_and_azure(simulator: Simulator) -> None:
    wrong: list[dict[str, Any]] = [
        {"entra_tenant": "contoso.example", "provider": "azure"},
        {"entra_client_id": "x", "provider": "azure"},
        {"entra_tenant": "contoso.example", "entra_client_id": "x", "provider": "openai"},
    ]
    for fields in wrong:
        with pytest.raises(IntegrityError), transaction.atomic():
            make_backend(simulator.base_url, **fields)
    backend = make_backend(simulator.base_url, provider="azure")
    for name, value in (("entra_tenant", "a/b"), ("api_version", "x\r\ny"), ("entra_client_id", "a b")):
        setattr(backend, name, value)
        with pytest.raises(ValidationError) as raised:
            backend.full_clean(validate_constraints=False)
        assert name in raised.value.message_dict
        setattr(backend, name, "")
