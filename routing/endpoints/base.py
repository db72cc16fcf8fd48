"""What the pipeline asks of an endpoint, and a request as every endpoint reads it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from billing.estimate import Extent
from billing.images import Image
from billing.usage import Usage
from routing.dialects.base import Relay
from routing.dialects.fields import Carried
from routing.endpoints.bounds import Bounds
from routing.errors import Wire

decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
encode = msgspec.json.Encoder().encode


_NULL = b"null"
_REASONING = (
    "reasoning_effort",
    "reasoning",
    "thinking",
)  # OpenAI's name, OpenRouter's, and several vendors'
_NO_REASONING = frozenset({_NULL, b'"none"'})


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a prompt's tokens are counted from: its texts, tokens that need no counting, and images."""

    texts: Sequence[str]
    tokens: int = 0
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. `fields` are the raw top-level fields as sent; `choices`: how many answers are generated;
    `max_tokens` bounds each of them, None when the caller set no bound; a provider bills what it rejects of
    `predicted_bytes` of text as answer besides. `media`: the contents of messages that are lists of parts. `carried`:
    the request in the forms of backends that do not speak the caller's (dialects/table.py)."""

    endpoint: "Endpoint"
    model: str
    stream: bool
    wants_usage: bool
    end_user: str
    choices: int
    max_tokens: int | None
    max_tokens_field: str
    fields: dict[str, msgspec.Raw]
    predicted_bytes: int = 0
    media: tuple[msgspec.Raw, ...] = ()
    carried: dict[str, Carried] = field(default_factory=dict)

    @property
    def reasons(self) -> bool:
        """Whether the caller asks the model to think before it answers, which may not show in a stream."""
        asked = [bytes(self.fields.get(name, _NULL)) for name in _REASONING]
        return any(each not in _NO_REASONING and b'"disabled"' not in each for each in asked)


def body_asking_usage(request: Request, upstream_model: str) -> bytes:
    """The body for a backend that tells the usage of a stream only when asked to."""
    fields: dict[str, Any] = {**request.fields, "model": upstream_model}
    if request.stream:
        options = request.fields.get("stream_options", b"null")
        sent = decode_fields(options) if bytes(options) != b"null" else {}
        fields["stream_options"] = {**sent, "include_usage": True}
    return encode(fields)


class Endpoint(Protocol):
    """One POST endpoint. `operation` is its name in scopes and in the ledger, `path` its place below a base URL,
    `wire` how it words errors. The methods about answers are for backends that speak the same form."""

    operation: str
    path: str
    wire: Wire

    def read(self, body: bytes, bounds: Bounds, path_model: str | None) -> Request:
        """Check a body. `path_model`: the model that the path names, before any in the body. Raises GatewayError."""
        ...

    def extent(self, request: Request) -> Extent:
        """How large the prompt is: cheap, and never too little."""
        ...

    def prompt(self, request: Request) -> Prompt:
        """What our own count of the prompt covers."""
        ...

    def body_for(self, request: Request, upstream_model: str) -> bytes:
        """The body for a backend: with its own name of the model, and usage always asked for."""
        ...

    def answer_usage(self, answer: bytes) -> Usage | None:
        """The figures of a plain answer, None when missing or impossible. Raises ValueError when it is none."""
        ...

    def answer_texts(self, answer: bytes) -> list[str]:
        """The texts of a plain answer, for our own count of it."""
        ...

    def finish(self, request: Request, answer: bytes) -> bytes:
        """The plain answer as the caller asked for it."""
        ...

    def relay(self, request: Request, request_id: str) -> Relay:
        """For a stream."""
        ...
