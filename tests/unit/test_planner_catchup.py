"""The planner catching up: what runs late, and what becomes a range."""

from tests.unit.planning import BIRTH, FIVES, MINUTES, SECONDS, TWOS, Jobs, started

from natscron.engine.planner import Missed, Planner
from natscron.model import CatchUp, CatchUpPolicy, Reason, ScheduleSpec, Trigger


def caught_up(catchup: CatchUp, now_ms: int, **kwargs: int) -> tuple[list[int], list[tuple[int, int, int, str]]]:
    """All windows of one takeover: the slots that run, and the ranges that do not."""
    return every_window(started([Jobs(0).create(SECONDS, catchup=catchup)], 0, 1), now_ms, **kwargs)


def every_window(planner: Planner, now_ms: int, **kwargs: int) -> tuple[list[int], list[tuple[int, int, int, str]]]:
    run: list[int] = []
    missed: list[tuple[int, int, int, str]] = []
    while True:
        window = planner.take(now_ms, planner.decided.jobs_seq, **kwargs)
        run += [due.slot_ms for due in window.due]
        missed += [_range(one) for one in window.missed]
        if not window.more:
            return run, missed


def _range(missed: Missed) -> tuple[int, int, int, str]:
    skipped = missed.skipped
    return skipped.from_ms, skipped.to_ms, skipped.count, skipped.reason.value


def test_within_the_grace_all_slots_run() -> None:
    assert caught_up(CatchUp(grace_ms=5_000), 4_999) == ([1_000, 2_000, 3_000, 4_000], [])


def test_the_longer_of_the_jobs_and_the_least_grace_counts() -> None:
    none = CatchUp(policy=CatchUpPolicy.NONE, grace_ms=2_000)
    assert caught_up(none, 10_500)[0] == [9_000, 10_000]
    assert caught_up(none, 10_500, grace_floor_ms=4_000)[0] == [7_000, 8_000, 9_000, 10_000]


def test_past_the_grace_the_policy_decides_and_the_rest_is_one_range() -> None:
    older = CatchUp(policy=CatchUpPolicy.LATEST, grace_ms=3_000)
    assert caught_up(older, 10_500) == ([8_000, 9_000, 10_000], [(1_000, 7_000, 7, Reason.CATCHUP_LATEST)])
    some = CatchUp(policy=CatchUpPolicy.ALL, grace_ms=3_000, limit=2)
    assert caught_up(some, 10_500) == ([6_000, 7_000, 8_000, 9_000, 10_000], [(1_000, 5_000, 5, Reason.CATCHUP_LIMIT)])


def test_a_second_crash_counts_ages_from_the_first_takeover() -> None:
    every = CatchUp(policy=CatchUpPolicy.ALL, grace_ms=3_000, limit=2)
    # The first takeover was at 10,500; this one is at 12,500, from the same mark.
    slots_run, ranges = caught_up(every, 12_500, reference_ms=10_500)
    assert slots_run == [6_000, 7_000, 8_000, 9_000, 10_000, 11_000, 12_000]
    assert ranges == [(1_000, 5_000, 5, Reason.CATCHUP_LIMIT)]


def test_a_takeover_instant_in_the_future_of_the_clock_is_taken_for_now() -> None:
    every = CatchUp(policy=CatchUpPolicy.NONE, grace_ms=3_000)
    assert caught_up(every, 10_500, reference_ms=60_000)[0] == [8_000, 9_000, 10_000]


def test_a_catch_up_run_says_that_it_is_one() -> None:
    planner = started([Jobs(0).create(MINUTES, "m", CatchUp(grace_ms=1_000))], 0, 1)
    assert [(d.slot_ms, d.trigger) for d in planner.take(70_000, 1).due] == [(60_000, Trigger.CATCHUP)]
    assert [(d.slot_ms, d.trigger) for d in planner.take(120_500, 1).due] == [(120_000, Trigger.SCHEDULE)]


def test_one_job_that_is_late_holds_up_no_other_and_the_order_is_that_of_time() -> None:
    jobs = Jobs(0)
    late = jobs.create(MINUTES, "m", CatchUp(grace_ms=1_000))
    planner = started([late, jobs.create(ScheduleSpec(every="50s"), "s", CatchUp(grace_ms=60_000))], 0, 2)
    assert every_window(planner, 101_000) == ([50_000, 60_000, 100_000], [])


def test_catching_up_spans_the_versions_of_a_schedule() -> None:
    jobs = Jobs()
    jobs.create(SECONDS, catchup=CatchUp(policy=CatchUpPolicy.ALL, grace_ms=1_000, limit=4))
    planner = started([jobs.edit(20_500, schedule=FIVES)], BIRTH, 1)
    assert every_window(planner, 32_000) == ([19_000, 20_000, 25_000, 30_000], [(11_000, 18_000, 8, "catchup_limit")])
    assert planner.next_due() == 35_000


def test_what_ran_by_the_schedule_before_is_neither_caught_up_with_nor_called_missed() -> None:
    jobs = Jobs()
    jobs.create(FIVES, catchup=CatchUp(policy=CatchUpPolicy.ALL, grace_ms=1_000))
    edited = jobs.edit(14_500, schedule=TWOS)
    run, missed = every_window(started([edited], 21_000, 1), 27_000)
    assert (run, missed) == ([16_000, 18_000, 22_000, 24_000, 26_000], [])


def test_a_day_off_is_caught_up_with_at_once_and_costs_no_walk() -> None:
    jobs = Jobs(0)
    month = 30 * 86_400_000
    planner = started([jobs.create(ScheduleSpec(every="10ms"))], 0, 1)
    run, missed = every_window(planner, month)
    # Within the grace, 10 s by default, all run.
    assert len(run) == 1_000
    assert [count for _, _, count, _ in missed] == [(month - 86_400_000) // 10, (86_400_000 - 10_000) // 10]
