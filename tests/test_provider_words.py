"""What servers say when they refuse, in the forms that they say it."""

import json
from typing import Any

import pytest

from routing.providers.anthropic import Anthropic
from routing.providers.openai import OpenAI

LONG = "This model's maximum context length is 4096 tokens"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no", "code": "c", "param": "p"}}, ("no", "c", "p")),
        (
            {"object": "error", "message": LONG, "type": "BadRequestError", "param": None, "code": 400},
            (LONG, 400, None),
        ),
        ({"error": "maximum context length exceeded"}, ("maximum context length exceeded", None, None)),
        ({"error": {"message": "no", "param": ["a"], "code": True}}, ("no", None, None)),
        ({"detail": "not found"}, ("not found", None, None)),
        ({"error": {"message": {"a": 1}}}, (None, None, None)),
        ({"error": [1]}, (None, None, None)),
        ([], (None, None, None)),
        (3, (None, None, None)),
    ],
)
def test_openai_and_those_like_it(body: Any, words: tuple[Any, ...]) -> None:
    said = OpenAI().read_error(json.dumps(body).encode())
    assert (said.message, said.code, said.param) == words


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 9000, b"<html>", b"null"])
def test_what_says_nothing(body: bytes) -> None:
    for api in (OpenAI(), Anthropic()):
        assert api.read_error(body).message is None


@pytest.mark.parametrize(
    ("details", "code"),
    [({"error_code": "x"}, "x"), ("because", None), (None, None), ({"error_code": 3}, None)],
)
def test_anthropic(details: Any, code: str | None) -> None:
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": "no", "details": details}}
    said = Anthropic().read_error(json.dumps(body).encode())
    assert (said.message, said.code) == ("no", code)
