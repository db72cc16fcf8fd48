"""The texts of a streamed answer, which come in pieces, on their way to the caller, in every form.

What looks at them, or changes them, may hold the end of a text back until more of it is there: it is given out with the
next piece, or before the text ends. Everything else passes as it came.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from routing.sse import data_of, split_frames

encode_event = msgspec.json.Encoder().encode
# Texts that are JSON themselves.
JSON_TEXTS = frozenset({"arguments", "partial_json"})

TextKey = tuple[Any, ...]  # which text of the stream; the last of it is the name of its field


class Filter(Protocol):
    """What is done with the texts."""

    async def take(self, text: TextKey, said: str, *, ends: bool) -> tuple[str, int]:
        """`said`: what was held of the text and what has come. What the caller is told, and how much of `said` that
        covers: the rest is held. All of it where the text `ends`."""
        ...

    async def change(self, event: dict[str, Any]) -> bool:
        """Change an event that holds no piece, but maybe texts that came before. Returns whether that was done."""
        ...


class _Slot(NamedTuple):
    """A piece of a text: which text it is, and where the piece stands in its event."""

    text: TextKey
    holder: dict[str, Any]
    key: str


class _Held(NamedTuple):
    """The end of a text, and the last event with a piece of it."""

    said: str
    data: bytes


class Pieces:
    """One stream's. What it is fed are whole frames."""

    def __init__(self, operation: str, texts: Filter) -> None:
        self._texts = texts
        self._form = _FORMS[operation]
        self._open: dict[TextKey, _Held] = {}
        self._added = 0  # events of ours
        self._number = 0  # of the last event, where events have numbers

    async def feed(self, piece: bytes) -> bytes:
        """The piece as the caller is to see it; empty while all of it is held."""
        return b"".join([await self._frame(frame) for frame in split_frames(piece)])

    async def close(self) -> bytes:
        """What is held of texts that nothing has ended."""
        return b"".join([await self._give_out(text) for text in list(self._open)])

    async def _frame(self, frame: bytes) -> bytes:
        data = data_of(frame)
        if data == b"[DONE]":
            return await self.close() + frame
        try:
            event = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return frame
        if not isinstance(event, dict):
            return frame
        slots = list(self._form.slots(event))
        going_on = {slot.text for slot in slots}
        ended = [text for text in self._open if text not in going_on and self._form.ends(event, text)]
        before = b"".join([await self._give_out(text) for text in ended])
        is_changed = self._number_anew(event)
        for slot in slots:
            is_changed |= await self._take(event, data, slot)
        if not slots:
            is_changed |= await self._texts.change(event)
        if not is_changed:
            return before + frame
        is_empty = bool(slots) and not any(slot.holder[slot.key] for slot in slots)
        return before if is_empty and self._form.may_drop(event) else before + self._write(event)

    async def _take(self, event: dict[str, Any], data: bytes, slot: _Slot) -> bool:
        """Put what may be told into a slot, and hold the rest. Returns whether that changed it."""
        held, ends = self._open.pop(slot.text, None), self._form.ends(event, slot.text)
        said = slot.holder[slot.key] if held is None else held.said + slot.holder[slot.key]
        told, covered = await self._texts.take(slot.text, said, ends=ends)
        if not ends:
            self._open[slot.text] = _Held(said[covered:], data)
        is_changed = bool(told != slot.holder[slot.key])
        slot.holder[slot.key] = told
        return is_changed

    async def _give_out(self, text: TextKey) -> bytes:
        """What is held of a text that ends."""
        held = self._open.pop(text)
        told, _ = await self._texts.take(text, held.said, ends=True)
        if not told:
            return b""
        event = msgspec.json.decode(held.data)
        for slot in self._form.slots(event):
            slot.holder[slot.key] = told if slot.text == text else ""
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


def is_answer(text: TextKey) -> bool:
    """Whether a text is what the model answers, and not what it thinks, refuses, or gives to tools."""
    return text[-1] in ("content", "text") and "refusal" not in str(text[-2])


class _Choices:
    """Chat and completions: pieces of texts by choice; a choice ends with its reason."""

    names_events = False

    @staticmethod
    def slots(event: dict[str, Any]) -> Iterator[_Slot]:
        for choice in _dicts(event.get("choices")):
            number = choice.get("index")
            if isinstance(choice.get("text"), str):
                yield _Slot((number, "text"), choice, "text")
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                continue
            for key in ("content", "refusal", "reasoning_content", "reasoning"):
                if isinstance(delta.get(key), str):
                    yield _Slot((number, key), delta, key)
            calls = [(call.get("index"), call.get("function")) for call in _dicts(delta.get("tool_calls"))]
            for call, function in [*calls, (None, delta.get("function_call"))]:
                if isinstance(function, dict) and isinstance(function.get("arguments"), str):
                    yield _Slot((number, call, "arguments"), function, "arguments")

    @staticmethod
    def ends(event: dict[str, Any], text: tuple[Any, ...]) -> bool:
        return any(
            choice.get("index") == text[0] and choice.get("finish_reason")
            for choice in _dicts(event.get("choices"))
        )

    @staticmethod
    def may_drop(event: dict[str, Any]) -> bool:
        """Whether nothing is left of an event whose texts are all held."""
        if event.get("usage"):
            return False
        return all(
            not choice.get("finish_reason") and set(choice.get("delta") or ()) <= {"content"}
            for choice in _dicts(event.get("choices"))
        )


class _Blocks:
    """Anthropic's messages: pieces of texts by content block. What is thought is left as it is: it is signed."""

    names_events = True
    _PIECES = {"text_delta": "text", "input_json_delta": "partial_json"}

    @classmethod
    def slots(cls, event: dict[str, Any]) -> Iterator[_Slot]:
        delta = event.get("delta")
        if event.get("type") == "content_block_delta" and isinstance(delta, dict):
            key = cls._PIECES.get(str(delta.get("type")), "")
            if isinstance(delta.get(key), str):
                yield _Slot((event.get("index"), key), delta, key)

    @staticmethod
    def ends(event: dict[str, Any], text: tuple[Any, ...]) -> bool:
        return event.get("type") == "content_block_stop" and event.get("index") == text[0]

    @staticmethod
    def may_drop(event: dict[str, Any]) -> bool:
        return True


class _Items:
    """Responses: pieces of texts by item and part; an event with the whole of it follows."""

    names_events = True

    @staticmethod
    def slots(event: dict[str, Any]) -> Iterator[_Slot]:
        kind = str(event.get("type"))
        if kind.endswith(".delta") and isinstance(event.get("delta"), str):
            name = "arguments" if "arguments" in kind else "text"
            yield _Slot((*_place(event), kind.removesuffix(".delta"), name), event, "delta")

    @staticmethod
    def ends(event: dict[str, Any], text: tuple[Any, ...]) -> bool:
        return event.get("type") == f"{text[-2]}.done" and _place(event) == text[:-2]

    @staticmethod
    def may_drop(event: dict[str, Any]) -> bool:
        return False  # the numbers of events have no gaps


def _place(event: dict[str, Any]) -> tuple[Any, ...]:
    return (
        event.get("item_id"),
        event.get("output_index"),
        event.get("content_index"),
        event.get("summary_index"),
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


_FORMS: dict[str, Any] = {
    "chat": _Choices,
    "completions": _Choices,
    "messages": _Blocks,
    "responses": _Items,
}
