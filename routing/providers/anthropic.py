"""Anthropic's Messages API, in both of its versions."""

import msgspec

from routing.providers.api import Words, decode_error
from routing.snapshot import Target

FIRST_VERSION = "2023-06-01"
NO_SAMPLING_VERSION = (
    "2026-10-21"  # the first that refuses temperature, top_p and top_k; and takes keys as bearers
)


class _Details(msgspec.Struct):
    error_code: str | None = None


class _Error(msgspec.Struct):
    message: str | None = None
    details: _Details | None = None


class _Body(msgspec.Struct):
    error: _Error


_bodies = msgspec.json.Decoder(_Body)


class Anthropic:
    """See api.Api."""

    def operations(self, target: Target) -> tuple[str, ...]:
        """See api.Api."""
        return ("messages",)

    def address(self, target: Target, base: str, path: str) -> str:
        """See api.Api."""
        return f"{base}/{path}"

    def headers(self, target: Target, credential: str | None) -> str:
        """See api.Api. The version is the backend's, else the first: it takes all that callers may send."""
        version = target.api_version or FIRST_VERSION
        lines = f"anthropic-version: {version}\r\n"
        if credential is None:
            return lines
        if version >= NO_SAMPLING_VERSION:
            return f"{lines}Authorization: Bearer {credential}\r\n"
        return f"{lines}x-api-key: {credential}\r\n"

    def check_address(self, target: Target, base: str) -> str:
        """See api.Api: the list of models."""
        return f"{base}/models"

    def read_error(self, body: bytes) -> Words:
        """See api.Api."""
        if (read := decode_error(_bodies, body)) is None:
            return Words()
        details = read.error.details
        return Words(read.error.message, None if details is None else details.error_code)
