"""Deterministic values that satisfy simple JSON schemas."""

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 16

_FORMATS = {
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "date-time": "2026-01-31T12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def value_for(schema: Mapping[str, Any], name: str = "value", free_text: str | None = None) -> Any:
    """A value that satisfies the schema.

    Objects get their required properties, or all when none is required. A string with no further rule is
    `free_text`, else the property's name. Patterns and combined conditions are not understood.
    """
    return _Maker(schema, free_text).make(schema, name, 0)


class _Maker:
    def __init__(self, root: Mapping[str, Any], free_text: str | None) -> None:
        self.root = root
        self.free_text = free_text

    def make(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
            return None
        schema = self.resolve(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        for union in ("anyOf", "oneOf"):
            if schema.get(union):
                return self.make(schema[union][0], name, depth + 1)
        return self.make_typed(schema, name, depth)

    def resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        merged = dict(schema)
        for part in merged.pop("allOf", ()):
            merged.update(self.resolve(part))
        reference = merged.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return merged
        target: Any = self.root
        for step in reference.strip("#/").split("/"):
            target = target.get(step, {}) if step else target
        return self.resolve(target)

    def make_typed(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        kind = kind[0] if isinstance(kind, list) and kind else kind
        if kind == "object":
            return self.make_object(schema, depth)
        if kind == "array":
            items = schema.get("items")
            length = schema.get("minItems", 1 if items else 0)
            return [self.make(items or {}, name, depth + 1) for _ in range(length)]
        if kind == "integer":
            return _within(schema, 1)
        if kind == "number":
            return _within(schema, 1.5)
        if kind == "boolean":
            return True
        return None if kind == "null" else self.make_string(schema, name)

    def make_object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        names = schema.get("required") or list(properties)
        return {name: self.make(properties.get(name, {}), name, depth + 1) for name in names}

    def make_string(self, schema: Mapping[str, Any], name: str) -> str:
        known = _FORMATS.get(schema.get("format", ""))
        text = known or (name if self.free_text is None else self.free_text)
        return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]


def _within(schema: Mapping[str, Any], value: float) -> float:
    if "maximum" in schema:
        value = min(value, schema["maximum"])
    elif "exclusiveMaximum" in schema:
        value = min(value, schema["exclusiveMaximum"] - 1)
    if "minimum" in schema:
        value = max(value, schema["minimum"])
    elif "exclusiveMinimum" in schema:
        value = max(value, schema["exclusiveMinimum"] + 1)
    return value
