"""The leader's host clock, set to the store's."""

from natscron.engine.storetime import StoreClock
from natscron.testing.virtual import EPOCH_S, VirtualClock, VirtualLoop


def test_what_the_host_is_ahead_is_taken_off_its_wall_time_and_never_off_trust() -> None:
    loop = VirtualLoop()
    host = VirtualClock(loop, offset_s=3.0)
    clock = StoreClock(host, 3_000)
    loop.advance(1.5)
    assert clock.now_ms() == int(EPOCH_S * 1000) + 1_500
    assert clock.now_s() == EPOCH_S + 1.5
    assert clock.trust_s() == 1.5
    clock.ahead_ms = -500
    assert clock.now_ms() == int(EPOCH_S * 1000) + 5_000
    assert clock.now_s() == EPOCH_S + 5.0
    assert clock.trust_s() == 1.5
    loop.close()
