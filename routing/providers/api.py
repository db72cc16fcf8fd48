"""What tells one provider's API from another's: where calls go, how they are signed, and how errors read."""

from typing import Protocol, TypeVar

import msgspec

from routing.snapshot import Target


class Words(msgspec.Struct):
    """What an error's body says."""

    message: str | None = None
    code: str | int | None = None
    param: str | None = None


class Api(Protocol):
    """See the methods."""

    def operations(self, target: Target) -> tuple[str, ...]:
        """The endpoints that a backend has, by the names of scopes; requests for others are translated, where there is
        a translation."""
        ...

    def address(self, target: Target, base: str, path: str) -> str:
        """The path, and the query if there is one, of a call to `path` below the base URL, whose own path is `base`."""
        ...

    def headers(self, target: Target, credential: str | None) -> str:
        """Lines of the head that are this API's own, those of the key or token among them, each with its end."""
        ...

    def check_address(self, target: Target, base: str) -> str:
        """The path, and the query, of a GET that costs nothing and is answered where the backend is well."""
        ...

    def read_error(self, body: bytes) -> Words:
        """What a status other than 200 came with; nothing where it cannot be read."""
        ...


Body = TypeVar("Body")


def decode_error(decoder: "msgspec.json.Decoder[Body]", body: bytes) -> Body | None:
    """None where the body has another form."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
