"""Intervals, single instants, and the start slot."""

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.errors import (
    InvalidIntervalError,
    InvalidScheduleError,
    InvalidScheduleTimeError,
)
from natscron.model import ScheduleSpec
from natscron.schedule import MAX_MS, Schedule, compile_schedule, format_instant, parse_instant, resolve_spec

CREATED = 1_800_000_000_123
checked = settings(max_examples=200, derandomize=True, deadline=None, database=None)


def compiled(*, anchor_ms: int = CREATED, min_interval_ns: int = 10_000_000, **fields: object) -> Schedule:
    spec = ScheduleSpec(**fields)  # type: ignore[arg-type]  # each test names real fields
    return compile_schedule(spec, anchor_ms=anchor_ms, min_interval_ns=min_interval_ns).schedule


def test_an_interval_counts_from_the_creation_and_its_first_slot_is_one_interval_later() -> None:
    schedule = compiled(every="30s")
    assert schedule.next_after_ms(0) == CREATED + 30_000
    assert schedule.next_after_ms(CREATED) == CREATED + 30_000
    assert schedule.next_after_ms(CREATED + 30_000) == CREATED + 60_000
    assert schedule.next_after_ms(CREATED + 29_999) == CREATED + 30_000
    assert schedule.last_at_or_before_ms(CREATED + 29_999) is None
    assert schedule.last_at_or_before_ms(CREATED + 30_000) == CREATED + 30_000
    assert schedule.interval == dt.timedelta(seconds=30)
    assert schedule.start_at is None


def test_an_explicit_start_is_the_first_slot_and_nothing_is_before_it() -> None:
    start = parse_instant("2030-01-01T00:00:00Z")
    schedule = compiled(every="1h", start_at="2030-01-01T01:00:00+01:00")
    assert schedule.next_after_ms(0) == start
    assert schedule.next_after_ms(start) == start + 3_600_000
    assert schedule.last_at_or_before_ms(start - 1) is None
    assert schedule.last_at_or_before_ms(start) == start
    assert schedule.start_at == dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def test_a_start_long_past_keeps_the_phase() -> None:
    schedule = compiled(every="7s", start_at="1970-01-01T00:00:00Z")
    assert schedule.next_after_ms(CREATED) == (CREATED // 7000 + 1) * 7000


def test_run_at_start_adds_one_slot_at_the_creation_to_every_kind() -> None:
    assert compiled(every="30s", run_at_start=True).next_after_ms(0) == CREATED
    assert compiled(every="30s", run_at_start=True).next_after_ms(CREATED) == CREATED + 30_000
    later = compiled(every="30s", start_at="2030-01-01T00:00:00Z", run_at_start=True)
    assert later.next_after_ms(0) == CREATED
    assert later.next_after_ms(CREATED) == parse_instant("2030-01-01T00:00:00Z")
    daily = compiled(cron="0 0 * * *", run_at_start=True)
    assert daily.next_after_ms(CREATED - 1) == CREATED
    assert daily.next_after_ms(CREATED) == (CREATED // 86_400_000 + 1) * 86_400_000
    assert daily.last_at_or_before_ms(CREATED) == CREATED
    assert daily.last_at_or_before_ms(CREATED + 1) == CREATED
    assert daily.count(CREATED - 1, CREATED + 86_400_000, 100) == 2
    assert daily.expression == "0 0 * * *"


def test_a_start_slot_that_falls_on_a_slot_is_one_slot() -> None:
    midnight = CREATED // 86_400_000 * 86_400_000
    daily = compiled(cron="0 0 * * *", run_at_start=True, anchor_ms=midnight)
    assert daily.next_after_ms(midnight - 1) == midnight
    assert daily.next_after_ms(midnight) == midnight + 86_400_000
    assert daily.count(midnight - 1, midnight, 10) == 1


def test_a_slot_between_milliseconds_is_rounded_up_and_does_not_drift() -> None:
    schedule = compiled(every="10.0000003s")
    assert schedule.next_after_ms(CREATED) == CREATED + 10_001
    assert (
        schedule.last_at_or_before_ms(CREATED + 10_000 * 10**6) == CREATED + 9_999_990_300
    )  # k = 999,999: 0.3 us each time
    assert schedule.next_after_ms(CREATED + 10_000) == CREATED + 10_001


@checked
@given(
    ns=st.integers(10_000_000, 10**15),
    start=st.integers(0, 10**13),
    at=st.integers(-(10**14), 10**14),
    span=st.integers(0, 10**9),
)
def test_interval_searches_agree_with_each_other_and_with_counting(ns: int, start: int, at: int, span: int) -> None:
    schedule = compiled(every=f"{ns}ns", anchor_ms=start)
    following = schedule.next_after_ms(at)
    assert following is not None
    assert following > at
    assert schedule.last_at_or_before_ms(following) == following
    before = schedule.last_at_or_before_ms(at)
    assert before is None or before <= at
    assert before is None or schedule.next_after_ms(before) == following
    many = schedule.count(at, at + span, 50)
    slots, slot = 0, schedule.next_after_ms(at)
    while slot is not None and slot <= at + span and slots < 50:
        slots, slot = slots + 1, schedule.next_after_ms(slot)
    assert many == slots


def test_counting_a_century_of_an_interval_takes_no_walk() -> None:
    assert compiled(every="10ms").count(CREATED, CREATED + 10**13, 10**12) == 10**12
    assert compiled(every="10ms").count(CREATED, CREATED + 10**13, 10**15) == 10**12


def test_nothing_lies_before_1970_or_after_9999_and_no_number_breaks_a_search() -> None:
    for schedule in (
        compiled(every="200000h"),
        compiled(cron="0 0 1 1 *"),
        compiled(cron="0 0 1 1 *", tz="Pacific/Kiritimati"),
        compiled(cron="0 0 1 1 *", tz="Pacific/Pago_Pago"),
        compiled(at="9999-12-31T23:59:59.999Z"),
    ):
        for instant in (MAX_MS, MAX_MS + 1, 10**30):
            assert schedule.next_after_ms(instant) is None
            last = schedule.last_at_or_before_ms(instant)
            assert last is not None
            assert last <= MAX_MS
        for instant in (-1, -(10**30)):
            assert schedule.last_at_or_before_ms(instant) is None
            following = schedule.next_after_ms(instant)
            assert following is not None
            assert following >= 0
        assert schedule.count(-(10**30), 10**30, 3) <= 3


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("30", "invalid duration '30': time: missing unit in duration \"30\""),
        ("abc", "invalid duration 'abc': time: invalid duration \"abc\""),
        ("0s", "invalid duration '0s': the interval must be greater than 0"),
        ("-5m", "invalid duration '-5m': the interval must be greater than 0"),
        ("9ms", "invalid duration '9ms': the interval is below the minimum of 10ms"),
        ("1ns", "invalid duration '1ns': the interval is below the minimum of 10ms"),
        ("@every 1", "invalid duration '1': time: missing unit in duration \"1\""),
    ],
)
def test_an_interval_that_is_none_is_refused_with_its_value(text: str, error: str) -> None:
    for lenient in (False, True):
        with pytest.raises(InvalidIntervalError) as caught:
            compile_schedule(ScheduleSpec(every=text), anchor_ms=0, lenient=lenient)
        assert error in str(caught.value)


