"""All texts of a request, wherever they stand, and the request with others in their places.

Everything that a provider may give to a model is text for us: parts of messages, arguments and results of tools,
descriptions, schemas, what an endpoint of tomorrow adds. Left out is only what cannot be text: names and marks of the
form itself, and media. What is passed on is what was read: no second value of a repeated name goes by unseen.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import msgspec

_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode

# Fields whose texts are marks of the form, as long as they look like one.
_MARKS = frozenset(
    {"call_id", "id", "item_id", "model", "object", "role", "status", "tool_call_id", "tool_use_id", "type"}
)
_MARK = re.compile(r"(?=.*[A-Za-z]|\Z)[A-Za-z0-9_.:/-]{0,64}\Z")
# What is below them has no form: callers and models fill it as they like.
_FREE = frozenset({"metadata", "arguments"})
_TOOL_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_ECHOED = ("instructions", "input", "tools", "tool_choice", "metadata", "prompt", "text", "user", "reasoning")
SIGNED = frozenset({"thinking", "signature", "encrypted_content", "data"})
_MEDIA = frozenset({"data", "file_data", "url", "image_url", "signature", "encrypted_content"})
_MEDIA_FORM = re.compile(r"(?:data:[a-z0-9.+/;=-]*,)?[A-Za-z0-9+/_=\r\n-]{64,}\Z")
_OWN = frozenset({"system", "instructions", "tools", "functions", "response_format", "text", "output_config"})
_OWN_ROLES = ("system", "developer")
_NAME = re.compile(r"[^\W\d][\w.$:/ -]{0,63}\Z")
_SHORTEST_NUMBER = 10**7  # of one with fewer digits nothing can be told


class Unreadable(Exception):
    """A request that cannot be looked through; the message is for the caller."""


class Text:
    """One text and its place, such as `messages[0].content`; a number that may be one is a text too. `is_fixed`: no
    other can be put there, as for a name of the caller's choice. `is_own`: the application itself says it, as in the
    system's message and its tools, which may order a model about."""

    __slots__ = ("_holder", "_key", "is_fixed", "is_own", "place", "text")

    @property
    def where(self) -> tuple[int, Any]:
        """The id of what holds it, and its key there."""
        return id(self._holder), self._key

    def __init__(
        self, holder: Any, key: Any, place: str, text: str, *, is_fixed: bool = False, is_own: bool = False
    ) -> None:
        self._holder = holder
        self._key = key
        self.place = place
        self.text = text
        self.is_fixed = is_fixed
        self.is_own = is_own

    def put(self, text: str) -> None:
        """Another in its place."""
        self._holder[self._key] = self.text = text


class Texts:
    """Of one request, or of one answer."""

    def __init__(
        self, root: dict[str, Any], *, is_answer: bool = False, but: Container[tuple[int, Any]] = ()
    ) -> None:
        """`root`: what holds them, decoded; `but` what stands there: the id of its holder, and its key."""
        self._root = root
        self.all = list(_walk(root, is_answer=is_answer, but=but))

    @classmethod
    def of_request(cls, fields: Mapping[str, msgspec.Raw]) -> "Texts":
        """By its raw top-level fields. Raises Unreadable."""
        root: dict[str, Any] = dict(fields)
        for name, raw in fields.items():
            if bytes(memoryview(raw)[:1]) in b"tfn" or (name in _MARKS and len(memoryview(raw)) < 64):
                continue
            try:
                root[name] = _decode(raw)
            except (msgspec.DecodeError, RecursionError):
                raise Unreadable(
                    f"{name!r} holds a number that is out of range, or too many levels."
                ) from None
        return cls(root)

    @classmethod
    def of_answer(cls, answer: dict[str, Any], but: Iterable[tuple[int, Any]] = ()) -> "Texts":
        """Of a decoded answer, or of an event of a stream, `but` what stands there; they are replaced in it. What is
        only told back of the request, as a response does, is none of them."""
        told = answer.get("response", answer)
        is_response = isinstance(told, dict) and told.get("object") == "response"
        echoed = {(id(told), name) for name in _ECHOED} if is_response else set()
        return cls({"answer": answer}, is_answer=True, but=echoed.union(but))

    def encode(self) -> bytes:
        """The request's body with the texts as they are now. Raises Unreadable."""
        try:
            return _encode(self._root)
        except RecursionError:  # a level or two more than could be read
            raise Unreadable("The request has too many levels.") from None


def _walk(root: dict[str, Any], *, is_answer: bool, but: Container[tuple[int, Any]]) -> Iterator[Text]:
    """In their order; without recursion, however deep it is. Below what callers and models fill as they like there are
    no marks of the form. Other numbers of an answer are the form's own, and what a provider has signed must come back
    to it as it is."""
    stack: list[tuple[Any, Any, str, bool, bool]] = [
        (root, name, name, name in _OWN, name in _FREE) for name in reversed(root)
    ]
    while stack:
        holder, key, place, is_own, is_free = stack.pop()
        if but and (id(holder), key) in but:
            continue
        value = holder[key]
        if isinstance(value, str):
            if is_free or not _is_form(key, value):
                is_fixed = is_answer and not is_free and key in SIGNED
                yield Text(holder, key, place, value, is_fixed=is_fixed, is_own=is_own)
        elif isinstance(value, dict):
            is_own = is_own or value.get("role") in _OWN_ROLES
            is_free = is_free or key in _FREE or (key == "input" and holder.get("type") in _TOOL_USES)
            stack += [(value, name, f"{place}.{_shown(name)}", is_own, is_free) for name in reversed(value)]
            for name in value:
                if not _NAME.match(name):
                    yield Text(value, name, f"{place}.*", name, is_fixed=True, is_own=is_own)
        elif isinstance(value, list):
            stack += [
                (value, index, f"{place}[{index}]", is_own, is_free)
                for index in range(len(value) - 1, -1, -1)
            ]
        elif is_answer and not is_free:
            continue
        elif type(value) in (int, float) and not -_SHORTEST_NUMBER < value < _SHORTEST_NUMBER:
            yield Text(holder, key, place, str(value), is_own=is_own)


def _is_form(key: Any, value: str) -> bool:
    if key in _MARKS:
        return bool(_MARK.match(value))
    return key in _MEDIA and bool(_MEDIA_FORM.match(value))


def _shown(name: str) -> str:
    """A name of the caller's choice as it may stand in a record: it could be anything."""
    return name if name in _KNOWN_NAMES else "*"


_KNOWN_NAMES = frozenset(
    [
        "arguments",
        "content",
        "default",
        "description",
        "enum",
        "file",
        "function",
        "image_url",
        "input",
        "input_schema",
        "instructions",
        "messages",
        "metadata",
        "output",
        "parameters",
        "parts",
        "properties",
        "reasoning_content",
        "source",
        "summary",
        "system",
        "text",
        "thinking",
        "title",
        "tool_calls",
        "tools",
        "url",
        "user",
    ]
)
