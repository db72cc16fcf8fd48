"""Calendar windows of budgets: which hour, day, week, month or year a moment falls into, in a time zone.

Windows of one period follow each other without gap or overlap, whatever the zone's clocks do: the hour that
autumn repeats is two windows, a day that a zone skips is none.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

_HOUR_S = 3600


class Period(StrEnum):
    """How long a budget's window is."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds since 1970 in UTC; `start` belongs to it, `end` to the next."""

    start: int
    end: int


def window_at(period: Period, zone: ZoneInfo, moment_s: int) -> Window:
    """The window that `moment_s` (seconds since 1970 in UTC) falls into. Weeks begin on Monday."""
    if period is Period.HOUR:
        return _hour_at(zone, moment_s)
    today = datetime.fromtimestamp(moment_s, zone).date()
    first, following = _days_of(period, today)
    return Window(_midnight(zone, first), _midnight(zone, following))


def _days_of(period: Period, day: date) -> tuple[date, date]:
    """The first day of the window and the first of the next."""
    if period is Period.DAY:
        return day, day + timedelta(days=1)
    if period is Period.WEEK:
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    if period is Period.MONTH:
        first = day.replace(day=1)
        return first, (first + timedelta(days=31)).replace(day=1)
    return date(day.year, 1, 1), date(day.year + 1, 1, 1)


def _midnight(zone: ZoneInfo, day: date) -> int:
    """When `day` begins. A midnight that the clocks skip is the moment they do; of two, it is the first."""
    return int(datetime.combine(day, time(), zone).astimezone(UTC).timestamp())


def _hour_at(zone: ZoneInfo, moment_s: int) -> Window:
    offset = _offset_s(zone, moment_s)
    start = moment_s - (moment_s + offset) % _HOUR_S
    end = start + _HOUR_S
    # A zone whose clocks move by half an hour cuts an hour short.
    if _offset_s(zone, start) != offset:
        start = _change(zone, start, moment_s)
    if _offset_s(zone, end - 1) != offset:
        end = _change(zone, moment_s, end - 1)
    return Window(start, end)


def _change(zone: ZoneInfo, before: int, after: int) -> int:
    """The first second with the offset of `after`; at `before` it is another."""
    wanted = _offset_s(zone, after)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset_s(zone, middle) == wanted:
            after = middle
        else:
            before = middle
    return after


def _offset_s(zone: ZoneInfo, moment_s: int) -> int:
    offset = datetime.fromtimestamp(moment_s, zone).utcoffset()
    assert offset is not None  # noqa: S101 - a ZoneInfo always has one
    return int(offset.total_seconds())
