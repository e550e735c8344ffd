"""The drawn stories of :mod:`tests.simulation.test_faults`, many more, longer, and other ones each time.

``NATSCRON_SOAK_EXAMPLES`` is how many are drawn for each test (default 1000, about four minutes).
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simulation.test_faults import STEPS, Step, play

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3_600)]

MANY = settings(
    deadline=None,
    max_examples=int(os.environ.get("NATSCRON_SOAK_EXAMPLES") or 1_000),
    # A failure shows the lines that bring it back.
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@MANY
@given(seed=st.integers(0, 2**32), steps=st.lists(STEPS, max_size=40))
def test_no_long_story_loses_or_doubles_a_slot(seed: int, steps: list[Step]) -> None:
    play(seed, steps)


@MANY
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(STEPS, max_size=25),
    offsets=st.tuples(*[st.floats(-4, 4, allow_nan=False)] * 3),
)
def test_no_long_story_with_clocks_that_are_off_loses_a_slot(
    seed: int, steps: list[Step], offsets: tuple[float, ...]
) -> None:
    play(seed, steps, offsets)
