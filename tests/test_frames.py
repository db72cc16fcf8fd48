"""The relay passes the same bytes, however the network cuts the stream."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import Usage
from routing.frames import DONE_FRAME, FrameRelay

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}


def frame(value: Any, end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + end


def delta(text: str, **extra: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": {"content": text}}], **extra}


def relay(*, wants_usage: bool = False, bound: int = 10_000) -> FrameRelay:
    return FrameRelay(wants_usage=wants_usage, max_frame_bytes=bound)


def feed(passed_to: FrameRelay, data: bytes, cuts: list[int]) -> bytes:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return b"".join(passed_to.feed(data[a:b]) for a, b in itertools.pairwise(edges))


# Texts that try to look like the patterns the relay searches for.
tricky = st.sampled_from(
    [
        "alpha",
        "ü€😀",
        'a","usage":null,"b',
        '{"error":{"message":"no"}}',
        "data: [DONE]",
        "[DONE]",
        "x\n\ndata: y",
        '"usage"',
    ]
)
cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(
    texts=st.lists(tricky, max_size=8),
    cuts=cuts,
    crlf=st.booleans(),
    null_usage=st.booleans(),
    wants=st.booleans(),
)
def test_any_cut_of_a_stream_passes_the_same_frames(
    texts: list[str], cuts: list[int], crlf: bool, null_usage: bool, wants: bool
) -> None:
    end = b"\r\n\r\n" if crlf else b"\n\n"
    extra = {"usage": None} if null_usage else {}
    frames = [frame(delta(text, **extra), end) for text in texts]
    figures = frame({"choices": [], "usage": USAGE}, end)
    subject = relay(wants_usage=wants)
    passed = feed(subject, b"".join(frames) + figures + b"data: [DONE]" + end, cuts)
    expected = [*frames, figures] if wants else [frame(delta(text), end) for text in texts]
    assert passed.strip(b"\n") == b"".join(expected).strip(b"\n")
    assert subject.is_done
    assert not subject.is_faulty
    assert subject.usage == Usage(9, 2, 0, 4)
    assert "".join(subject.texts()) == "".join(texts)


@given(cuts=cuts)
def test_an_error_frame_stops_the_relay_after_what_came_before(cuts: list[int]) -> None:
    good = frame(delta("alpha"))
    data = good + frame({"error": {"message": "secret host"}}) + frame(delta("beta")) + DONE_FRAME
    subject = relay()
    assert feed(subject, data, cuts) == good
    assert (subject.is_faulty, subject.is_done, subject.texts()) == (True, False, ["alpha"])


def test_a_null_error_and_a_choice_beside_usage_pass() -> None:
    data = frame(delta("alpha", error=None)) + frame(delta("beta", usage=USAGE))
    subject = relay()
    assert subject.feed(data) == data
    assert subject.usage == Usage(9, 2, 0, 4)


def test_the_last_usable_figures_hold() -> None:
    subject = relay()
    subject.feed(frame(delta("a", usage={"prompt_tokens": 1})))
    subject.feed(frame(delta("b", usage={"prompt_tokens": 7, "completion_tokens": 2})))
    subject.feed(frame({"choices": [], "usage": {"prompt_tokens": -7}}))
    assert subject.usage == Usage(7, 0, 0, 2)


def test_an_endless_frame_is_a_fault() -> None:
    subject = relay(bound=100)
    assert subject.feed(b"data: " + b"x" * 200) == b""
    assert subject.is_faulty


def test_comments_and_broken_json_pass_and_count_nothing() -> None:
    data = b": ping\n\ndata: {broken\n\ndata: 3\n\n"
    subject = relay()
    assert subject.feed(data) == data
    assert subject.texts() == []


def test_long_streams_are_remembered_as_text_only() -> None:
    subject = relay()
    for _ in range(2_000):
        subject.feed(frame(delta("word ")))
    assert sum(map(len, subject._kept)) < 40_000
    assert "".join(subject.texts()) == "word " * 2_000


@pytest.mark.parametrize("ending", [b"data: [DONE]\n\n", b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n"])
def test_the_forms_of_done(ending: bytes) -> None:
    subject = relay()
    assert subject.feed(frame(delta("a")) + ending + b"data: after\n\n").strip() == frame(delta("a")).strip()
    assert subject.is_done
    assert subject.feed(b"data: more\n\n") == b""
