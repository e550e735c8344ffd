"""Calendars: rows, keys, API input, versions."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.dialect import calendar_specs

from natscron.codec import calendar as codec
from natscron.codec import (
    calendar_key,
    calendar_name_of,
    calendar_to_json,
    calendar_view,
    decode_calendar,
    encode_calendar,
    key_of,
    parse_calendar,
    successor_calendar,
)
from natscron.codec.calendar import MAX_CALENDAR_BYTES
from natscron.errors import InvalidCalendarError, LimitExceededError, MalformedInputError, ValidationError
from natscron.model import Calendar, CalendarSpec, CalendarVersion, Mark, Stamp, Weekly
from natscron.schedule import calendar as compiling

WRITE = Stamp(1_000, 7)
CHRISTMAS = CalendarSpec(dates=("12-25",))
WEEKENDS = CalendarSpec(weekly=(Weekly(days="SAT,SUN"),), tz="Europe/Berlin", note="n")


def stored(calendar: Calendar, stamp: Stamp = WRITE) -> Calendar:
    return decode_calendar(calendar_key(calendar.name), encode_calendar(calendar), stamp)


@given(calendar_specs())
def test_every_calendar_survives_rows_and_json(spec: CalendarSpec) -> None:
    calendar = Calendar(name="holidays", spec=spec)
    assert stored(calendar) == msgspec.structs.replace(calendar, revision=7, updated_at_ms=1_000, counts_from=WRITE)
    read = parse_calendar(msgspec.json.encode(calendar_to_json(calendar))).calendar
    assert msgspec.json.decode(msgspec.json.encode(calendar_to_json(calendar))) == calendar_to_json(calendar)
    assert read == calendar


def test_input_is_read_in_any_case_and_what_replies_add_is_ignored() -> None:
    found = parse_calendar(
        {"Name": "offices-1", "DATES": ["12-25"], "Weekly": [{"Days": "SUN", "end": None}], "note": None}
        | {"revision": 5, "updated_at": "x", "invalid": None, "jobs": 3, "Expected_Revision": "12"}
    )
    assert found.calendar == Calendar(
        name="offices-1", spec=CalendarSpec(dates=("12-25",), weekly=(Weekly(days="SUN"),))
    )
    assert found.expected_revision == "12"
    view = calendar_view(stored(found.calendar))
    assert (view["revision"], view["updated_at"]) == (7, "1970-01-01T00:00:01.000Z")
    assert parse_calendar(view).calendar == found.calendar


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ({}, InvalidCalendarError, "calendar name is required"),
        ({"name": "A"}, InvalidCalendarError, "invalid calendar name 'A'"),
        ({"name": "-a"}, InvalidCalendarError, "invalid calendar name"),
        ({"name": "a" * 64}, InvalidCalendarError, "at most 63"),
        ({"name": "a.b"}, InvalidCalendarError, "invalid calendar name"),
        ({"name": "a\n"}, InvalidCalendarError, "invalid calendar name"),
        ({"name": 5}, InvalidCalendarError, "name must be a text"),
        ({"name": "a", "date": []}, InvalidCalendarError, "unknown calendar field 'date'"),
        ({"name": "a", "dates": "12-25"}, InvalidCalendarError, "dates must be a list"),
        ({"name": "a", "dates": ["12-25", 5]}, InvalidCalendarError, "dates[1] must be a text"),
        ({"name": "a", "dates": ["x"] * 10_001}, LimitExceededError, "dates has 10001 entries"),
        ({"name": "a", "weekly": [{"day": "x"}]}, InvalidCalendarError, "unknown calendar field weekly[0].'day'"),
        ({"name": "a", "weekly": ["x"]}, InvalidCalendarError, "weekly[0] must be an object"),
        ({"name": "a", "weekly": [{"start": 9}]}, InvalidCalendarError, "weekly[0].start must be a text"),
        ({"name": "a", "ical": "x" * MAX_CALENDAR_BYTES}, LimitExceededError, "is over the limit of 307200"),
        ([], MalformedInputError, "cannot unmarshal array into Go value of type Calendar"),
        (5, MalformedInputError, "cannot unmarshal number"),
    ],
)
def test_bad_input_is_refused_by_name(data: Any, error: type[Exception], text: str) -> None:  # noqa: ANN401 - any JSON
    with pytest.raises(error) as caught:
        parse_calendar(msgspec.json.encode(data))
    assert text in str(caught.value)


def test_calendars_and_jobs_have_no_key_in_common() -> None:
    assert calendar_name_of(calendar_key("holidays")) == "holidays"
    assert calendar_name_of(key_of("_cal.holidays")) is None
    assert calendar_name_of(key_of("jobs._cal.holidays")) is None


@pytest.mark.parametrize("name", ["", "a*", "a>", "a b", ".a", "a..b", "a" * 300, "\u00e9"])
def test_a_name_that_would_break_a_subject_makes_no_key(name: str) -> None:
    with pytest.raises(InvalidCalendarError):
        calendar_key(name)


def test_a_calendar_with_a_name_that_may_not_be_is_not_written() -> None:
    assert calendar_key("HOLIDAYS") == "_cal.HOLIDAYS"
    with pytest.raises(InvalidCalendarError):
        encode_calendar(Calendar(name="HOLIDAYS"))


@pytest.mark.parametrize(
    ("key", "value", "reason", "newer"),
    [
        ("_cal.a", b"", "unexpected end", False),
        ("_cal.a", b"[]", "cannot unmarshal array", False),
        ("_cal.a", b"{}", "calendar must be an object", False),
        ("_cal.a", b'{"subject":"_cal.a","schedule":{"every":"1s"}}', "calendar must be an object", False),
        ("_cal.a", b'{"calendar":{},"subject":"x"}', "has one field", False),
        ("_cal.a", b'{"calendar":{"dates":[1]}}', "calendar.dates[0] must be a text", False),
        ("_cal.a", b'{"calendar":{"moon":1}}', "unknown calendar field calendar.'moon'", False),
        ("_cal.a", b'{"calendar":{},"natscron":[]}', "array", False),
        ("_cal.a", b'{"moon":{},"natscron":{"reader":99,"previous":5}}', "needs reader version 99", True),
        ("_cal.A", b'{"calendar":{}}', "invalid calendar name 'A'", False),
        ("_cal.", b'{"calendar":{}}', "invalid calendar name", False),
        ("_cal.a", b"[" * 100_000, "max depth", False),
        ("_cal.a", b'"\xff"', "UTF-8", False),
    ],
)
def test_an_unreadable_row_becomes_an_invalid_calendar_that_says_why(
    key: str, value: bytes, reason: str, *, newer: bool
) -> None:
    calendar = decode_calendar(key, value, WRITE)
    assert calendar.invalid is not None
    assert reason in calendar.invalid
    assert (calendar.newer, calendar.revision, calendar.counts_from) == (newer, 7, WRITE)
    assert calendar.name == key.removeprefix("_cal.")


def test_a_row_over_the_limit_is_invalid() -> None:
    assert (
        decode_calendar("_cal.a", b'{"calendar":{}}', WRITE, limit=5).invalid
        == "row of 15 bytes is over the limit of 5"
    )


@given(st.binary(max_size=100), st.text(max_size=20))
def test_decoding_a_row_never_raises(value: bytes, key: str) -> None:
    assert decode_calendar(key, value, WRITE).revision == 7


def edited(old: Calendar, stamp: Stamp, spec: CalendarSpec, mark: Mark | None = None, jitter_ms: int = 0) -> Calendar:
    return stored(successor_calendar(old, msgspec.structs.replace(old, spec=spec), mark, jitter_ms), stamp)


def test_a_change_counts_from_its_own_write_and_keeps_the_old_content() -> None:
    first = stored(Calendar(name="a", spec=WEEKENDS))
    second = edited(first, Stamp(2_000, 9), CHRISTMAS)
    assert second.counts_from == Stamp(2_000, 9)
    assert second.previous == (CalendarVersion(spec=msgspec.structs.replace(WEEKENDS, note=""), since=WRITE),)
    noted = edited(second, Stamp(3_000, 10), msgspec.structs.replace(CHRISTMAS, note="why"))
    assert (noted.counts_from, noted.previous, noted.spec.note) == (second.counts_from, second.previous, "why")


@pytest.mark.parametrize(
    ("mark", "jitter_ms", "left"),
    [
        (None, 0, 1),
        (Mark(instant_ms=1_999, jobs_seq=9), 0, 1),
        (Mark(instant_ms=2_000, jobs_seq=8), 0, 1),
        (Mark(instant_ms=2_000, jobs_seq=9), 0, 0),
        (Mark(instant_ms=2_000, jobs_seq=9), 1, 1),
        (Mark(instant_ms=2_001, jobs_seq=9), 1, 0),
    ],
)
def test_contents_that_the_mark_has_passed_are_dropped(mark: Mark | None, jitter_ms: int, left: int) -> None:
    second = edited(stored(Calendar(name="a", spec=WEEKENDS)), Stamp(2_000, 9), CHRISTMAS)
    assert len(edited(second, Stamp(3_000, 10), CHRISTMAS, mark, jitter_ms).previous) == left


def test_changes_without_a_leader_are_bounded_by_number_and_bytes() -> None:
    small = stored(Calendar(name="a"))
    for turn in range(32):
        small = edited(small, Stamp(turn + 2, turn + 2), CalendarSpec(dates=(str(turn),)))
    with pytest.raises(ValidationError, match="has 32 earlier contents"):
        edited(small, Stamp(99, 99), CHRISTMAS)
    assert edited(small, Stamp(99, 99), CHRISTMAS, Mark(instant_ms=50, jobs_seq=50)).spec == CHRISTMAS
    big = stored(Calendar(name="a", spec=CalendarSpec(ical="x" * 290 * 1024)))
    big = edited(big, Stamp(2_000, 8), CalendarSpec(ical="y" * 290 * 1024))
    big = edited(big, Stamp(3_000, 9), CalendarSpec(ical="z" * 290 * 1024))
    assert len(encode_calendar(big)) < 1_000_000
    with pytest.raises(ValidationError, match="no room for one more"):
        edited(big, Stamp(4_000, 10), CHRISTMAS)


def test_an_unreadable_calendar_leaves_no_version() -> None:
    broken = decode_calendar("_cal.a", b"nope", WRITE)
    assert edited(broken, Stamp(2_000, 9), CHRISTMAS).previous == ()


def test_what_may_be_stored_may_be_compiled() -> None:
    assert (codec.MAX_DATES, codec.MAX_WEEKLY) == (compiling.MAX_DATES, compiling.MAX_WEEKLY)
