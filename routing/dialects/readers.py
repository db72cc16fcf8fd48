"""What every reader of backends' answers does: it tells them as events."""

from typing import Any, Protocol

import msgspec

from routing.dialects.events import Event

NULL = msgspec.Raw(b"null")
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
    """Raises ValueError."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("the answer cannot be read") from None


def refuse_error(error: msgspec.Raw) -> None:
    """Raises ValueError when there is one."""
    if bytes(error) not in _NO_ERROR:
        raise ValueError("the backend reports an error")
