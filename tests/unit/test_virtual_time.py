"""Virtual time: timers in order, no waiting, suspended hosts, and no silent hang."""

import asyncio
import contextvars
import time

import pytest

from natscron.testing import virtual
from natscron.testing.virtual import HOST, DeadlockError, LivelockError, VirtualClock, VirtualLoop, run


def test_a_week_passes_at_once_and_timers_keep_their_order() -> None:
    seen: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(wait("late", 604_800.0), wait("early", 1.5), wait("middle", 60.0))

    began = time.monotonic()
    run(main())
    assert time.monotonic() - began < 5
    assert seen == [("early", 1.5), ("middle", 60.0), ("late", 604_800.0)]


def test_a_clock_reaches_the_instant_that_a_timer_was_set_for() -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        for n in range(1, 2_000):
            at = int(virtual.EPOCH_S * 1000) + n * 7
            await asyncio.sleep(at / 1000 - clock.now_s())
            assert clock.now_ms() == at

    run(main())


def test_a_hosts_wall_clock_may_be_off_and_its_trust_time_may_stand_still() -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop(), offset_s=-2.0)
        await asyncio.sleep(10)
        clock.frozen_s = 4.0
        assert (clock.now_s(), clock.trust_s()) == (virtual.EPOCH_S + 8.0, 6.0)
        clock.offset_s = 1.0
        assert (clock.now_s(), clock.trust_s()) == (virtual.EPOCH_S + 11.0, 6.0)

    run(main())


def test_waiting_for_what_nobody_will_do_is_reported() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    loop = VirtualLoop()
    task = loop.create_task(main())
    with pytest.raises(DeadlockError):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


def test_a_busy_loop_in_which_no_time_passes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "TURNS_MAX", 1_000)

    async def main() -> None:
        while True:  # noqa: ASYNC110 - busy on purpose
            await asyncio.sleep(0)

    loop = VirtualLoop()
    task = loop.create_task(main())
    with pytest.raises(LivelockError, match="main"):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


def test_a_suspended_host_stands_still_and_goes_on_late_and_in_order() -> None:
    seen: list[tuple[str, float]] = []

    async def tick(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        tasks = []
        for name in ("a", "b"):
            context = contextvars.copy_context()
            context.run(HOST.set, name)
            tasks.append(loop.create_task(tick(name), context=context))
        assert loop.tasks_of("a") == [tasks[0]]
        await asyncio.sleep(1.5)
        loop.suspend("a")
        await asyncio.sleep(10)
        loop.resume("a")
        await asyncio.gather(*tasks)
        assert loop.tasks_of("a") == []

    run(main())
    assert [at for name, at in seen if name == "b"] == [1, 2, 3]
    # Its timer was due while it stood still, and ends when it wakes.
    assert [at for name, at in seen if name == "a"] == [1, 11.5, 12.5]
