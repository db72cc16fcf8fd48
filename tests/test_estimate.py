"""What is reserved for a call is never less than what it can come to, and is learned from what calls came to."""

import base64
import json
import random
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission.holds import Amounts
from billing.admission.rules import MOST_AMOUNT
from billing.estimate import Candidate, Estimate, Estimator, Extent, dearest_of, longest_answer
from billing.images import Image, image_tokens
from billing.money import Price
from billing.tokens import load_counter
from billing.usage import MOST_TOKENS, Usage
from routing.endpoints.base import Endpoint, Request
from routing.endpoints.bounds import Bounds
from routing.endpoints.chat import ChatEndpoint
from routing.endpoints.completions import CompletionsEndpoint
from routing.endpoints.embeddings import EmbeddingsEndpoint
from routing.endpoints.inputs import extent_of

COUNTER = load_counter()
BOUNDS = Bounds(messages=1_000, tools=128, choices=128, inputs=2_048, tokens=1_000_000)
SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)


def price(
    given: int = 150_000_000, cached: int | None = None, written: int | None = None, output: int = 6 * 10**8
) -> Price:
    return Price(
        1, SOME_DAY, given, given if cached is None else cached, given if written is None else written, output
    )


def estimate(*prices: Price, tokens: int = 100, output: int = 50) -> Estimate:
    served_by = [Candidate("upstream", each) for each in prices or (price(),)]
    return Estimator().bound("model", Extent(tokens=tokens), output, served_by)


PRICES = st.builds(price, *[st.integers(0, 10**18)] * 4) | st.builds(price, *[st.integers(0, 3_000_000)] * 4)


@st.composite
def uses(draw: st.DrawFn, input_tokens: int, output_tokens: int) -> Usage:
    """Any usage within these bounds, split over the kinds in any way."""
    total, output = draw(st.integers(0, input_tokens)), draw(st.integers(0, output_tokens))
    cached = draw(st.integers(0, total))
    written, reasoning = draw(st.integers(0, total - cached)), draw(st.integers(0, output))
    return Usage(total, cached, written, output, reasoning)


@given(
    st.data(),
    st.lists(PRICES, min_size=1, max_size=4),
    st.integers(0, MOST_TOKENS),
    st.integers(0, MOST_TOKENS),
)
def test_no_use_within_the_bounds_costs_more_than_the_reserve(
    data: st.DataObject, prices: list[Price], tokens: int, output: int
) -> None:
    reserve = estimate(*prices, tokens=tokens, output=output)
    used, charged = data.draw(uses(tokens, output)), data.draw(st.sampled_from(prices))
    assert min(charged.cost(used).total_nanousd, MOST_AMOUNT) <= reserve.most.money
    assert used.input_tokens + used.output_tokens <= reserve.most.tokens
    # The frame of an abandoned call charges every token too.
    noted = reserve.usage_at(charged)
    assert (noted.input_tokens, noted.output_tokens, noted.estimated) == (tokens, output, True)
    assert min(charged.cost(noted).total_nanousd, MOST_AMOUNT) <= reserve.most.money


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_reserve_at_whole_nano_dollars_is_exactly_the_dearest_cost(
    given_usd: int, written: int, tokens: int, output: int
) -> None:
    """So that a budget for N such calls admits all N of them."""
    one = price(given_usd * 10**6, written=written * 10**6, output=7 * 10**6)
    dearest = max(given_usd, written)
    assert estimate(one, tokens=tokens, output=output).most == Amounts(
        tokens * dearest + output * 7, tokens + output
    )


def test_each_kind_of_token_can_be_rounded_up_by_itself() -> None:
    halves = price(500_000, output=500_000)
    used = Usage(input_tokens=3, cached_input_tokens=1, cache_write_tokens=1, output_tokens=1)
    assert halves.cost(used).total_nanousd == 4
    assert estimate(halves, tokens=3, output=1).most.money == 4


def test_the_dearest_backend_and_kind_of_prompt_are_reserved() -> None:
    cheap, writer, talker = price(100), price(100, written=900), price(50, output=10**12)
    dearest = dearest_of([cheap, writer, talker])
    assert (dearest.input, dearest.output) == (900, 10**12)
    noted = estimate(writer, tokens=10).usage_at(writer)
    assert (noted.cache_write_tokens, noted.cached_input_tokens) == (10, 0)
    assert estimate(cheap, tokens=10).usage_at(cheap).plain_input_tokens == 10


@pytest.mark.parametrize(
    ("asked", "limit", "tokens"),
    [
        (None, None, 4_096),
        (None, 1_000, 1_000),
        (None, 100_000, 4_096),
        (9_000, 100_000, 9_000),
        (3, None, 3),
    ],
)
def test_the_longest_answer(asked: int | None, limit: int | None, tokens: int) -> None:
    assert longest_answer(asked, limit) == tokens


