"""What comes from outside of a job's row: zone data, classes of the application's own, rows that nobody can honour."""

import datetime as dt
from collections.abc import Callable, Iterator
from zoneinfo import ZoneInfo

import pytest
from tests.simulation.test_traps import SECONDS, START, Story, records, slots, start, told, until
from tests.simulation.world import World, job

from natscron.engine import engine
from natscron.model import CalendarSpec, Job, JobState, ScheduleSpec
from natscron.schedule import register_schedule, reload_zones, zones
from natscron.schedule.kinds import forget_schedule
from natscron.storage.memory import MemoryStorage
from natscron.storage.protocol import RunQuery

MINUTE = 60
SECOND = dt.timedelta(seconds=1)


async def said(world: World) -> list[str]:
    """What the service recorded about invalid jobs, the oldest first."""
    runs = await MemoryStorage(world.cluster).list_runs(RunQuery(job="_service", limit=1_000))
    return [str(run.result) for run in reversed(runs) if run.reason == "invalid_job"]


def state(world: World, job_id: str = "a") -> JobState:
    assert world.leader is not None
    assert world.leader.engine is not None
    entry = world.leader.engine.table.get(job_id)
    assert entry is not None
    return world.leader.engine.state_of(entry)


def played(story: Story) -> None:
    told(story)()


# Zone data that changes under running instances.


@pytest.fixture
def kolkata_for_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Call it, and the host's data says that Tokyo has the time of Kolkata: half an hour off the full hours."""
    load = zones._load

    def changed(name: str) -> ZoneInfo | None:
        return load("Asia/Kolkata" if name == "Asia/Tokyo" else name)

    reload_zones()
    yield lambda: monkeypatch.setattr(zones, "_load", changed)
    monkeypatch.undo()
    reload_zones()


ZONED = [
    ScheduleSpec(cron="5 * * * *", tz="Asia/Tokyo"),
    ScheduleSpec(cron="CRON_TZ=Asia/Tokyo 5 * * * *"),
    ScheduleSpec(any=(ScheduleSpec(cron="5 * * * *"), ScheduleSpec(at="1980-01-01T00:00:00Z")), tz="Asia/Tokyo"),
    ScheduleSpec(rrule="FREQ=HOURLY;BYMINUTE=5;BYSECOND=0", tz="Asia/Tokyo", start_at="2027-01-01T00:00:00Z"),
    ScheduleSpec(cron="5,35 * * * *", except_=(ScheduleSpec(calendar="today"),)),
]


