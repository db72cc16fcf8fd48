"""All texts of a request, wherever they stand, and the request with others in their places.

Everything that a provider may give to a model is text for us: parts of messages, arguments and results of tools,
descriptions, schemas, what an endpoint of tomorrow adds. A text that is JSON itself is looked at as what it says. Left
out is only what cannot be text: names and marks of the form itself, and media. What is passed on is what was read: no
second value of a repeated name goes by unseen.
"""

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from guards.finding import Finding

_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode

# Fields whose texts are marks of the form, as long as they look like one, and stand in something that has a form.
_MARKS = frozenset(
    {"call_id", "id", "item_id", "model", "object", "role", "status", "tool_call_id", "tool_use_id", "type"}
)
_MARK = re.compile(r"(?=.*[A-Za-z]|\Z)[A-Za-z0-9_.:/-]{0,64}\Z")
_HAVE_FORM = ("type", "role", "function", "object", "choices")
# What is below them has no form: callers and models fill it as they like.
_FREE = frozenset({"metadata", "arguments"})
_TOOL_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_ECHOED = ("instructions", "input", "tools", "tool_choice", "metadata", "prompt", "text", "user", "reasoning")
SIGNED = frozenset({"thinking", "signature", "encrypted_content", "data"})
# Media are Base64, in one piece or in long lines; addresses only where they are data themselves.
_MEDIA = frozenset({"data", "file_data", "signature", "encrypted_content"})
_MEDIA_FORM = re.compile(
    r"(?:data:[a-z0-9.+/;=-]*;base64,)?(?:[A-Za-z0-9+/_=-]{60,}+\s*+)+[A-Za-z0-9+/_=-]*\Z"
)
_DATA_ADDRESS = re.compile(r"data:[a-z0-9.+/;=-]*;base64,[A-Za-z0-9+/_=\s-]*\Z")
_OWN = frozenset({"system", "instructions", "tools", "functions", "response_format", "text", "output_config"})
_OWN_ROLES = ("system", "developer")
_ITEM = re.compile(r"(?:messages|input)\[\d+\]\Z")
_NAME = re.compile(r"[^\W\d][\w.$:/ -]{0,63}\Z")
_FEW_DIGITS = re.compile(r"(?:\D*\d){0,4}\D*\Z")
_SHORTEST_NUMBER = 10**7  # of one with fewer digits nothing can be told


class Unreadable(Exception):
    """A request that cannot be looked through; the message is for the caller."""


class _Inner:
    """A text that is JSON itself: where it stands, and what it says."""

    __slots__ = ("holder", "is_changed", "key", "names", "outer", "root")

    def __init__(self, holder: Any, key: Any, value: Any, outer: "_Inner | None") -> None:
        self.holder = holder
        self.key = key
        self.root = {"": value}
        self.outer = outer
        self.is_changed = False
        self.names: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}  # objects, with new names of theirs

    def rename(self, holder: dict[str, Any], name: str, other: str) -> None:
        """Once all values are in their places."""
        self.names.setdefault(id(holder), (holder, {}))[1][name] = other

    def close(self) -> None:
        """Write it anew, if anything in it was replaced."""
        for holder, names in self.names.values():
            items = [(names.get(name, name), value) for name, value in holder.items()]
            holder.clear()
            holder.update(items)
        if self.is_changed:
            self.holder[self.key] = _encode(self.root[""]).decode()
            if self.outer is not None:
                self.outer.is_changed = True


class Text:
    """One text and its place, such as `messages[0].content`; a number that may be one is a text too. `is_fixed`: no
    other can be put there, as for a name of the caller's choice. `is_own`: the application itself says it, as in the
    system's message and its tools, which may order a model about."""

    __slots__ = ("_before", "_holder", "_inner", "_is_key", "_key", "is_fixed", "is_own", "place", "text")

    def __init__(
        self,
        holder: Any,
        key: Any,
        place: str,
        text: str,
        *,
        is_fixed: bool = False,
        is_own: bool = False,
        inner: _Inner | None = None,
        is_named: bool = False,
        is_key: bool = False,
    ) -> None:
        self._is_key = is_key
        self._before = f"{key}: " if is_named and isinstance(key, str) and key else ""
        self._holder = holder
        self._key = key
        self._inner = inner
        self.place = place
        self.text = text
        self.is_fixed = is_fixed
        self.is_own = is_own

    @property
    def where(self) -> tuple[int, Any]:
        """The id of what holds it, and its key there; of what is within a text, that text's."""
        if (inner := self._inner) is None:
            return id(self._holder), self._key
        while inner.outer is not None:
            inner = inner.outer
        return id(inner.holder), inner.key

    @property
    def looked(self) -> str:
        """What is looked at: with its name before it, which may say what it is."""
        return self._before + self.text

    def placed(self, found: Iterable[Finding]) -> list[Finding]:
        """What was found in that, as it lies in the text."""
        if not (before := len(self._before)):
            return [*found]
        return [
            msgspec.structs.replace(each, start=max(each.start - before, 0), end=each.end - before)
            for each in found
            if each.end > before
        ]

    def put(self, text: str) -> None:
        """Another in its place."""
        if self._inner is None:
            self._holder[self._key] = text
        else:
            self._inner.is_changed = True
            if self._is_key:
                self._inner.rename(self._holder, self._key, text)
            else:
                self._holder[self._key] = text
        self.text = text


