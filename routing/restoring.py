"""Values in place of their placeholders on the way back to the caller, plain and streamed, in every form.

A backend may cut a placeholder anywhere: the end of a text that may be the beginning of one is held until the next
piece of the same text, and given out with it, or before the text ends. Everything else passes as it came.
"""

import copy
from collections.abc import AsyncGenerator, Iterator
from typing import Any, NamedTuple

import msgspec

from guards.redaction import Vault
from routing.call import Reply
from routing.sse import data_of, split_frames

_encode = msgspec.json.Encoder().encode
# Texts that are JSON themselves; and those that a provider has signed, which must come back to it as they are.
_JSON_TEXTS = frozenset({"arguments", "partial_json"})
_SIGNED = frozenset({"thinking", "signature", "encrypted_content", "data"})


async def restore(reply: Reply, operation: str, vault: Vault | None) -> Reply:
    """The reply as its caller is to see it."""
    if vault is None or not vault.originals or operation == "embeddings":
        return reply
    if reply.stream is None:
        reply.body = restore_body(reply.body, vault)
        return reply
    restorer, stream = Restorer(vault, operation), reply.stream
    piece = restorer.feed(reply.first_piece)
    try:
        while not piece:
            piece = restorer.feed(await anext(stream))
    except StopAsyncIteration:
        pass
    except BaseException:
        await stream.aclose()
        raise
    reply.first_piece, reply.stream = piece, _restored(stream, restorer)
    return reply


async def _restored(stream: AsyncGenerator[bytes, None], restorer: "Restorer") -> AsyncGenerator[bytes, None]:
    try:
        async for piece in stream:
            if restored := restorer.feed(piece):
                yield restored
    finally:
        await stream.aclose()


def restore_body(body: bytes, vault: Vault) -> bytes:
    """A plain answer; one that is no JSON is what it is."""
    if b"<" not in body and b"\\u003" not in body:
        return body
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body
    root = {"": answer}
    _restore_all(root, vault)
    return _encode(root[""])


def _restore_all(root: dict[str, Any], vault: Vault) -> None:
    """Every text below `root`."""
    stack: list[Any] = [root]
    while stack:
        holder = stack.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(value, str):
                if "<" in value and key not in _SIGNED:
                    holder[key] = vault.restore_json(value) if key in _JSON_TEXTS else vault.restore(value)
            elif isinstance(value, dict | list):
                stack.append(value)


class _Slot(NamedTuple):
    """A piece of a text that comes in pieces: which text it is, and where the piece stands in its event."""

    text: tuple[Any, ...]
    holder: dict[str, Any]
    key: str


class Restorer:
    """One stream's. Pieces are whole frames."""

    def __init__(self, vault: Vault, operation: str) -> None:
        self._vault = vault
        self._form = _FORMS[operation]
        self._held: dict[tuple[Any, ...], str] = {}
        self._last: dict[
            tuple[Any, ...], dict[str, Any]
        ] = {}  # the last event with a piece of each text that is held
        self._added = 0  # events of ours
        self._number = 0  # of the last event, where events have numbers

    def feed(self, piece: bytes) -> bytes:
        """The piece as the caller is to see it; empty while all of it is held."""
        return b"".join([self._frame(frame) for frame in split_frames(piece)])

    def _frame(self, frame: bytes) -> bytes:
        data = data_of(frame)
        if data == b"[DONE]":
            return b"".join([*map(self._give_out, list(self._held)), frame])
        try:
            event = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return frame
        if not isinstance(event, dict):
            return frame
        slots = list(self._form.slots(event))
        going_on = {slot.text for slot in slots}
        ended = [text for text in self._held if text not in going_on and self._form.ends(event, text)]
        before = b"".join(map(self._give_out, ended))
        is_changed = self._number_anew(event)
        for slot in slots:
            is_changed |= self._take(event, slot)
        if not slots and (b"<" in data or b"\\u003" in data):
            _restore_all({"": event}, self._vault)
            is_changed = True
        if not is_changed:
            return before + frame
        is_empty = bool(slots) and not any(slot.holder[slot.key] for slot in slots)
        return before if is_empty and self._form.may_drop(event) else before + self._write(event)

    def _take(self, event: dict[str, Any], slot: _Slot) -> bool:
        """Put what may be told into a slot, and hold the rest. Returns whether that changed it."""
        said = self._held.pop(slot.text, "") + slot.holder[slot.key]
        self._last.pop(slot.text, None)
        cut = len(said) if self._form.ends(event, slot.text) else self._vault.open_end(said)
        if cut < len(said):
            self._held[slot.text], self._last[slot.text] = said[cut:], copy.deepcopy(event)
        restore = self._vault.restore_json if slot.text[-1] in _JSON_TEXTS else self._vault.restore
        told = restore(said[:cut])
        is_changed = bool(told != slot.holder[slot.key])
        slot.holder[slot.key] = told
        return is_changed

    def _give_out(self, text: tuple[Any, ...]) -> bytes:
        """What is held of a text that ends: it was no placeholder after all."""
        said, event = self._held.pop(text), self._last.pop(text)
        for slot in self._form.slots(event):
            slot.holder[slot.key] = said if slot.text == text else ""
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
        return head.encode() + b"data: " + _encode(event) + b"\n\n"


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
