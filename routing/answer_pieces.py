"""The texts of a streamed answer, which come in pieces, on their way to the caller, in every form.

What looks at them, or changes them, may hold the end of a text back until more of it is there: it is given out with the
next piece, or before the text ends. Everything else passes as it came.
"""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from routing.sse import data_of, split_frames

encode_event = msgspec.json.Encoder().encode
# Texts that are JSON themselves.
JSON_TEXTS = frozenset({"arguments", "partial_json"})
_DONE = b"[DONE]"

# Where something stands in an event: the id of what holds it, and its key there.
Where = tuple[int, Any]


class Key(NamedTuple):
    """Which text of a stream. `name`: of its field; `is_answer`: it is what the model answers, and not what it thinks,
    refuses, or gives to tools."""

    path: tuple[Any, ...]
    name: str
    is_answer: bool = False


class Filter(Protocol):
    """What is done with the texts."""

    def begin(self, event: dict[str, Any]) -> bool:
        """Change an event before anything else is done with it. Returns whether that was done."""
        ...

    async def take(self, text: Key, said: str, *, ends: bool) -> tuple[str, int]:
        """`said`: what is held of the text and what has come. What the caller is told, and how much of `said` that
        covers: the rest is held. All of it where the text `ends`."""
        ...

    async def change(self, event: dict[str, Any], pieces: Collection[Where]) -> bool:
        """Change what an event holds besides `pieces`, which were taken. Returns whether that was done."""
        ...

    def pass_unread(self, frame: bytes) -> bytes:
        """What becomes of a frame that is none of the form's."""
        ...


class Slot(NamedTuple):
    """A piece of a text: which text it is, where the piece stands in its event, and the way there."""

    text: Key
    holder: dict[str, Any]
    key: str
    way: tuple[tuple[Any, Any], ...] = ()


class _Held(NamedTuple):
    """The end of a text, and the last event with a piece of it."""

    said: str
    data: bytes


class Pieces:
    """One stream's. What it is fed are whole frames."""

    def __init__(self, operation: str, texts: Filter) -> None:
        self._texts = texts
        self._form = FORMS[operation]
        self._open: dict[Key, _Held] = {}
        self._added = 0  # events of ours
        self._number = 0  # of the last event, where events have numbers

    async def feed(self, piece: bytes) -> bytes:
        """The piece as the caller is to see it; empty while all of it is held."""
        if b"\r" in piece:  # a line may end so; within JSON it cannot stand
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return b"".join([await self._frame(frame) for frame in split_frames(piece)])

    async def close(self) -> bytes:
        """What is held of texts that nothing has ended."""
        return b"".join([await self._give_out(text) for text in list(self._open)])

    async def _frame(self, frame: bytes) -> bytes:
        data = data_of(frame)
        if data == _DONE:
            return await self.close() + frame
        if not data:
            return frame  # a comment
        try:
            event = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._texts.pass_unread(frame)
        if not isinstance(event, dict):
            return self._texts.pass_unread(frame)
        is_changed = self._texts.begin(event)
        slots = list(self._form.slots(event))
        going_on = {slot.text for slot in slots}
        ended = [text for text in self._open if text not in going_on and self._form.ends(event, text)]
        before = b"".join([await self._give_out(text) for text in ended])
        is_changed |= self._number_anew(event)
        for slot in slots:
            is_changed |= await self._take(event, data, slot)
        is_changed |= await self._texts.change(event, {(id(slot.holder), slot.key) for slot in slots})
        if not is_changed:
            return before + frame
        is_empty = bool(slots) and not any(slot.holder[slot.key] for slot in slots)
        return before if is_empty and self._form.may_drop(event) else before + self._write(event)

    async def _take(self, event: dict[str, Any], data: bytes, slot: Slot) -> bool:
        """Put what may be told into a slot, and hold the rest. Returns whether that changed it."""
        held, ends = self._open.pop(slot.text, None), self._form.ends(event, slot.text)
        said = slot.holder[slot.key] if held is None else held.said + slot.holder[slot.key]
        told, covered = await self._texts.take(slot.text, said, ends=ends)
        if not ends:
            self._open[slot.text] = _Held(said[covered:], data)
        is_changed = bool(told != slot.holder[slot.key])
        slot.holder[slot.key] = told
        return is_changed

    async def _give_out(self, text: Key) -> bytes:
        """What is held of a text that ends, in an event that holds nothing else."""
        held = self._open.pop(text)
        told, _ = await self._texts.take(text, held.said, ends=True)
        if not told:
            return b""
        event = msgspec.json.decode(held.data)
        (slot,) = [slot for slot in self._form.slots(event) if slot.text == text]
        slot.holder[slot.key] = told
        event = self._form.only(event, slot)
        self._added += 1
        if "sequence_number" in event:
            event["sequence_number"] = self._number + 1
        return self._write(event)

    def _number_anew(self, event: dict[str, Any]) -> bool:
        """Behind events of ours. Returns whether that changed the event."""
        if not isinstance(number := event.get("sequence_number"), int):
            return False
        self._number = event["sequence_number"] = number + self._added
        return bool(self._added)

    def _write(self, event: dict[str, Any]) -> bytes:
        head = f"event: {event['type']}\n" if self._form.names_events and "type" in event else ""
        return head.encode() + b"data: " + encode_event(event) + b"\n\n"


