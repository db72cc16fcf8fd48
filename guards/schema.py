"""The JSON schema that a request asks its answer to have, and whether an answer has it."""

from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import msgspec

from guards.finding import Finding, Guard
from guards.policy import JSON_SCHEMA

_ANY_OBJECT = {"type": "object"}


class SchemaError(Exception):
    """A schema that nothing can be held against; the message is for the caller."""


class Schema:
    """Of one request. It refers to nothing outside itself, and its expressions take time linear in a text."""

    def __init__(self, schema: Any) -> None:
        """Raises SchemaError."""
        try:
            self._validator = jsonschema_rs.validator_for(
                schema, retriever=_retrieve_nothing, pattern_options=jsonschema_rs.RegexOptions()
            )
        except (
            jsonschema_rs.ValidationError,
            jsonschema_rs.ReferencingError,
            ValueError,
            TypeError,
        ) as error:
            raise SchemaError(f"The JSON schema cannot be used: {str(error).splitlines()[0]}") from None

    def find(self, text: str) -> list[Finding]:
        """One finding when `text` is no JSON or has another form."""
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return [_found(text, "no JSON")]
        return [] if self._validator.is_valid(value) else [_found(text, "another form")]


def _found(text: str, rule: str) -> Finding:
    return Finding(Guard.SCHEMA, JSON_SCHEMA, 0, len(text), 1.0, rule)


def _retrieve_nothing(address: str) -> Any:
    raise ValueError(f"it refers to {address}, and nothing is fetched")


def schema_of(fields: Mapping[str, msgspec.Raw]) -> Schema | None:
    """Of a request in any form by its raw top-level fields: chat's `response_format`, `text.format` of responses,
    `output_config.format` and `output_format` of messages. None where no form is asked for. Raises SchemaError."""
    asked = (
        _decoded(fields, "response_format")
        or _part(_decoded(fields, "text"), "format")
        or _part(_decoded(fields, "output_config"), "format")
        or _decoded(fields, "output_format")
    )
    kind = _part(asked, "type")
    if kind == "json_object":
        return Schema(_ANY_OBJECT)
    if kind != "json_schema":
        return None
    schema = _part(_part(asked, "json_schema"), "schema") or _part(asked, "schema")
    return Schema(_ANY_OBJECT if schema is None else schema)


def _decoded(fields: Mapping[str, msgspec.Raw], name: str) -> Any:
    if (raw := fields.get(name)) is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None  # what is no JSON is refused elsewhere


def _part(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
