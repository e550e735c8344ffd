"""Schedules of the application's own: what they answer is checked, what they raise stays inside."""

import datetime as dt
from collections.abc import Iterator

import pytest

from natscron.errors import InvalidScheduleError, UnknownScheduleKindError
from natscron.model import ScheduleSpec
from natscron.schedule import (
    MAX_MS,
    Schedule,
    compile_schedule,
    describe,
    parse_instant,
    register_schedule,
    registered_spec,
    resolve_spec,
)
from natscron.schedule.kinds import forget_schedule

NOON = parse_instant("2030-01-01T12:00:00Z")
KIND = "myapp.answers"


class Hourly:
    """Every hour on the hour, and as many microseconds."""

    def __init__(self, micros: int) -> None:
        self.micros = micros

    def next_after(self, t: dt.datetime) -> dt.datetime | None:
        slot = t.replace(minute=0, second=0, microsecond=self.micros)
        return slot if slot > t else slot + dt.timedelta(hours=1)

    def last_at_or_before(self, t: dt.datetime) -> dt.datetime | None:
        slot = t.replace(minute=0, second=0, microsecond=self.micros)
        return slot if slot <= t else slot - dt.timedelta(hours=1)


class Answers:
    """Answers what it is told to."""

    given: object = None

    def next_after(self, _t: dt.datetime) -> dt.datetime | None:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given  # type: ignore[return-value]  # what a careless class does

    last_at_or_before = next_after


class Unprintable(Exception):  # noqa: N818 - the worst that a user's class can raise
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.fixture(autouse=True)
def kinds() -> Iterator[None]:
    register_schedule(
        "myapp.hourly", Hourly, encode=lambda hourly: str(hourly.micros), decode=lambda text: Hourly(int(text))
    )
    register_schedule(KIND, Answers, encode=lambda _: "", decode=lambda _: Answers())
    yield
    forget_schedule("myapp.hourly")
    forget_schedule(KIND)


def compiled(spec: ScheduleSpec) -> Schedule:
    return compile_schedule(spec, anchor_ms=NOON).schedule


def test_a_registered_class_is_a_schedule_like_any_other() -> None:
    spec = registered_spec(Hourly(0))
    assert spec == ScheduleSpec(kind="myapp.hourly", config="0")
    schedule = compiled(spec)
    assert schedule.next_after_ms(NOON) == NOON + 3_600_000
    assert schedule.last_at_or_before_ms(NOON) == NOON
    assert schedule.count(NOON, NOON + 36_000_000, 100) == 10
    assert schedule.failure is None
    assert describe(spec) == "as 'myapp.hourly' says of '0'"
    whole = compiled(
        ScheduleSpec(any=(spec, ScheduleSpec(every="30m")), except_=(ScheduleSpec(cron="0 13 * * *"),), jitter="1s")
    )
    assert whole.next_after_ms(NOON) == NOON + 1_800_000
    assert whole.next_after_ms(NOON + 1_800_000) == NOON + 5_400_000


def test_slots_finer_than_a_millisecond_are_rounded_up_and_stay_consistent() -> None:
    schedule = compiled(registered_spec(Hourly(1)))
    assert schedule.next_after_ms(NOON) == NOON + 1
    assert schedule.next_after_ms(NOON + 1) == NOON + 3_600_001
    assert schedule.last_at_or_before_ms(NOON + 1) == NOON + 1
    assert schedule.last_at_or_before_ms(NOON) == NOON - 3_599_999


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC), "that is not strictly later"),
        (dt.datetime(2031, 1, 1), "without a time zone"),  # noqa: DTZ001 - what is refused
        (dt.datetime(1, 1, 1, tzinfo=dt.UTC), "outside the years 1970 to 9999"),
        ("tomorrow", "gave a str"),
        (dt.date(2031, 1, 1), "gave a date"),
        (ZeroDivisionError("by zero"), "next_after raised ZeroDivisionError: by zero"),
        (Unprintable(), "next_after raised Unprintable"),
    ],
)
def test_a_wrong_answer_is_none_and_a_failure_that_names_it(answer: object, reason: str) -> None:
    user = Answers()
    register_schedule(KIND, Answers, encode=lambda _: "", decode=lambda _: user)
    user.given = answer
    spec = ScheduleSpec(kind=KIND)
    wrapped = ScheduleSpec(any=(spec, ScheduleSpec(every="1h")), not_after="2040-01-01T00:00:00Z", jitter="1s")
    for schedule in (compiled(spec), compiled(wrapped)):
        found = schedule.next_after_ms(NOON)
        assert found == (None if schedule.interval is None and schedule.dues is schedule else NOON + 3_600_000)
        assert schedule.failure is not None
        assert reason in schedule.failure
        assert schedule.failure.startswith(KIND)
        assert schedule.dues.failure == schedule.failure
    alone = compiled(spec)
    alone.next_after_ms(NOON)
    user.given = None
    assert alone.next_after_ms(NOON) is None
    assert alone.failure is None, "a search that works takes the failure back"