class Form(Protocol):
    """Where the texts of an answer are, by the form of its endpoint. `names_events`: they have a name besides."""

    names_events: bool

    def slots(self, event: dict[str, Any]) -> Iterator[Slot]:
        """The pieces of texts that an event holds."""
        ...

    def ends(self, event: dict[str, Any], text: Key) -> bool:
        """Whether a text ends with the event."""
        ...

    def may_drop(self, event: dict[str, Any]) -> bool:
        """Whether nothing is left of an event whose texts are all held."""
        ...

    def only(self, event: dict[str, Any], slot: Slot) -> dict[str, Any]:
        """The event with nothing in it but what one slot needs: an id or a name that came with it was told before."""
        ...

    def answers(self, answer: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
        """Where in a plain answer the texts are, if any, that the model answers: what holds one, and its key."""
        ...


# Of a delta, what is no text that grows: names and marks, which come once, and what is no text at all.
_NO_PIECES = frozenset({"role", "id", "type", "name", "format", "data", "signature", "encrypted_content"})
_KEPT = ("index", "type")
_ENVELOPE = ("id", "object", "created", "model", "system_fingerprint", "service_tier")


def _pieces_in(delta: dict[str, Any], path: tuple[Any, ...]) -> Iterator[Slot]:
    """Every text below a delta, however a backend names it."""
    stack: list[tuple[Any, tuple[Any, ...], tuple[tuple[Any, Any], ...]]] = [(delta, path, ())]
    while stack:
        holder, path, way = stack.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(value, str):
                if isinstance(holder, dict) and key not in _NO_PIECES:
                    is_answer = (key == "content" and not way) or (key == "text" and _is_content(way))
                    yield Slot(Key((*path, key), str(key), is_answer), holder, str(key), way)
            elif isinstance(value, dict | list):
                step = value.get("index", key) if isinstance(value, dict) else key
                stack.append((value, (*path, step), (*way, (holder, key))))


def _is_content(way: tuple[tuple[Any, Any], ...]) -> bool:
    return len(way) == 2 and way[0][1] == "content"


def _branch(slot: Slot) -> Any:
    """What leads to a slot, from its delta on, and nothing beside."""
    told: Any = _kept(slot.holder) | {slot.key: slot.holder[slot.key]}
    for container, key in reversed(slot.way):
        told = [told] if isinstance(container, list) else _kept(container) | {key: told}
    return told


def _kept(holder: dict[str, Any]) -> dict[str, Any]:
    return {name: holder[name] for name in _KEPT if name in holder}


class _Choices:
    """Chat and completions: pieces of texts by choice; a choice ends with its reason."""

    names_events = False

    @staticmethod
    def slots(event: dict[str, Any]) -> Iterator[Slot]:
        for choice in _dicts(event.get("choices")):
            number = choice.get("index")
            if isinstance(choice.get("text"), str):
                yield Slot(Key((number, "text"), "text", is_answer=True), choice, "text")
            if isinstance(delta := choice.get("delta"), dict):
                yield from _pieces_in(delta, (number,))

    @staticmethod
    def ends(event: dict[str, Any], text: Key) -> bool:
        return any(
            choice.get("index") == text.path[0] and choice.get("finish_reason")
            for choice in _dicts(event.get("choices"))
        )

    @staticmethod
    def may_drop(event: dict[str, Any]) -> bool:
        if event.get("usage"):
            return False
        return all(
            not choice.get("finish_reason") and set(choice.get("delta") or ()) <= {"content"}
            for choice in _dicts(event.get("choices"))
        )

    @staticmethod
    def only(event: dict[str, Any], slot: Slot) -> dict[str, Any]:
        is_own = any(slot.holder is choice for choice in _dicts(event.get("choices")))
        told = {slot.key: slot.holder[slot.key]} if is_own else {"delta": _branch(slot)}
        choice = {"index": slot.text.path[0], **told, "finish_reason": None}
        return {name: event[name] for name in _ENVELOPE if name in event} | {"choices": [choice]}

    @staticmethod
    def answers(answer: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
        for choice in _dicts(answer.get("choices")):
            yield choice, "text"
            if isinstance(message := choice.get("message"), dict):
                yield message, "content"
                for part in _dicts(message.get("content")):
                    yield part, "text"


class _Blocks:
    """Anthropic's messages: pieces of texts by content block. What is thought is signed as a whole."""

    names_events = True
    _PIECES = {"text_delta": "text", "input_json_delta": "partial_json", "thinking_delta": "thinking"}

    @classmethod
    def slots(cls, event: dict[str, Any]) -> Iterator[Slot]:
        delta = event.get("delta")
        if event.get("type") == "content_block_delta" and isinstance(delta, dict):
            key = cls._PIECES.get(str(delta.get("type")), "")
            if isinstance(delta.get(key), str):
                yield Slot(Key((event.get("index"), key), key, key == "text"), delta, key)

    @staticmethod
    def ends(event: dict[str, Any], text: Key) -> bool:
        return event.get("type") == "content_block_stop" and event.get("index") == text.path[0]

    @staticmethod
    def may_drop(event: dict[str, Any]) -> bool:
        return True

    @staticmethod
    def only(event: dict[str, Any], slot: Slot) -> dict[str, Any]:
        return event

    @staticmethod
    def answers(answer: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
        for block in _dicts(answer.get("content")):
            if block.get("type") == "text":
                yield block, "text"


_ITEM_TEXT = "response.output_text"


class _Items:
    """Responses: pieces of texts by item and part; an event with the whole of it follows."""

    names_events = True

    @staticmethod
    def slots(event: dict[str, Any]) -> Iterator[Slot]:
        kind = str(event.get("type"))
        if kind.endswith(".delta") and isinstance(event.get("delta"), str):
            kind = kind.removesuffix(".delta")
            name = "arguments" if "arguments" in kind else "text"
            yield Slot(Key((*_place(event), kind), name, kind == _ITEM_TEXT), event, "delta")

    @staticmethod
    def ends(event: dict[str, Any], text: Key) -> bool:
        return event.get("type") == f"{text.path[-1]}.done" and _place(event) == text.path[:-1]

    @staticmethod
    def may_drop(event: dict[str, Any]) -> bool:
        return False  # the numbers of events have no gaps

    @staticmethod
    def only(event: dict[str, Any], slot: Slot) -> dict[str, Any]:
        return {**event, "logprobs": []} if "logprobs" in event else event

    @staticmethod
    def answers(answer: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
        for item in _dicts(answer.get("output")):
            if item.get("type") == "message":
                for part in _dicts(item.get("content")):
                    if part.get("type") == "output_text":
                        yield part, "text"


def _place(event: dict[str, Any]) -> tuple[Any, ...]:
    return (
        event.get("item_id"),
        event.get("output_index"),
        event.get("content_index"),
        event.get("summary_index"),
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


FORMS: dict[str, Form] = {
    "chat": _Choices(),
    "completions": _Choices(),
    "messages": _Blocks(),
    "responses": _Items(),
}
