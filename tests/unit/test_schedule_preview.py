"""What people are shown: next slots with their marks, sentences, and the builders."""

import datetime as dt

import pytest

from natscron.errors import InvalidScheduleError
from natscron.model import ScheduleSpec
from natscron.schedule import CronSpec, cron, daily_at, describe, every, next_slots, once, parse_instant, preview

NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)


def shown(spec: ScheduleSpec, after: str, n: int) -> list[tuple[str, str]]:
    return [(slot.local, slot.mark) for slot in preview(spec, parse_instant(after), n)]


def test_a_slot_moved_by_a_clock_change_is_marked() -> None:
    assert shown(cron("30 2 * * *", tz="Europe/Berlin"), "2026-03-28T00:00:00Z", 3) == [
        ("2026-03-28T02:30:00+01:00", ""),
        ("2026-03-29T03:00:00+02:00", "moved"),
        ("2026-03-30T02:30:00+02:00", ""),
    ]
    shifted = cron("30 2 * * *", tz="Europe/Berlin", dst_gap="shift")
    assert shown(shifted, "2026-03-29T00:00:00Z", 1) == [("2026-03-29T03:30:00+02:00", "moved")]


def test_a_slot_repeated_by_a_clock_change_is_marked_the_second_time() -> None:
    assert shown(cron("30 * * * *", tz="Europe/Berlin"), "2026-10-25T00:00:00Z", 3) == [
        ("2026-10-25T02:30:00+02:00", ""),
        ("2026-10-25T02:30:00+01:00", "repeated"),
        ("2026-10-25T03:30:00+01:00", ""),
    ]
    single = cron("30 2 * * *", tz="Europe/Berlin", dst_fold="last")
    assert shown(single, "2026-10-25T00:00:00Z", 1) == [("2026-10-25T02:30:00+01:00", "")]


def test_marks_are_right_where_rules_repeat_after_400_years() -> None:
    assert shown(cron("30 2 * * *", tz="Europe/Berlin"), "2826-03-28T12:00:00Z", 1) == [
        ("2826-03-29T03:00:00+02:00", "moved")
    ]


def test_a_preview_shows_utc_the_zone_and_the_milliseconds_that_there_are() -> None:
    slot = preview(ScheduleSpec(every="1500ms", tz="Asia/Kolkata"), parse_instant("2030-01-01T00:00:00Z"), 1)[0]
    assert slot.at_ms == parse_instant("2030-01-01T00:00:01.5Z")
    assert slot.utc == "2030-01-01T00:00:01.500Z"
    assert slot.local == "2030-01-01T05:30:01.500+05:30"


def test_a_start_slot_outside_the_expression_is_not_called_moved() -> None:
    spec = ScheduleSpec(cron="30 2 * * *", tz="Europe/Berlin", run_at_start=True)
    start = parse_instant("2026-03-28T12:00:00Z")
    assert [slot.mark for slot in preview(spec, start - 1, 2, anchor_ms=start)] == ["", "moved"]


def test_a_preview_ends_where_the_schedule_ends_and_is_bounded() -> None:
    assert len(preview(ScheduleSpec(at="2030-01-01T00:00:00Z"), 0, 5)) == 1
    assert preview(ScheduleSpec(every="1s"), 0, 0) == []
    assert len(preview(ScheduleSpec(every="1s"), 0, 10**9)) == 1000
    last = preview(ScheduleSpec(at="9999-12-31T23:59:59Z", tz="Asia/Tokyo"), 0, 1)
    assert last[0].utc == "9999-12-31T23:59:59Z"


def test_next_slots_takes_a_schedule_or_its_data() -> None:
    assert next_slots(every("30s"), NOON, 2) == [NOON + dt.timedelta(seconds=30), NOON + dt.timedelta(seconds=60)]
    assert next_slots(cron("0 9 * * *"), NOON, 1) == [dt.datetime(2030, 1, 2, 9, tzinfo=dt.UTC)]
    with pytest.raises(InvalidScheduleError, match="no time zone"):
        next_slots(every("30s"), NOON.replace(tzinfo=None), 1)


