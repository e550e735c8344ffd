"""Traps that schedulers fell into, each once on virtual time."""

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from tests.simulation.world import World, job

from natscron.model import CatchUp, Delivery, Job, RunStatus, ScheduleSpec
from natscron.storage.memory import MemoryStorage
from natscron.storage.protocol import RunQuery
from natscron.testing.virtual import VirtualLoop

START = 1_800_000_000_000
SECONDS = ScheduleSpec(cron="* * * * * *")
FIVES = ScheduleSpec(cron="*/5 * * * * *")

Story = Callable[[World], Coroutine[Any, Any, None]]


def told(story: Story) -> Callable[[], None]:
    """A test that plays ``story`` in a world of three instances."""

    @functools.wraps(story)
    def test() -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            world = World(loop, 7)
            try:
                await story(world)
            finally:
                await world.stop()

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())

    # The world is made here; it is no fixture.
    del test.__wrapped__
    return test


def slots(world: World, job_id: str = "a") -> list[float]:
    """The slots that arrived, in seconds since the beginning."""
    return [(arrival.slot_ms - START) / 1000 for arrival in world.arrivals if arrival.subject == job_id]


def grid(every_ms: int, first: int, last: int) -> list[float]:
    """The slots of an interval job that was stored in the first millisecond."""
    return [(1 + every_ms * n) / 1000 for n in range(first, last + 1)]


async def until(world: World, second: float) -> None:
    await asyncio.sleep(START / 1000 + second - world.clock.now_s())


async def start(world: World, instances: int = 3) -> None:
    for instance in world.instances[:instances]:
        await instance.start()


async def records(world: World, job_id: str = "a") -> list[tuple[str, str | None]]:
    runs = await MemoryStorage(world.cluster).list_runs(RunQuery(job=job_id, limit=10_000))
    return [(run.status.value, run.reason) for run in runs]


# Lost ticks, and doubles.


@told
async def test_a_deploy_inside_a_tick_loses_nothing(world: World) -> None:
    await start(world, 1)
    await world.create(job("a", SECONDS))
    await until(world, 4.999)
    # One goes, the tick falls, and only then the other comes.
    await world.instances[0].stop()
    await until(world, 5.001)
    await world.instances[1].start()
    await until(world, 8.5)
    assert slots(world) == [1, 2, 3, 4, 5, 6, 7, 8]


@told
async def test_a_rolling_deploy_loses_and_doubles_nothing(world: World) -> None:
    await start(world)
    await world.create(job("a", ScheduleSpec(every="100ms")))
    for n, instance in enumerate(world.instances):
        await until(world, 3.05 + 3 * n)
        await instance.stop()
        await instance.start()
    await until(world, 15.05)
    assert slots(world) == grid(100, 1, 150)


@told
async def test_two_processes_send_each_run_once_and_starting_sends_none_twice(world: World) -> None:
    await start(world, 1)
    await world.create(job("a", ScheduleSpec(every="1s", run_at_start=True)))
    await until(world, 3.5)
    await world.instances[1].start()
    await until(world, 4.5)
    await world.instances[0].kill()
    await until(world, 5.5)
    await world.instances[0].start()
    await until(world, 12.5)
    assert slots(world) == grid(1_000, 0, 12)


# Silence.


@told
async def test_one_bad_job_stops_nobody(world: World) -> None:
    await start(world)
    refused = Job(id="refused", schedule=SECONDS, labels={"refused": "yes"})
    zone = Job(id="zone", schedule=ScheduleSpec(cron="* * * * *", tz="No/Where"))
    for bad in (refused, zone, Job(id="never", schedule=ScheduleSpec(cron="0 0 30 2 *"))):
        await MemoryStorage(world.cluster).create_job(bad)
    world.cluster.put_row("garbage", b"\xff{")
    await MemoryStorage(world.cluster).create_job(job("a", SECONDS))
    await until(world, 5.5)
    assert slots(world) == [1, 2, 3, 4, 5]
    assert set(await records(world, "refused")) == {("failed", "reserved_subject")}
    assert (await records(world))[0] == ("sent", None)
    world.writes.clear()


@told
async def test_workers_that_never_answer_hold_up_nobody_and_no_run_stays_running(world: World) -> None:
    await start(world)
    world.silent_workers = True
    await world.create(job("silent", ScheduleSpec(every="2s"), Delivery.REQUEST))
    await world.create(job("a", SECONDS))
    await until(world, 30.5)
    await world.edit("silent", paused=True)
    assert slots(world) == list(range(1, 31))
    await until(world, 75)
    found = await MemoryStorage(world.cluster).list_runs(RunQuery(job="silent", limit=10_000))
    ended = {run.run_id for run in found if run.status is RunStatus.FAILED and run.attempt == 3}
    assert ended == {arrival.run_id for arrival in world.arrivals if arrival.subject == "silent"}
    assert world.cluster.rows == {}


@told
async def test_a_leader_that_was_suspended_over_its_lease_sends_nothing_when_it_wakes(world: World) -> None:
    await start(world)
    await world.create(job("a", ScheduleSpec(every="100ms")))
    await until(world, 3.05)
    old = world.leader
    assert old is not None
    world.loop.suspend(old.host)
    await until(world, 13.05)
    assert world.leader is not None
    assert old.engine is not None
    world.loop.resume(old.host)
    await until(world, 20.05)
    assert slots(world) == grid(100, 1, 200)
    assert not old.engine.is_leader


