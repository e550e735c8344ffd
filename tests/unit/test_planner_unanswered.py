"""Schedules of the application's own that fail for a while: told of, asked again, and nobody else is held up."""

import datetime as dt
from collections.abc import Iterator

import pytest
from tests.unit.planning import FIVES, Jobs, mark, started, take
from tests.unit.test_planner_silent import all_of, ran, told

from natscron.engine.unanswered import ASKS
from natscron.model import CatchUp, CatchUpPolicy, ScheduleSpec
from natscron.schedule import register_schedule
from natscron.schedule.kinds import forget_schedule

KIND = ScheduleSpec(kind="myapp.moody")
SECOND = dt.timedelta(seconds=1)


class Moody:
    """Every second, in a good mood."""

    bad = False
    asked = 0

    def next_after(self, t: dt.datetime) -> dt.datetime | None:
        self._answer()
        return t.replace(microsecond=0) + SECOND

    def last_at_or_before(self, t: dt.datetime) -> dt.datetime | None:
        self._answer()
        return t.replace(microsecond=0)

    def _answer(self) -> None:
        Moody.asked += 1
        if Moody.bad:
            raise OSError("the database is away")


@pytest.fixture(autouse=True)
def kind() -> Iterator[None]:
    Moody.bad, Moody.asked = False, 0
    register_schedule("myapp.moody", Moody, encode=lambda _: "", decode=lambda _: Moody())
    yield
    forget_schedule("myapp.moody")


def test_a_class_that_fails_once_costs_nothing() -> None:
    planner = started([Jobs().create(KIND)])
    Moody.bad = True
    assert ran(take(planner, 11_000, 1)) == [11_000]
    Moody.bad = False
    window = take(planner, 11_500, 1)
    assert (ran(window), told(window)) == ([], [])
    assert ran(take(planner, 13_000, 1)) == [12_000, 13_000]


def test_a_class_that_goes_on_failing_is_told_of_once_and_what_it_left_out_as_a_range_when_it_works_again() -> None:
    planner = started([Jobs().create(KIND)])
    Moody.bad = True
    assert ran(take(planner, 11_000, 1)) == [11_000]
    assert told(take(planner, 11_250, 1)) == [(11_250, 11_250, 0, "invalid_job")]
    assert told(take(planner, 12_500, 1)) == []
    assert told(take(planner, 14_600, 1)) == []
    Moody.bad = False
    window = take(planner, 30_500, 1)
    assert told(window) == [(12_000, 14_000, 3, "invalid_job")]
    # What the mark has not passed is late, as after any outage, and decided as that.
    assert ran(window) == [n * 1_000 for n in range(15, 31)]
    assert ran(take(planner, 31_000, 1)) == [31_000]


def test_what_is_late_when_it_works_again_is_caught_up_with_by_the_jobs_policy() -> None:
    none = CatchUp(policy=CatchUpPolicy.NONE, grace_ms=2_000)
    planner = started([Jobs().create(KIND, catchup=none)])
    Moody.bad = True
    planner.take(11_000, 1)
    planner.take(11_250, 1)
    Moody.bad = False
    windows = all_of(planner, 60_000, 1)
    assert [slot for window in windows for slot in ran(window)] == [59_000, 60_000]
    assert told(windows[0]) == [(12_000, 58_000, 47, "catchup_none")]


def test_a_class_that_fails_from_the_start_is_told_of() -> None:
    Moody.bad = True
    planner = started([Jobs().create(KIND)])
    assert told(take(planner, 10_500, 1)) == [(10_500, 10_500, 0, "invalid_job")]
    Moody.bad = False
    assert ran(take(planner, 12_000, 1)) == [11_000, 12_000]


@pytest.mark.parametrize(
    "schedule",
    [
        ScheduleSpec(any=(FIVES, KIND)),
        ScheduleSpec(cron="* * * * * *", except_=(KIND, ScheduleSpec(cron="0 0 1 1 *")), run_at_start=True),
        ScheduleSpec(kind="myapp.moody", jitter="500ms"),
        ScheduleSpec(kind="myapp.moody", not_after="2030-01-01T00:00:00Z"),
    ],
)
def test_a_part_that_fails_holds_up_the_whole_schedule_which_is_told_of(schedule: ScheduleSpec) -> None:
    Moody.bad = True
    planner = started([Jobs().create(schedule)])
    for now in range(10_500, 20_500, 1_000):
        window = take(planner, now, 1)
        assert ran(window) == []
        assert told(window) == ([(10_500, 10_500, 0, "invalid_job")] if now == 10_500 else [])


def test_it_is_asked_less_and_less_often_and_never_rarer_than_each_minute() -> None:
    planner = started([Jobs().create(KIND)])
    Moody.bad = True
    take(planner, 11_000, 1)
    Moody.asked = 0
    for n in range(600):
        take(planner, 11_000 + n * 1_000, 1)
    assert 10 <= Moody.asked <= 20


def test_many_that_fail_are_asked_in_turns_and_hold_up_nobody() -> None:
    jobs = Jobs()
    planner = started([*(jobs.create(KIND, f"j.{n}") for n in range(3 * ASKS)), jobs.create(FIVES, "sound")])
    Moody.bad = True
    take(planner, 11_000, 500)
    Moody.asked = 0
    assert len(take(planner, 11_100, 500).missed) == ASKS
    assert Moody.asked == ASKS
    assert [due.cursor.entry.job.id for due in take(planner, 15_000, 500).due] == ["sound"]
    assert len(take(planner, 15_100, 500).missed) == ASKS


def test_an_edit_ends_the_questions_about_what_was_before() -> None:
    jobs = Jobs()
    planner = started([jobs.create(KIND)])
    Moody.bad = True
    take(planner, 11_000, 1)
    planner.put(jobs.edit(11_500, mark(11_000, 1), schedule=FIVES))
    window = take(planner, 20_000, 2)
    assert (ran(window), told(window)) == ([15_000, 20_000], [(20_000, 20_000, 0, "invalid_job")])
    Moody.asked = 0
    for now in range(21_000, 200_000, 1_000):
        take(planner, now, 2)
    assert Moody.asked <= 10


def test_a_removed_job_is_asked_no_more() -> None:
    planner = started([Jobs().create(KIND)])
    Moody.bad = True
    take(planner, 11_000, 1)
    planner.remove("a")
    Moody.asked = 0
    assert told(take(planner, 12_000, 2)) == []
    assert Moody.asked == 0


def test_a_follower_whose_class_failed_runs_nothing_that_the_leader_decided() -> None:
    planner = started([Jobs().create(KIND)])
    Moody.bad = True
    planner.follow(mark(13_500, 1))
    planner.follow(mark(16_500, 1))
    Moody.bad = False
    window = take(planner, 18_000, 1)
    assert (ran(window), told(window)) == ([17_000, 18_000], [])


def test_a_late_job_whose_present_schedule_fails_keeps_being_asked() -> None:
    jobs = Jobs()
    before = jobs.create(FIVES, catchup=CatchUp(grace_ms=1_000))
    planner = started([before])
    Moody.bad = True
    planner.put(jobs.edit(16_000, mark(10_000, 1), schedule=KIND))
    windows = all_of(planner, 40_000, 2)
    assert [slot for window in windows for slot in ran(window)] == [15_000]
    assert told(windows[0]) == [(40_000, 40_000, 0, "invalid_job")]
    Moody.bad = False
    assert ran(all_of(planner, 60_000, 2)[-1])[-1] == 60_000
