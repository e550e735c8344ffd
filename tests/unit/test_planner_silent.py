"""Slots that do not run, as ranges; who goes first; and what a change between two parts of a window may not undo."""

from collections import Counter

import msgspec
import pytest
from tests.unit.planning import BIRTH, FIVES, SECONDS, Jobs, mark, started, take

from natscron.engine.cursors import cursors_of
from natscron.engine.missed import without_sent
from natscron.engine.planner import Missed, Planner, Window
from natscron.model import CatchUp, CatchUpPolicy, Reason, ScheduleSpec, Skip
from natscron.policy.catchup import Skipped
from natscron.schedule.cron import CronSchedule

JITTERED = ScheduleSpec(cron="*/10 * * * * *", jitter="9s")
ALL = CatchUp(policy=CatchUpPolicy.ALL, grace_ms=1_000)


def told(window: Window) -> list[tuple[int, int, int, str]]:
    return [(m.skipped.from_ms, m.skipped.to_ms, m.skipped.count, m.skipped.reason.value) for m in window.missed]


def ran(window: Window) -> list[int]:
    return [due.slot_ms for due in window.due]


def all_of(planner: Planner, now_ms: int, seq: int) -> list[Window]:
    windows = [planner.take(now_ms, seq)]
    while windows[-1].more:
        windows.append(planner.take(now_ms, seq))
    return windows


# Skips.


def test_skipped_slots_are_told_of_when_they_are_due_neighbours_as_one_range() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    planner.put(jobs.edit(10_500, skip=Skip(10_500, 13_000)))
    assert planner.next_due() == 14_000
    window = take(planner, 12_500, 2)
    assert (ran(window), told(window)) == ([], [(11_000, 12_000, 2, "skip_next")])
    window = take(planner, 15_000, 2)
    assert (ran(window), told(window)) == ([14_000, 15_000], [(13_000, 13_000, 1, "skip_next")])
    assert told(take(planner, 20_000, 2)) == []


def test_skipped_slots_are_left_out_ahead_and_told_of_at_their_instant() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    planner.put(jobs.edit(10_500, skip=Skip(10_500, 12_000)))
    assert [due.slot_ms for due in planner.take_ahead(13_500, 10)] == [13_000]
    assert told(take(planner, 13_500, 2)) == [(11_000, 12_000, 2, "skip_next")]


def test_skipped_slots_are_not_caught_up_with() -> None:
    jobs = Jobs()
    jobs.create(SECONDS, catchup=ALL)
    entry = jobs.edit(10_500, skip=Skip(12_000, 14_000))
    windows = all_of(started([entry], BIRTH, 2), 20_500, 2)
    assert [slot for window in windows for slot in ran(window)] == [11_000, 12_000, *range(15_000, 20_001, 1_000)]
    assert [one for window in windows for one in told(window)] == [(13_000, 14_000, 2, "skip_next")]


def test_a_skip_that_is_taken_back_leaves_the_slots_that_were_due_skipped() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    planner.put(jobs.edit(10_500, skip=Skip(10_500, 13_000)))
    assert ran(take(planner, 11_000, 2)) == []
    planner.put(jobs.edit(11_500, skip=None))
    assert ran(take(planner, 13_000, 3)) == [12_000, 13_000]


def test_a_skip_counts_slots_also_where_jitter_delays_them() -> None:
    jobs = Jobs()
    planner = started([jobs.create(JITTERED)])
    planner.put(jobs.edit(11_000, skip=Skip(11_000, 30_000)))
    window = take(planner, 50_000, 2)
    assert told(window) == [(20_000, 30_000, 2, "skip_next")]
    assert ran(window) == [40_000]


