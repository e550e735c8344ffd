"""The drawn stories of :mod:`tests.simulation.test_scheduler_stories`, many more, longer, and other ones each time.

``NATSCRON_SOAK_EXAMPLES`` is how many are drawn (default 1000, about six minutes).
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simulation.test_scheduler_stories import STEPS, Step, play

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3_600)]


@settings(
    deadline=None,
    max_examples=int(os.environ.get("NATSCRON_SOAK_EXAMPLES") or 1_000),
    # A failure shows the lines that bring it back.
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(seed=st.integers(0, 2**32), steps=st.lists(STEPS, max_size=30))
def test_no_long_story_of_schedulers_loses_a_slot_or_executes_a_try_twice(seed: int, steps: list[Step]) -> None:
    play(seed, steps)
