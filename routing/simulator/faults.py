# ruff: noqa: RUF009
"""The faults the simulator can be told to make.

`Plan` is the one table: a field's name, kind, meaning and default drive the parsing of requests,
the command's flags and the reference page.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cache
from typing import Any

USAGE_KEYS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


class FaultError(ValueError):
    """A fault nobody knows, or one with a value it cannot take; the text names it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What values a fault takes; `parse` raises ValueError. A flag is read as JSON unless `verbatim`."""

    name: str
    parse: Callable[[object], Any]
    verbatim: bool = False


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError("must be a number of at least 0")
    return value


def _whole(least: int, most: int | None = None) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least or (most and value > most):
            raise ValueError(f"must be a whole number from {least}{f' to {most}' if most else ''}")
        return value

    return parse


def _share(value: object) -> Fraction:
    number = _number(value)
    if number > 1:
        raise ValueError("must be between 0 and 1")
    return Fraction(str(number))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _header(value: object) -> str:
    text = _text(value)
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("must be a printable ASCII string")
    return text


def _retry_after(value: object) -> str:
    return _header(value) if isinstance(value, str) else f"{_number(value):g}"


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("must be an object of strings")
    for name in value:
        if not all(letter.isalnum() or letter in "-_" for letter in _header(name)):
            raise ValueError(f"has no good header name {name!r}")
    return {name.lower(): _header(text) for name, text in value.items()}


def _usage(value: object) -> str | dict[str, int]:
    if isinstance(value, str) and value in ("missing", "wrong"):
        return value
    if not isinstance(value, dict):
        raise ValueError('must be "missing", "wrong" or an object of whole numbers')
    for key, number in value.items():
        if key not in USAGE_KEYS:
            raise ValueError(f"has no number called {key!r}")
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"{key} must be a whole number")
    return dict(value)


SECONDS = Kind("seconds", _number)
COUNT = Kind("count", _whole(0))
FLAG = Kind("flag", _flag)
TEXT = Kind("text", _text, verbatim=True)
HEADER = Kind("header value", _header, verbatim=True)


def _fault(kind: Kind, meaning: str, *, fails: bool = False, default: Any = None) -> Any:
    return field(default=default, metadata={"kind": kind, "meaning": meaning, "fails": fails})


@dataclass(frozen=True, slots=True)
class Plan:
    """How one call is answered; a field left at its default makes no fault."""

    share: Fraction | None = _fault(
        Kind("0 to 1", _share),
        "Share of calls that get the failing faults of the same plan (status 500 if there is none);"
        " the others are answered well. Counted, not drawn: 0.25 is exactly every 4th call with this share.",
    )
    first_byte_s: float = _fault(SECONDS, "Wait before the status line.", default=0.0)
    between_chunks_s: float = _fault(SECONDS, "Streams: wait between writes.", default=0.0)
    status: int | None = _fault(Kind("400 to 599", _whole(400, 599)), "Answer with this error.", fails=True)
    message: str | None = _fault(TEXT, "The error's `message`.")
    type: str | None = _fault(TEXT, "The error's `type`.")
    code: str | None = _fault(TEXT, "The error's `code`.")
    retry_after: str | None = _fault(
        Kind("seconds or date", _retry_after), "The error's `retry-after` header."
    )
    headers: dict[str, str] | None = _fault(Kind("object", _headers), "Further headers of the answer.")
    hang: bool = _fault(FLAG, "Never answer.", fails=True, default=False)
    drop: bool = _fault(FLAG, "Close the connection with no answer.", fails=True, default=False)
    redirect: str | None = _fault(HEADER, "Answer 302 to this address.", fails=True)
    content_type: str | None = _fault(HEADER, "The content type of a good answer.", fails=True)
    bad_json: bool = _fault(
        FLAG,
        "Plain: half of the body. Stream: the second frame is broken JSON.",
        fails=True,
        default=False,
    )
    break_after_frames: int | None = _fault(
        COUNT,
        "Cut the connection: a stream after so many frames, else after half of the body.",
        fails=True,
    )
    hang_after_frames: int | None = _fault(COUNT, "Stream: after so many frames, nothing more.", fails=True)
    error_frame_after_frames: int | None = _fault(
        COUNT, "Stream: after so many frames, one with an `error` object, then the end.", fails=True
    )
    no_done: bool = _fault(FLAG, "Stream: end with no `[DONE]`.", fails=True, default=False)
    usage: str | dict[str, int] | None = _fault(
        Kind("missing, wrong or object", _usage),
        "No usage, absurd usage, or exactly these numbers: "
        + ", ".join(f"`{key}`" for key in USAGE_KEYS)
        + ".",
    )
    text: str | None = _fault(
        TEXT, "The answer, exactly; `stop` and `max_tokens` still cut it. No tool is called."
    )
    thinking: str | None = _fault(TEXT, "What the model thinks before it answers; it costs nothing.")
    output_tokens: int | None = _fault(COUNT, "Length of the answer's text.")
    echo: bool = _fault(
        FLAG,
        "Answer with the last user message, also as free strings of tool arguments and JSON.",
        default=False,
    )
    frames_per_write: int = _fault(
        Kind("count from 1", _whole(1)), "Stream: frames sent together.", default=1
    )
    crlf: bool = _fault(FLAG, "Stream: frames end with CRLF CRLF.", default=False)
    echo_headers: bool = _fault(FLAG, "Put every received header into the served log.", default=False)
    keep_body: bool = _fault(FLAG, "Put the received body into the served log.", default=False)

    def with_failures(self) -> "Plan":
        """This plan, failing: status 500 if no failing fault is set."""
        default = Plan()
        if any(getattr(self, name) != getattr(default, name) for name in _failing()):
            return self
        return replace(self, status=500)

    def without_failures(self) -> "Plan":
        """This plan with every failing fault taken out."""
        default = Plan()
        return replace(self, **{name: getattr(default, name) for name in _failing()})


@cache
def _kinds() -> dict[str, Kind]:
    return {fault.name: fault.metadata["kind"] for fault in fields(Plan)}


@cache
def _failing() -> tuple[str, ...]:
    return tuple(fault.name for fault in fields(Plan) if fault.metadata["fails"])


def parse_faults(given: object) -> dict[str, Any]:
    """The faults of one request, checked; raises FaultError."""
    if not isinstance(given, Mapping):
        raise FaultError("The simulator's faults must be a JSON object.")
    faults = {}
    for name, value in given.items():
        if name not in _kinds():
            raise FaultError(f"Unknown simulator fault: {name!r}.")
        try:
            faults[name] = _kinds()[name].parse(value)
        except ValueError as error:
            raise FaultError(f"Simulator fault {name!r} {error}.") from None
    return faults


def parse_flag(name: str, raw: str | bool) -> Any:
    """The value of a command-line flag, checked; raises FaultError."""
    value: object = raw
    if isinstance(raw, str) and not _kinds()[name].verbatim:
        try:
            value = json.loads(raw)
        except ValueError:
            value = raw
    return parse_faults({name: value})[name]


class Counters:
    """Decides which calls of a share fail: each share value counts its own calls."""

    def __init__(self) -> None:
        self._calls: dict[Fraction, int] = {}

    def decide(self, plan: Plan) -> Plan:
        """The plan for this call, its share applied; of every 1/share calls the last fails."""
        if plan.share is None:
            return plan
        before = self._calls.get(plan.share, 0)
        self._calls[plan.share] = before + 1
        fails = (before + 1) * plan.share // 1 > before * plan.share // 1
        return plan.with_failures() if fails else plan.without_failures()


def fault_table() -> str:
    """The faults as a Markdown table; those marked * are the failing ones that `share` chooses calls for."""
    rows = ["| Fault | Value | Meaning |", "| --- | --- | --- |"]
    for fault in fields(Plan):
        mark = " *" if fault.metadata["fails"] else ""
        rows.append(f"| `{fault.name}`{mark} | {fault.metadata['kind'].name} | {fault.metadata['meaning']} |")
    return "\n".join(rows)
