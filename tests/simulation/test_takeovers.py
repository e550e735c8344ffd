"""Takeovers at instants that a drawn story hardly ever hits."""

import asyncio

import pytest
from tests.simulation.world import World, job

from natscron.engine import term as module
from natscron.engine.tries import Tries
from natscron.model import Ms, ScheduleSpec
from natscron.testing.virtual import VirtualLoop


def test_a_crash_between_two_parts_of_a_window_behind_the_mark_sends_nothing_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Eight slots at a time: the late job's slots come in several parts, while the mark stands still.
    monkeypatch.setattr(module, "_SLICE", 1)
    step = Tries.step

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        world = World(loop, 1, instances=2)
        held_back = asyncio.Event()

        async def stall(self: Tries, now: Ms) -> None:
            leader = world.leader
            term = None if leader is None or leader.engine is None else leader.engine._leadership.term
            behind = term is not None and term.planner.decided.jobs_seq < term.table.seq
            if behind and len(world.faults) == 1:
                # Long enough for a renewal to write the mark, and for the kill.
                held_back.set()
                await asyncio.sleep(1.2)
            await step(self, now)

        monkeypatch.setattr(Tries, "step", stall)
        for instance in world.instances:
            await instance.start()
        await world.create(job("steady", ScheduleSpec(every="1s")))
        await asyncio.sleep(2)
        leader = world.leader
        assert leader is not None
        assert leader.storage is not None
        world.fault("deafen leader", 4)
        leader.storage.deafen()
        await world.create(job("late", ScheduleSpec(every="20ms")))
        async with asyncio.timeout(10):
            await held_back.wait()
        await asyncio.sleep(1)
        before = [arrival.run_id for arrival in world.arrivals if arrival.subject == "late"]
        assert 8 <= len(before) < 16
        world.fault("kill leader", 3)
        await leader.kill()
        await world.heal()
        world.check()
        await world.stop()
        assert len([arrival for arrival in world.arrivals if arrival.run_id in before]) == len(before)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_a_crash_between_two_parts_of_one_instant_sends_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Eight slots at a time: the mark stays behind the instant until the last of its slots went out.
    monkeypatch.setattr(module, "_SLICE", 1)
    step = Tries.step

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        world = World(loop, 1, instances=3)
        held_back = asyncio.Event()

        async def stall(self: Tries, now: Ms) -> None:
            leader = world.leader
            term = None if leader is None or leader.engine is None else leader.engine._leadership.term
            within = term is not None and term.planner.decided.instant_ms % 10_000 == 9_999
            if within and not held_back.is_set():
                # Long enough for a renewal to write the mark, and for the kill.
                held_back.set()
                await asyncio.sleep(1.2)
            await step(self, now)

        monkeypatch.setattr(Tries, "step", stall)
        for instance in world.instances:
            await instance.start()
        for n in range(20):
            await world.create(job(f"j.{n}", ScheduleSpec(cron="*/10 * * * * *")))
        # Due while nobody leads: a leader that is there makes all of an instant ready before it.
        clock = world.instances[0].clock
        await asyncio.sleep(10 - clock.now_s() % 10 - 0.5)
        world.fault("kill leader", 3)
        leader = world.leader
        assert leader is not None
        await leader.kill()
        async with asyncio.timeout(20):
            await held_back.wait()
        await asyncio.sleep(1)
        before = [arrival.run_id for arrival in world.arrivals]
        assert 8 <= len(before) < 20
        leader = world.leader
        assert leader is not None
        world.fault("kill leader", 3)
        await leader.kill()
        await world.heal()
        world.check()
        await world.stop()
        assert len([arrival for arrival in world.arrivals if arrival.run_id in before]) == len(before)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