# --- the size of a prompt -------------------------------------------------------------------------


def read(endpoint: Endpoint, **fields: Any) -> Request:
    return endpoint.read(json.dumps({"model": "m", **fields}).encode(), BOUNDS, None)


def tokens_of(extent: Extent, model: str = "") -> int:
    return extent.text_bytes + extent.tokens + sum(image_tokens(image, model) for image in extent.images)


def counted(request: Request) -> int:
    prompt = request.endpoint.prompt(request)
    images = sum(image_tokens(image, "") for image in prompt.images)
    return sum(map(COUNTER.count, prompt.texts)) + prompt.tokens + images


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["b"]}}}
FUNCTION = {"name": "f", "description": "It finds. ", "parameters": SCHEMA}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{" * 99}}
HELLO = {"role": "user", "content": "Hi", "name": "ann"}
CHATS: dict[str, dict[str, Any]] = {
    "bare": {"messages": [{"role": "", "content": ""}] * 30},
    "system": {"messages": [{"role": "system", "content": "Be kind."}, HELLO]},
    "rare": {"messages": [{"role": "user", "content": "".join(map(chr, range(0x12000, 0x12300)))}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a b c"}, IMAGE]}]},
    "tools": {"messages": [HELLO], "tools": [{"type": "function", "function": FUNCTION}]},
    "functions": {"messages": [HELLO], "functions": [FUNCTION]},
    "calls": {"messages": [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "yes"}]},
    "schema": {"messages": [HELLO], "response_format": {"type": "json_schema", "json_schema": SCHEMA}},
}


@pytest.mark.parametrize("name", CHATS)
def test_the_bound_of_a_chat_is_above_its_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its bytes alone: what is added for hidden text is not needed for what we count."""
    for constant in ("TEMPLATE_TOKENS", "TOOLS_TOKENS"):
        monkeypatch.setattr(f"routing.endpoints.conversation.{constant}", 0)
    request = read(ChatEndpoint(), **CHATS[name])
    assert 0 < counted(request) <= tokens_of(request.endpoint.extent(request))


@given(st.lists(st.text(), min_size=1), st.booleans())
def test_the_bound_of_any_text_is_above_its_count(texts: list[str], is_chat: bool) -> None:
    if is_chat:
        request = read(ChatEndpoint(), messages=[{"role": "user", "content": text} for text in texts])
    else:
        request = read(CompletionsEndpoint(), prompt=[text or "-" for text in texts])
    assert counted(request) <= tokens_of(request.endpoint.extent(request))


def test_no_text_of_random_bytes_has_more_tokens_than_bytes() -> None:
    noise = random.Random(7).randbytes(20_000).decode("latin-1")
    for text in (noise, "\N{EGYPTIAN HIEROGLYPH A001}" * 500, base64.b64encode(noise.encode()).decode()):
        assert COUNTER.count(text) <= len(text.encode())


def test_tokens_that_a_caller_sends_are_bounded_exactly() -> None:
    for endpoint, field in ((CompletionsEndpoint(), "prompt"), (EmbeddingsEndpoint(), "input")):
        for sent in ([1, 2, 3], [[1, 2], [3]]):
            request = read(endpoint, **{field: sent})
            assert request.endpoint.extent(request) == Extent(tokens=3)
    padded = msgspec.Raw(b"[" + b" " * 100 + b'"text"]')
    assert extent_of(padded).text_bytes >= 100


def test_a_suffix_and_a_prediction_count() -> None:
    plain, longer = (read(CompletionsEndpoint(), prompt="a", suffix=text) for text in ("", "b" * 100))
    assert longer.endpoint.extent(longer).text_bytes == plain.endpoint.extent(plain).text_bytes + 100
    predicted = read(ChatEndpoint(), messages=[{"role": "user"}], prediction={"content": "c" * 100})
    assert predicted.predicted_bytes > 100


def test_the_larger_of_two_bounds_of_the_answer_counts() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for small, large in (("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")):
        request = read(ChatEndpoint(), messages=messages, **{small: 1, large: 500})
        assert (request.max_tokens, request.max_tokens_field) == (500, large)


def parts(*content: Any) -> Extent:
    request = read(ChatEndpoint(), messages=[{"role": "user", "content": list(content)}])
    return request.endpoint.extent(request)


def test_encoded_bytes_are_no_text() -> None:
    data = base64.b64encode(b"x" * 30_000).decode()
    for part in (
        {"type": "image_url", "image_url": {"url": f"data:image/bmp;base64,{data}"}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{data}"}},
    ):
        assert parts(part).text_bytes < 200, part["type"]


def test_what_a_part_holds_is_counted_by_its_kind() -> None:
    fixed = parts({"type": "text", "text": ""}).tokens
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"x" * 30_000).decode()}}
    assert parts(sound).tokens - fixed == pytest.approx(300, abs=2)  # of the lowest bit rate: half a minute
    pdf = {"type": "file", "file": {"file_data": base64.b64encode(b"x" * 30_000).decode()}}
    assert parts(pdf).tokens - fixed == 30_000
    for unseen in (
        {"type": "file", "file": {"file_id": "f-1"}},
        {"type": "video_url", "video_url": {"url": "https://x"}},
    ):
        assert parts(unseen).tokens - fixed == 32_768
    assert parts(IMAGE, {**IMAGE, "image_url": {"url": "x", "detail": "low"}}).images == (
        Image(),
        Image(is_low=True),
    )
    assert parts({"image_url": "https://x"}, {"image_url": 5}, "text").images == (Image(), Image())


# --- what is learned ------------------------------------------------------------------------------


CANDIDATES = [Candidate("upstream", price())]


def bound(estimator: Estimator, tokens: int = 1_000) -> Estimate:
    return estimator.bound("model", Extent(tokens=tokens), 10, CANDIDATES)


def count(estimator: Estimator, tokens: int = 1_000) -> Estimate:
    first = estimator.bound("model", Extent(text_bytes=4 * tokens), 10, CANDIDATES)
    return estimator.counted("model", first, tokens, (), CANDIDATES)


def test_a_bound_that_holds_stays_as_it_is() -> None:
    estimator = Estimator()
    for used in (10, 999, 1_000):
        estimator.learn("model", bound(estimator), Usage(input_tokens=used))
    assert bound(estimator).input_tokens == 1_000


def test_a_bound_that_was_broken_grows_and_only_for_its_model() -> None:
    estimator = Estimator()
    for _ in range(50):
        estimator.learn("model", bound(estimator), Usage(input_tokens=3_000))
    assert 2_990 <= bound(estimator).input_tokens <= 3_100
    assert estimator.bound("other", Extent(tokens=1_000), 10, CANDIDATES).input_tokens == 1_000


def test_a_count_is_cautious_at_first_and_learns_either_way() -> None:
    estimator = Estimator()
    assert count(estimator).input_tokens == 1_401
    for _ in range(60):
        estimator.learn("model", count(estimator), Usage(input_tokens=1_000))
    assert count(estimator).input_tokens <= 1_010
    for _ in range(60):
        estimator.learn("model", count(estimator), Usage(input_tokens=1_300))
    assert 1_295 <= count(estimator).input_tokens <= 1_350


@pytest.mark.parametrize("seed", range(5))
def test_nearly_all_calls_of_a_model_with_another_tokenizer_lie_below_their_counts(seed: int) -> None:
    estimator, chance, below = Estimator(), random.Random(seed), 0
    for _ in range(1_000):
        tokens = chance.randrange(50, 5_000)
        reserve, true = count(estimator, tokens), int(tokens * chance.uniform(1.0, 1.3))
        below += true <= reserve.input_tokens
        estimator.learn("model", reserve, Usage(input_tokens=true))
    assert below >= 985


def test_a_count_is_never_above_the_bound_and_the_floor_never_above_a_count() -> None:
    estimator = Estimator()
    first = bound(estimator)
    assert estimator.counted("model", first, 5_000, (), CANDIDATES).input_tokens == first.input_tokens
    spaces = estimator.bound("model", Extent(text_bytes=128 * 6 * 10), 10, CANDIDATES)
    sharpest = estimator.counted("model", spaces, COUNTER.count(" " * 1_280), (), CANDIDATES)
    assert spaces.least.tokens <= sharpest.most.tokens < spaces.most.tokens
    assert spaces.least.money <= sharpest.most.money < spaces.most.money


def test_token_rates_are_asked_for_what_calls_use_on_average() -> None:
    estimator = Estimator()
    first = estimator.bound("model", Extent(text_bytes=4_000), 4_096, CANDIDATES)
    assert first.rate_tokens == 1_000 + 256
    for used in [100] * 100 + [500] * 100:
        estimator.learn("model", first, Usage(input_tokens=used, output_tokens=used))
    then = estimator.bound("model", Extent(text_bytes=4_000), 4_096, CANDIDATES)
    assert 990 <= then.rate_tokens <= 1_000
    assert estimator.bound("model", Extent(tokens=5), 5, CANDIDATES).rate_tokens == 10


def test_images_are_reserved_as_the_dearest_backend_counts_them() -> None:
    served_by = [Candidate(name, price()) for name in ("gpt-4o", "gpt-4o-mini")]
    extent = Extent(images=(Image(is_low=True),))
    assert Estimator().bound("model", extent, 0, served_by).input_tokens == 2_833
