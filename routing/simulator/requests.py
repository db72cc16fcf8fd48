"""What a client may ask of the simulator, checked while it is decoded."""

import re
from typing import Annotated, Any, TypeVar

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Refusal(Exception):
    """A request the provider turns down, as a status and OpenAI's error fields."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code


class StreamOptions(msgspec.Struct, frozen=True):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat completion request; fields the simulator does not use are ignored."""

    model: str
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logprobs: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    simulator: Any = None

    @property
    def most_tokens(self) -> int | None:
        """The most tokens one choice may have."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with a usage frame."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(msgspec.Struct, frozen=True):
    """A request of the older form; `prompt` is one text or many, each as a string or as token numbers."""

    model: str
    prompt: str | list[str | int | list[int]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: Positive | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    simulator: Any = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with a usage frame."""
        return bool(self.stream_options and self.stream_options.include_usage)


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """An embeddings request; `input` is one text or many, each as a string or as token numbers."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    simulator: Any = None


Request = TypeVar("Request", bound=msgspec.Struct)

_PLACE = re.compile(r"(?:required field `|\$\.)(\w+)")


def decode_request(body: bytes, kind: type[Request]) -> Request:
    """The request in a body; raises Refusal 400 with the parameter at fault."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        raise Refusal(400, f"{error}.", param=place and place[1]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal(400, "We could not parse the JSON body of your request.") from None
