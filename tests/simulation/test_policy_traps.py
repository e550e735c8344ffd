"""Policies where a leader changes, or several runs of a job meet in one write: each was wrong once, on virtual time."""

import asyncio

import msgspec
import pytest
from tests.simulation.test_policies import SECONDS, START, Workshop, begin, kill_leader, play, reporting, until
from tests.simulation.world import Arrival, job

from natscron.engine.engine import Engine
from natscron.ids import ulid
from natscron.model import (
    Delivery,
    OpenRow,
    OpenState,
    Overlap,
    Reason,
    Report,
    Retry,
    RunStatus,
    ScheduleSpec,
)
from natscron.storage.memory import MemoryStorage

HOURLY = ScheduleSpec(cron="0 * * * *")


def engine_of(world: Workshop) -> Engine:
    assert world.leader is not None
    assert world.leader.engine is not None
    return world.leader.engine


async def everybody_down(world: Workshop) -> None:
    for instance in world.instances:
        if instance is world.leader:
            world.fault("kill leader", 3)
    for instance in world.instances:
        await instance.kill()


# Several of one job at once.


def test_of_slots_that_are_caught_up_with_at_once_only_the_newest_is_going_when_each_replaces_the_other() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 30
        await begin(world, reporting(schedule=ScheduleSpec(every="10s"), overlap=Overlap.CANCEL_OTHER))
        await asyncio.sleep(1)
        await everybody_down(world)
        await asyncio.sleep(35)
        for instance in world.instances:
            await instance.start()
        await until(lambda: world.leader is not None)
        await asyncio.sleep(0.7)
        leader = world.leader
        assert leader is not None
        term = leader.engine._leadership.term  # type: ignore[union-attr]
        assert term is not None
        assert term.flights.running("a") == 1
        by_run = {run.run_id: run for run in await world.records()}
        newest = max(arrival.slot_ms for arrival in world.arrivals)
        for run in by_run.values():
            if run.run_id:
                assert (run.status is RunStatus.RUNNING) is (run.scheduled_at_ms == newest)

    play(story)


def test_triggers_that_replace_each_other_in_one_step_leave_one_going() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 5
        await begin(world, reporting(schedule=HOURLY, overlap=Overlap.CANCEL_OTHER))
        engine = engine_of(world)
        ids = await asyncio.gather(*(engine.trigger("a") for _ in range(4)))
        await asyncio.sleep(20)
        ends = {run.run_id: (run.status, run.reason) for run in await world.records()}
        assert set(ends) == set(ids)
        assert sorted(reason or "" for _, reason in ends.values()) == ["", *["replaced"] * 3]
        assert not world.cluster.rows

    play(story)


def test_a_backfill_whose_runs_replace_each_other_ends_with_nothing_going() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 2
        await begin(world, reporting(schedule=HOURLY))
        await engine_of(world).backfill(
            "a", START - 36_000_000, START - 1, every_ms=1, overlap=Overlap.CANCEL_OTHER, key=None
        )
        await asyncio.sleep(20)
        records = [run for run in await world.records() if run.scheduled_at_ms]
        replaced = {run.run_id for run in records if run.reason == Reason.REPLACED}
        assert len({run.run_id for run in records} - replaced) == 1
        assert len(replaced) == 9
        assert not world.cluster.rows

    play(story)


def test_a_policy_that_was_kept_without_effect_costs_a_backfill_no_slot() -> None:
    async def story(world: Workshop) -> None:
        await begin(world, msgspec.structs.replace(job("a", HOURLY), overlap=Overlap.SKIP))
        await engine_of(world).backfill("a", START - 36_000_000, START - 1, every_ms=1, overlap=None, key=None)
        await asyncio.sleep(5)
        assert len(world.arrivals) == 10

    play(story)


# Leaders that change.


@pytest.mark.parametrize("delivery", [Delivery.CORE, Delivery.JETSTREAM])
def test_a_report_heard_before_the_mark_passed_its_run_is_known_to_the_successor(delivery: Delivery) -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 0.01
        await begin(
            world,
            reporting(schedule=SECONDS, delivery=delivery, timeout_ms=3_000, retry=Retry(attempts=2, backoff_ms=100)),
        )
        for _ in range(12):
            # Just after a run ended, whatever the renewals are doing.
            count = len(world.reported)
            await until(lambda count=count: len(world.reported) > count)  # type: ignore[misc]
            await asyncio.sleep(0.02)
            await kill_leader(world)
            await asyncio.sleep(1 + world.rng.random())
        await world.heal()
        assert {arrival.attempt for arrival in world.arrivals} == {1}
        assert not [run for run in await world.records() if run.reason == Reason.TIMEOUT]

    play(story)


def test_a_report_that_names_a_run_of_the_far_future_holds_nothing_up() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 1.5
        await begin(world, reporting(overlap=Overlap.BUFFER_ALL))
        await asyncio.sleep(3.2)
        await everybody_down(world)
        store = MemoryStorage(world.cluster)
        for name, row_state in (("far", OpenState.REPORTED), ("later", OpenState.CANCEL)):
            about = ulid(START + 10**9)
            report = Report(status=RunStatus.COMPLETED) if row_state is OpenState.REPORTED else None
            await store.submit_row(
                OpenRow(
                    run_id=f"{name}=end",
                    job_id="a",
                    generation=1,
                    scheduled_at_ms=START + 10**9,
                    state=row_state,
                    about=about,
                    report=report,
                    reader=2,
                )
            )
        before = len(world.arrivals)
        for instance in world.instances:
            await instance.start()
        await asyncio.sleep(30)
        assert len(world.arrivals) > before + 10
        assert len(world.cluster.notes) < 50

    play(story)


