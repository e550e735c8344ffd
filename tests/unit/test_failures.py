"""Failed runs in a row: what counts, when it is enough, and what a successor knows of it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.engine import failing as module
from natscron.engine.failing import Failing
from natscron.model import Job, OpenRow, OpenState, Reason, Run, RunStatus, Trigger
from natscron.policy.failures import counted, reached

RUNS = st.builds(
    Run,
    job=st.just("a"),
    status=st.sampled_from(list(RunStatus)),
    trigger=st.sampled_from(list(Trigger)),
)


def run(status: RunStatus, trigger: Trigger = Trigger.SCHEDULE, job: str = "a") -> Run:
    return Run(job=job, status=status, trigger=trigger, error="no luck")


@given(st.lists(RUNS, max_size=40))
def test_the_count_is_the_scheduled_failures_since_the_last_good_end(runs: list[Run]) -> None:
    count = 0
    for one in runs:
        count = counted(count, one)
    since = 0
    for place, one in enumerate(runs):
        if one.status in {RunStatus.SENT, RunStatus.STORED, RunStatus.COMPLETED}:
            since = place + 1
    bad = [
        one
        for one in runs[since:]
        if one.status in {RunStatus.FAILED, RunStatus.DEAD} and one.trigger in {Trigger.SCHEDULE, Trigger.CATCHUP}
    ]
    assert count == len(bad)


def test_a_run_that_a_newer_one_replaced_is_no_failure() -> None:
    replaced = Run(job="a", status=RunStatus.FAILED, reason=Reason.REPLACED)
    assert counted(2, replaced) == 2


@pytest.mark.parametrize(("failures", "limit", "enough"), [(1, 0, False), (2, 3, False), (3, 3, True), (4, 3, True)])
def test_it_is_enough_at_the_limit_and_zero_means_never(failures: int, limit: int, enough: bool) -> None:  # noqa: FBT001 - a column of the table
    assert reached(failures, limit) is enough


class Counters:
    """The counters of one leadership, and whom they told."""

    def __init__(self, jobs: dict[str, Job], epoch: int = 4) -> None:
        self.now_ms = 1_000
        self.told: list[tuple[str, int, str]] = []
        self.failing = Failing(
            jobs.get,
            lambda job, failures, error: self.told.append((job.id, failures, error)),
            lambda: self.now_ms,
            namespace="n",
            epoch=epoch,
        )

    def store(self) -> list[OpenRow]:
        rows = self.failing.rows()
        for row in rows:
            self.failing.saved(row)
        return rows


def jobs(limit: int = 3, generation: int = 7) -> dict[str, Job]:
    return {"a": Job(id="a", generation=generation, pause_after_failures=limit), "free": Job(id="free")}


def test_the_third_failure_in_a_row_tells() -> None:
    counters = Counters(jobs())
    for status in (RunStatus.FAILED, RunStatus.FAILED, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.FAILED):
        counters.failing.observe(run(status))
    assert counters.told == []
    counters.failing.observe(run(RunStatus.DEAD))
    assert counters.told == [("a", 3, "no luck")]


def test_a_job_without_the_limit_is_not_counted() -> None:
    counters = Counters(jobs())
    for _ in range(9):
        counters.failing.observe(run(RunStatus.FAILED, job="free"))
        counters.failing.observe(run(RunStatus.FAILED, job="unknown"))
    assert (counters.told, counters.store(), counters.failing.counting) == ([], [], False)


def test_a_counter_is_stored_when_it_changed_and_its_row_deleted_when_it_is_back_at_zero() -> None:
    counters = Counters(jobs())
    counters.failing.observe(run(RunStatus.FAILED))
    [row] = counters.store()
    assert (row.state, row.attempt, row.job_id, row.generation, row.epoch) == (OpenState.FAILURES, 1, "a", 7, 4)
    assert counters.store() == []
    counters.failing.observe(run(RunStatus.COMPLETED))
    assert counters.failing.gone() == [row.run_id]
    assert counters.failing.gone() == []


def test_a_successor_goes_on_counting() -> None:
    first = Counters(jobs())
    first.failing.observe(run(RunStatus.FAILED))
    first.failing.observe(run(RunStatus.FAILED))
    second = Counters(jobs(), epoch=5)
    for row in first.store():
        second.failing.loaded(row)
    assert second.told == []
    second.failing.observe(run(RunStatus.FAILED))
    assert second.told == [("a", 3, "no luck")]


def test_a_successor_acts_on_a_full_counter_that_nobody_acted_on() -> None:
    first = Counters(jobs())
    for _ in range(3):
        first.failing.observe(run(RunStatus.FAILED))
    second = Counters(jobs(), epoch=5)
    for row in first.store():
        second.failing.loaded(row)
    assert [(job, failures) for job, failures, _ in second.told] == [("a", 3)]


def test_a_counter_of_a_job_that_was_removed_and_added_again_is_dropped() -> None:
    first = Counters(jobs())
    first.failing.observe(run(RunStatus.FAILED))
    [row] = first.store()
    second = Counters(jobs(generation=8), epoch=5)
    second.failing.loaded(row)
    assert second.failing.gone() == [row.run_id]


def test_a_pause_begins_the_count_anew() -> None:
    known = jobs()
    counters = Counters(known)
    counters.failing.observe(run(RunStatus.FAILED))
    [row] = counters.store()
    counters.failing.job_changed("a", Job(id="a", generation=7, pause_after_failures=3, paused=True))
    assert counters.failing.gone() == [row.run_id]
    assert not counters.failing.counting


def test_a_row_stored_after_its_count_began_anew_is_deleted_again() -> None:
    counters = Counters(jobs())
    counters.failing.observe(run(RunStatus.FAILED))
    [row] = counters.failing.rows()
    counters.failing.observe(run(RunStatus.COMPLETED))
    counters.failing.saved(row)
    assert counters.failing.gone() == [row.run_id]


def test_nothing_counts_while_a_job_is_paused_and_a_pause_that_is_over_is_none() -> None:
    known = jobs(limit=2)
    known["a"] = msgspec.structs.replace(known["a"], paused=True, paused_until_ms=2_000)
    counters = Counters(known)
    counters.failing.observe(run(RunStatus.FAILED))
    assert not counters.failing.counting
    counters.now_ms = 2_000
    counters.failing.observe(run(RunStatus.FAILED))
    counters.failing.job_changed("a", known["a"])
    [row] = counters.store()
    heir = Counters(known, epoch=5)
    heir.now_ms = 2_000
    heir.failing.loaded(row)
    heir.failing.observe(run(RunStatus.FAILED))
    assert heir.told == [("a", 2, "no luck")]


def test_counters_are_laid_down_a_bounded_number_at_a_time_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_MAX", 2)
    counters = Counters({name: Job(id=name, pause_after_failures=9) for name in "abc"})
    for name in "abc":
        counters.failing.observe(run(RunStatus.FAILED, job=name))
    assert [[row.job_id for row in counters.store()] for _ in range(3)] == [["a", "b"], ["c"], []]


def test_a_job_that_was_added_again_counts_anew() -> None:
    known = jobs(limit=2)
    counters = Counters(known)
    counters.failing.observe(run(RunStatus.FAILED))
    known.update(jobs(limit=2, generation=8))
    counters.failing.observe(run(RunStatus.FAILED))
    assert counters.told == []