class Texts:
    """Of one request, or of one answer."""

    def __init__(
        self, root: dict[str, Any], *, is_answer: bool = False, but: Container[tuple[int, Any]] = ()
    ) -> None:
        """`root`: what holds them, decoded; `but` what stands there: the id of its holder, and its key."""
        self._root = root
        self._inners: list[_Inner] = []
        self.all = list(self._walk(is_answer=is_answer, but=but))

    @classmethod
    def of_request(cls, fields: Mapping[str, msgspec.Raw]) -> "Texts":
        """By its raw top-level fields. Raises Unreadable."""
        root: dict[str, Any] = dict(fields)
        for name, raw in fields.items():
            if name == "model" or bytes(memoryview(raw)[:1]) in b"tfn":
                continue
            try:
                root[name] = _decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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

    @property
    def holds_tokens(self) -> bool:
        """Whether an input is not told in words, but in numbers that stand for them."""
        given = [self._root.get(name) for name in ("input", "prompt")]
        return any(
            isinstance(each, list) and any(isinstance(part, int) or _are_numbers(part) for part in each)
            for each in given
        )

    def close(self) -> None:
        """Write texts that are JSON anew where something in them was replaced; the inner ones first."""
        for inner in reversed(self._inners):
            inner.close()

    def encode(self) -> bytes:
        """The request's body with the texts as they are now. Raises Unreadable."""
        self.close()
        try:
            return _encode(self._root)
        except RecursionError:  # a level or two more than could be read
            raise Unreadable("The request has too many levels.") from None

    def _walk(self, *, is_answer: bool, but: Container[tuple[int, Any]]) -> Iterator[Text]:
        """In their order; without recursion, however deep it is. Below what callers and models fill as they like there
        are no marks of the form. Other numbers of an answer are the form's own, and what a provider has signed must
        come back to it as it is."""
        root, stack = self._root, list[tuple[Any, Any, str, bool, bool, _Inner | None]]()
        for name in reversed(root):
            place = name if is_answer else _shown(name)
            stack.append((root, name, place, name in _OWN, name in _FREE, None))
        for name in root if not is_answer else ():
            if not _is_name(name):
                yield Text(root, name, "*", name, is_fixed=True)
        while stack:
            holder, key, place, is_own, is_free, inner = stack.pop()
            if but and (id(holder), key) in but:
                continue
            value = holder[key]
            if isinstance(value, str):
                if not is_free and _is_form(holder, key, value, is_answer=is_answer):
                    continue
                if (within := _said(value)) is not None:
                    inner = _Inner(holder, key, within, inner)
                    self._inners.append(inner)
                    stack.append((inner.root, "", place, is_own, True, inner))
                else:
                    is_fixed = is_answer and not is_free and key in SIGNED
                    yield Text(
                        holder,
                        key,
                        place,
                        value,
                        is_fixed=is_fixed,
                        is_own=is_own,
                        inner=inner,
                        is_named=is_free,
                    )
            elif isinstance(value, dict):
                is_own = is_own or (
                    inner is None and value.get("role") in _OWN_ROLES and bool(_ITEM.match(place))
                )
                is_free = is_free or key in _FREE or (key == "input" and _is_tool_use(holder))
                stack += [
                    (value, name, f"{place}.{_shown(name)}", is_own, is_free, inner)
                    for name in reversed(value)
                ]
                for name in value:
                    if inner is not None:
                        yield Text(value, name, f"{place}.*", name, is_own=is_own, inner=inner, is_key=True)
                    elif not _is_name(name):
                        yield Text(value, name, f"{place}.*", name, is_fixed=True, is_own=is_own)
            elif isinstance(value, list):
                stack += [
                    (value, index, f"{place}[{index}]", is_own, is_free, inner)
                    for index in range(len(value) - 1, -1, -1)
                ]
            elif is_answer and not is_free:
                continue
            elif type(value) in (int, float) and abs(value) >= (_SHORTEST_NUMBER if inner is None else 100):
                yield Text(holder, key, place, str(value), is_own=is_own, inner=inner, is_named=is_free)


def _said(text: str) -> Any:
    """What a text says that is JSON itself: an object or a list; None for any other."""
    if not text or text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = _decode(text)
        json.loads(text, object_pairs_hook=_refuse_repeated)  # which of two is read is the reader's choice
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) and value else None


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is repeated")


def _is_tool_use(holder: Any) -> bool:
    kind = holder.get("type") if isinstance(holder, dict) else None
    return isinstance(kind, str) and kind in _TOOL_USES


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, int) for each in value)


def _is_name(name: str) -> bool:
    """Whether a key looks like a name, in which nothing can stand that is looked for."""
    return bool(_NAME.match(name) and _FEW_DIGITS.match(name))


def _is_form(holder: Any, key: Any, value: str, *, is_answer: bool) -> bool:
    """Whether it is a mark of the form, media, or what a provider itself wrote and signed."""
    if key in _MARKS:
        has_form = isinstance(holder, dict) and any(name in holder for name in _HAVE_FORM)
        return has_form and bool(_MARK.match(value))
    if key in _MEDIA:
        is_text = isinstance(holder, dict) and holder.get("type") == "text"
        return not is_text and bool(_MEDIA_FORM.match(value))
    if key in ("url", "image_url"):
        return bool(_DATA_ADDRESS.match(value))
    if key == "thinking" and not is_answer:
        return bool(holder.get("type") == "thinking" and holder.get("signature"))
    return False


def _shown(name: str) -> str:
    """A name of the caller's choice as it may stand in a record: it could be anything."""
    return name if name in _KNOWN_NAMES else "*"


_KNOWN_NAMES = frozenset(
    [
        "arguments",
        "content",
        "prompt",
        "suffix",
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