def test_a_stop_in_order_hands_over_what_waits_and_decides_nothing_more_about_it() -> None:
    async def story(world: Workshop) -> None:
        world.silent_workers = True
        await begin(
            world,
            msgspec.structs.replace(
                job("a", SECONDS, Delivery.REQUEST), overlap=Overlap.BUFFER_ALL, timeout_ms=4_000, retry=Retry()
            ),
        )
        await asyncio.sleep(3.5)
        await world.edit("a", overlap=Overlap.SKIP)
        leader = world.leader
        assert leader is not None
        storage = leader.storage
        assert storage is not None
        stopping = asyncio.create_task(leader.stop())
        await until(lambda: world.leader is not None and world.leader is not leader)
        await stopping
        await leader.start()
        await asyncio.sleep(20)
        skipped = [run.run_id for run in await world.records() if run.reason == Reason.OVERLAP_SKIP]
        assert len(skipped) == len(set(skipped)), "left out twice"
        assert not set(skipped) & {arrival.run_id for arrival in world.arrivals}, "left out, and sent"

    play(story)


def test_a_backfill_waits_while_its_job_cannot_be_honoured_and_ends_when_it_is_removed() -> None:
    async def story(world: Workshop) -> None:
        await begin(world, job("a", HOURLY))
        engine = engine_of(world)
        await engine.backfill("a", START - 36_000_000, START - 1, every_ms=500, overlap=None, key=None)
        await asyncio.sleep(1.2)
        await world.edit("a", schedule=ScheduleSpec(cron="0 * * * *", except_=(ScheduleSpec(calendar="gone"),)))
        await asyncio.sleep(5)
        [going] = engine.backfills()
        assert going.backfill is not None
        assert going.backfill.done == len(world.arrivals) == 3
        await world.delete("a")
        await asyncio.sleep(2)
        assert not engine.backfills()
        assert [run.reason for run in await world.records()][-1] == Reason.BACKFILL_CANCELLED

    play(story)


def test_a_key_used_again_before_the_history_knows_of_the_end_begins_no_second_backfill() -> None:
    async def story(world: Workshop) -> None:
        await begin(world, job("a", HOURLY))
        engine = engine_of(world)
        row = await engine.backfill("a", START - 36_000_000, START - 1, every_ms=1, overlap=None, key="k")
        await until(lambda: not engine.backfills())
        await MemoryStorage(world.cluster).submit_row(row)
        await asyncio.sleep(5)
        assert len(world.arrivals) == 10
        assert not world.cluster.rows

    play(story)


# Pauses.


def test_a_job_whose_timed_pause_is_over_is_paused_again_when_it_keeps_failing() -> None:
    async def story(world: Workshop) -> None:
        world.works_s, world.succeeds = 0.1, False
        await begin(world, reporting(pause_after_failures=3, paused=True, paused_until_ms=START + 5_000))
        await asyncio.sleep(7.5)
        await kill_leader(world)
        await asyncio.sleep(15)
        stored = await MemoryStorage(world.cluster).fetch_job("a")
        assert stored is not None
        assert (stored.paused, stored.paused_until_ms) == (True, None)

    play(story)


def test_an_end_that_is_reported_of_a_removed_jobs_run_is_the_end_of_it() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 3
        await begin(world, reporting(schedule=HOURLY, timeout_ms=10_000))
        run_id = await engine_of(world).trigger("a")
        await until(lambda: bool(world.arrivals))
        await world.delete("a")
        await asyncio.sleep(30)
        assert [run.status for run in await world.records() if run.run_id == run_id][-1] is RunStatus.COMPLETED

    play(story)


def test_jetstream_runs_of_the_journal_go_again_whatever_their_policy() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 2.5
        await begin(world, reporting(delivery=Delivery.JETSTREAM, overlap=Overlap.SKIP))
        for _ in range(6):
            await asyncio.sleep(2 + world.rng.random())
            await kill_leader(world)
        await world.heal()
        sent = {arrival.run_id for arrival in world.arrivals if isinstance(arrival, Arrival)}
        left_out = {run.run_id for run in await world.records() if run.reason == Reason.OVERLAP_SKIP}
        assert not sent & left_out

    play(story)


@pytest.mark.parametrize("seed", range(6))
def test_a_report_on_a_run_whose_note_never_arrived_is_the_end_of_it(seed: int) -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 0.2
        await begin(world, reporting(delivery=Delivery.JETSTREAM))
        for _ in range(4):
            arrived = len(world.arrivals)
            await until(lambda arrived=arrived: len(world.arrivals) > arrived)  # type: ignore[misc]
            # Its write was cut: the message is there, the note is not.
            newest = world.arrivals[-1].run_id
            await kill_leader(world)
            for ref, (note, _) in list(world.cluster.notes.items()):
                if newest in note.run_ids:
                    del world.cluster.notes[ref]
        await world.heal()
        assert not [run for run in await world.records() if run.reason == Reason.TIMEOUT]
        assert {arrival.attempt for arrival in world.arrivals} == {1}
        assert len(world.arrivals) == len({arrival.run_id for arrival in world.arrivals}), "a copy of what was reported"

    play(story, seed)


# What is shown.


def test_a_run_that_waited_is_its_jobs_last_and_a_backfill_is_not() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 1.5
        await begin(world, reporting(overlap=Overlap.BUFFER_ALL), job("b", HOURLY))
        await engine_of(world).backfill("b", START - 36_000_000, START - 1, every_ms=1, overlap=Overlap.ALLOW, key=None)
        await asyncio.sleep(10)
        engine = engine_of(world)
        # The sixth run or so is going: what ran last is no longer the first, the only one that went at its slot.
        assert (await engine.last_runs(["a"]))["a"] >= START + 4_000
        assert "b" not in engine._leadership.last_run

    play(story)
