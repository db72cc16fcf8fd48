"""Placeholders become values again, however a backend cuts them, and nothing else changes."""

import json
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards.finding import Finding
from guards.redaction import Vault
from routing.answer_pieces import Pieces
from routing.restoring import Restorer, restore_body

VALUES = ["anna@example.com", '4111 "1111"', "a\\b\n", "<", "<X_1>", "ü€😀"]
words = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from(["<", ">", "<A", "<A_", "<A_1", "_1>", "A_1>", "<A_12>", "<B_1> ", "<<A_1>"]),
    st.text(max_size=8),
)
texts = st.lists(words, max_size=12).map("".join)
cuts = st.lists(st.integers(0, 200), max_size=12)


def redacted(text: str) -> tuple[str, Vault]:
    """With a placeholder for each of VALUES[:3], of types that are often the beginning of one another."""
    findings, at = [], 0
    while at < len(text):
        found = next((value for value in VALUES[:3] if text.startswith(value, at)), "")
        if found:
            kind = "A" if found == VALUES[0] else "A_1" if found == VALUES[1] else "B"
            findings.append((Finding("pii", kind, at, at + len(found), 1.0, "test"), True))
        at += len(found) or 1
    vault = Vault([text])
    return vault.redact(text, findings), vault


def pieces_of(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place for place in places if place < len(text))})
    return [text[start:end] for start, end in pairwise(edges)] or [""]


