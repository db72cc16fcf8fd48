"""All texts of a request are found, and what cannot be text is left alone."""

import base64
import json
from typing import Any

import msgspec
import pytest

from guards.texts import Texts, Unreadable

PICTURE = base64.b64encode(bytes(range(256)) * 4).decode()
CARD = "4111111111111111"


def read(body: Any) -> Texts:
    return Texts.of_request(msgspec.json.decode(json.dumps(body), type=dict[str, msgspec.Raw]))


def found(body: Any) -> list[str]:
    return [text.text for text in read(body).all]


@pytest.mark.parametrize(
    ("value", "is_text"),
    [
        ({"data": PICTURE}, False),
        ({"url": f"data:image/png;base64,{PICTURE}"}, False),
        ({"data": f"{PICTURE} and the card {CARD}"}, True),
        ({"url": f"data:text/plain;base64,{PICTURE}, {CARD}"}, True),
        ({"url": f"https://example.com/?card={CARD}"}, True),
        ({"data": "short"}, True),
        ({"role": "user", "id": "call_1", "type": "text"}, False),
        ({"id": f"card {CARD}"}, True),
        ({"n": int(CARD)}, True),
        ({"n": float(CARD)}, True),
        ({"n": 1234567, "seed": 0.5, "stream": True, "stop": None}, False),
        ([["deep", [{"x": ["text"]}]]], True),
    ],
)
def test_what_may_be_text_is_looked_at(value: Any, is_text: bool) -> None:
    assert bool(found({"input": value})) is is_text


def test_names_that_look_like_none_are_texts_too() -> None:
    (text,) = [
        each for each in read({"input": {"anna@example.com": 1, "plain name": 2}}).all if each.is_fixed
    ]
    assert (text.text, text.place) == ("anna@example.com", "input.*")


def test_other_texts_take_the_places() -> None:
    texts = read({"input": [{"n": int(CARD), "text": "a"}], "stream": True})
    for text in texts.all:
        text.put("<X_1>")
    assert json.loads(texts.encode()) == {"input": [{"n": "<X_1>", "text": "<X_1>"}], "stream": True}


@pytest.mark.parametrize("raw", ["[" * 200_000 + "]" * 200_000, "1e999"])
def test_what_cannot_be_read_is_refused(raw: str) -> None:
    with pytest.raises(Unreadable):
        Texts.of_request({"input": msgspec.Raw(raw.encode())})
