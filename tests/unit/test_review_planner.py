"""What the planner must bear: older versions that do not compile, much to catch up with, once slots that passed."""

import msgspec
import pytest
from tests.unit.planning import BIRTH, FIVES, SECONDS, Jobs, at, mark, slots, started, take

from natscron.engine.planner import Planner, cursors_of
from natscron.engine.table import compile_entry
from natscron.model import CatchUp, CatchUpPolicy, Reason, ScheduleSpec, Stamp, Version

ALL = CatchUp(policy=CatchUpPolicy.ALL, window_ms=86_400_000, limit=1_000)


def passed(planner: Planner, now_ms: int, seq: int) -> list[tuple[str, int, str]]:
    """The once slots that are said to have passed."""
    return [(m.entry.job.id, m.skipped.to_ms, m.skipped.reason) for m in take(planner, now_ms, seq).missed]


def test_an_older_version_that_does_not_compile_here_leaves_the_present_one_running() -> None:
    entry = Jobs().create(SECONDS)
    unknown = Version(schedule=ScheduleSpec(cron="0 9 * * *", tz="Mars/Base"), since=Stamp(BIRTH - 5_000, 0))
    entry = compile_entry(msgspec.structs.replace(entry.job, previous=(unknown,)), 1)
    assert [cursor.until for cursor in cursors_of(entry, mark(BIRTH))] == [None]
    assert slots(started([entry]), BIRTH + 2_500, 1) == [BIRTH + 1_000, BIRTH + 2_000]


def test_catching_up_with_all_slots_of_many_jobs_is_done_in_parts() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS, f"j{n}", ALL) for n in range(20)])
    now = BIRTH + 1_000_000
    counts = []
    more = True
    while more:
        before = planner.decided.instant_ms
        window = planner.take(now, 20, grace_floor_ms=1_000, limit=2_048)
        counts.append(len(window.due))
        more = window.more
        assert planner.decided.instant_ms > before or more
    assert max(counts) <= 2_048 + 1_000
    assert sum(counts) == 20 * 1_000


def test_a_once_slot_before_the_edit_that_brought_it_is_said_to_have_passed_once() -> None:
    jobs = Jobs()
    planner = started([jobs.create(at(40_000))])
    assert passed(planner, 20_000, 1) == []
    planner.put(jobs.edit(20_500, planner.decided, schedule=at(5_000)))
    assert passed(planner, 21_000, 2) == [("a", 5_000, Reason.ONCE_PASSED)]
    assert passed(planner, 22_000, 2) == []


def test_a_once_slot_that_fell_into_a_pause_is_said_to_have_passed() -> None:
    jobs = Jobs()
    planner = started([jobs.create(at(15_000))])
    planner.put(jobs.edit(12_000, planner.decided, paused=True))
    assert passed(planner, 12_001, 2) == []
    planner.put(jobs.edit(13_000, planner.decided, note="x"))
    assert passed(planner, 13_001, 3) == []
    planner.put(jobs.edit(20_000, planner.decided, paused=False))
    assert passed(planner, 20_001, 4) == [("a", 15_000, Reason.ONCE_PASSED)]


def test_a_once_slot_that_fell_into_a_pause_in_which_it_was_edited_is_said_to_have_passed() -> None:
    jobs = Jobs()
    planner = started([jobs.create(at(40_000))])
    jobs.edit(12_000, None, paused=True)
    jobs.edit(18_000, None, schedule=at(15_000))
    planner.put(jobs.edit(20_000, None, paused=False))
    assert passed(planner, 20_001, 4) == [("a", 15_000, Reason.ONCE_PASSED)]


@pytest.mark.parametrize("changes", [{"paused": True}, {"schedule": FIVES}])
def test_a_once_slot_that_ran_is_not_said_to_have_passed(changes: dict[str, object]) -> None:
    jobs = Jobs()
    planner = started([jobs.create(at(15_000))])
    assert slots(planner, 16_000, 1) == [15_000]
    planner.put(jobs.edit(17_000, planner.decided, **changes))
    assert passed(planner, 17_500, 2) == []
    planner.put(jobs.edit(18_000, planner.decided, paused=False, schedule=at(15_000)))
    expected = [] if "paused" in changes else [("a", 15_000, Reason.ONCE_PASSED)]
    assert passed(planner, 19_000, 3) == expected


def test_a_once_slot_written_otherwise_that_ran_is_not_said_to_have_passed() -> None:
    jobs = Jobs()
    planner = started([jobs.create(at(15_000))])
    assert slots(planner, 16_000, 1) == [15_000]
    planner.put(jobs.edit(17_000, planner.decided, schedule=ScheduleSpec(at="1970-01-01T00:00:15Z")))
    assert passed(planner, 17_500, 2) == []