def test_what_a_leader_sent_before_it_heard_of_the_skip_is_not_called_skipped() -> None:
    jobs = Jobs()
    jobs.create(SECONDS)
    entry = jobs.edit(10_500, skip=Skip(10_500, 13_000))
    missed = Missed(entry, Skipped(11_000, 13_000, 3, Reason.SKIP_NEXT))
    sent, left = without_sent(missed, mark(BIRTH, 2), {12_000}.__contains__, until_ms=20_000)
    assert [due.slot_ms for due in sent] == [12_000]
    assert [(one.from_ms, one.to_ms, one.count) for one in left] == [(11_000, 11_000, 1), (13_000, 13_000, 1)]


# Pauses.


@pytest.mark.parametrize("seen", [True, False])
def test_the_slots_of_a_pause_are_told_of_once_when_it_is_over(seen: bool) -> None:  # noqa: FBT001 - a parameter
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    paused = jobs.edit(12_500, paused=True)
    take(planner, 12_400, 1)
    if seen:
        planner.put(paused)
        assert told(take(planner, 14_000, 2)) == []
    planner.put(jobs.edit(15_500, planner.decided, paused=False))
    window = take(planner, 17_000, 3)
    assert (ran(window), told(window)) == ([16_000, 17_000], [(13_000, 15_000, 3, "paused")])
    planner.put(jobs.edit(17_500, planner.decided, note="x"))
    assert told(take(planner, 18_000, 4)) == []


def test_a_pause_that_ends_by_itself_goes_on_and_is_told_of() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    planner.put(jobs.edit(12_500, paused=True, paused_until_ms=15_500))
    assert ran(take(planner, 12_600, 2)) == [11_000, 12_000]
    assert planner.next_due() == 16_000
    assert told(take(planner, 15_400, 2)) == []
    window = take(planner, 17_000, 2)
    assert (ran(window), told(window)) == ([16_000, 17_000], [(13_000, 15_000, 3, "paused")])
    # A successor that begins behind the end neither runs nor tells of any of it again.
    successor = started([jobs.entry()], 17_000, 2)
    assert (ran(take(successor, 17_500, 2)), told(take(successor, 17_600, 2))) == ([], [])


def test_a_long_pause_is_counted_without_a_walk() -> None:
    jobs = Jobs(0)
    planner = started([jobs.create(ScheduleSpec(every="10ms"))], 0)
    planner.put(jobs.edit(1_000, paused=True))
    take(planner, 1_000, 2)
    planner.put(jobs.edit(86_401_000, paused=False))
    assert [count for _, _, count, _ in told(take(planner, 86_401_000, 3))] == [8_640_000]


def test_a_pause_takes_what_is_due_in_it_and_leaves_what_jitter_puts_behind_it() -> None:
    jobs = Jobs()
    entry = jobs.create(JITTERED)
    [cursor] = cursors_of(entry, mark(BIRTH))
    due = cursor.next_after(BIRTH)
    assert due is not None
    planner = started([entry])
    planner.put(jobs.edit(due - 100, paused=True))
    planner.put(jobs.edit(due - 50, paused=False))
    window = take(planner, 29_999, 3)
    assert ([(d.slot_ms, d.due_ms) for d in window.due], told(window)) == ([(20_000, due)], [])
    jobs = Jobs()
    planner = started([jobs.create(JITTERED)])
    planner.put(jobs.edit(due - 100, paused=True))
    planner.put(jobs.edit(due, paused=False))
    window = take(planner, 29_999, 3)
    assert (ran(window), told(window)) == ([], [(20_000, 20_000, 1, "paused")])


# Priority.


def _prioritised(catchup: CatchUp | None = None) -> tuple[Jobs, Planner]:
    jobs = Jobs()
    entries = []
    for job_id, priority in (("low", -5), ("first", 0), ("high", 100), ("second", 0)):
        entry = jobs.create(FIVES, job_id, catchup)
        job = msgspec.structs.replace(entry.job, priority=priority)
        jobs.rows[job_id] = job
        entries.append(jobs.entry(job_id))
    return jobs, started(entries, BIRTH, jobs.seq)


