"""Many instances, virtual time, faults drawn by hypothesis; after each story the promise must hold."""

import asyncio

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.world import World, job

from natscron.model import Delivery, ScheduleSpec
from natscron.testing.virtual import VirtualLoop

SCHEDULES = [
    ScheduleSpec(every="1s"),
    ScheduleSpec(every="700ms"),
    ScheduleSpec(every="300ms"),
    ScheduleSpec(cron="*/5 * * * * *"),
    ScheduleSpec(cron="* * * * *"),
    ScheduleSpec(every="2s", run_at_start=True),
]


class Step(msgspec.Struct, frozen=True):
    """One thing that happens, ``after_s`` after the one before."""

    after_s: float
    what: str
    who: int
    n: int


STEPS = st.builds(
    Step,
    after_s=st.sampled_from([0.0, 0.003, 0.01, 0.1, 0.33, 0.668, 1.0, 2.5, 4.0, 13.0]),
    what=st.sampled_from(
        [
            "kill leader",
            "kill",
            "start",
            "stop leader",
            "cut leader",
            "deafen leader",
            "lose lease answer",
            "down",
            "suspend leader",
            "freeze leader",
            "edit",
            "label",
            "pause",
            "resume",
            "delete",
            "add",
            "silence workers",
            "forget dedupe",
        ]
    ),
    who=st.integers(0, 2),
    n=st.integers(0, 5),
)


async def tell(world: World, steps: list[Step]) -> None:
    """Let a story happen."""
    for step in steps:
        await asyncio.sleep(step.after_s)
        await act(world, step)


async def act(world: World, step: Step) -> None:  # noqa: C901, PLR0912 - one branch per thing that can happen
    """One step of a story."""
    leader = world.leader
    instance = world.instances[step.who]
    subject = f"job.{step.n}"
    match step.what:
        case "kill leader" if leader is not None:
            world.fault("kill leader", 3)
            await leader.kill()
        case "kill":
            world.fault("kill", 3)
            await instance.kill()
        case "start" if instance.engine is None and world.cluster.up:
            await instance.start()
        case "stop leader" if leader is not None:
            await leader.stop()
        case "cut leader" if leader is not None and leader.storage is not None:
            world.fault("cut leader", 1)
            leader.storage.cut(world.rng)
        case "deafen leader" if leader is not None and leader.storage is not None:
            world.fault("deafen leader", 2)
            leader.storage.deafen()
        case "lose lease answer" if leader is not None and leader.storage is not None:
            for link in leader.storage.faulty_links:
                link.lose_lease_answers = 1 + step.n % 3
        case "down":
            seconds = (0.5, 2.0, 6.0)[step.n % 3]
            world.fault("down", seconds + 3)
            world.cluster.up = False
            await asyncio.sleep(seconds)
            world.cluster.up = True
        case "suspend leader" if leader is not None:
            seconds = (0.4, 1.6, 10.0)[step.n % 3]
            world.fault("suspend leader", seconds + 1)
            world.loop.suspend(leader.host)
            await asyncio.sleep(seconds)
            world.loop.resume(leader.host)
        case "freeze leader" if leader is not None:
            # As a host whose monotonic clock stands still while it sleeps.
            seconds = (0.4, 1.6, 10.0)[step.n % 3]
            world.fault("freeze leader", seconds + 1)
            world.loop.suspend(leader.host)
            await asyncio.sleep(seconds)
            leader.clock.frozen_s += seconds
            world.loop.resume(leader.host)
        case "silence workers":
            world.silent_workers = not world.silent_workers
        case "forget dedupe":
            world.stored.clear()
        case _:
            await edit(world, step, subject)


async def edit(world: World, step: Step, subject: str) -> None:
    """What users do to jobs."""
    if not world.cluster.up:
        return
    match step.what:
        case "edit":
            await world.edit(subject, schedule=SCHEDULES[(step.n + step.who) % len(SCHEDULES)])
        case "label":
            await world.edit(subject, labels={"n": str(step.who)})
        case "pause":
            await world.edit(subject, paused=True)
        case "resume":
            await world.edit(subject, paused=False)
        case "delete":
            await world.delete(subject)
        case "add":
            row = world.cluster.jobs.get(subject)
            if row is None or row[0] is None:
                await world.create(job(subject, SCHEDULES[step.who]))
        case _:
            return


def play(seed: int, steps: list[Step], offsets: tuple[float, ...] = ()) -> World:
    """A whole story on virtual time; the world after it was healed, checked."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        async def main() -> World:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            world = World(loop, seed, offsets=offsets)
            for instance in world.instances:
                await instance.start()
            deliveries = [Delivery.CORE, Delivery.JETSTREAM, Delivery.REQUEST]
            for n, schedule in enumerate(SCHEDULES):
                await world.create(job(f"job.{n}", schedule, deliveries[n % 3]))
            try:
                await asyncio.sleep(2)
                await tell(world, steps)
                world.silent_workers = False
                await world.heal()
                world.check()
            finally:
                await world.stop()
            return world

        return runner.run(main())


@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 2**32), steps=st.lists(STEPS, max_size=14))
def test_no_story_of_faults_and_edits_loses_or_doubles_a_slot(seed: int, steps: list[Step]) -> None:
    play(seed, steps)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(STEPS, max_size=10),
    offsets=st.tuples(*[st.sampled_from([0.0, 0.4, -0.4, 3.0, -3.0])] * 3),
)
def test_clocks_that_are_off_lose_nothing(seed: int, steps: list[Step], offsets: tuple[float, ...]) -> None:
    play(seed, steps, offsets)


def test_without_faults_every_slot_arrives_exactly_once() -> None:
    world = play(1, [])
    ids = [a.run_id for a in world.arrivals]
    assert len(ids) > 400
    assert len(ids) == len(set(ids))
