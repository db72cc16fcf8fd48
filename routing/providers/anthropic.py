"""Anthropic's Messages API, in both of its versions."""

from routing.providers.api import Words, read_words
from routing.snapshot import Target

FIRST_VERSION = "2023-06-01"
NO_SAMPLING_VERSION = (
    "2026-10-21"  # the first that refuses temperature, top_p and top_k; and takes keys as bearers
)


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
        words, error = read_words(body)
        details = error.get("details")
        code = details.get("error_code") if isinstance(details, dict) else None
        return Words(words.message, code if isinstance(code, str) else None)
