"""What every reader of backends' answers does: it tells them as events."""

from typing import Any, Protocol

import msgspec

from routing.dialects.events import Event

NULL = msgspec.Raw(b"null")
_TOOLS_OWN = frozenset({"input", "arguments"})  # where null is a value
_NO_ERROR = frozenset({b"null", b'""', b"{}", b"false"})


class Reader(Protocol):
    """Of one answer. `is_done`: the stream was ended properly. The methods raise ValueError for what is an error, or
    no answer at all."""

    is_done: bool

    def plain(self, body: bytes) -> list[Event]:
        """The events of a whole answer."""
        ...

    def frame(self, frame: bytes) -> list[Event]:
        """Those of one frame of a stream, in their order."""
        ...


def decode(decoder: "msgspec.json.Decoder[Any]", data: bytes) -> Any:
    """What is null counts as absent, and a number in words as a number: servers differ, and the answer was paid. Raises
    ValueError."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        return _decode_leniently(decoder, data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("the answer cannot be read") from None


def _decode_leniently(decoder: "msgspec.json.Decoder[Any]", data: bytes) -> Any:
    try:
        value = _without_nulls(msgspec.json.decode(data))
        return msgspec.json.decode(msgspec.json.encode(value), type=decoder.type, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
        raise ValueError("the answer cannot be read") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: each if name in _TOOLS_OWN else _without_nulls(each)
            for name, each in value.items()
            if each is not None
        }
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def as_text(arguments: str | dict[str, Any] | None) -> str:
    """Arguments of a tool as JSON, however a server gives them."""
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or ""


def refuse_error(error: msgspec.Raw) -> None:
    """Raises ValueError when there is one."""
    if bytes(error) not in _NO_ERROR:
        raise ValueError("the backend reports an error")