def frame(event: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return head.encode() + b"data: " + json.dumps(event).encode() + b"\n\n"


def chat(pieces: list[str]) -> Iterator[bytes]:
    def chunk(delta: Any, reason: Any = None) -> bytes:
        return frame({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    yield chunk({"role": "assistant", "content": ""})
    yield from (chunk({"content": piece}) for piece in pieces)
    yield chunk({}, "stop")
    yield frame({"id": "c", "choices": [], "usage": {"total_tokens": 3}})
    yield b"data: [DONE]\n\n"


def chat_arguments(pieces: list[str]) -> Iterator[bytes]:
    for piece in pieces:
        call = {"index": 0, "function": {"arguments": piece}}
        yield frame({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]})
    yield frame({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    yield b"data: [DONE]\n\n"


def completions(pieces: list[str]) -> Iterator[bytes]:
    for piece in pieces[:-1]:
        yield frame({"choices": [{"index": 0, "text": piece, "finish_reason": None}]})
    yield frame({"choices": [{"index": 0, "text": pieces[-1], "finish_reason": "stop"}]})
    yield b"data: [DONE]\n\n"


def messages(pieces: list[str], kind: str = "text_delta", key: str = "text") -> Iterator[bytes]:
    for piece in pieces:
        event = {"type": "content_block_delta", "index": 0, "delta": {"type": kind, key: piece}}
        yield frame(event, "content_block_delta")
    yield frame({"type": "content_block_stop", "index": 0}, "content_block_stop")
    yield frame({"type": "message_stop"}, "message_stop")


def messages_arguments(pieces: list[str]) -> Iterator[bytes]:
    yield from messages(pieces, "input_json_delta", "partial_json")


def responses(pieces: list[str]) -> Iterator[bytes]:
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    for number, piece in enumerate(pieces):
        kind = "response.output_text.delta"
        yield frame({"type": kind, "sequence_number": number, **place, "delta": piece}, kind)
    kind = "response.output_text.done"
    yield frame(
        {"type": kind, "sequence_number": len(pieces), **place, "text": "".join(pieces)},
        kind,
    )


def events_of(streamed: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in streamed.decode().split("\n") if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def said(events: list[dict[str, Any]]) -> str:
    found = ""
    for event in events:
        for choice in event.get("choices", ()):
            delta = choice.get("delta", {})
            calls = delta.get("tool_calls", [])
            found += choice.get("text", "") + delta.get("content", "")
            found += "".join(call["function"]["arguments"] for call in calls)
        delta = event.get("delta", {})
        found += delta if isinstance(delta, str) else delta.get("text", "") + delta.get("partial_json", "")
    return found


FORMS: dict[str, tuple[str, Callable[[list[str]], Iterator[bytes]]]] = {
    "chat": ("chat", chat),
    "completions": ("completions", completions),
    "messages": ("messages", messages),
    "responses": ("responses", responses),
}


def relayed(operation: str, frames: list[bytes], vault: Vault, together: int) -> bytes:
    pieces = Pieces(operation, Restorer(vault))
    groups = [b"".join(frames[at : at + together]) for at in range(0, len(frames), together)]
    return b"".join(at_once(pieces.feed(group)) for group in groups)


def at_once(coroutine: Coroutine[Any, Any, bytes]) -> bytes:
    """The result of what waits for nothing."""
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return bytes(ended.value.value)


@pytest.mark.parametrize("form", FORMS)
@given(text=texts, places=cuts, together=st.integers(1, 4))
def test_a_streams_text_is_whole_again_however_it_was_cut(
    form: str, text: str, places: list[int], together: int
) -> None:
    operation, make = FORMS[form]
    cut, vault = redacted(text)
    assert not [value for value in VALUES[:3] if value in cut and value in text]
    streamed = relayed(operation, list(make(pieces_of(cut, places))), vault, together)
    events = events_of(streamed)
    assert said(events) == text
    assert streamed.endswith(b"\n\n")
    if form == "responses":
        assert events[-1]["text"] == text
        assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize("form", [chat_arguments, messages_arguments])
@given(words=st.lists(words, max_size=6), places=cuts)
def test_arguments_stay_json_with_any_value(
    form: Callable[[list[str]], Iterator[bytes]], words: list[str], places: list[int]
) -> None:
    vault = Vault([])
    value = Finding("pii", "A", 0, len(VALUES[1]), 1.0, "test")
    placeholder = vault.redact(VALUES[1], [(value, True)])
    arguments = json.dumps({"q": ["x".join(word for word in words if "<" not in word) + placeholder]})
    operation = "messages" if form is messages_arguments else "chat"
    streamed = relayed(operation, list(form(pieces_of(arguments, places))), vault, 1)
    assert json.loads(said(events_of(streamed)))["q"][0].endswith(VALUES[1])


@given(text=texts)
def test_a_plain_answer_is_whole_again(text: str) -> None:
    cut, vault = redacted(text)
    answer = {"choices": [{"message": {"content": cut, "tool_calls": [{"function": {"arguments": "{}"}}]}}]}
    restored = json.loads(restore_body(json.dumps(answer).encode(), vault))
    assert restored["choices"][0]["message"]["content"] == text


def test_what_a_provider_signed_is_left_as_it_is() -> None:
    _, vault = redacted(VALUES[0])
    answer = {"content": [{"type": "thinking", "thinking": "about <A_1>", "signature": "x"}]}
    assert json.loads(restore_body(json.dumps(answer).encode(), vault)) == answer
    delta = {"type": "thinking_delta", "thinking": "<A_1>"}
    thought = {"type": "content_block_delta", "index": 0, "delta": delta}
    restored = relayed("messages", [frame(thought, "content_block_delta")], vault, 1)
    assert events_of(restored) == [thought]


def test_frames_that_hold_no_placeholder_pass_as_they_came() -> None:
    _, vault = redacted(VALUES[0])
    for data in (b": keep-alive", b"data: {broken", b'data: {"a":1.50}', b"data: [1]", b"data: [DONE]"):
        assert relayed("chat", [data + b"\n\n"], vault, 1) == data + b"\n\n"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('{"a": "<A_1>"}', '{"a": "x\\"y"}'),
        ('[{"a": "<A_1>"}]', '[{"a": "x\\"y"}]'),
        ("{note} Dear <A_1>", '{note} Dear x"y'),
        ("[1] <A_1>", '[1] x"y'),
        ("Dear <A_1>", 'Dear x"y'),
    ],
)
def test_values_are_written_as_in_a_string_where_a_text_is_json(said: str, told: str) -> None:
    vault = Vault([])
    vault.redact('x"y', [(Finding("pii", "A", 0, 3, 1.0, "test"), True)])
    for places in ([], list(range(len(said)))):
        events = events_of(relayed("chat", list(chat(pieces_of(said, places))), vault, 1))
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"]) == told
