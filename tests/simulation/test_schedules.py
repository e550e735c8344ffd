"""Schedules of the whole dialect among several instances: jitter, max_runs, run_at_start, priority."""

import msgspec
import pytest
from tests.simulation.test_traps import SECONDS, START, slots, start, told, until
from tests.simulation.world import World, job

from natscron.model import JobState, ScheduleSpec
from natscron.schedule import compile_schedule, resolve_spec

JITTERED = ScheduleSpec(cron="*/10 * * * * *", jitter="9s")


async def replace_leader(world: World) -> None:
    """The leader is killed, and a new process comes."""
    leader = world.leader
    assert leader is not None
    await leader.kill()
    await leader.start()


@told
async def test_a_jittered_slot_goes_at_its_due_instant_whoever_leads_and_keeps_its_slot(world: World) -> None:
    await start(world)
    await world.create(job("a", JITTERED))
    for second in (25.0, 52.0, 71.0):
        await until(world, second)
        await replace_leader(world)
    await until(world, 120)
    dues = compile_schedule(JITTERED, anchor_ms=0, seed="a").schedule.dues
    assert slots(world) == [10 * n for n in range(1, 12)]
    delays = set()
    for arrival in world.arrivals:
        due = dues.next_after_ms(arrival.slot_ms - 1)
        assert due is not None
        delays.add(due - arrival.slot_ms)
        assert arrival.at_ms >= due
        # Late only where nobody led.
        assert arrival.at_ms <= due + (
            5 if not any(f <= due - START < f + 5_000 for f in (25_000, 52_000, 71_000)) else 5_000
        )
    assert len(delays) == 11


@pytest.mark.parametrize("run_at_start", [False, True])
def test_max_runs_is_kept_to_whoever_leads_and_whatever_is_edited_beside(run_at_start: bool) -> None:  # noqa: FBT001 - a parameter
    spec = ScheduleSpec(every="2s", max_runs=6, run_at_start=run_at_start)

    async def story(world: World) -> None:
        await start(world)
        saved = resolve_spec(spec, world.clock.now_ms(), seed="a")
        await world.create(job("a", saved))
        await until(world, 3.5)
        await replace_leader(world)
        await until(world, 9.5)
        # The same file again, and a label: nothing is counted anew.
        again = resolve_spec(spec, world.clock.now_ms(), anchor_ms=START, seed="a", before=saved)
        await world.edit("a", schedule=again, labels={"a": "b"})
        await until(world, 30.5)
        assert len(slots(world)) == len(set(slots(world))) == 6
        assert world.leader is not None
        assert world.leader.engine is not None
        entry = world.leader.engine.table.get("a")
        assert entry is not None
        assert world.leader.engine.state_of(entry) is JobState.DONE
        # More runs are counted from the edit on.
        more = msgspec.structs.replace(spec, max_runs=2)
        more = resolve_spec(more, world.clock.now_ms(), anchor_ms=entry.job.anchor_ms, seed="a", before=saved)
        await world.edit("a", schedule=more)
        await until(world, 60)
        assert len(slots(world)) == len(set(slots(world))) == 8
        assert world.leader.engine.state_of(entry) is JobState.DONE

    told(story)()


@told
async def test_a_pause_does_not_give_back_runs_that_max_runs_counted(world: World) -> None:
    await start(world)
    await world.create(job("a", resolve_spec(ScheduleSpec(cron="* * * * * *", max_runs=6), START)))
    await until(world, 2.5)
    await world.edit("a", paused=True)
    await until(world, 4.5)
    await world.edit("a", paused=False)
    await until(world, 20)
    assert slots(world) == [1, 2, 5, 6]


@told
async def test_the_run_at_start_of_a_cron_goes_once_whoever_leads(world: World) -> None:
    await start(world)
    leader = world.leader
    await until(world, 3.5)
    leader = world.leader
    assert leader is not None
    await leader.kill()
    await world.create(job("a", ScheduleSpec(cron="*/10 * * * * *", run_at_start=True)))
    await until(world, 11)
    await world.edit("a", labels={"a": "b"})
    await world.edit("a", schedule=ScheduleSpec(cron="*/10 * * * * *", run_at_start=True, tz="Etc/UTC"))
    await leader.start()
    await until(world, 31)
    assert slots(world) == [3.501, 10, 20, 30]


@told
async def test_of_runs_due_together_those_of_higher_priority_leave_first_also_when_made_ready_before(
    world: World,
) -> None:
    await start(world)
    priorities = {f"j.{n}": (n * 37) % 199 - 100 for n in range(199)}
    for job_id, priority in priorities.items():
        await world.create(msgspec.structs.replace(job(job_id, SECONDS), priority=priority))
    await until(world, 3.5)
    # One that is not made ready with the others, since it changes meanwhile.
    await world.edit("j.0", priority=100)
    priorities["j.0"] = 100
    await until(world, 6.5)
    for second in (2, 5, 6):
        order = [priorities[a.subject] for a in world.arrivals if a.slot_ms == START + second * 1_000]
        assert len(order) == 199
        if second != 2:
            assert order == sorted(order, reverse=True)
