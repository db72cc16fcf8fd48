"""Token counts of one request, normalised over providers before anything is priced."""

import msgspec

MOST_TOKENS = 2**31 - 1  # a figure above this is a fault of the backend, not usage


class UnusableUsage(ValueError):
    """The backend's figures are missing, negative, absurd or contradict each other."""


class Usage(msgspec.Struct, frozen=True):
    """`input_tokens` counts all prompt tokens, those read from or written to the provider's cache included;
    `output_tokens` counts all answer tokens, reasoning included. `estimated`: counted by us."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __post_init__(self) -> None:
        """Refuse figures that cannot be true. Raises UnusableUsage."""
        counts = (
            self.input_tokens,
            self.cached_input_tokens,
            self.cache_write_tokens,
            self.output_tokens,
            self.reasoning_tokens,
        )
        if min(counts) < 0 or max(counts) > MOST_TOKENS:
            raise UnusableUsage("a token count is negative or absurd")
        if self.cached_input_tokens + self.cache_write_tokens > self.input_tokens:
            raise UnusableUsage("more cached tokens than input tokens")
        if self.reasoning_tokens > self.output_tokens:
            raise UnusableUsage("more reasoning tokens than output tokens")

    def __add__(self, other: "Usage") -> "Usage":
        """Of two calls together."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )

    @property
    def plain_input_tokens(self) -> int:
        """Input tokens at the ordinary price."""
        return self.input_tokens - self.cached_input_tokens - self.cache_write_tokens


NOTHING_USED = Usage()
