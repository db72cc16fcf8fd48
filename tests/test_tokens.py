"""Our own token counts: exact for o200k, without a network, and never silently absent."""

import logging

import pytest
import tiktoken.load

from billing.tokens import ByteCounter, TiktokenCounter, count_tokens, load_counter


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
