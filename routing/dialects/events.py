"""An answer as a sequence of events, in no provider's form: what readers make of a backend's answer, plain or
streamed, and writers turn into the caller's."""

from typing import Literal

import msgspec

from billing.usage import Usage

Stop = Literal["stop", "length", "tool_calls", "content_filter"]


class Began(msgspec.Struct, frozen=True):
    """The model that answers, by the backend's name."""

    model: str


class Text(msgspec.Struct, frozen=True):
    """A piece of the answer."""

    text: str


class Refused(msgspec.Struct, frozen=True):
    """A piece of the model's words for why it will not answer."""

    text: str


class Thought(msgspec.Struct, frozen=True):
    """A piece of the model's thinking."""

    text: str


class Signed(msgspec.Struct, frozen=True):
    """The thinking so far is whole: what its provider wants to see with it when it comes back."""

    signature: str


class Hidden(msgspec.Struct, frozen=True):
    """Thinking that only its provider can read."""

    data: str


class ToolBegan(msgspec.Struct, frozen=True):
    """The model calls a tool. `number`: which of its calls this is, from 0."""

    number: int
    id: str
    name: str


class ToolArguments(msgspec.Struct, frozen=True):
    """A piece of the JSON of a call's arguments; calls may take turns."""

    number: int
    json: str


class Ended(msgspec.Struct, frozen=True):
    """Why the model stopped; `sequence`: the caller's own text that stopped it, where that is known."""

    stop: Stop
    sequence: str | None = None


class Reported(msgspec.Struct, frozen=True):
    """The backend's figures, so far or at last. None: they cannot be true."""

    usage: Usage | None
    is_final: bool = True


Event = Began | Text | Refused | Thought | Signed | Hidden | ToolBegan | ToolArguments | Ended | Reported


def text_of(event: Event) -> str:
    """What of an event is text of the model's, for our own count of it."""
    match event:
        case Text(text) | Refused(text) | Thought(text):
            return text
        case ToolBegan(name=name):
            return name
        case ToolArguments(json=json):
            return json
    return ""
