"""What becomes of a run that is put into the run queue while others of its job are due, going or waiting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.model import Overlap, QueuedRun, Trigger
from natscron.policy.overlap import BUFFER_MAX, Verdict, decide, enter

COUNTS = st.integers(0, BUFFER_MAX + 20)
RUNS = st.builds(
    lambda overlap, concurrency, trigger: a_run(overlap, concurrency, trigger),  # noqa: PLW0108 - defined below
    st.sampled_from(list(Overlap)),
    st.integers(0, 5),
    st.sampled_from(list(Trigger)),
)


def a_run(overlap: Overlap, concurrency: int = 0, trigger: Trigger = Trigger.SCHEDULE) -> QueuedRun:
    return QueuedRun(
        run_id="r",
        job="a",
        generation=1,
        scheduled_at_ms=5,
        due_ms=5,
        overlap=overlap,
        concurrency=concurrency,
        trigger=trigger,
    )


@pytest.mark.parametrize(
    ("overlap", "concurrency", "capacity"),
    [
        (Overlap.ALLOW, 0, 0),
        (Overlap.ALLOW, 3, 3),
        (Overlap.SKIP, 0, 1),
        (Overlap.SKIP, 4, 4),
        (Overlap.BUFFER_ALL, 0, 1),
        (Overlap.CANCEL_OTHER, 2, 2),
    ],
)
def test_how_many_may_go_at_once_is_said_by_the_job_or_by_its_policy(
    overlap: Overlap, concurrency: int, capacity: int
) -> None:
    assert a_run(overlap, concurrency).capacity == capacity


@pytest.mark.parametrize(
    ("run", "running", "waiting", "verdict"),
    [
        (a_run(Overlap.ALLOW), 50, 0, Verdict.START),
        (a_run(Overlap.ALLOW, 2), 1, 0, Verdict.START),
        (a_run(Overlap.ALLOW, 2), 2, 0, Verdict.BUFFER),
        (a_run(Overlap.ALLOW, 2), 2, 5_000, Verdict.BUFFER),
        # There is room, but nobody may overtake those that wait.
        (a_run(Overlap.ALLOW, 2), 1, 1, Verdict.BUFFER),
        (a_run(Overlap.SKIP), 0, 0, Verdict.START),
        (a_run(Overlap.SKIP), 1, 0, Verdict.SKIP),
        (a_run(Overlap.SKIP, 3), 2, 0, Verdict.START),
        (a_run(Overlap.SKIP, 3), 3, 0, Verdict.SKIP),
        (a_run(Overlap.BUFFER_ONE), 1, 0, Verdict.BUFFER),
        (a_run(Overlap.BUFFER_ONE), 1, 1, Verdict.DROP),
        (a_run(Overlap.BUFFER_ALL), 1, BUFFER_MAX - 1, Verdict.BUFFER),
        (a_run(Overlap.BUFFER_ALL), 1, BUFFER_MAX, Verdict.DROP),
        (a_run(Overlap.CANCEL_OTHER), 0, 0, Verdict.START),
        (a_run(Overlap.CANCEL_OTHER), 1, 0, Verdict.REPLACE),
        (a_run(Overlap.CANCEL_OTHER, 2), 1, 0, Verdict.START),
        (a_run(Overlap.CANCEL_OTHER, 2), 2, 7, Verdict.REPLACE),
        # A backfill is bounded by itself.
        (a_run(Overlap.BUFFER_ONE, trigger=Trigger.BACKFILL), 1, 5_000, Verdict.BUFFER),
        (a_run(Overlap.SKIP, trigger=Trigger.BACKFILL), 1, 0, Verdict.SKIP),
    ],
)
def test_a_run_that_is_queued_is_decided_by_policy(
    run: QueuedRun, running: int, waiting: int, verdict: Verdict
) -> None:
    assert enter(run, running=running, waiting=waiting) is verdict


@given(RUNS, COUNTS, COUNTS)
def test_no_more_begin_than_there_is_room_for_and_none_is_refused_while_there_is(
    run: QueuedRun, running: int, waiting: int
) -> None:
    verdict = enter(run, running=running, waiting=waiting)
    room = not run.capacity or (running < run.capacity and not waiting)
    assert (verdict is Verdict.START) is room


@given(st.sampled_from([policy for policy in Overlap if policy is not Overlap.ALLOW]), COUNTS, COUNTS)
def test_without_a_concurrency_it_is_what_happens_to_messages(policy: Overlap, running: int, waiting: int) -> None:
    assert enter(a_run(policy), running=running, waiting=waiting) is decide(policy, running=running, waiting=waiting)
