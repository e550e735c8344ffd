"""How a try ended, and what follows: pure functions."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.model import Claim, Ending, Job, Reason, Retry, RunStatus
from natscron.policy.ending import INTERRUPTED_MAX, INTERRUPTIONS, next_try_in_ms, status_of
from natscron.policy.retry import delay_ms
from natscron.worker.calls import Called
from natscron.worker.endings import completed, failed, interrupted, lost, removed

RUN = "01MCC2ARC0FZTTEJX4HDC5CF5J"
REASONS = st.sampled_from([*Reason])
POLICIES = st.builds(Retry, attempts=st.integers(1, 20), backoff_ms=st.integers(0, 10_000))


def claim(attempt: int = 1) -> Claim:
    return Claim(
        run_id=RUN, job="a", generation=1, scheduled_at_ms=5, due_ms=5, attempt=attempt, worker="w", started_ms=7
    )


def job(**policies: object) -> Job:
    return msgspec.structs.replace(Job(id="a", generation=1), **policies)


@pytest.mark.parametrize(
    ("retry", "attempt", "reason", "code", "waits"),
    [
        (Retry(), 1, Reason.HANDLER_ERROR, "ValueError", False),
        (Retry(attempts=3), 1, Reason.HANDLER_ERROR, "ValueError", True),
        (Retry(attempts=3), 2, Reason.TIMEOUT, "timeout", True),
        (Retry(attempts=3), 3, Reason.HANDLER_ERROR, "ValueError", False),
        (Retry(attempts=3), 9, Reason.HANDLER_ERROR, "ValueError", False),
        (Retry(attempts=3, only=("timeout",)), 1, Reason.HANDLER_ERROR, "ValueError", False),
        (Retry(attempts=3, never=("Value*",)), 1, Reason.HANDLER_ERROR, "ValueError", False),
        (Retry(attempts=3), 1, Reason.CANCELLED, None, True),
        (Retry(attempts=3), 1, Reason.NO_HANDLER, None, True),
    ],
)
def test_what_failed_by_itself_goes_by_the_policy(
    retry: Retry, attempt: int, reason: str, code: str | None, *, waits: bool
) -> None:
    wait_ms = next_try_in_ms(retry, attempt, reason=reason, code=code, key=RUN)
    assert wait_ms == (delay_ms(retry, attempt, RUN) if waits else None)


@pytest.mark.parametrize("reason", sorted(INTERRUPTIONS))
def test_what_was_interrupted_is_tried_again_at_once_but_not_for_ever(reason: str) -> None:
    once = Retry(never=("*",))
    for attempt in range(1, INTERRUPTED_MAX):
        assert next_try_in_ms(once, attempt, reason=reason, code=None, key=RUN) == 0
    assert next_try_in_ms(once, INTERRUPTED_MAX, reason=reason, code=None, key=RUN) is None
    many = Retry(attempts=INTERRUPTED_MAX + 3)
    assert next_try_in_ms(many, INTERRUPTED_MAX + 2, reason=reason, code=None, key=RUN) == 0
    assert next_try_in_ms(many, INTERRUPTED_MAX + 3, reason=reason, code=None, key=RUN) is None


@given(POLICIES, REASONS)
def test_whatever_happens_a_run_comes_to_an_end(retry: Retry, reason: str) -> None:
    tries = 1
    while next_try_in_ms(retry, tries, reason=reason, code=None, key=RUN) is not None:
        tries += 1
        assert tries <= max(retry.attempts, INTERRUPTED_MAX)


@pytest.mark.parametrize(
    ("retry", "attempt", "again", "status"),
    [
        (Retry(), 1, False, RunStatus.FAILED),
        (Retry(), 1, True, RunStatus.FAILED),
        (Retry(), 5, False, RunStatus.DEAD),
        (Retry(attempts=3), 1, False, RunStatus.DEAD),
        (Retry(attempts=3), 2, True, RunStatus.FAILED),
        (Retry(attempts=3), 3, False, RunStatus.DEAD),
    ],
)
def test_only_the_last_of_several_tries_leaves_a_run_dead(
    retry: Retry, attempt: int, status: RunStatus, *, again: bool
) -> None:
    assert status_of(retry, attempt, again=again) is status


def test_what_a_handler_gave_ends_its_run() -> None:
    assert completed(claim(), Called(result="5"), (7, 9)) == Ending(
        run_id=RUN, attempt=1, status=RunStatus.COMPLETED, started_ms=7, finished_ms=9, result="5"
    )


def test_no_try_ends_before_it_began() -> None:
    assert completed(claim(), Called(), (9, 7)).finished_ms == 9


def test_a_run_of_a_removed_job_is_skipped() -> None:
    ending = removed(claim(), (7, 8))
    assert (ending.status, ending.reason, ending.retry_in_ms) == (RunStatus.SKIPPED, Reason.JOB_REMOVED, None)


def test_what_a_handler_raised_is_told_and_tried_again_as_the_job_says() -> None:
    called = Called(Reason.HANDLER_ERROR, "text", "ValueError")
    retry = Retry(attempts=2)
    ending = failed(claim(), job(retry=retry), called, (7, 8))
    assert (ending.status, ending.reason, ending.error) == (RunStatus.FAILED, Reason.HANDLER_ERROR, "text")
    assert (ending.retry_in_ms, ending.retry_reason) == (delay_ms(retry, 1, RUN), Reason.RETRY)
    ending = failed(claim(2), job(retry=retry), called, (7, 8))
    assert (ending.status, ending.retry_in_ms, ending.retry_reason) == (RunStatus.DEAD, None, None)
    assert failed(claim(), None, called, (7, 8)).retry_in_ms is None
    assert failed(claim(), job(), Called(), (7, 8)).reason == Reason.HANDLER_ERROR


@pytest.mark.parametrize("reason", [Reason.REPLACED, Reason.JOB_REMOVED])
def test_what_was_ended_on_purpose_is_over_and_not_dead(reason: str) -> None:
    ending = interrupted(claim(2), job(retry=Retry(attempts=9)), reason, (7, 8))
    assert (ending.status, ending.reason, ending.retry_in_ms) == (RunStatus.FAILED, reason, None)


@pytest.mark.parametrize("reason", [*sorted(INTERRUPTIONS), Reason.REPLACED, Reason.CANCELLED])
def test_an_interruption_says_in_words_what_it_was(reason: str) -> None:
    assert interrupted(claim(), job(), reason, (7, 8)).error


def test_a_lost_try_began_when_it_was_claimed_and_another_follows_also_without_its_job() -> None:
    for known in (job(), None):
        ending = lost(claim(), known, 99)
        assert (ending.status, ending.reason, ending.retry_in_ms) == (RunStatus.FAILED, Reason.WORKER_LOST, 0)
        assert (ending.started_ms, ending.finished_ms) == (7, 99)
