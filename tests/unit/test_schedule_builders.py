"""Whole schedules as they are written in Python."""

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from natscron.errors import InvalidIntervalError, InvalidScheduleError
from natscron.model import ScheduleSpec
from natscron.schedule import CronSpec, cron, daily_at, every, next_slots, once, union

if TYPE_CHECKING:
    from collections.abc import Callable

NEW_YEAR = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def test_every_builder_takes_the_limits() -> None:
    limits = {"max_runs": 3, "jitter": dt.timedelta(minutes=5)}
    for spec in (
        cron("0 9 * * *", max_runs=3, jitter=300),
        every("1h", max_runs=3, jitter=300.0),
        daily_at(9, max_runs=3, jitter="5m0s"),
        CronSpec("0", "9", max_runs=3, jitter="5m0s"),
        union(once(NEW_YEAR), max_runs=3, jitter=dt.timedelta(minutes=5)),
    ):
        assert spec.max_runs == limits["max_runs"]
        assert spec.jitter == "5m0s"


def test_bounds_are_instants_and_exceptions_schedules_or_names_of_calendars() -> None:
    spec = cron(
        "0 * * * *",
        not_before=NEW_YEAR,
        not_after=NEW_YEAR + dt.timedelta(hours=3),
        except_=[cron("0 1 * * *"), "holidays"],
    )
    assert spec == ScheduleSpec(
        cron="0 * * * *",
        not_before="2030-01-01T00:00:00Z",
        not_after="2030-01-01T03:00:00Z",
        except_=(ScheduleSpec(cron="0 1 * * *"), ScheduleSpec(calendar="holidays")),
    )
    alone = cron("0 * * * *", not_before=NEW_YEAR, except_=cron("0 1 * * *"))
    assert [slot.hour for slot in next_slots(alone, NEW_YEAR - dt.timedelta(1), 3)] == [0, 2, 3]
    assert cron("0 * * * *", except_="holidays").except_ == (ScheduleSpec(calendar="holidays"),)


def test_a_union_has_the_zone_of_the_whole_and_takes_unions_apart() -> None:
    weekdays, weekend = cron("0 9 * * MON-FRI"), cron("0 11 * * SAT,SUN")
    spec = union(union(weekdays, weekend), every("5m"), tz="Europe/Berlin")
    assert spec == ScheduleSpec(any=(weekdays, weekend, every("5m")), tz="Europe/Berlin")
    assert next_slots(union(weekdays, weekend, tz="Asia/Tokyo"), NEW_YEAR, 1) == [NEW_YEAR.replace(day=2)]


def test_mistakes_show_where_they_are_written() -> None:
    builds: list[Callable[[], ScheduleSpec]] = [
        union,
        lambda: union(every("5m", jitter="1m")),
        lambda: union(union(every("5m")), *[every("1m")] * 16),
        lambda: cron("0 9 * * *", max_runs=0),
        lambda: cron("0 9 * * *", not_before=NEW_YEAR, not_after=NEW_YEAR - dt.timedelta(1)),
        lambda: cron("0 9 * * *", not_before=NEW_YEAR.replace(tzinfo=None)),
        lambda: cron("0 9 * * *", except_=cron("* * * * *")),
    ]
    for build in builds:
        with pytest.raises(InvalidScheduleError):
            build()
    with pytest.raises(InvalidIntervalError, match="longer than 292 years"):
        every("1m", jitter=float("inf"))
    with pytest.raises(TypeError, match="unknown argument 'max_run'"):
        every("1m", max_run=3)  # type: ignore[call-arg]


def test_what_is_of_another_type_is_refused_like_any_other_value() -> None:
    with pytest.raises(InvalidScheduleError, match=r"a cron expression is text, such as '0 3 \* \* \*'; got 5"):
        cron(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidScheduleError, match=r"aware datetime, such as .*; got 'tomorrow'"):
        once("tomorrow")  # type: ignore[arg-type]
