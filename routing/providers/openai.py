"""OpenAI, and every server that speaks its API: vLLM, the simulator."""

from routing.providers.api import Words, read_words
from routing.snapshot import Target

_OPERATIONS = ("chat", "completions", "embeddings")
_WITH_RESPONSES = (*_OPERATIONS, "responses")


class OpenAI:
    """See api.Api."""

    def operations(self, target: Target) -> tuple[str, ...]:
        """See api.Api."""
        return _WITH_RESPONSES if target.passes_responses else _OPERATIONS

    def address(self, target: Target, base: str, path: str) -> str:
        """See api.Api."""
        return f"{base}/{path}"

    def headers(self, target: Target, credential: str | None) -> str:
        """See api.Api."""
        return "" if credential is None else f"Authorization: Bearer {credential}\r\n"

    def check_address(self, target: Target, base: str) -> str:
        """See api.Api: the list of models."""
        return f"{base}/models"

    def read_error(self, body: bytes) -> Words:
        """See api.Api."""
        words, _ = read_words(body)
        return words