def test_the_minimum_interval_is_configurable_and_holds_for_cron_too() -> None:
    assert compiled(every="1ms", min_interval_ns=0).next_after_ms(CREATED) == CREATED + 1
    with pytest.raises(InvalidIntervalError, match="below the minimum of 1m"):
        compiled(every="59s", min_interval_ns=60 * 10**9)
    with pytest.raises(InvalidScheduleError, match="1s apart, below the minimum of 1m"):
        compiled(cron="* * * * * *", min_interval_ns=60 * 10**9)
    compiled(cron="* * * * *", min_interval_ns=60 * 10**9)


def test_the_minimum_interval_holds_for_recurrence_rules_and_for_each_member_of_a_union() -> None:
    minute = 60 * 10**9
    with pytest.raises(InvalidScheduleError, match=r"invalid rrule .* 20s apart, below the minimum of 1m"):
        compiled(rrule="FREQ=HOURLY;BYSECOND=0,20", min_interval_ns=minute)
    with pytest.raises(InvalidScheduleError, match="15m apart, below the minimum of 1h"):
        compiled(
            rrule="FREQ=DAILY;BYHOUR=9;BYMINUTE=0,15", start_at="2040-01-01T00:00:00Z", min_interval_ns=60 * minute
        )
    compiled(rrule="FREQ=HOURLY;BYMINUTE=0,1;BYSECOND=0", min_interval_ns=minute)
    compiled(rrule="FREQ=MINUTELY;COUNT=1", min_interval_ns=60 * minute)
    hourly, seconds = ScheduleSpec(cron="0 * * * *"), ScheduleSpec(cron="0,1 * * * * *")
    with pytest.raises(InvalidScheduleError, match=r"any\[1\]: .* 1s apart, below the minimum of 1m"):
        compiled(any=(hourly, seconds), min_interval_ns=minute)
    # Slots of different members may lie closer together: there are few members.
    compiled(any=(hourly, ScheduleSpec(cron="10 0 * * * *")), min_interval_ns=minute)


