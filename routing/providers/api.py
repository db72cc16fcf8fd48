"""What tells one provider's API from another's: where calls go, how they are signed, and how errors read."""

from typing import Any, Protocol

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


def read_words(body: bytes) -> tuple[Words, dict[str, Any]]:
    """What an error says in the form of most servers, and the error itself: `{"error": {...}}`, `{"error": "..."}`, or
    its fields at the top. What is of another type than it should be is left out, and nothing else with it."""
    try:
        whole = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Words(), {}
    if not isinstance(whole, dict):
        return Words(), {}
    error = whole.get("error", whole)
    if isinstance(error, str):
        error = {**whole, "message": error}
    if not isinstance(error, dict):
        return Words(), {}
    message = error.get("message") or error.get("detail")
    code, param = error.get("code"), error.get("param")
    return (
        Words(
            message if isinstance(message, str) else None,
            code if isinstance(code, str | int) and not isinstance(code, bool) else None,
            param if isinstance(param, str) else None,
        ),
        error,
    )
