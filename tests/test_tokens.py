"""Our own token counts: exact for o200k, without a network, and never silently absent."""

import logging

import pytest
import tiktoken.load

from billing.tokens import ByteCounter, TiktokenCounter, count_tokens, load_counter
from routing.endpoints.usage import read_usage


def test_known_counts_without_any_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(tiktoken.load, "read_file", no_network)
    counter = load_counter()
    assert isinstance(counter, TiktokenCounter)
    assert [
        counter.count(text) for text in ("", "hello world", "alpha beta gamma delta", "<|endoftext|>")
    ] == [0, 2, 4, 7]


def test_a_wrong_rank_file_falls_back_to_bytes_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("billing.tokens._RANKS_SHA256", "0" * 64)
    with caplog.at_level(logging.WARNING):
        assert isinstance(load_counter(), ByteCounter)
    assert "estimated from bytes" in caplog.text


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("\N{GRINNING FACE}", 1), ("\ud800", 1)],
)
def test_the_byte_estimate(text: str, tokens: int) -> None:
    assert ByteCounter().count(text) == tokens


async def test_long_texts_are_counted_in_a_thread_with_the_same_result() -> None:
    counter = load_counter()
    assert await count_tokens(counter, ["alpha " * 5_000]) == counter.count("alpha " * 5_000)
    assert await count_tokens(counter, []) == 0


def test_texts_that_make_tiktoken_panic_are_counted_all_the_same() -> None:
    counter = load_counter()
    assert counter.count(" " * 1_000_000) > 1_000
    assert counter.count("a" * 300_000) > 10_000


def test_reasoning_reported_beside_the_completion_is_charged_too() -> None:
    beside = b'{"prompt_tokens":5,"completion_tokens":10,"completion_tokens_details":{"reasoning_tokens":90}}'
    inside = (
        b'{"prompt_tokens":5,"completion_tokens":100,"completion_tokens_details":{"reasoning_tokens":90}}'
    )
    for raw in (beside, inside):
        usage = read_usage(raw)
        assert usage is not None
        assert (usage.output_tokens, usage.reasoning_tokens) == (100, 90)
    assert read_usage(b'{"prompt_tokens":5}') is None
