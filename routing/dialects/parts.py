"""A plain answer put together from its events."""

from collections.abc import Iterable

import msgspec

from routing.dialects.events import (
    Began,
    Ended,
    Event,
    Hidden,
    Refused,
    Signed,
    Stop,
    Text,
    Thought,
    ToolArguments,
    ToolBegan,
)


class _Pieces(msgspec.Struct):
    pieces: list[str] = msgspec.field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


class Thinking(_Pieces):
    """Thinking that can be read."""

    signature: str = ""


class Saying(_Pieces):
    """Text for the caller, or the words of a refusal."""

    is_refusal: bool = False


class Calling(_Pieces, kw_only=True):
    """A tool call; its text is the JSON of the arguments."""

    id: str
    name: str


Part = Thinking | Hidden | Saying | Calling


class Whole(msgspec.Struct):
    """A whole answer, its parts in the order in which they began."""

    model: str = ""
    parts: list[Part] = msgspec.field(default_factory=list)
    stop: Stop = "stop"
    sequence: str | None = None

    def calls(self) -> list[Calling]:
        """Its tool calls."""
        return [part for part in self.parts if isinstance(part, Calling)]


def gather(events: Iterable[Event]) -> Whole:
    """What the events come to."""
    whole = Whole()
    calls: dict[int, Calling] = {}
    for event in events:
        match event:
            case Began(model):
                whole.model = model
            case Text(text):
                _saying(whole, is_refusal=False).pieces.append(text)
            case Refused(text):
                _saying(whole, is_refusal=True).pieces.append(text)
            case Thought(text):
                _thinking(whole).pieces.append(text)
            case Signed(signature):
                _thinking(whole).signature = signature
            case Hidden():
                whole.parts.append(event)
            case ToolBegan(number, call_id, name):
                calls[number] = Calling(id=call_id, name=name)
                whole.parts.append(calls[number])
            case ToolArguments(number, json):
                calls[number].pieces.append(json)
            case Ended(stop, sequence):
                whole.stop, whole.sequence = stop, sequence
    return whole


def _saying(whole: Whole, *, is_refusal: bool) -> Saying:
    last = whole.parts[-1] if whole.parts else None
    if not isinstance(last, Saying) or last.is_refusal != is_refusal:
        whole.parts.append(last := Saying(is_refusal=is_refusal))
    return last


def _thinking(whole: Whole) -> Thinking:
    last = whole.parts[-1] if whole.parts else None
    if not isinstance(last, Thinking) or last.signature:
        whole.parts.append(last := Thinking())
    return last
