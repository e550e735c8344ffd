"""The last millisecond of a wait, on each event loop that the service may run on."""

import asyncio
from collections.abc import Callable

import pytest

from natscron.clock import SystemClock
from natscron.engine.alarm import Alarm

_LOOPS = ["asyncio", "uvloop"]


class _Idle(SystemClock):
    """A host that has been idle for long when the alarm is first waited for: looping is allowed."""

    def __init__(self) -> None:
        self._before = True

    def trust_s(self) -> float:
        """The first reading is an old one."""
        aged = 1000.0 if self._before else 0.0
        self._before = False
        return super().trust_s() - aged


def _factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = pytest.importorskip("uvloop").new_event_loop
    return factory


@pytest.mark.parametrize("loop", _LOOPS)
@pytest.mark.parametrize("ahead_ms", [0, 1, 2, 20])
def test_a_wait_ends_at_its_instant_and_not_before(loop: str, ahead_ms: int) -> None:
    async def wait() -> None:
        clock = _Idle()
        alarm = Alarm(clock)
        at_ms = clock.now_ms() + ahead_ms
        # The wait may end early, as its doc says of wall time: whoever waits looks again, as the leader does.
        waits = 0
        while clock.now_ms() < at_ms:
            await alarm.until(at_ms, 1.0)
            waits += 1
        assert waits <= 2
        assert alarm.wake_ms is None

    with asyncio.Runner(loop_factory=_factory(loop)) as runner:
        runner.run(wait())


@pytest.mark.parametrize("loop", _LOOPS)
@pytest.mark.parametrize("ahead_ms", [1, 1000])
def test_a_ring_ends_a_wait(loop: str, ahead_ms: int) -> None:
    async def wait() -> None:
        clock = _Idle()
        alarm = Alarm(clock)
        at_ms = clock.now_ms() + 60_000 * ahead_ms
        waiting = asyncio.create_task(alarm.until(at_ms, 3600.0 * 24))
        await asyncio.sleep(0)
        assert alarm.wake_ms == at_ms
        alarm.ring_before(at_ms + 1)
        assert not waiting.done()
        alarm.ring_before(at_ms - 1)
        await waiting
        assert clock.now_ms() < at_ms

    with asyncio.Runner(loop_factory=_factory(loop)) as runner:
        runner.run(wait())