def test_of_runs_due_together_those_of_higher_priority_go_first() -> None:
    jobs, planner = _prioritised()
    order = [due.cursor.entry.job.id for due in take(planner, 20_000, jobs.seq).due]
    assert order == ["high", "first", "second", "low"] * 2


def test_what_is_caught_up_with_goes_in_the_same_order() -> None:
    jobs, planner = _prioritised(ALL)
    order = [(due.due_ms, due.cursor.entry.job.id) for due in planner.take(22_500, jobs.seq).due]
    assert [job_id for _, job_id in order] == ["high", "first", "second", "low"] * 2


# A window in parts.


def test_a_job_that_changes_between_two_parts_of_a_window_does_not_have_its_slots_again() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS), jobs.create(SECONDS, "b")], BIRTH, 2)
    first = take(planner, 11_500, 2, limit=1)
    assert first.more
    planner.put(jobs.edit(11_200, note="x"))
    assert [due.cursor.entry.job.id for due in take(planner, 11_500, 3).due] == ["b"]


def test_a_job_that_changes_while_others_are_caught_up_with_is_not_caught_up_with_again() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS, catchup=ALL), jobs.create(SECONDS, "b", ALL)], BIRTH, 2)
    window = planner.take(20_500, 2, limit=1)
    counts = Counter((due.cursor.entry.job.id, due.slot_ms) for due in window.due)
    assert window.more
    planner.put(jobs.edit(15_500, note="x"))
    for later in all_of(planner, 20_500, 3):
        counts += Counter((due.cursor.entry.job.id, due.slot_ms) for due in later.due)
    assert set(counts.values()) == {1}
    assert len(counts) == 20


# What it costs.


@pytest.mark.parametrize("policy", CatchUpPolicy)
def test_a_day_of_every_second_costs_a_job_a_handful_of_searches(
    policy: CatchUpPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()

    def counted(name: str) -> None:
        search = getattr(CronSchedule, name)

        def wrapper(self: CronSchedule, *args: int) -> object:
            asked[name] += 1
            found: object = search(self, *args)
            return found

        monkeypatch.setattr(CronSchedule, name, wrapper)

    jobs = Jobs(0)
    catchup = CatchUp(policy=policy, limit=100)
    planner = started([jobs.create(ScheduleSpec(cron="* * * * * *"), catchup=catchup)], 0, 1)
    for name in ("next_after_ms", "last_at_or_before_ms", "count"):
        counted(name)
    due = [one for window in all_of(planner, 86_400_000, 1) for one in window.due]
    old = {CatchUpPolicy.LATEST: 0, CatchUpPolicy.ALL: 100, CatchUpPolicy.NONE: 0}[policy]
    assert len(due) == old + 10
    assert asked["next_after_ms"] <= 10 + 5
    assert asked["last_at_or_before_ms"] <= old + 5
    assert asked["count"] <= 2


def test_a_take_stays_within_its_limit_however_much_is_to_be_caught_up_with() -> None:
    jobs = Jobs(0)
    catchup = CatchUp(policy=CatchUpPolicy.ALL, limit=100)
    planner = started([jobs.create(SECONDS, f"j{n}", catchup) for n in range(50)], 0, 50)
    window = planner.take(86_400_000, 50, limit=256)
    assert window.more
    assert len(window.due) <= 256 + 100


def test_the_grace_of_a_jittered_slot_counts_from_its_due_instant() -> None:
    jobs = Jobs()
    entry = jobs.create(JITTERED, catchup=CatchUp(policy=CatchUpPolicy.NONE, grace_ms=2_000))
    [cursor] = cursors_of(entry, mark(BIRTH))
    due = cursor.next_after(BIRTH)
    assert due is not None
    assert ran(started([entry], BIRTH, 1).take(due + 1_999, 1)) == [20_000]
    window = started([entry], BIRTH, 1).take(due + 2_000, 1)
    assert (ran(window), told(window)) == ([], [(20_000, 20_000, 1, "catchup_none")])
