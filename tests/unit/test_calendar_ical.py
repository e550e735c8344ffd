"""The events of iCalendar text, honest and hostile."""

import datetime as dt
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.errors import InvalidCalendarError
from natscron.model import CalendarSpec
from natscron.schedule import ical
from natscron.schedule.calendar import StaticSpans, compile_calendar
from natscron.schedule.windows import Windows


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp()) * 1000


def window(windows: Windows, text: str) -> tuple[str, str] | None:
    found = windows.covering_ms(at(text))
    if found is None:
        return None
    start, end = (dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%MZ") for ms in found)
    return start, end


def event(*lines: str) -> str:
    return "\r\n".join(["BEGIN:VEVENT", "UID:1", *lines, "END:VEVENT"])


def compiled(*events: str, tz: str | None = None) -> Windows:
    return compile_calendar(CalendarSpec(ical=text(*events), tz=tz))


def text(*events: str) -> str:
    return "\r\n".join(["BEGIN:VCALENDAR", "VERSION:2.0", *events, "END:VCALENDAR", ""])


def covered(windows: Windows, first: str, count: int, hour: int = 12) -> list[str]:
    """The days, from the first on, on which that hour in UTC is covered."""
    day = dt.date.fromisoformat(first)
    days = [(day + dt.timedelta(n)).isoformat() for n in range(count)]
    return [one for one in days if windows.covering_ms(at(f"{one}T{hour:02}:00:00Z")) is not None]


def test_an_all_day_event_lasts_until_its_end_which_is_not_part_of_it() -> None:
    windows = compiled(event("DTSTART;VALUE=DATE:20261224", "DTEND;VALUE=DATE:20261227"), tz="Europe/Berlin")
    assert window(windows, "2026-12-25T12:00:00Z") == ("2026-12-23T23:00Z", "2026-12-26T23:00Z")
    single = compiled(event("DTSTART;VALUE=DATE:20261224"))
    assert window(single, "2026-12-24T12:00:00Z") == ("2026-12-24T00:00Z", "2026-12-25T00:00Z")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("DTSTART:20260701T090000Z", "DTEND:20260701T100000Z"), ("2026-07-01T09:00Z", "2026-07-01T10:00Z")),
        (
            ("DTSTART:20260701T090000", "DURATION:PT1H"),
            ("2026-07-01T07:00Z", "2026-07-01T08:00Z"),
        ),  # the calendar's zone
        (
            ("DTSTART;TZID=America/New_York:20260701T090000", "DURATION:PT1H"),
            ("2026-07-01T13:00Z", "2026-07-01T14:00Z"),
        ),
        (
            ("DTSTART;TZID=Eastern Standard Time:20260701T090000", "DTEND:20260701T143000Z"),
            ("2026-07-01T13:00Z", "2026-07-01T14:30Z"),
        ),
    ],
)
def test_a_timed_event_keeps_its_own_zone(lines: tuple[str, ...], expected: tuple[str, str]) -> None:
    windows = compiled(event(*lines), tz="Europe/Berlin")
    assert window(windows, expected[0].replace("Z", ":30Z")) == expected


def test_a_recurring_event_stays_at_its_wall_time_for_ever() -> None:
    windows = compiled(event("DTSTART;TZID=Europe/Berlin:20260105T090000", "DURATION:PT90M", "RRULE:FREQ=WEEKLY"))
    assert window(windows, "2026-01-12T08:30:00Z") == ("2026-01-12T08:00Z", "2026-01-12T09:30Z")
    assert window(windows, "2026-07-06T07:30:00Z") == ("2026-07-06T07:00Z", "2026-07-06T08:30Z")
    assert window(windows, "2126-07-01T07:30:00Z") == ("2126-07-01T07:00Z", "2126-07-01T08:30Z")
    assert window(windows, "2025-12-29T08:30:00Z") is None


def test_birthdays_before_1970_and_events_over_the_end_of_the_year_come_every_year() -> None:
    windows = compiled(
        event("DTSTART;VALUE=DATE:19510714", "RRULE:FREQ=YEARLY"),
        event("DTSTART;VALUE=DATE:20201230", "DTEND;VALUE=DATE:20210103", "RRULE:FREQ=YEARLY"),
    )
    assert covered(windows, "2033-07-01", 31) == ["2033-07-14"]
    assert window(windows, "2034-01-01T12:00:00Z") == ("2033-12-30T00:00Z", "2034-01-03T00:00Z")