@told
async def test_the_store_away_for_a_while_needs_no_restart(world: World) -> None:
    await start(world)
    await world.create(job("a", SECONDS))
    await until(world, 3.5)
    world.cluster.up = False
    await until(world, 33.5)
    world.cluster.up = True
    await until(world, 40.5)
    assert sorted(slots(world)) == list(range(1, 41))
    assert all(instance.engine is not None and instance.engine.failed is None for instance in world.instances)


# Storms.


@told
async def test_after_an_hour_away_a_job_runs_its_newest_slots_and_not_hundreds(world: World) -> None:
    await start(world)
    await MemoryStorage(world.cluster).create_job(Job(id="a", schedule=ScheduleSpec(every="30s")))
    await MemoryStorage(world.cluster).create_job(Job(id="quick", schedule=SECONDS, catchup=CatchUp(grace_ms=10_000)))
    await until(world, 40)
    world.cluster.up = False
    await until(world, 3_645)
    back = len(world.arrivals)
    world.cluster.up = True
    await until(world, 3_649.5)
    late = Counter(arrival.subject for arrival in world.arrivals[back:])
    # One of the slow job; of the quick one what is within the grace, and what is due since.
    assert late["a"] == 1
    assert late["quick"] <= 12 + 10
    assert ("skipped", "catchup_latest") in await records(world)
    assert len(slots(world)) == len(set(slots(world)))


@told
async def test_a_reconnect_does_not_flood_messages_that_nobody_wants_any_more(world: World) -> None:
    await start(world, 1)
    await MemoryStorage(world.cluster).create_job(Job(id="a", schedule=SECONDS))
    await until(world, 3.5)
    world.cluster.up = False
    await until(world, 63.5)
    back = world.clock.now_ms()
    world.cluster.up = True
    await until(world, 70.5)
    late = [arrival.slot_ms for arrival in world.arrivals if arrival.at_ms >= back]
    assert min(late) >= back - 13_000
    assert len(late) == len(set(late))


# Edits, with a leader and in a second without one.


async def _edit(world: World) -> None:
    await world.edit("a", schedule=FIVES)


async def _pause(world: World) -> None:
    await world.edit("a", paused=True)


async def _pause_and_resume(world: World) -> None:
    await world.edit("a", paused=True)
    await asyncio.sleep(1)
    await world.edit("a", paused=False)


async def _remove(world: World) -> None:
    await world.delete("a")


async def _remove_and_add(world: World) -> None:
    await world.delete("a")
    await asyncio.sleep(1)
    await world.create(job("a", SECONDS))


async def _label(world: World) -> None:
    await world.edit("a", labels={"a": "b"})


@pytest.mark.parametrize("leaderless", [False, True], ids=["led", "leaderless"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_edit, [*range(1, 8), 10, 15]),
        (_pause, list(range(1, 8))),
        (_pause_and_resume, [n for n in range(1, 16) if n != 8]),
        (_remove, list(range(1, 8))),
        (_remove_and_add, [n for n in range(1, 16) if n != 8]),
        (_label, list(range(1, 16))),
    ],
)
def test_a_change_counts_from_its_own_instant(
    change: Callable[[World], Awaitable[None]],
    expected: list[int],
    leaderless: bool,  # noqa: FBT001 - a parameter
) -> None:
    async def story(world: World) -> None:
        await start(world)
        await world.create(job("a", SECONDS))
        await until(world, 6.8)
        leader = world.leader
        assert leader is not None
        if leaderless:
            await leader.kill()
        await until(world, 7.5)
        await change(world)
        await until(world, 15.5)
        # What was due without a leader, before the change, runs; a job that is removed takes it with it.
        gone = {7} if leaderless and change in (_remove, _remove_and_add) else set()
        assert sorted(slots(world)) == [slot for slot in expected if slot not in gone]

    told(story)()


@told
async def test_saving_an_unchanged_job_at_every_boot_neither_loses_nor_repeats_its_next_run(world: World) -> None:
    await start(world)
    await world.create(job("a", FIVES))
    for n in range(40):
        await until(world, 0.5 + n * 0.5)
        await world.edit("a", schedule=FIVES, note=str(n))
    assert slots(world) == [5, 10, 15, 20]


# Clocks, drift and scale.


@told
async def test_a_clock_that_steps_back_fires_nothing_twice_and_one_that_steps_forward_loses_nothing(
    world: World,
) -> None:
    await start(world, 1)
    await world.create(job("a", SECONDS))
    await until(world, 5.5)
    world.instances[0].clock.offset_s = -4.0
    await until(world, 15.5)
    world.instances[0].clock.offset_s = 4.0
    await until(world, 25.5)
    world.instances[0].clock.offset_s = 0.0
    await until(world, 40.5)
    assert sorted(slots(world)) == list(range(1, 41))


@told
async def test_an_interval_does_not_drift(world: World) -> None:
    await start(world)
    await world.create(job("a", ScheduleSpec(every="700ms")))
    await until(world, 600)
    assert slots(world) == grid(700, 1, 857)
    assert max(arrival.at_ms - arrival.slot_ms for arrival in world.arrivals) <= 5


@told
async def test_many_jobs_due_together_leave_together_and_none_starves(world: World) -> None:
    await start(world)
    for n in range(2_500):
        await MemoryStorage(world.cluster).create_job(Job(id=f"j.{n}", schedule=FIVES))
    await until(world, 11)
    counts = Counter((arrival.subject, arrival.slot_ms) for arrival in world.arrivals)
    assert len(counts) == 5_000
    assert set(counts.values()) == {1}
    assert max(arrival.at_ms - arrival.slot_ms for arrival in world.arrivals) <= 50
    world.writes.clear()
