"""When a worker's runs are taken over: soon enough when it is dead, and not while it lives."""

import asyncio
import contextlib
import contextvars

import pytest
from tests.unit.scheduling import NEVER, Spy, cluster, play

from natscron import Scheduler
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.testing.virtual import HOST, VirtualClock, VirtualLoop
from natscron.worker.options import SIGNS, WorkerOptions

LEASE_S = WorkerOptions(id="", instance="").lease_ms / 1000


def the_loop() -> VirtualLoop:
    """The one that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


async def begun(shared: MemoryCluster, host: str, handler: Spy) -> Scheduler:
    """A process with the default options, which can be suspended or killed by its name."""
    loop = the_loop()
    context = contextvars.copy_context()
    context.run(HOST.set, host)
    scheduler = Scheduler(MemoryStorage(shared), handler, instance=host, clock=VirtualClock(loop))
    await loop.create_task(scheduler.start(), context=context)
    return scheduler


@pytest.mark.parametrize("killed_s", [0.001, 0.4, 0.8, 1.2, 1.332, 1.334, 2.0])
def test_a_run_goes_on_elsewhere_within_ten_seconds_of_the_death_of_its_worker(killed_s: float) -> None:
    """Whenever it dies after its last sign of life, and although it led as well."""

    async def story() -> None:
        loop, shared = the_loop(), cluster()
        first, second = Spy(lasts_s=60), Spy()
        one = await begun(shared, "one", first)
        await one.add_job("a", NEVER)
        await asyncio.sleep(0.57)
        two = await begun(shared, "two", second)
        assert one.is_leader
        await one.trigger("a")
        await asyncio.sleep(killed_s)
        assert len(first.events) == 1
        loop.suspend("one")
        killed_at_s = loop.time()
        while not second.events:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.01)
        assert LEASE_S * (1 - 1 / SIGNS) - 0.1 < loop.time() - killed_at_s < 9.5
        assert [event.attempt for event in second.events] == [2]
        await two.stop()
        for task in loop.tasks_of("one"):
            task.cancel()
        loop.resume("one")
        with contextlib.suppress(asyncio.CancelledError):
            await one.stop(0)

    play(story)


def test_a_worker_that_is_held_up_for_five_sixths_of_its_lease_loses_nothing() -> None:
    """As by a handler that blocks the event loop, a host under load, or garbage to be collected."""

    async def story() -> None:
        loop, shared = the_loop(), cluster()
        first, second = Spy(lasts_s=90), Spy()
        one = await begun(shared, "one", first)
        await one.add_job("a", NEVER)
        two = await begun(shared, "two", second)
        await one.trigger("a")
        await asyncio.sleep(0.1)
        assert len(first.events) == 1
        for _ in range(8):
            # Not always at the same distance from its last sign of life.
            await asyncio.sleep(1.0 + loop.time() % 0.7)
            loop.suspend("one")
            await asyncio.sleep(LEASE_S * (1 - 1 / SIGNS) - 0.02)
            loop.resume("one")
        await asyncio.sleep(40)
        assert (len(first.ended), second.events) == (1, [])
        await two.stop()
        await one.stop()

    play(story)