def test_exceptions_additions_counts_and_ends_are_followed() -> None:
    windows = compiled(
        event(
            "DTSTART;VALUE=DATE:20260601",
            "RRULE:FREQ=DAILY;COUNT=4",
            "EXDATE;VALUE=DATE:20260602",
            "RDATE;VALUE=DATE:20260610,20260612",
        ),
        event("UID:2", "DTSTART:20260620T110000Z", "DURATION:PT2H", "RRULE:FREQ=DAILY;UNTIL=20260622T110000Z"),
        event("UID:3", "DTSTART:20260628T110000Z", "RDATE;VALUE=PERIOD:20260628T110000Z/PT2H"),
    )
    expected = ["01", "03", "04", "10", "12", "20", "21", "22", "28"]
    assert [day[8:] for day in covered(windows, "2026-06-01", 30)] == expected


def test_a_moved_occurrence_is_where_it_was_moved_to() -> None:
    windows = compiled(
        event("DTSTART;TZID=Europe/Berlin:20260601T130000", "DURATION:PT2H", "RRULE:FREQ=DAILY;COUNT=5"),
        event("RECURRENCE-ID:20260602T110000Z", "DTSTART:20260610T110000Z", "DURATION:PT2H"),
        event("RECURRENCE-ID;TZID=Europe/Berlin:20260604T130000", "DTSTART:20260604T110000Z", "STATUS:CANCELLED"),
    )
    assert [day[8:] for day in covered(windows, "2026-06-01", 30)] == ["01", "03", "05", "10"]


def test_cancelled_and_transparent_events_and_such_without_a_length_cover_nothing() -> None:
    windows = compiled(
        event("DTSTART;VALUE=DATE:20260601", "STATUS:CANCELLED"),
        event("DTSTART;VALUE=DATE:20260602", "TRANSP:TRANSPARENT"),
        event("DTSTART:20260603T120000Z"),
        event("DTSTART;VALUE=DATE:20260604", "STATUS:CONFIRMED", "TRANSP:OPAQUE"),
    )
    assert covered(windows, "2026-06-01", 10) == ["2026-06-04"]


def test_what_does_not_say_when_is_not_looked_at() -> None:
    windows = compiled(
        "BEGIN:VTIMEZONE\r\nTZID:Nowhere\r\nBEGIN:STANDARD\r\nDTSTART:19700101T000000\r\nRRULE:FREQ=SECONDLY\r\n"
        "TZOFFSETFROM:nonsense\r\nEND:STANDARD\r\nEND:VTIMEZONE",
        event(
            "DTSTART;VALUE=DA\r\n TE:20260604",
            "DESCRIPTION:\\n\r\n\tDTSTART;VALUE=DATE:20260605",
            "BEGIN:VALARM\r\nTRIGGER:whenever\r\nDTSTART:never\r\nEND:VALARM",
        ),
    )
    assert covered(windows, "2026-06-01", 10) == ["2026-06-04"]


def test_a_path_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.ics"
    path.write_text(text(event("DTSTART;VALUE=DATE:20260604")))
    with pytest.raises(InvalidCalendarError, match="expected BEGIN:VCALENDAR first"):
        compile_calendar(CalendarSpec(ical=str(path)))


def test_a_year_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = compiled(event("DTSTART;VALUE=DATE:20200601", "RRULE:FREQ=MONTHLY", "COMMENT:laid out once"))
    laid_out: list[int] = []
    lay_out = ical._RecurringSpans._lay_out

    def noted(self: ical._RecurringSpans, year: int) -> StaticSpans:
        laid_out.append(year)
        return lay_out(self, year)

    monkeypatch.setattr(ical._RecurringSpans, "_lay_out", noted)
    for _ in range(3):
        assert len(covered(windows, "2026-01-01", 365)) == 12
    assert sorted(laid_out) == [2025, 2026]  # a window on the first day is asked what came before it


MANY = [event(f"DTSTART;VALUE=DATE:2026{n % 12 + 1:02}{n % 28 + 1:02}", "RRULE:FREQ=YEARLY") for n in range(501)]