@pytest.mark.parametrize(
    ("expression", "tz", "sentence"),
    [
        ("0 9 * * MON", "Europe/Berlin", "at 09:00 on Monday, Europe/Berlin"),
        ("0 9 * * *", None, "at 09:00 every day, UTC"),
        ("@daily", "Asia/Tokyo", "at 00:00 every day, Asia/Tokyo"),
        ("30 0 9,10 * * *", None, "at 09:00:30 and 10:00:30 every day, UTC"),
        ("* * * * *", None, "every minute, UTC"),
        ("*/5 * * * *", None, "every 5 minutes, UTC"),
        ("*/10 * * * * *", None, "every 10 seconds, UTC"),
        ("* * * * * *", None, "every second, UTC"),
        ("* */15 * * * *", None, "every second, in every 15th minute, UTC"),
        ("* 3 4 * * *", None, "every second, in minute 3, in hour 4, UTC"),
        ("0 * * * *", None, "at minute 0 of every hour, UTC"),
        ("5 */2 * * *", None, "at minute 5, in every 2nd hour, UTC"),
        ("*/15 9-17 * * 1-5", None, "every 15 minutes, in the hours 9 to 17, on Monday to Friday, UTC"),
        ("0 9 1,15 * 5", None, "at 09:00 on days 1 and 15 of the month or on Friday, UTC"),
        ("0 9 L 1-6 *", None, "at 09:00 on the last day of the month in January to June, UTC"),
        ("0 9 L-3 * *", None, "at 09:00 on 3 days before the last day of the month, UTC"),
        ("0 9 15W * *", None, "at 09:00 on the weekday nearest to day 15, UTC"),
        ("0 9 LW * *", None, "at 09:00 on the last weekday (Monday to Friday) of the month, UTC"),
        (
            "0 9 * * 5L,MON#2",
            None,
            "at 09:00 on the second Monday of the month and the last Friday of the month, UTC",
        ),
        ("0 0 * 12 0,6", None, "at 00:00 on Saturday and Sunday in December, UTC"),
    ],
)
def test_a_cron_schedule_is_read_out_in_english(expression: str, tz: str | None, sentence: str) -> None:
    assert describe(ScheduleSpec(cron=expression, tz=tz)) == sentence


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (ScheduleSpec(every="90m"), "every 1h30m"),
        (
            ScheduleSpec(every="1h", start_at="2030-01-01T01:00:00+01:00", run_at_start=True),
            "every 1h, starting at 2030-01-01T00:00:00Z, and once when it is created",
        ),
        (ScheduleSpec(at="2030-01-01T01:00:00+01:00"), "once, at 2030-01-01T00:00:00Z"),
        (ScheduleSpec(at="in 5m"), "once, in 5m"),
        (
            ScheduleSpec(cron="0 2 * * *", tz="Europe/Berlin", dst_gap="skip", dst_fold="both"),
            (
                "at 02:00 every day, Europe/Berlin, slots skipped by a clock change are dropped, "
                "repeated ones run both times"
            ),
        ),
    ],
)
def test_other_schedules_are_read_out_too(spec: ScheduleSpec, sentence: str) -> None:
    assert describe(spec) == sentence


def test_builders_give_data() -> None:
    assert cron("0 9 * * *", tz="Europe/Berlin", dst_gap="skip") == ScheduleSpec(
        cron="0 9 * * *", tz="Europe/Berlin", dst_gap="skip"
    )
    assert every("5m") == ScheduleSpec(every="5m")
    assert every(30) == ScheduleSpec(every="30s")
    assert every(0.25, run_at_start=True) == ScheduleSpec(every="250ms", run_at_start=True)
    assert every(dt.timedelta(days=1), start_at=NOON) == ScheduleSpec(every="24h0m0s", start_at="2030-01-01T12:00:00Z")
    assert once(NOON + dt.timedelta(microseconds=1)) == ScheduleSpec(at="2030-01-01T12:00:00.001Z")
    assert daily_at(9, 30, tz="Europe/Berlin") == ScheduleSpec(cron="30 9 * * *", tz="Europe/Berlin")
    assert daily_at(9, second=5) == ScheduleSpec(cron="5 0 9 * * *")
    assert CronSpec(minute="0", hour="9") == ScheduleSpec(cron="0 9 * * *")
    assert CronSpec("0", "9", "1", "2", "3", "4") == ScheduleSpec(cron="4 0 9 1 2 3")


@pytest.mark.parametrize(
    "build",
    [
        lambda: cron("60 * * * *"),
        lambda: every(0),
        lambda: every(-1.5),
        lambda: every(float("nan")),
        lambda: every(float("inf")),
        lambda: every(10**30),
        lambda: every(dt.timedelta.max),
        lambda: every("5"),
        lambda: once(NOON.replace(tzinfo=None)),
        lambda: once(NOON.replace(year=1969)),
        lambda: daily_at(24),
        lambda: CronSpec(minute="0 0"),
    ],
)
def test_builders_refuse_at_once(build: object) -> None:
    assert callable(build)
    with pytest.raises(InvalidScheduleError):
        build()
