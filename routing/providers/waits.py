"""When a backend that throttles says that it will take calls again, in the forms that providers use."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(rb"\A\d{1,9}(\.\d{1,9})?\Z")
_DURATION = re.compile(rb"(\d+(?:\.\d+)?)(ms|h|m|s)")  # as Go writes it: 6m0s, 1.5s, 20ms
_WHOLE_DURATION = re.compile(rb"\A(?:\d+(?:\.\d+)?(?:ms|h|m|s))+\Z")
_UNIT_S = {b"ms": 0.001, b"s": 1.0, b"m": 60.0, b"h": 3600.0}
_RESETS = (b"x-ratelimit-reset-requests", b"x-ratelimit-reset-tokens")
_LEFT = {name: name.replace(b"reset", b"remaining") for name in _RESETS}
_MOMENTS = tuple(
    b"anthropic-ratelimit-%b-reset" % kind
    for kind in (b"requests", b"tokens", b"input-tokens", b"output-tokens")
)


def read_back_in_s(headers: Mapping[bytes, bytes], now: datetime | None = None) -> float | None:
    """Seconds from now, not negative; None where the headers do not tell.

    `retry-after-ms`, then `retry-after` (seconds or an HTTP date), then `x-ratelimit-reset-requests` and `-tokens` of
    the limits of which nothing remains, or the moments that Anthropic gives for its own, the longer one.
    """
    if _SECONDS.match(text := headers.get(b"retry-after-ms", b"")):
        return float(text) / 1000
    if text := headers.get(b"retry-after", b"").strip():
        return float(text) if _SECONDS.match(text) else _until(text, now or datetime.now(UTC))
    spent = (name for name in _RESETS if headers.get(_LEFT[name], b"0").strip() == b"0")
    resets = [_duration_s(headers.get(name, b"").strip()) for name in spent]
    for name in _MOMENTS:
        if name in headers and headers.get(name.replace(b"reset", b"remaining"), b"0").strip() == b"0":
            resets.append(_until_moment(headers[name], now or datetime.now(UTC)))
    return max((reset for reset in resets if reset is not None), default=None)


def _until(text: bytes, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(text.decode("ascii"))
    except (ValueError, ArithmeticError, TypeError):  # also for bytes that are no ASCII, and impossible zones
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _until_moment(text: bytes, now: datetime) -> float | None:
    """Of an RFC 3339 time."""
    try:
        moment = datetime.fromisoformat(text.strip().decode("ascii"))
    except (ValueError, ArithmeticError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _duration_s(text: bytes) -> float | None:
    if _SECONDS.match(text):
        return float(text)
    if not _WHOLE_DURATION.match(text):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION.findall(text))
