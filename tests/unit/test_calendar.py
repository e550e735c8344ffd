"""Dates and weekly windows against a question for every quarter of an hour, and around clock changes by hand."""

import datetime as dt
import zoneinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.errors import InvalidCalendarError
from natscron.model import CalendarSpec, Weekly
from natscron.schedule.calendar import compile_calendar
from natscron.schedule.windows import Windows

QUARTER = 900_000
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp()) * 1000


def window(windows: Windows, text: str) -> tuple[str, str] | None:
    found = windows.covering_ms(at(text))
    if found is None:
        return None
    start, end = (dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%MZ") for ms in found)
    return start, end


def calendar(*dates: str, weekly: tuple[Weekly, ...] = (), tz: str | None = None) -> Windows:
    return compile_calendar(CalendarSpec(dates=dates, weekly=weekly, tz=tz))


def test_dates_and_weekends_that_touch_are_one_window() -> None:
    windows = calendar("2026-12-24/2027-01-01", weekly=(Weekly(days="SAT,SUN"),), tz="Europe/Berlin")
    assert window(windows, "2026-12-27T12:00:00Z") == ("2026-12-23T23:00Z", "2027-01-03T23:00Z")
    assert window(windows, "2027-01-04T12:00:00Z") is None


def test_a_date_of_every_year_comes_every_year_and_29_february_in_leap_years() -> None:
    windows = calendar("12-25", "02-29", "02-28")
    assert window(windows, "2031-12-25T12:00:00Z") == ("2031-12-25T00:00Z", "2031-12-26T00:00Z")
    assert window(windows, "2028-02-29T12:00:00Z") == ("2028-02-28T00:00Z", "2028-03-01T00:00Z")
    assert window(windows, "2100-02-28T12:00:00Z") == ("2100-02-28T00:00Z", "2100-03-01T00:00Z")
    assert window(windows, "2100-03-01T00:00:00Z") is None


def test_a_weekly_window_may_end_on_the_next_day_and_in_the_next_week() -> None:
    windows = calendar(weekly=(Weekly(days="FRI-SAT", start="22:00", end="06:00"),))
    assert window(windows, "2026-11-21T05:59:59Z") == ("2026-11-20T22:00Z", "2026-11-21T06:00Z")
    assert window(windows, "2026-11-22T05:59:59Z") == ("2026-11-21T22:00Z", "2026-11-22T06:00Z")
    assert window(windows, "2026-11-22T06:00:00Z") is None
    assert window(windows, "2026-11-20T21:59:59Z") is None


@pytest.mark.parametrize("days", ["FRI-MON", "5-1", "fri-sun,MON", "0,1,5,6", "5-7,1"])
def test_days_are_those_of_cron(days: str) -> None:
    windows = calendar(weekly=(Weekly(days=days),))
    assert window(windows, "2026-11-22T12:00:00Z") == ("2026-11-20T00:00Z", "2026-11-24T00:00Z")


@pytest.mark.parametrize(
    ("start", "end", "instant", "expected"),
    [
        ("02:15", "04:00", "2026-03-29T01:30:00Z", ("2026-03-29T01:00Z", "2026-03-29T02:00Z")),  # begins in the gap
        ("01:00", "02:30", "2026-03-29T00:30:00Z", ("2026-03-29T00:00Z", "2026-03-29T01:00Z")),  # ends in it
        ("02:15", "02:45", "2026-03-29T01:00:00Z", None),  # lies in it
        ("02:15", "02:45", "2026-10-25T00:20:00Z", ("2026-10-25T00:15Z", "2026-10-25T00:45Z")),  # a fold's first pass
        ("02:15", "02:45", "2026-10-25T01:20:00Z", ("2026-10-25T01:15Z", "2026-10-25T01:45Z")),  # its second
        ("02:15", "02:45", "2026-10-25T01:00:00Z", None),  # between them
        ("01:00", "04:00", "2026-10-25T01:00:00Z", ("2026-10-24T23:00Z", "2026-10-25T03:00Z")),  # around a fold
    ],
)
def test_a_window_is_what_the_wall_clock_shows_when_clocks_change(
    start: str, end: str, instant: str, expected: tuple[str, str] | None
) -> None:
    windows = calendar(weekly=(Weekly(days="SUN", start=start, end=end),), tz="Europe/Berlin")
    assert window(windows, instant) == expected


def test_a_day_that_a_zone_skipped_is_no_window() -> None:
    windows = calendar("2011-12-30", tz="Pacific/Apia")
    assert window(windows, "2011-12-30T09:59:59Z") is None
    assert window(windows, "2011-12-30T10:00:00Z") is None


clocks = st.integers(0, 95).map(lambda quarter: f"{quarter // 4:02}:{quarter % 4 * 15:02}")
weeklies = st.builds(Weekly, days=st.sampled_from([*WEEKDAYS, "MON-FRI", "SAT-TUE"]), start=clocks, end=clocks)
zones = st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia"])
days = st.dates(dt.date(2011, 9, 1), dt.date(2012, 5, 1))


def shown(spec: CalendarSpec, t: int) -> bool:
    """Whether the wall clock shows a time that the calendar names, asked without any of its code."""
    wall = dt.datetime.fromtimestamp(t / 1000, zoneinfo.ZoneInfo(spec.tz or "UTC")).replace(tzinfo=None)
    date, clock = wall.date().isoformat(), wall.strftime("%H:%M")
    for text in spec.dates:
        first, _, last = text.partition("/")
        if first <= date <= (last or first) or text == date[5:]:
            return True
    sets = {"MON-FRI": WEEKDAYS[1:6], "SAT-TUE": ("SAT", "SUN", "MON", "TUE")}
    today, yesterday = WEEKDAYS[wall.isoweekday() % 7], WEEKDAYS[(wall.isoweekday() - 1) % 7]
    for weekly in spec.weekly:
        among = sets.get(weekly.days, (weekly.days,))
        over = weekly.end < weekly.start
        if today in among and weekly.start <= clock and (over or clock < weekly.end):
            return True
        if over and yesterday in among and clock < weekly.end:
            return True
    return False


@given(st.lists(weeklies, max_size=3), st.lists(st.tuples(days, st.integers(0, 12)), max_size=3), zones, days)
@settings(max_examples=60)
def test_windows_hold_every_instant_whose_wall_time_is_named_and_no_other(
    weekly: list[Weekly], ranges: list[tuple[dt.date, int]], zone: str, day: dt.date
) -> None:
    dates = [f"{first}/{first + dt.timedelta(more)}" if more else first.isoformat() for first, more in ranges]
    spec = CalendarSpec(
        dates=(*dates, day.strftime("%m-%d")), weekly=tuple(one for one in weekly if one.start != one.end), tz=zone
    )
    windows = compile_calendar(spec)
    middle = int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp()) * 1000
    begin, end = middle - 5 * 86_400_000, middle + 5 * 86_400_000
    named = [shown(spec, t) for t in range(begin, end, QUARTER)]
    for index, is_named in enumerate(named):
        t = begin + index * QUARTER
        found = windows.covering_ms(t)
        assert (found is not None) == is_named, t
        if found is not None:
            assert found[0] <= t < found[1]
            assert windows.covering_ms(found[1]) is None or found[1] - found[0] > 30 * 86_400_000
            before = max(0, (found[0] - begin) // QUARTER)
            assert all(named[before : (min(found[1], end) - begin) // QUARTER])


@pytest.mark.parametrize("t", [-1, 0, 253_402_300_799_999, 10**20])
def test_any_instant_may_be_asked_about(t: int) -> None:
    found = calendar("01-01", "12-31", weekly=(Weekly(days="THU"),), tz="Asia/Tokyo").covering_ms(t)
    assert found is None or found[0] <= t < found[1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (CalendarSpec(dates=("2026-02-30",)), "invalid date '2026-02-30'"),
        (CalendarSpec(dates=("13-01",)), "invalid date '13-01'"),
        (CalendarSpec(dates=("tomorrow",)), "give 2026-12-25, 2026-12-24/2027-01-01 (both inclusive) or 12-25"),
        (CalendarSpec(dates=("2026-12-24/",)), "invalid date '2026-12-24/'"),
        (CalendarSpec(dates=("2026-12-24/2026-12-23",)), "the range ends before it starts"),
        (CalendarSpec(dates=("2026-12-24",) * 1001), "1001 dates; at most 1000"),
        (CalendarSpec(weekly=(Weekly(),) * 101), "101 weekly windows; at most 100"),
        (CalendarSpec(weekly=(Weekly(),)), "cover every hour of every week"),
        (CalendarSpec(weekly=(Weekly(days="MON-FRI"), Weekly(days="6-7"))), "cover every hour of every week"),
        (CalendarSpec(weekly=(Weekly(days="MON#1"),)), "invalid weekly days 'MON#1'"),
        (CalendarSpec(weekly=(Weekly(days="5L"),)), "'L' has no meaning in a week"),
        (CalendarSpec(weekly=(Weekly(days="H"),)), "invalid weekly days 'H'"),
        (CalendarSpec(weekly=(Weekly(days="8"),)), "give such as SAT,SUN or MON-FRI or *"),
        (CalendarSpec(weekly=(Weekly(days=""),)), "invalid weekly days ''"),
        (CalendarSpec(weekly=(Weekly(days="MON", start="24:00"),)), "give HH:MM from 00:00 to 23:59"),
        (CalendarSpec(weekly=(Weekly(days="MON", end="24:01"),)), "give HH:MM from 00:00 to 24:00"),
        (CalendarSpec(weekly=(Weekly(days="MON", start="9:00"),)), "weekly start '9:00' is not a time"),
        (CalendarSpec(weekly=(Weekly(days="MON", start="09:00", end="09:00"),)), "is empty"),
        (CalendarSpec(tz="Mars/Olympus"), "unknown time zone Mars/Olympus"),
        (
            CalendarSpec(dates=tuple((dt.date(2001, 1, 1) + dt.timedelta(n)).strftime("%m-%d") for n in range(365))),
            "every day of every year",
        ),
    ],
)
def test_what_cannot_be_a_calendar_is_refused_with_the_reason(spec: CalendarSpec, said: str) -> None:
    with pytest.raises(InvalidCalendarError) as refused:
        compile_calendar(spec)
    assert said in str(refused.value)


def test_a_calendar_without_anything_covers_nothing_and_equal_ones_share_an_object() -> None:
    assert compile_calendar(CalendarSpec()).covering_ms(0) is None
    assert calendar("12-25") is calendar("12-25")


texts = st.text(max_size=12) | st.sampled_from(
    ["2026-12-25", "12-25", "02-29", "/", "*", "SAT-SUN", "22:00", "24:00", "H"]
)


@given(
    st.lists(texts, max_size=4),
    st.lists(st.builds(Weekly, days=texts, start=texts, end=texts), max_size=3),
    texts | st.none(),
)
@settings(max_examples=300)
def test_nothing_raises_anything_but_the_documented_error(
    dates: list[str], weekly: list[Weekly], tz: str | None
) -> None:
    for zone in (tz, "Europe/Berlin"):
        try:
            windows = compile_calendar(CalendarSpec(dates=tuple(dates), weekly=tuple(weekly), tz=zone))
        except InvalidCalendarError:
            continue
        found = windows.covering_ms(at("2026-12-25T12:00:00Z"))
        assert found is None or found[0] < found[1]
