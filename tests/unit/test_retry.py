"""When a run that failed is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.model import Retry
from natscron.policy.retry import applies, delay_ms, next_attempt_ms

EXACT = Retry(attempts=9, backoff_ms=100, factor=2.0, max_backoff_ms=1_500, jitter=0.0)


def test_each_wait_is_longer_by_the_factor_up_to_the_cap() -> None:
    assert [delay_ms(EXACT, attempt, "k") for attempt in range(1, 7)] == [100, 200, 400, 800, 1_500, 1_500]


def test_the_last_attempt_is_followed_by_none() -> None:
    twice = Retry(attempts=2, backoff_ms=100, jitter=0.0)
    assert next_attempt_ms(twice, 1, 5_000, "k") == 5_100
    assert next_attempt_ms(twice, 2, 5_000, "k") is None
    assert next_attempt_ms(Retry(), 1, 5_000, "k") is None


def test_the_spread_is_the_same_for_the_same_run_and_differs_between_runs_and_tries() -> None:
    spread = Retry(attempts=9, backoff_ms=100_000, factor=1.0, jitter=0.5)
    assert delay_ms(spread, 1, "k") == delay_ms(spread, 1, "k")
    assert len({delay_ms(spread, 1, str(n)) for n in range(50)}) > 45
    assert len({delay_ms(spread, n, "k") for n in range(1, 50)}) > 45


def test_no_number_of_attempts_overflows() -> None:
    endless = Retry(attempts=1 << 31, backoff_ms=1, factor=10.0, max_backoff_ms=60_000, jitter=0.0)
    assert delay_ms(endless, (1 << 31) - 1, "k") == 60_000


@given(
    attempt=st.integers(1, 1_000),
    backoff=st.integers(0, 1_000_000),
    factor=st.floats(1, 10),
    cap=st.integers(0, 1_000_000),
    jitter=st.floats(0, 1),
    key=st.text(),
)
def test_a_wait_is_within_the_spread_and_never_above_the_cap(
    attempt: int, backoff: int, factor: float, cap: int, jitter: float, key: str
) -> None:
    policy = Retry(attempts=2_000, backoff_ms=backoff, factor=factor, max_backoff_ms=cap, jitter=jitter)
    middle = min(backoff * factor ** min(attempt - 1, 64), cap)
    wait = delay_ms(policy, attempt, key)
    assert 0 <= wait <= cap
    assert wait >= int(middle * (1 - jitter))
    assert wait <= middle * (1 + jitter) + 1


@pytest.mark.parametrize(
    ("only", "never", "reason", "code", "again"),
    [
        ((), (), "timeout", None, True),
        (("timeout",), (), "timeout", None, True),
        (("timeout",), (), "worker_error", "500", False),
        (("5*",), (), "worker_error", "503", True),
        (("5*",), (), "worker_error", "404", False),
        ((), ("4*",), "worker_error", "404", False),
        (("worker_error",), ("404",), "worker_error", "404", False),
        (("worker_error",), ("404",), "worker_error", "405", True),
        (("ValueError",), (), "worker_error", "ValueError", True),
        (("*",), (), None, None, False),
    ],
)
def test_only_and_never_name_the_errors_that_are_tried_again(
    only: tuple[str, ...],
    never: tuple[str, ...],
    reason: str | None,
    code: str | None,
    again: bool,  # noqa: FBT001 - a column of the table
) -> None:
    assert applies(Retry(attempts=3, only=only, never=never), reason, code) is again
