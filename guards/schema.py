"""The JSON schema that a request asks its answer to have, and whether an answer has it.

A caller writes the schema, and may write one that takes for ever: it is held against texts in a process of its own.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonschema_rs
import msgspec

from guards.finding import Finding, Guard
from guards.policy import JSON_SCHEMA
from guards.process import Apart, GuardsAway

_ANY_OBJECT = msgspec.json.encode({"type": "object"})
_MOST_KNOWN = 1_000
_NO_JSON, _OTHER = "no JSON", "another form"


class Schema(msgspec.Struct, frozen=True):
    """Of one request, as JSON."""

    raw: bytes

    @staticmethod
    def finding(text: str, fault: str) -> Finding:
        """What is to be said of a text with a fault."""
        return Finding(Guard.SCHEMA, JSON_SCHEMA, 0, len(text), 1.0, fault)


class Schemas:
    """One worker's."""

    def __init__(self, limit_s: float) -> None:
        self._apart = Apart(limit_s)
        self._good: OrderedDict[bytes, None] = OrderedDict()

    async def check(self, schema: Schema) -> str | None:
        """What is wrong with it, for its caller; empty for nothing. None when nobody can look."""
        digest = hashlib.blake2b(schema.raw, digest_size=16).digest()
        if digest in self._good:
            self._good.move_to_end(digest)
            return ""
        try:
            fault = await self._apart.run(check_schema, schema.raw)
        except GuardsAway:
            return None
        if not fault:
            self._good[digest] = None
            if len(self._good) > _MOST_KNOWN:
                self._good.popitem(last=False)
        return fault

    async def find(self, schema: Schema, text: str) -> str | None:
        """What is wrong with a text; empty for nothing. None when nobody can look."""
        try:
            return await self._apart.run(hold_against, schema.raw, text)
        except GuardsAway:
            return None

    async def close(self) -> None:
        """End the process."""
        await self._apart.close()


def check_schema(raw: bytes) -> str:
    """In the process: what is wrong with a schema. It refers to nothing outside itself, and its expressions take time
    linear in a text."""
    try:
        _validator(raw)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, TypeError) as error:
        return f"The JSON schema cannot be used: {str(error).splitlines()[0]}"
    return ""


def hold_against(raw: bytes, text: str) -> str:
    """In the process: what is wrong with a text."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return _NO_JSON
    return "" if _validator(raw).is_valid(value) else _OTHER


@lru_cache(maxsize=64)
def _validator(raw: bytes) -> Any:
    return jsonschema_rs.validator_for(
        msgspec.json.decode(raw), retriever=_retrieve_nothing, pattern_options=jsonschema_rs.RegexOptions()
    )


def _retrieve_nothing(address: str) -> Any:
    raise ValueError(f"it refers to {address}, and nothing is fetched")


def schema_of(fields: Mapping[str, msgspec.Raw]) -> Schema | None:
    """Of a request in any form by its raw top-level fields: chat's `response_format`, `text.format` of responses,
    `output_config.format` and `output_format` of messages. None where no form is asked for."""
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
    return Schema(_ANY_OBJECT if schema is None else msgspec.json.encode(schema))


def _decoded(fields: Mapping[str, msgspec.Raw], name: str) -> Any:
    if (raw := fields.get(name)) is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None  # what is no JSON is refused elsewhere


def _part(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