def test_once_is_due_at_its_instant_and_never_again() -> None:
    at = parse_instant("2030-01-01T00:00:00Z")
    schedule = compiled(at="2030-01-01T01:00:00+01:00")
    assert schedule.next_after_ms(at - 1) == at
    assert schedule.next_after_ms(at) is None
    assert schedule.last_at_or_before_ms(at) == at
    assert schedule.last_at_or_before_ms(at - 1) is None
    assert schedule.count(at - 1, at, 5) == 1
    assert schedule.run_at == dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2030-01-31T09:00:00Z", "2030-01-31T09:00:00Z"),
        ("2030-01-31t09:00:00z", "2030-01-31T09:00:00Z"),
        ("2030-01-31 09:00:00+05:45", "2030-01-31T03:15:00Z"),
        ("2030-01-31T09:00:00-23:59", "2030-02-01T08:59:00Z"),
        ("2030-01-31T09:00:00.5Z", "2030-01-31T09:00:00.500Z"),
        ("2030-01-31T09:00:00.0000000001Z", "2030-01-31T09:00:00.001Z"),
        ("2030-01-31T09:00:00.9990001Z", "2030-01-31T09:00:01Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("1969-12-31T23:00:00-01:00", "1970-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_instants_are_read_with_any_offset_and_rounded_up_to_the_millisecond(text: str, utc: str) -> None:
    assert format_instant(parse_instant(text)) == utc
    assert parse_instant(utc) == parse_instant(text)


@pytest.mark.parametrize(
    "text",
    [
        "2030-01-31T09:00:00",
        "2030-01-31",
        "2030-02-30T09:00:00Z",
        "2030-01-31T25:00:00Z",
        "2030-01-31T09:00:00+24:00",
        "2030-01-31T09:00Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59.9999Z",
        "9999-12-31T23:59:59-01:00",
        "0000-01-01T00:00:00Z",
        "tomorrow",
        "in",
        "in 5",
        "in 300000000h",
        "\u0662030-01-31T09:00:00Z",
        "x" * 10_000,
    ],
)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(InvalidScheduleTimeError, match="invalid instant '"):
        compiled(at=text)


def test_in_five_minutes_is_resolved_when_saved() -> None:
    saved = resolve_spec(ScheduleSpec(at="in 5m", tz="Europe/Berlin"), CREATED)
    assert saved == ScheduleSpec(at=format_instant(CREATED + 300_000), tz="Europe/Berlin")
    assert resolve_spec(saved, CREATED + 10**9) is saved
    started = resolve_spec(ScheduleSpec(every="1h", start_at="2030-01-01T01:00:00+01:00"), CREATED)
    assert started == ScheduleSpec(every="1h", start_at="2030-01-01T00:00:00Z")


def test_naive_datetimes_are_refused_and_aware_ones_of_any_zone_are_taken() -> None:
    schedule = compiled(cron="0 9 * * *")
    naive = dt.datetime(2030, 1, 1)  # noqa: DTZ001 - what is tested
    with pytest.raises(InvalidScheduleTimeError, match="has no time zone"):
        schedule.next_after(naive)
    with pytest.raises(InvalidScheduleTimeError, match="has no time zone"):
        schedule.last_at_or_before(naive)
    east = dt.timezone(dt.timedelta(hours=5))
    assert schedule.next_after(dt.datetime(2030, 1, 1, 14, tzinfo=east) - dt.timedelta(seconds=1)) == dt.datetime(
        2030, 1, 1, 9, tzinfo=dt.UTC
    )
    just_after = dt.datetime(2030, 1, 1, 9, 0, 0, 1, tzinfo=dt.UTC)
    assert schedule.next_after(just_after) == dt.datetime(2030, 1, 2, 9, tzinfo=dt.UTC)
    assert schedule.last_at_or_before(just_after) == dt.datetime(2030, 1, 1, 9, tzinfo=dt.UTC)
    assert compiled(at="1980-01-01T00:00:00Z").next_after(just_after) is None
    assert compiled(at="2040-01-01T00:00:00Z").last_at_or_before(just_after) is None
