"""How long a leader may believe that it leads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.engine.trust import DRIFT_MAX_S, Reading, Trust, read
from natscron.testing.virtual import EPOCH_S, VirtualClock, VirtualLoop

START = Reading(1_000.0, 50.0)


def after(seconds: float, drift_s: float = 0.0) -> Reading:
    return Reading(START.wall_s + seconds + drift_s, START.trust_s + seconds)


def test_trust_ends_a_quarter_of_the_lease_before_the_lease() -> None:
    trust = Trust(2.0, START)
    assert trust.remaining_s(after(0)) == 1.5
    assert trust.holds(after(1.49))
    assert not trust.holds(after(1.5))
    assert trust.remaining_s(after(99)) == 0.0


def test_a_renewal_counts_from_the_start_of_its_attempt() -> None:
    trust = Trust(2.0, START)
    trust.renewed(after(1.0))
    assert trust.remaining_s(after(1.2)) == pytest.approx(1.3)
    assert not trust.holds(after(2.5))


@pytest.mark.parametrize("drift_s", [DRIFT_MAX_S + 0.01, -DRIFT_MAX_S - 0.01, 3_600.0])
def test_wall_and_trust_time_moving_apart_void_trust(drift_s: float) -> None:
    trust = Trust(2.0, START)
    assert trust.holds(after(0.5, 0.2))
    assert trust.holds(after(0.5, -0.2))
    assert not trust.holds(after(0.5, drift_s))


def test_a_renewal_makes_a_clock_that_was_stepped_the_new_base() -> None:
    trust = Trust(2.0, START)
    trust.renewed(after(0.5, 30.0))
    assert trust.holds(after(1.0, 30.0))


def test_both_clocks_are_read() -> None:
    loop = VirtualLoop()
    clock = VirtualClock(loop, 5.0)
    clock.frozen_s = 2.0
    loop.advance(10.0)
    assert read(clock) == Reading(EPOCH_S + 15.0, 8.0)
    loop.close()


@given(lease=st.floats(0.5, 60), passed=st.floats(0, 120), drift=st.floats(-1, 1))
def test_nobody_trusts_for_longer_than_three_quarters_of_the_lease(lease: float, passed: float, drift: float) -> None:
    if Trust(lease, START).holds(after(passed, drift)):
        assert passed < lease * 0.75 + 1e-9
        assert abs(drift) <= DRIFT_MAX_S + 1e-9
