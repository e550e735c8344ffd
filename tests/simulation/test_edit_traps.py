"""Edits that other schedulers answered with a run too many, one too few, or none ever after; each with a leader, and in
a second without one."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.simulation.test_traps import FIVES, SECONDS, START, records, slots, start, told, until
from tests.simulation.world import World, job

from natscron.model import CalendarSpec, Delivery, ScheduleSpec, Skip, Weekly
from natscron.storage.memory import MemoryStorage
from natscron.storage.protocol import RunQuery

Act = Callable[[World], Awaitable[None]]
SEVENTH = ScheduleSpec(cron="7 * * * * *")
WORKDAYS = ScheduleSpec(cron="* * * * * *", except_=(ScheduleSpec(calendar="closed"),))
OPEN = CalendarSpec()
CLOSED = CalendarSpec(weekly=(Weekly(start="08:00", end="09:00"),))
"""The hour in which the world begins."""
LATE_FIVES = ScheduleSpec(cron="*/5 * * * * *", jitter="3s")
UNION = ScheduleSpec(any=(FIVES, ScheduleSpec(cron="*/7 * * * * *")))


def edited(**changes: object) -> Act:
    async def act(world: World) -> None:
        await world.edit("a", **changes)

    return act


def closed(spec: CalendarSpec) -> Act:
    async def act(world: World) -> None:
        await world.put_calendar("closed", spec)

    return act


def in_turn(*acts: Act, pause_s: float = 1.0) -> Act:
    async def act(world: World) -> None:
        for i, one in enumerate(acts):
            if i:
                await asyncio.sleep(pause_s)
            await one(world)

    return act


def together(*acts: Act) -> Act:
    async def act(world: World) -> None:
        await asyncio.gather(*(one(world) for one in acts))

    return act


async def paused_for_three_seconds(world: World) -> None:
    await world.edit("a", paused=True, paused_until_ms=START + 10_500)


async def skipped_for_three_seconds(world: World) -> None:
    await world.edit("a", skip=Skip(world.clock.now_ms(), START + 10_500))


async def removed_and_added(world: World) -> None:
    await world.delete("a")
    await world.create(job("a", LATE_FIVES))


SECOND_BY_SECOND = list(range(1, 15))
TO_THE_EDIT = list(range(1, 8))

CASES: dict[str, tuple[ScheduleSpec, Act, list[int]]] = {
    "a cron edited after today's slot does not run it again": (
        SEVENTH,
        edited(schedule=ScheduleSpec(cron="7,14 * * * * *", tz="Etc/UTC")),
        [7, 14],
    ),
    "a cron edited to an hour that has passed waits for tomorrow": (
        SEVENTH,
        edited(schedule=ScheduleSpec(cron="5 * * * * *")),
        [7],
    ),
    "an edit there and back loses and repeats nothing": (
        SECONDS,
        in_turn(edited(schedule=FIVES), edited(schedule=SECONDS), pause_s=0.2),
        SECOND_BY_SECOND,
    ),
    "a resume does not back-fill": (
        SECONDS,
        in_turn(edited(paused=True), edited(paused=False), pause_s=3),
        [*TO_THE_EDIT, *range(11, 15)],
    ),
    "a pause with an end resumes by itself": (
        SECONDS,
        paused_for_three_seconds,
        [*TO_THE_EDIT, *range(11, 15)],
    ),
    "a pause with an end that is taken back early goes on at once": (
        SECONDS,
        in_turn(paused_for_three_seconds, edited(paused=False, paused_until_ms=None)),
        [*TO_THE_EDIT, *range(9, 15)],
    ),
    "a schedule edited in a pause counts from the resume": (
        SECONDS,
        in_turn(edited(paused=True), edited(schedule=FIVES), edited(paused=False), pause_s=0.9),
        [*TO_THE_EDIT, 10],
    ),
    "skipping leaves out what the user named and nothing else": (
        SECONDS,
        skipped_for_three_seconds,
        [*TO_THE_EDIT, *range(11, 15)],
    ),
    "several instances that register the same job at boot neither lose nor repeat": (
        SECONDS,
        together(*(edited(schedule=SECONDS, note=str(n)) for n in range(3))),
        SECOND_BY_SECOND,
    ),
    "several instances that edit the same job end with one of the edits": (
        SECONDS,
        together(*(edited(schedule=FIVES, note=str(n)) for n in range(3))),
        [*TO_THE_EDIT, 10],
    ),
    "a calendar that closes takes the slots from then on": (WORKDAYS, closed(CLOSED), TO_THE_EDIT),
    "a calendar that closes and opens again gives back what comes after": (
        WORKDAYS,
        in_turn(closed(CLOSED), closed(OPEN), pause_s=3),
        [*TO_THE_EDIT, *range(11, 15)],
    ),
    "a jitter that is added delays only slots after the edit": (
        SECONDS,
        edited(schedule=LATE_FIVES),
        [*TO_THE_EDIT, 10],
    ),
    "a jitter that is taken away leaves the slot before the edit its delay": (
        LATE_FIVES,
        edited(schedule=SECONDS),
        [5, *range(8, 15)],
    ),
    "a label edited between a slot and its due instant changes nothing": (
        LATE_FIVES,
        edited(note="x"),
        [5, 10],
    ),
    "an edit to a union takes every member from then on": (SECONDS, edited(schedule=UNION), [*TO_THE_EDIT, 10, 14]),
    "an edit of a union's member keeps the others": (
        UNION,
        edited(schedule=ScheduleSpec(any=(FIVES, ScheduleSpec(cron="*/12 * * * * *")))),
        [5, 7, 10, 12],
    ),
}


@pytest.mark.parametrize("leaderless", [False, True], ids=["led", "leaderless"])
@pytest.mark.parametrize("case", CASES)
def test_an_edit_loses_and_repeats_nothing(case: str, leaderless: bool) -> None:  # noqa: FBT001 - a parameter
    schedule, act, expected = CASES[case]

    async def story(world: World) -> None:
        await start(world)
        await world.put_calendar("closed", OPEN)
        await world.create(job("a", schedule))
        await until(world, 6.8)
        leader = world.leader
        assert leader is not None
        if leaderless:
            await leader.kill()
        await until(world, 7.5)
        await act(world)
        await until(world, 14.9)
        assert sorted(slots(world)) == expected

    told(story)()


@pytest.mark.parametrize("leaderless", [False, True], ids=["led", "leaderless"])
@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (in_turn(edited(paused=True), edited(paused=False), pause_s=3), "paused"),
        (paused_for_three_seconds, "paused"),
        (skipped_for_three_seconds, "skip_next"),
    ],
)
def test_what_a_pause_or_a_skip_left_out_is_on_record(act: Act, reason: str, leaderless: bool) -> None:  # noqa: FBT001 - a parameter
    async def story(world: World) -> None:
        await start(world)
        await world.create(job("a", SECONDS))
        await until(world, 6.8)
        leader = world.leader
        assert leader is not None
        if leaderless:
            await leader.kill()
        await until(world, 7.5)
        await act(world)
        await until(world, 20.5)
        found = await MemoryStorage(world.cluster).list_runs(RunQuery(job="a", limit=10_000))
        ranges = [run for run in found if run.reason == reason]
        assert sum(run.count or 0 for run in ranges) == 3
        assert {min(run.from_ms or 0 for run in ranges), max(run.to_ms or 0 for run in ranges)} == {
            START + 8_000,
            START + 10_000,
        }

    told(story)()


@told
async def test_an_edit_of_the_target_holds_for_every_run_that_follows(world: World) -> None:
    await start(world)
    await world.create(job("a", SECONDS))
    await until(world, 7.5)
    await world.edit("a", delivery=Delivery.JETSTREAM)
    await until(world, 14.5)
    assert [(a.slot_ms - START) // 1000 for a in world.arrivals if a.delivery == "jetstream"] == list(range(8, 15))
    assert slots(world) == SECOND_BY_SECOND


@told
async def test_a_job_removed_and_added_with_another_schedule_runs_by_that_alone(world: World) -> None:
    await start(world)
    await world.create(job("a", SECONDS))
    await until(world, 7.5)
    await removed_and_added(world)
    await until(world, 14.5)
    assert slots(world) == [*TO_THE_EDIT, 10]


@told
async def test_a_job_whose_calendar_goes_stops_and_says_so_and_comes_alive_with_it(world: World) -> None:
    await start(world)
    await world.put_calendar("closed", OPEN)
    await world.create(job("a", WORKDAYS))
    await until(world, 3.5)
    await MemoryStorage(world.cluster).delete_calendar("closed")
    await until(world, 6.5)
    await world.put_calendar("closed", OPEN)
    await until(world, 9.5)
    assert slots(world) == [1, 2, 3, 7, 8, 9]
    assert ("completed", "invalid_job") in await records(world, "_service")