def test_a_last_slot_that_lies_ahead_is_wrong_as_well() -> None:
    user = Answers()
    register_schedule(KIND, Answers, encode=lambda _: "", decode=lambda _: user)
    user.given = dt.datetime(2031, 1, 1, tzinfo=dt.UTC)
    schedule = compiled(ScheduleSpec(kind=KIND))
    assert schedule.last_at_or_before_ms(NOON) is None
    assert "that is later than it was asked about" in str(schedule.failure)


def test_a_class_is_never_asked_outside_of_the_years_that_there_are() -> None:
    schedule = compiled(registered_spec(Hourly(0)))
    assert schedule.next_after_ms(-(10**18)) == 0
    assert schedule.next_after_ms(MAX_MS) is None
    assert schedule.last_at_or_before_ms(-1) is None
    assert schedule.last_at_or_before_ms(10**18) == MAX_MS - 3_599_999


def test_max_runs_cannot_be_counted_while_the_class_fails() -> None:
    user = Answers()
    register_schedule(KIND, Answers, encode=lambda _: "", decode=lambda _: user)
    user.given = OSError("away")
    with pytest.raises(InvalidScheduleError, match=r"max_runs 5 cannot be counted: myapp\.answers: .* OSError: away"):
        resolve_spec(ScheduleSpec(kind=KIND, max_runs=5), NOON)
    assert resolve_spec(ScheduleSpec(kind="myapp.hourly", config="0", max_runs=5), NOON).last_slot == (
        "2030-01-01T17:00:00Z"
    )


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UnknownScheduleKindError, match=r"unknown kind of schedule 'other\.lunar'.*myapp\.answers"):
        compiled(ScheduleSpec(kind="other.lunar", config="x"))
    with pytest.raises(UnknownScheduleKindError, match=r"any\[1\]: unknown kind"):
        compiled(ScheduleSpec(any=(ScheduleSpec(every="1m"), ScheduleSpec(kind="other.lunar"))))


@pytest.mark.parametrize("name", ["lunar", "", ".", "a.", "a..b", "a b.c", "a." + "b" * 64, "a.b\n"])
def test_a_kind_has_a_dot_so_that_it_never_meets_one_of_ours(name: str) -> None:
    with pytest.raises(InvalidScheduleError, match=r"such as myapp\.lunar"):
        register_schedule(name, Hourly, encode=str, decode=lambda _: Answers())


def test_a_kind_is_registered_once_and_again_only_for_the_same_class() -> None:
    register_schedule(KIND, Answers, encode=lambda _: "", decode=lambda _: Answers())
    with pytest.raises(InvalidScheduleError, match="is registered for Answers already"):
        register_schedule(KIND, Hourly, encode=str, decode=lambda _: Answers())


def test_a_config_that_cannot_be_read_or_written_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidScheduleError, match="its config cannot be read: ValueError: invalid literal"):
        compiled(ScheduleSpec(kind="myapp.hourly", config="x"))
    with pytest.raises(InvalidScheduleError, match="longer than 65536"):
        compiled(ScheduleSpec(kind="myapp.hourly", config="1" * 65_537))
    register_schedule(KIND, Answers, encode=lambda _: 7, decode=lambda _: object())  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidScheduleError, match="encode gave a int"):
        registered_spec(Answers())
    with pytest.raises(InvalidScheduleError, match=r"has no next_after\(t\)"):
        compiled(ScheduleSpec(kind=KIND))
    register_schedule(KIND, Answers, encode=lambda _: str(1 / 0), decode=lambda _: Answers())
    with pytest.raises(InvalidScheduleError, match="encode raised ZeroDivisionError"):
        registered_spec(Answers())
    with pytest.raises(InvalidScheduleError, match="not registered"):
        registered_spec(object())
