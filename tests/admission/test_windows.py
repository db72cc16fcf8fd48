"""Calendar windows: they cover all time once, and begin where the people of the zone say they do."""

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.admission.windows import Period, Window, window_at

# Ordinary, half-hour and 45-minute offsets; a 30-minute change of clocks; changes at midnight; a skipped day.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Havana",
    "America/Sao_Paulo",
    "Asia/Beirut",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/St_Johns",
]
_FIRST = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp())
_LAST = int(datetime(2037, 1, 1, tzinfo=UTC).timestamp())


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def window(period: str, zone: str, moment: str) -> tuple[str, str]:
    found = window_at(Period(period), ZoneInfo(zone), seconds(moment))
    start, end = (
        datetime.fromtimestamp(edge, ZoneInfo(zone)).isoformat() for edge in (found.start, found.end)
    )
    return start, end


@settings(max_examples=600, deadline=None)
@given(
    period=st.sampled_from(Period),
    zone=st.sampled_from(ZONES),
    moment=st.integers(_FIRST, _LAST),
)
def test_windows_cover_all_time_once(period: Period, zone: str, moment: int) -> None:
    place = ZoneInfo(zone)
    found = window_at(period, place, moment)
    assert found.start <= moment < found.end
    assert window_at(period, place, found.start) == found
    assert window_at(period, place, found.end - 1) == found
    assert window_at(period, place, found.end).start == found.end
    assert window_at(period, place, found.start - 1).end == found.start


@settings(max_examples=300, deadline=None)
@given(zone=st.sampled_from(ZONES), moment=st.integers(_FIRST, _LAST))
def test_a_longer_window_holds_whole_shorter_ones(zone: str, moment: int) -> None:
    place = ZoneInfo(zone)
    windows = {period: window_at(period, place, moment) for period in Period}
    day = windows[Period.DAY]
    for longer in (Period.WEEK, Period.MONTH, Period.YEAR):
        assert windows[longer].start <= day.start
        assert day.end <= windows[longer].end
    assert windows[Period.YEAR].start <= windows[Period.MONTH].start


def moments_around(zone: str, year: int) -> list[int]:
    """Each quarter of an hour of the days on which the zone's clocks change."""
    place = ZoneInfo(zone)
    start = datetime(year, 1, 1, tzinfo=UTC)
    hours = [start + timedelta(hours=number) for number in range(366 * 24)]
    changes = [
        now
        for before, now in itertools.pairwise(hours)
        if before.astimezone(place).utcoffset() != now.astimezone(place).utcoffset()
    ]
    return [
        int((change + timedelta(minutes=minutes)).timestamp())
        for change in changes
        for minutes in range(-26 * 60, 26 * 60, 15)
    ]


@pytest.mark.parametrize(("zone", "year"), [(zone, 2023) for zone in ZONES] + [("Pacific/Apia", 2011)])
def test_windows_follow_each_other_over_a_change_of_clocks(zone: str, year: int) -> None:
    place = ZoneInfo(zone)
    for period in Period:
        windows = [window_at(period, place, moment) for moment in moments_around(zone, year)]
        ordered = sorted(set(windows), key=lambda window: window.start)
        for window, following in itertools.pairwise(ordered):
            assert window.end <= following.start or window == following, (period, window, following)


@pytest.mark.parametrize(
    ("period", "zone", "moment", "start", "end"),
    [
        (
            "day",
            "Europe/Berlin",
            "2026-03-29T12:00Z",
            "2026-03-29T00:00:00+01:00",
            "2026-03-30T00:00:00+02:00",
        ),
        (
            "day",
            "Europe/Berlin",
            "2026-10-25T12:00Z",
            "2026-10-25T00:00:00+02:00",
            "2026-10-26T00:00:00+01:00",
        ),
        (
            "hour",
            "Asia/Kolkata",
            "2026-11-25T10:40Z",
            "2026-11-25T16:00:00+05:30",
            "2026-11-25T17:00:00+05:30",
        ),
        ("week", "UTC", "2026-11-25T10:40Z", "2026-11-23T00:00:00+00:00", "2026-11-30T00:00:00+00:00"),
        ("week", "UTC", "2027-01-01T00:00Z", "2026-12-28T00:00:00+00:00", "2027-01-04T00:00:00+00:00"),
        ("month", "UTC", "2028-02-29T23:59Z", "2028-02-01T00:00:00+00:00", "2028-03-01T00:00:00+00:00"),
        (
            "month",
            "Asia/Tokyo",
            "2026-12-31T15:00Z",
            "2027-01-01T00:00:00+09:00",
            "2027-02-01T00:00:00+09:00",
        ),
        (
            "year",
            "America/New_York",
            "2027-01-01T04:59Z",
            "2026-01-01T00:00:00-05:00",
            "2027-01-01T00:00:00-05:00",
        ),
    ],
)
def test_a_window_begins_where_the_zone_says(
    period: str, zone: str, moment: str, start: str, end: str
) -> None:
    assert window(period, zone, moment) == (start, end)


def test_the_hour_that_autumn_repeats_is_two_windows() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = window_at(Period.HOUR, berlin, seconds("2026-10-25T02:30+02:00"))
    second = window_at(Period.HOUR, berlin, seconds("2026-10-25T02:30+01:00"))
    assert first.end == second.start
    assert first.end - first.start == second.end - second.start == 3600


def test_a_change_by_half_an_hour_cuts_an_hour_short() -> None:
    lord_howe = ZoneInfo("Australia/Lord_Howe")  # 2026-04-05: 02:00 becomes 01:30 once more
    change = seconds("2026-04-05T02:00+11:00")
    assert window_at(Period.HOUR, lord_howe, change - 1) == Window(change - 3600, change)
    assert window_at(Period.HOUR, lord_howe, change) == Window(change, change + 1800)


def test_a_midnight_that_the_clocks_skip_is_the_moment_they_do() -> None:
    beirut = ZoneInfo("Asia/Beirut")  # 2022-03-27: 00:00 becomes 01:00
    day = window_at(Period.DAY, beirut, seconds("2022-03-27T12:00+03:00"))
    assert day.start == seconds("2022-03-27T01:00+03:00")
    assert day.end - day.start == 23 * 3600