@pytest.mark.parametrize("schedule", ZONED)
def test_a_running_leader_fires_by_new_zone_data_without_a_restart(
    schedule: ScheduleSpec, kolkata_for_tokyo: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._ZONES_EVERY_S <= 86_400
    # Minutes of virtual time instead of a day's; nothing else knows the number.
    monkeypatch.setattr(engine, "_ZONES_EVERY_S", 10.0 * MINUTE)

    async def story(world: World) -> None:
        await start(world, 1)
        await world.put_calendar("today", CalendarSpec(dates=("2027-01-15",), tz="Asia/Tokyo"))
        await world.create(job("a", schedule))
        await until(world, 6 * MINUTE)
        assert world.leader is not None
        assert world.leader.engine is not None
        before = world.leader.engine.next_run_ms("a")
        kolkata_for_tokyo()
        await until(world, 36 * MINUTE)
        if schedule.except_:
            # The day is over at 15:00 in Greenwich, or at 18:30: seven hours after the beginning, or ten and a half.
            assert slots(world) == []
            assert before == START + 1_000 * MINUTE * (7 * 60 + 5)
            assert world.leader.engine.next_run_ms("a") == START + 1_000 * MINUTE * (10 * 60 + 35)
        else:
            assert before == START + 65 * MINUTE * 1_000
            assert slots(world) == [5 * MINUTE, 35 * MINUTE]

    played(story)


# Classes of the application's own.


class Moody:
    """Every second, in a good mood."""

    bad = False

    def next_after(self, t: dt.datetime) -> dt.datetime | None:
        if Moody.bad:
            raise OSError("the database is away")
        return t.replace(microsecond=0) + SECOND

    def last_at_or_before(self, t: dt.datetime) -> dt.datetime | None:
        return self.next_after(t - SECOND)


@pytest.fixture
def moody() -> Iterator[None]:
    Moody.bad = False
    register_schedule("myapp.moody", Moody, encode=lambda _: "", decode=lambda _: Moody())
    yield
    forget_schedule("myapp.moody")


@pytest.mark.usefixtures("moody")
def test_a_class_that_fails_for_a_while_stops_neither_its_own_job_for_good_nor_any_other() -> None:
    async def story(world: World) -> None:
        await start(world)
        await world.create(job("a", ScheduleSpec(kind="myapp.moody")))
        await world.create(job("b", SECONDS))
        await until(world, 3.5)
        Moody.bad = True
        await until(world, 20.5)
        assert state(world) is JobState.INVALID
        assert ("skipped", "invalid_job") in await records(world)
        Moody.bad = False
        await until(world, 60.5)
        assert state(world) is JobState.ACTIVE
        found = await MemoryStorage(world.cluster).list_runs(RunQuery(job="a", limit=1_000))
        left_out = sum(run.count or 0 for run in found if run.reason == "invalid_job")
        assert left_out + len(slots(world)) == 60
        assert slots(world)[-20:] == list(range(41, 61))
        assert slots(world, "b") == list(range(1, 61))

    played(story)


def test_a_kind_that_nobody_registered_is_reported_kept_and_not_fired() -> None:
    async def story(world: World) -> None:
        await start(world)
        await world.create(job("a", ScheduleSpec(kind="myapp.moody", config="full")))
        row, _ = world.cluster.jobs["a"]
        await until(world, 10.5)
        assert slots(world) == []
        assert state(world) is JobState.INVALID
        assert [text.partition(":")[0] for text in await said(world)] == ["a"]
        assert "'myapp.moody'" in (await said(world))[0]
        assert world.cluster.jobs["a"][0] == row
        world.writes.clear()

    played(story)


# Rows that nobody can honour, written while nobody leads.


@pytest.mark.parametrize("leaderless", [False, True], ids=["led", "leaderless"])
def test_a_job_that_becomes_invalid_is_on_record_whoever_leads(leaderless: bool) -> None:  # noqa: FBT001 - a parameter
    async def story(world: World) -> None:
        await start(world)
        await world.put_calendar("closed", CalendarSpec())
        await world.create(job("a", SECONDS))
        await world.create(job("b", ScheduleSpec(cron="* * * * *", except_=(ScheduleSpec(calendar="closed"),))))
        await until(world, 3.5)
        if leaderless:
            assert world.leader is not None
            await world.leader.kill()
        await MemoryStorage(world.cluster).put_job(Job(id="a", schedule=ScheduleSpec(cron="0 0 30 2 *")))
        await MemoryStorage(world.cluster).delete_calendar("closed")
        await until(world, 12.5)
        assert sorted(text.partition(":")[0] for text in await said(world)) == ["a", "b"]
        world.writes.clear()

    played(story)


def test_a_leader_does_not_say_again_what_the_one_before_it_said() -> None:
    async def story(world: World) -> None:
        await start(world)
        await MemoryStorage(world.cluster).create_job(Job(id="a", schedule=ScheduleSpec(cron="0 0 30 2 *")))
        await until(world, 3.5)
        assert world.leader is not None
        await world.leader.stop()
        await until(world, 6.5)
        assert world.leader is not None
        assert len(await said(world)) == 1
        world.writes.clear()

    played(story)


def test_the_first_leader_ever_says_which_rows_it_found_invalid() -> None:
    async def story(world: World) -> None:
        world.cluster.put_row("garbage", b"\xff{")
        await start(world)
        await until(world, 3.5)
        assert [text.partition(":")[0] for text in await said(world)] == ["garbage"]
        world.writes.clear()

    played(story)