RULES = [event("DTSTART;VALUE=DATE:20260101", f"RRULE:FREQ=YEARLY;BYYEARDAY={n}") for n in range(1, 66)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nothing", "expected BEGIN:VCALENDAR first"),
        ("BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n", "END:VEVENT is missing"),
        ("BEGIN:VEVENT\r\nEND:VEVENT", "expected BEGIN:VCALENDAR around everything"),
        ("BEGIN:VCALENDAR\r\nEND:VEVENT", "END:VEVENT without its BEGIN"),
        (text(event()), "an event has no DTSTART"),
        (text(event("DTSTART:tomorrow")), "an event's DTSTART cannot be read"),
        (text(event("DTSTART:20260230T000000Z")), "an event's DTSTART cannot be read"),
        (text(event("DTSTART;TZID=Mars/Olympus:20260604T000000")), "unknown TZID 'Mars/Olympus'"),
        (text(event("DTSTART:20260604T000000Z", "DTEND:20260603T000000Z")), "an event ends before it starts"),
        (text(event("DTSTART:20260604T000000Z", "DTEND:20260605T000000Z", "DURATION:PT1H")), "give one"),
        (text(event("DTSTART:20260604T000000Z", "DTSTART:20260604T000000Z")), "more than one DTSTART"),
        (text(event("DTSTART:20260604T000000Z", "RRULE:FREQ=HOURLY")), "too fine for a calendar: use DAILY or coarser"),
        (text(event("DTSTART:20260604T000000Z", "RRULE:FREQ=NEVER")), "RRULE"),
        (text(event("DTSTART:20260604T000000Z", "EXRULE:FREQ=DAILY")), "EXRULE is not supported"),
        (
            text(event("DTSTART:20260604T000000Z", "RECURRENCE-ID;RANGE=THISANDFUTURE:20260604T000000Z")),
            "RECURRENCE-ID with RANGE is not supported",
        ),
        (
            text(event("DTSTART:20240604T000000Z", "DTEND:20260604T000000Z", "RRULE:FREQ=DAILY")),
            "a recurring event lasts longer than a year",
        ),
        (text(*MANY), "more than 500 events recur"),
        (text(*RULES), "more than 64 different rules"),
        (text(*[event("DTSTART:20260604T000000Z", "RRULE:FREQ=DAILY")] * 14), "recur more than 5000 times a year"),
        (text(*["BEGIN:VEVENT\nEND:VEVENT"] * 2_001), "more than 2000 events"),
        (text(event("DESCRIPTION:" + "x" * 98_304)), "over 98304 bytes"),
    ],
    ids=range(21),
)
def test_what_cannot_be_read_is_refused_with_the_reason(content: str, said: str) -> None:
    with pytest.raises(InvalidCalendarError) as refused:
        compile_calendar(CalendarSpec(ical=content))
    assert said in str(refused.value)


@pytest.mark.parametrize("module", ["icalendar", "dateutil.rrule"])
def test_without_the_extra_the_command_to_install_it_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidCalendarError, match=r"pip install 'natscron\[ical\]'"):
        compiled(event("DTSTART;VALUE=DATE:20260604", "RRULE:FREQ=DAILY;COUNT=2", f"COMMENT:{module}"))


values = st.text(max_size=20) | st.sampled_from(
    [
        "20260604",
        "20260604T090000",
        "99991231T235959Z",
        "00010101",
        "FREQ=DAILY",
        "FREQ=YEARLY;BYWEEKNO=53",
        "-P9999999D",
    ]
)
names = st.sampled_from(["DTSTART", "DTSTART;VALUE=DATE", "DTEND", "DURATION", "RRULE", "RDATE;VALUE=PERIOD", "EXDATE"])
more = st.sampled_from(["RECURRENCE-ID", "STATUS", "DTSTART;TZID=Europe/Berlin", "DTSTART;TZID=../etc/passwd", "X"])
lines = st.builds("{}:{}".format, names | more, values)


@given(
    st.lists(st.lists(lines, max_size=5).map(lambda found: event(*found)), max_size=3).map(lambda found: text(*found))
)
@settings(max_examples=300)
def test_no_event_raises_anything_but_the_documented_error(content: str) -> None:
    try:
        windows = compile_calendar(CalendarSpec(ical=content, tz="Europe/Berlin"))
    except InvalidCalendarError:
        return
    for t in (-1, 0, at("2026-06-04T12:00:00Z"), at("2028-02-29T12:00:00Z"), 253_402_300_799_999):
        found = windows.covering_ms(t)
        assert found is None or found[0] <= t < found[1]


@given(st.text(max_size=80))
@settings(max_examples=150)
def test_no_text_raises_anything_but_the_documented_error(content: str) -> None:
    for whole in (content, text(content), text(event(content))):
        try:
            compile_calendar(CalendarSpec(ical=whole))
        except InvalidCalendarError:
            continue
