"""Runs that were encoded ahead of their instant, in chunks of one write each."""

from natscron.engine.journal import CHUNK_BYTES, CHUNK_RUNS, Ready
from natscron.engine.planner import Cursor
from natscron.engine.stage import Stage
from natscron.engine.table import Entry
from natscron.model import Delivery, Job, Trigger
from natscron.schedule.once import OnceSchedule
from natscron.storage.protocol import Staged


def cursor(priority: int = 0) -> Cursor:
    return Cursor(Entry(Job(id="a", priority=priority), None, ()), OnceSchedule(0), 0, None)


def run(due_ms: int, size: int = 10, of: Cursor | None = None) -> Ready:
    staged = Staged(None, size)
    return Ready(
        due_ms, due_ms, of or cursor(), Trigger.SCHEDULE, "id", Delivery.CORE, staged, "a", guarded=False, tracked=False
    )


def staged(*runs: Ready) -> Stage:
    stage = Stage()
    for one in runs:
        stage.add(one)
    return stage


def test_what_is_not_due_stays() -> None:
    stage = staged(run(2_000), run(1_000))
    assert stage.next_due() == 1_000
    assert [[one.due_ms for one in chunk] for chunk in stage.take(1_999)] == [[1_000]]
    assert stage.next_due() == 2_000
    assert len(stage) == 1


def test_nothing_is_taken_from_an_empty_stage() -> None:
    assert Stage().take(1_000) == []
    assert Stage().next_due() is None


def test_a_chunk_has_no_more_runs_than_a_note_may_have() -> None:
    chunks = staged(*[run(1_000) for _ in range(2 * CHUNK_RUNS + 1)]).take(1_000)
    assert [len(chunk) for chunk in chunks] == [CHUNK_RUNS, CHUNK_RUNS, 1]


def test_a_chunk_ends_with_the_run_that_makes_it_large() -> None:
    chunks = staged(*[run(1_000, CHUNK_BYTES // 2) for _ in range(5)]).take(1_000)
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]


def test_small_chunks_of_instants_that_come_together_are_one_write() -> None:
    chunks = staged(*[run(1_000 + n) for n in range(9)]).take(2_000)
    assert [[one.due_ms for one in chunk] for chunk in chunks] == [list(range(1_000, 1_009))]


def test_chunks_are_put_together_up_to_the_bound_only() -> None:
    chunks = staged(*[run(1_000 + n // 200) for n in range(600)]).take(2_000)
    assert [len(chunk) for chunk in chunks] == [200, 200, 200]
    assert sum(len(chunk) for chunk in chunks) == 600


def test_runs_come_in_the_order_of_their_instants() -> None:
    chunks = staged(*[run(due) for due in (3, 1, 2, 1)]).take(10)
    assert [one.due_ms for chunk in chunks for one in chunk] == [1, 1, 2, 3]


def test_runs_of_a_job_that_changed_are_left_out() -> None:
    changed = cursor()
    stage = staged(run(1_000), run(1_000, of=changed), run(1_000), run(2_000, of=changed))
    changed.alive = False
    assert [len(chunk) for chunk in stage.take(2_000)] == [2]
    assert len(stage) == 0


def test_runs_of_one_instant_go_by_priority_also_when_one_was_encoded_later() -> None:
    first = [run(1_000, of=cursor(priority)) for priority in (50, 0, 0, -50) for _ in range(CHUNK_RUNS // 2)]
    changed = [run(1_000, of=cursor(priority)) for priority in (0, 100)]
    chunks = staged(*first, *changed, run(2_000, of=cursor(100))).take(2_000)
    runs = [one for chunk in chunks for one in chunk]
    assert [one.cursor.entry.job.priority for one in runs] == [
        100, *[50] * (CHUNK_RUNS // 2), *[0] * (CHUNK_RUNS + 1), *[-50] * (CHUNK_RUNS // 2), 100,
    ]  # fmt: skip
    assert max(len(chunk) for chunk in chunks) == CHUNK_RUNS
    # Those of one priority keep the order in which they came.
    assert [one for one in runs if one in first] == first
