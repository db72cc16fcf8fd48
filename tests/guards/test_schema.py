"""Schemas of callers: what they are held against, and that none holds anybody else up."""

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest

from guards.schema import Schema, Schemas, check_schema, hold_against, schema_of


def raw(schema: Any) -> bytes:
    return json.dumps(schema).encode()


def doubling(levels: int) -> dict[str, Any]:
    """One that takes twice as long with each level."""
    steps = {
        f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}, {"$ref": f"#/$defs/a{level + 1}"}]}
        for level in range(levels)
    }
    return {"$defs": {**steps, f"a{levels}": {"type": "integer"}}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(
    ("schema", "text", "fault"),
    [
        ({"type": "object"}, "{}", ""),
        ({"type": "object"}, "[]", "another form"),
        ({"type": "object"}, "{", "no JSON"),
        ({"type": "object"}, "[" * 100_000, "no JSON"),
        ({"type": "object"}, '"\ud800"', "no JSON"),
        ({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}, '"x"', ""),
        (
            {"properties": {"n": {"pattern": "^(a+)+$"}}},
            json.dumps({"n": "a" * 40_000 + "!"}),
            "another form",
        ),
    ],
)
def test_what_is_held_against(schema: Any, text: str, fault: str) -> None:
    assert check_schema(raw(schema)) == ""
    assert hold_against(raw(schema), text) == fault


@pytest.mark.parametrize(
    "schema",
    [{"type": "nothing"}, {"$ref": "http://127.0.0.1:9/x.json"}, {"pattern": "(?=a)b"}, 3, {"$ref": "#/x"}],
)
def test_what_cannot_be_used(schema: Any) -> None:
    assert check_schema(raw(schema)).startswith("The JSON schema cannot be used: ")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"type": "object"}),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}}, {"a": 1}),
        ({"text": {"format": {"type": "json_schema", "schema": {"a": 1}}}}, {"a": 1}),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}}}, {"a": 1}),
        ({"output_format": {"type": "json_schema", "schema": {"a": 1}}}, {"a": 1}),
        ({"response_format": {"type": "json_schema"}}, {"type": "object"}),
        ({"response_format": 3, "text": "x", "output_config": []}, None),
    ],
)
def test_where_a_request_has_it(body: Any, found: Any) -> None:
    schema = schema_of(msgspec.json.decode(raw(body), type=dict[str, msgspec.Raw]))
    assert (None if schema is None else json.loads(schema.raw)) == found


@pytest.mark.slow  # seconds of waiting
async def test_one_that_takes_for_ever_holds_nobody_up() -> None:
    schemas, good, bad = Schemas(2.0), Schema(raw({"type": "object"})), Schema(raw(doubling(60)))
    try:
        assert await schemas.check(good) == ""
        assert await schemas.check(bad) == ""
        waiting, lags = asyncio.create_task(schemas.find(bad, "3")), []
        while not waiting.done():
            started = time.monotonic()
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - started)
        assert waiting.result() is None
        assert max(lags) < 0.2
        for _ in range(20):  # the next process makes itself ready
            if (found := await schemas.find(good, "[]")) is not None:
                break
        assert found == "another form"
    finally:
        await schemas.close()
