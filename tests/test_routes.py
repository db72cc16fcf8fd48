"""Completions, embeddings, models and the Azure form through the official client, and what every answer tells."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import AzureChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from routing.models import CatalogueModel
from tests.factories import Caller, make_caller, make_model, wait_for_record
from tests.processes import Processes, Product, Simulator
from tests.recorded import recorded_backend
from tests.routes import CHAT, EMBEDDINGS, EVERY_FORM, ROUTES, WAYS, Route

HELLO: Any = [{"role": "user", "content": "one two three"}]


@pytest.fixture(scope="module")
def caller(product: Product, simulator: Simulator) -> Caller:
    return make_caller(simulator.base_url, product)


@pytest.fixture
def client(product: Product, caller: Caller) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=product.base_url, api_key=caller.secret) as client:
        yield client


@pytest.fixture
def azure(product: Product, caller: Caller) -> Iterator[openai.AzureOpenAI]:
    with openai.AzureOpenAI(
        azure_endpoint=product.url, api_key=caller.secret, api_version="2024-10-21"
    ) as client:
        yield client


# --- POST /v1/completions: 3 tokens of prompt at 150, and 600 per token of the answer ------------------------


def test_a_completion_is_priced_from_its_usage(client: openai.OpenAI, caller: Caller) -> None:
    raw = client.completions.with_raw_response.create(
        model=caller.model, prompt="one two three", max_tokens=7
    )
    answer = raw.parse()
    assert answer.choices[0].text
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 7)
    record = wait_for_record(raw.headers["x-request-id"])
    assert (record.operation, record.cost_nanousd) == ("completions", 3 * 150 + 7 * 600)


def test_several_prompts_and_answers_are_priced_together(client: openai.OpenAI, caller: Caller) -> None:
    raw = client.completions.with_raw_response.create(
        model=caller.model, prompt=["one two", "three"], n=2, max_tokens=5
    )
    assert [choice.index for choice in raw.parse().choices] == [0, 1, 2, 3]
    assert wait_for_record(raw.headers["x-request-id"]).cost_nanousd == 3 * 150 + 20 * 600


@pytest.mark.parametrize("asked", [False, True])
def test_a_streamed_completion_is_priced_exactly_and_shows_usage_only_when_asked(
    client: openai.OpenAI, caller: Caller, asked: bool
) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if asked else {}
    raw = client.completions.with_raw_response.create(
        model=caller.model, prompt=[11, 22, 33], max_tokens=7, stream=True, **options
    )
    chunks = list(raw.parse())
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert [chunk.usage is not None for chunk in chunks if not chunk.choices] == ([True] if asked else [])
    record = wait_for_record(raw.headers["x-request-id"])
    assert (record.streamed, record.estimated, record.cost_nanousd) == (True, False, 3 * 150 + 7 * 600)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("usage", ["missing", "wrong"])
def test_without_usable_figures_every_route_counts_itself(
    product: Product, caller: Caller, route: Route, usage: str
) -> None:
    response = route.ask(product, caller, simulator={"usage": usage, "text": "alpha beta gamma delta"})
    record = wait_for_record(response.headers["x-request-id"])
    answer = 0 if route is EMBEDDINGS else 4 * 600
    assert (record.estimated, record.cost_nanousd) == (True, route.estimated_tokens * 150 + answer)


# --- POST /v1/embeddings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "vectors", "tokens"),
    [("one two three", 1, 3), (["one two", "three"], 2, 3), ([5, 6, 7, 8], 1, 4), ([[5, 6], [7]], 2, 3)],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embeddings_of_every_kind_of_input_in_every_encoding(
    client: openai.OpenAI, caller: Caller, given: Any, vectors: int, tokens: int, encoding: str | None
) -> None:
    options: Any = {} if encoding is None else {"encoding_format": encoding}
    raw = client.embeddings.with_raw_response.create(model=caller.model, input=given, dimensions=8, **options)
    sent = json.loads(raw.content)["data"]
    assert len(sent) == vectors
    assert all(isinstance(item["embedding"], list) is (encoding == "float") for item in sent)
    if encoding != "base64":  # then the client decodes nothing
        assert [len(item.embedding) for item in raw.parse().data] == [8] * vectors
    record = wait_for_record(raw.headers["x-request-id"])
    assert (record.operation, record.cost_nanousd) == ("embeddings", tokens * 150)
    assert (record.output_tokens, record.streamed) == (0, False)


def test_both_encodings_hold_the_same_vector(product: Product, caller: Caller) -> None:
    floats, text = (
        EMBEDDINGS.ask(product, caller, encoding_format=encoding).json()["data"][0]["embedding"]
        for encoding in ("float", "base64")
    )
    assert list(struct.unpack(f"<{len(floats)}f", base64.b64decode(text))) == floats


def test_langchain_embeds(product: Product, caller: Caller) -> None:
    embed = OpenAIEmbeddings(
        model=caller.model,
        base_url=product.base_url,
        api_key=SecretStr(caller.secret),
        check_embedding_ctx_length=False,
    )
    one, other, far = embed.embed_documents(["red green blue", "green blue red", "seven"])
    assert one == pytest.approx(other)
    assert one != pytest.approx(far)


# --- GET /v1/models/{id} -------------------------------------------------------------------------------------


def test_a_model_is_shown_to_whom_it_was_granted(client: openai.OpenAI, caller: Caller) -> None:
    model = client.models.retrieve(caller.model)
    assert (model.id, model.object, model.owned_by) == (caller.model, "model", "gateway")
    assert model in list(client.models.list())


def test_a_model_that_is_unknown_or_not_granted_is_not_shown(
    product: Product, client: openai.OpenAI, caller: Caller
) -> None:
    other = make_model(caller.backend).name
    product.wait_for_configuration()
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("nope")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.PermissionDeniedError):
        client.models.retrieve(other)
    assert other not in [model.id for model in client.models.list()]


def test_a_models_name_may_hold_slashes(product: Product, caller: Caller, client: openai.OpenAI) -> None:
    name = f"vendor/{caller.model}/large:free"
    CatalogueModel.objects.filter(pk=make_model(caller.backend, team=caller.team).pk).update(name=name)
    product.wait_for_configuration()
    assert client.models.retrieve(name).id == name
    headers = {"Authorization": f"Bearer {caller.secret}"}
    assert httpx.get(f"{product.base_url}/models/{name}", headers=headers).json()["id"] == name
    url = f"{product.url}/openai/deployments/{name}/chat/completions"
    assert httpx.post(url, headers=headers, json={"messages": HELLO}).status_code == 200


# --- the Azure form ------------------------------------------------------------------------------------------


def test_the_azure_client_works_with_every_endpoint(azure: openai.AzureOpenAI, caller: Caller) -> None:
    assert azure.chat.completions.create(model=caller.model, messages=HELLO).choices[0].message.content
    assert azure.completions.create(model=caller.model, prompt="one").choices[0].text
    assert azure.embeddings.create(model=caller.model, input="one").data[0].embedding
    chunks = list(azure.chat.completions.create(model=caller.model, messages=HELLO, stream=True))
    assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks)


def test_langchains_azure_client_works(product: Product, caller: Caller) -> None:
    chat = AzureChatOpenAI(
        azure_endpoint=product.url,
        azure_deployment=caller.model,
        api_key=SecretStr(caller.secret),
        api_version="2024-10-21",
    )
    assert chat.invoke("one two three").content


def test_the_path_names_the_model_before_the_body(product: Product, caller: Caller) -> None:
    url = f"{product.url}/openai/deployments/{caller.model}/chat/completions"
    headers = {"api-key": caller.secret, "Authorization": f"Bearer {caller.secret}"}
    for body in ({"messages": HELLO}, {"messages": HELLO, "model": "gpt-4o"}):
        response = httpx.post(url, headers=headers, json=body)
        assert (response.status_code, response.headers["x-gateway-model"]) == (200, caller.model)


@pytest.mark.parametrize("route", EVERY_FORM, ids=lambda route: route.name)
def test_every_form_of_a_route_answers(product: Product, caller: Caller, route: Route) -> None:
    response = route.ask(product, caller)
    assert response.status_code == 200
    assert wait_for_record(response.headers["x-request-id"]).operation == route.name.split()[-1]


# --- what passes through -------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_fields_nobody_knows_pass_through_untouched(
    product: Product, backend_port: int, route: Route
) -> None:
    answer = b'{"choices":[],"data":[],"newer":{"a":[1,2.50,"\xc3\xa9"]},"usage":null}'
    own = make_caller(f"http://127.0.0.1:{backend_port}/v1", product)
    fields = json.dumps({"newer": {"b": [1.50, None]}, "seed": 7, **route.content})[1:-1]
    with recorded_backend(backend_port) as peer:
        peer.answer_json(answer)
        response = httpx.post(
            route.url(product, own.model),
            headers={"Authorization": f"Bearer {own.secret}"},
            content=f'{{"model": "{own.model}", {fields}, "last": 1e2}}',
        )
    assert response.content == answer
    sent = peer.bodies[0].decode()
    assert json.loads(sent) == json.loads(f'{{"model": "upstream-model", {fields}, "last": 100}}')
    assert '"b": [1.5, null]' in sent, "bytes as they came, not written again"
    assert sent.endswith('"last":1e2}')


@pytest.mark.parametrize(
    ("asked", "sent", "expected"),
    [
        ("base64", [0.5, -2.0], base64.b64encode(struct.pack("<2f", 0.5, -2.0)).decode()),
        ("float", base64.b64encode(struct.pack("<2f", 0.5, -2.0)).decode(), [0.5, -2.0]),
        (None, [0.5], [0.5]),
        ("float", "not base64!", "not base64!"),
        ("float", base64.b64encode(b"abc").decode(), base64.b64encode(b"abc").decode()),
        ("base64", [1e300], [1e300]),
        ("base64", {"odd": 1}, {"odd": 1}),
    ],
    ids=[
        "to base64",
        "to float",
        "as asked",
        "not base64",
        "not whole floats",
        "beyond float32",
        "no vector",
    ],
)
def test_a_backend_that_knows_one_encoding_serves_both(
    product: Product, backend_port: int, asked: str | None, sent: Any, expected: Any
) -> None:
    own = make_caller(f"http://127.0.0.1:{backend_port}/v1", product)
    body = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": sent}], "newer": 1}
    options: dict[str, Any] = {"encoding_format": asked} if asked else {}
    with recorded_backend(backend_port) as peer:
        peer.answer_json(json.dumps({**body, "usage": {"prompt_tokens": 3, "total_tokens": 3}}).encode())
        response = EMBEDDINGS.ask(product, own, **options)
    assert response.status_code == 200
    assert response.json()["data"] == [{"object": "embedding", "index": 0, "embedding": expected}]
    assert response.json()["newer"] == 1
    assert wait_for_record(response.headers["x-request-id"]).cost_nanousd == 3 * 150


@pytest.mark.slow
@pytest.mark.parametrize(("max_stream_s", "ends"), [("1", True), ("3600", False)])
def test_a_stream_lasts_no_longer_than_the_bound(
    processes: Processes, simulator: Simulator, max_stream_s: str, ends: bool
) -> None:
    bounded = processes.start_product(with_shipper=False, GATEWAY_MAX_STREAM_S=max_stream_s)
    caller = make_caller(simulator.base_url, bounded)
    slow = {"between_chunks_s": 0.4, "text": "alpha beta gamma delta"}
    text = CHAT.ask(bounded, caller, stream=True, simulator=slow).text
    assert ("took too long" in text) is ends
    assert text.endswith("data: [DONE]\n\n") is not ends


# --- headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("route", "stream"), WAYS, ids=[f"{r.name} {s}" for r, s in WAYS])
def test_an_answer_tells_how_it_came_about(
    product: Product, caller: Caller, route: Route, stream: bool
) -> None:
    options: dict[str, Any] = {"stream": True} if stream else {}
    response = route.ask(product, caller, **options)
    record = wait_for_record(response.headers["x-request-id"])
    told = {name: value for name, value in response.headers.items() if name.startswith("x-gateway-")}
    assert told.pop("x-gateway-overhead-ms") == f"{(record.overhead_us or 0) / 1000:.3f}"
    expected = {
        "x-gateway-model": caller.model,
        "x-gateway-backend": caller.backend.name,
        "x-gateway-attempts": "1",
    }
    if not stream:
        expected["x-gateway-cost-usd"] = f"{record.cost_nanousd / 10**9:.9f}"
    assert told == expected


def test_a_setting_hides_the_backend_and_the_cost(processes: Processes, simulator: Simulator) -> None:
    discreet = processes.start_product(with_shipper=False, GATEWAY_SHOW_BACKEND="0", GATEWAY_SHOW_COST="0")
    caller = make_caller(simulator.base_url, discreet)
    response = CHAT.ask(discreet, caller)
    told = {name for name in response.headers if name.startswith("x-gateway-")}
    assert told == {"x-gateway-model", "x-gateway-attempts", "x-gateway-overhead-ms"}


def test_a_refusal_tells_of_no_backend(product: Product, caller: Caller) -> None:
    response = CHAT.ask(product, caller, model="nope")
    assert {name for name in response.headers if name.startswith("x-gateway-")} == {"x-gateway-reason"}


# --- cost dimensions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize(
    ("headers", "fields", "end_user"),
    [
        ({}, {}, ""),
        ({}, {"user": "u-1"}, "u-1"),
        ({}, {"metadata": {"user_id": "m-1"}}, "m-1"),
        ({}, {"metadata": {"user_id": 7}}, ""),
        ({}, {"metadata": ["user_id"]}, ""),
        ({}, {"user": "u-1", "metadata": {"user_id": "m-1"}}, "u-1"),
        ({}, {"user": "u-1", "safety_identifier": "s-1"}, "s-1"),
        ({"X-User-ID": "h-1"}, {"user": "u-1", "safety_identifier": "s-1"}, "h-1"),
    ],
)
def test_the_end_user_is_taken_from_where_it_is_named(
    product: Product,
    caller: Caller,
    route: Route,
    headers: dict[str, str],
    fields: dict[str, Any],
    end_user: str,
) -> None:
    response = route.ask(product, caller, headers=headers, **fields)
    assert wait_for_record(response.headers["x-request-id"]).end_user == end_user
