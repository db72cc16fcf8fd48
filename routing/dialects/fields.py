"""What translators of requests share: fields whose types nobody has checked, and what a form has no place for."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from teams.errors import GatewayError, field_invalid, parameter_unsupported

Fields = dict[str, Any]
_NAME = re.compile(r"\A[\w.]{1,64}\Z", re.ASCII)
_MOST_NAMES = 32


@dataclass(slots=True)
class Carried:
    """A request in another form. `dropped`: the caller's names of what could not be carried."""

    fields: Fields = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def drop(self, name: str) -> None:
        """Note that `name` was left out. It may be the caller's own word, and becomes part of a header."""
        name = name if _NAME.match(name) else "others"
        if name not in self.dropped and len(self.dropped) < _MOST_NAMES:
            self.dropped.append(name)

    def drop_rest(self, given: Mapping[str, Any], known: Iterable[str]) -> None:
        """Note every field that is set and not `known`."""
        for name in given.keys() - set(known):
            if given[name] is not None:
                self.drop(name)
        self.dropped.sort()


def decode_all(fields: Mapping[str, msgspec.Raw]) -> Fields:
    """The fields as they came, decoded; null ones are left out. Raises GatewayError."""
    decoded = {}
    for name, raw in fields.items():
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError):  # a number that no float can hold, or too deep
            raise field_invalid(name, f"{name!r} cannot be read.") from None
        if value is not None:
            decoded[name] = value
    return decoded


def as_object(value: Any, place: str) -> Fields:
    """`value`, an object. Raises GatewayError."""
    if not isinstance(value, dict):
        raise field_invalid(place, f"{place!r} must be an object.")
    return value


def as_text(value: Any, place: str) -> str:
    """`value`, a string. Raises GatewayError."""
    if not isinstance(value, str):
        raise field_invalid(place, f"{place!r} must be a string.")
    return value


def as_list(value: Any, place: str) -> list[Any]:
    """`value`, a list. Raises GatewayError."""
    if not isinstance(value, list):
        raise field_invalid(place, f"{place!r} must be a list.")
    return value


def objects(value: Any, place: str) -> list[tuple[str, Fields]]:
    """The objects of a list, each with its place. Raises GatewayError."""
    items = as_list(value, place)
    return [
        (f"{place}[{number}]", as_object(item, f"{place}[{number}]")) for number, item in enumerate(items)
    ]


def cannot_carry(place: str, what: str) -> GatewayError:
    """To be raised where leaving `what` out would change what is asked for."""
    return parameter_unsupported(place, f"{what} cannot be used with this model.")


def split_data_url(url: str) -> tuple[str, str] | None:
    """The media type and the base64 text of a data URL; None when it is another URL."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    return head[len("data:") : -len(";base64")].partition(";")[0], data


def dump(value: Any) -> str:
    """As JSON."""
    return msgspec.json.encode(value).decode()
