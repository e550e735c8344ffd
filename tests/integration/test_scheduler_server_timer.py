"""Jobs that nats-server times, on a real one: they fire while nothing of ours runs, and each slot runs once."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import msgspec
import pytest

from natscron.clock import SystemClock
from natscron.codec.row import THIS_WRITE
from natscron.errors import ConfigError, InvalidScheduleError, JobNotFoundError, ValidationError
from natscron.ids import RunIds
from natscron.model import SERVER_LAG_MS, CatchUp, CatchUpPolicy, Job, Overlap, Reason, RunStatus, Stamp, Timer
from natscron.schedule import cron, every, once
from natscron.scheduler import Scheduler
from natscron.storage.memory import MemoryStorage
from natscron.storage.nats import LibraryOptions, NATSStorage
from natscron.storage.timers import LaidTimer
from natscron.testing.nats import NatsServer
from natscron.wire.kv import get_last, last_seq
from natscron.wire.window import PublishWindow
from natscron.worker.event import JobEvent

pytestmark = pytest.mark.anyio

CLOCK = SystemClock()
SECONDS = cron("* * * * * *")
SELDOM = cron("0 0 1 1 *")
_numbers = count(1)


def ahead(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp((CLOCK.now_ms() + int(seconds * 1_000)) / 1_000, dt.UTC)


class Calls:
    """A handler that notes its calls."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self._called = asyncio.Event()

    async def __call__(self, event: JobEvent) -> None:
        self.events.append(event)
        self._called.set()

    def slots(self, job: str) -> list[int]:
        return [int(event.scheduled_at.timestamp() * 1_000) for event in self.events if event.id == job]

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not done():
                self._called.clear()
                await self._called.wait()


class Site:
    """Names of its own on one server, a look at what lies there, and the schedulers that share it."""

    def __init__(self, storage: NATSStorage) -> None:
        self.look = storage
        self.options = storage.library
        self._begun: dict[Scheduler, NATSStorage] = {}

    async def begin(self, handler: Calls | None = None, **options: object) -> Scheduler:
        storage = NATSStorage(self.look._given, self.options)
        given = {"worker": handler is not None, "timer": "server"} | options
        scheduler = Scheduler(storage, handler, **given)  # type: ignore[arg-type]  # any of its options
        self._begun[scheduler] = storage
        await scheduler.start()
        return scheduler

    async def end(self, scheduler: Scheduler) -> None:
        storage = self._begun.pop(scheduler)
        await scheduler.stop()
        await storage.close()

    async def close(self) -> None:
        for scheduler in list(self._begun):
            await self.end(scheduler)

    async def timers(self) -> dict[str, LaidTimer]:
        found = await self.look.read_timers()
        jobs = {timer.job: timer for timer in found}
        assert len(jobs) == len(found), "a job has two timers"
        return jobs

    async def fired(self, job: str) -> bool:
        subject = f"{self.options.timer_prefix}.runs.{job}"
        return await get_last(self.look.connection, self.options.timer_stream, subject) is not None

    async def job(self, job: str) -> Job:
        found = await self.look.fetch_job(job)
        assert found is not None
        return found


async def so(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await done():  # noqa: ASYNC110 - the store is asked
            await asyncio.sleep(0.01)


@pytest.fixture
async def site(shared_nats: NatsServer) -> AsyncIterator[Site]:
    storage = NATSStorage(shared_nats.url, LibraryOptions(prefix=f"TIMER{next(_numbers)}"))
    await storage.initialize()
    site = Site(storage)
    yield site
    await site.close()
    await storage.close()


async def test_it_fires_while_nothing_of_ours_runs_and_what_fired_runs_at_the_next_start(site: Site) -> None:
    scheduler = await site.begin()
    at = ahead(0.4)
    await scheduler.add_job("once", once(at))
    await scheduler.add_job("tick", SECONDS, overlap="allow")
    born = (await site.job("tick")).counts_from.at_ms
    await site.end(scheduler)

    async def both_fired() -> bool:
        return await site.fired("once") and await site.fired("tick")

    await so(both_fired)
    calls = Calls()
    scheduler = await site.begin(calls)
    begun = CLOCK.now_ms()
    await calls.until(lambda: len(calls.slots("once")) == 1 and max(calls.slots("tick"), default=0) > begun)
    assert calls.slots("once") == [int(at.timestamp() * 1_000)]
    ticks = calls.slots("tick")
    assert ticks == [*range(born // 1_000 * 1_000 + 1_000, ticks[-1] + 1, 1_000)]
    # It was the server that fired the newest: the leader looks for it three seconds later.
    assert calls.events[-1].delay < dt.timedelta(milliseconds=SERVER_LAG_MS / 2)
    ids = RunIds("scheduler", "tick", (await site.job("tick")).generation)
    assert [event.run_id for event in calls.events if event.id == "tick"] == [ids.at(slot) for slot in ticks]

    async def settled() -> bool:
        return not await site.fired("once")

    await so(settled)


async def test_what_the_policy_forbids_is_recorded_with_its_reason(site: Site) -> None:
    # Somebody leads first: the first leader ever begins with what it finds.
    leader = await site.begin()

    async def leads() -> bool:
        return leader.is_leader

    await so(leads)
    await site.end(leader)
    born = CLOCK.now_ms() // 1_000 * 1_000 - 60_500
    row = Job(
        id="late",
        schedule=msgspec.structs.replace(SECONDS, timer="server"),
        overlap=Overlap.ALLOW,
        catchup=CatchUp(policy=CatchUpPolicy.NONE),
        created_at_ms=born,
        anchor_ms=born,
        counts_from=Stamp(born, THIS_WRITE),
    )
    await site.look.create_job(row)
    calls = Calls()
    scheduler = await site.begin(calls, lease="500ms")
    await calls.until(lambda: len(calls.slots("late")) >= 10)

    async def told() -> bool:
        return any(run.reason == Reason.CATCHUP_NONE for run in await scheduler.list_runs("late"))

    await so(told)
    [skipped] = [run for run in await scheduler.list_runs("late") if run.status is RunStatus.SKIPPED]
    ran = sorted(calls.slots("late"))
    assert skipped.from_ms == born + 500
    assert skipped.to_ms == ran[0] - 1_000
    assert skipped.count == (ran[0] - born) // 1_000
    assert ran == [*range(ran[0], ran[-1] + 1, 1_000)]


async def test_a_slot_that_fires_twice_runs_once(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    await scheduler.add_job("tick", SECONDS, overlap="allow")
    # The same timer once more, as if a crash had made the server fire everything anew.
    [timer] = (await site.timers()).values()
    prefix = site.options.timer_prefix
    headers = {"Nats-Schedule": timer.text, "Nats-Schedule-Target": f"{prefix}.runs.tick"}
    window = PublishWindow(site.look.connection)
    await (await window.publish(f"{prefix}.timers.tick.00{timer.since}", b"", headers))
    seen = await last_seq(site.look.connection, site.options.timer_stream)

    async def fired_twice() -> bool:
        return await last_seq(site.look.connection, site.options.timer_stream) >= seen + 2

    await so(fired_twice)
    await calls.until(lambda: bool(calls.events))
    await site.end(scheduler)
    again = Calls()
    await site.begin(again)
    begun = CLOCK.now_ms()
    await again.until(lambda: max(again.slots("tick"), default=0) > begun)
    slots = [*calls.slots("tick"), *again.slots("tick")]
    assert slots == [*range(slots[0], slots[-1] + 1, 1_000)]
    await window.close()


@pytest.mark.parametrize("plan", [True, False])
async def test_the_servers_timer_follows_every_change_at_once(site: Site, *, plan: bool) -> None:
    scheduler = await site.begin(plan=plan)
    await scheduler.add_job("a", every("1h"))
    await scheduler.add_job("b", SELDOM)
    await scheduler.add_job("mine", every("7s"), timer="leader")
    first = (await site.timers())["a"]
    assert (first.since, first.tz) == ((await site.job("a")).generation, "")

    # A change of anything but the schedule leaves it alone, and so does asking for what is there.
    await scheduler.update_job("a", metadata={"team": "x"}, overlap="allow")
    assert not await scheduler.ensure_job("a", every("1h"), metadata={"team": "x"}, overlap="allow")
    assert (await site.timers())["a"] == first
    assert set(await site.timers()) == {"a", "b"}

    await scheduler.update_job_schedule("a", cron("0 9 * * *", tz="Asia/Tokyo"))
    second = (await site.timers())["a"]
    assert (second.text, second.tz) == ("0 0 9 * * *", "Asia/Tokyo")
    assert second.since > first.since

    await scheduler.pause("a")
    assert set(await site.timers()) == {"b"}
    await scheduler.resume("a")
    assert (await site.timers())["a"].since > second.since
    await scheduler.pause("a", until=ahead(3_600))
    assert set(await site.timers()) == {"a", "b"}

    await scheduler.update_job("a", timer="leader")
    assert set(await site.timers()) == {"b"}
    assert (await scheduler.get_job("a")).timer is Timer.LEADER
    await scheduler.update_job("a", timer="server", paused=False)
    assert set(await site.timers()) == {"a", "b"}
    assert (await scheduler.get_job("a")).timer is Timer.SERVER
    await scheduler.remove_job("a")
    assert set(await site.timers()) == {"b"}
    with pytest.raises(JobNotFoundError):
        await scheduler.get_job("a")


async def test_the_leader_lays_down_what_is_missing_and_takes_away_what_is_too_much(site: Site) -> None:
    writer = await site.begin(plan=False)
    await writer.add_job("kept", SELDOM)
    await writer.add_job("wrong", SELDOM)
    timers = await site.timers()
    await site.look.take_timers("kept")
    await site.look.take_timers("wrong")
    await site.look.lay_timer(msgspec.structs.replace(timers["wrong"], text="0 0 0 2 2 *"))
    await site.look.lay_timer(LaidTimer("removed", 1, "0 0 0 1 1 *"))
    await site.look.create_job(
        Job(id="written", schedule=msgspec.structs.replace(SELDOM, timer="server"))
    )  # by somebody who ended before the timer was laid
    leader = await site.begin()

    async def as_it_should_be() -> bool:
        return {job: timer.text for job, timer in (await site.timers()).items()} == dict.fromkeys(
            ("kept", "wrong", "written"), "0 0 0 1 1 *"
        )

    await so(as_it_should_be)
    # While it leads: a row that changes, and one that goes, by whoever.
    await site.look.delete_job("written")

    async def gone() -> bool:
        return "written" not in await site.timers()

    await so(gone)
    assert leader.is_leader


async def test_what_a_timer_fires_that_should_not_be_there_is_dropped_and_its_timer_taken_away(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    await scheduler.add_job("seldom", SELDOM)
    # Both as a replacement leaves them that raced with a firing, or a process that died in between.
    await site.look.lay_timer(LaidTimer("gone", 1, "* * * * * *"))
    headers = {"Nats-Schedule": "* * * * * *", "Nats-Schedule-Target": f"{site.options.timer_prefix}.runs.seldom"}
    window = PublishWindow(site.look.connection)
    await (await window.publish(f"{site.options.timer_prefix}.timers.seldom.999999", b"", headers))

    async def tidy() -> bool:
        return {(timer.job, timer.text) for timer in await site.look.read_timers()} == {("seldom", "0 0 0 1 1 *")}

    await so(tidy)
    assert not calls.events
    assert await scheduler.list_runs() == []
    await window.close()


async def test_a_job_that_changes_its_timer_misses_and_doubles_no_slot(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    await scheduler.add_job("tick", SECONDS, overlap="allow")
    await calls.until(lambda: bool(calls.events))
    for timer in ("leader", "server", "leader", "server"):
        await scheduler.update_job("tick", timer=timer)
    await calls.until(lambda: len(calls.events) > 1)
    slots = sorted(calls.slots("tick"))
    assert slots == [*range(slots[0], slots[-1] + 1, 1_000)]
    assert set(await site.timers()) == {"tick"}


@pytest.mark.parametrize("id", ["a.b", "*", "x y", "a.>", "größer"])
async def test_any_id_has_a_timer(site: Site, id: str) -> None:  # noqa: A002 - the field's name
    scheduler = await site.begin(plan=False)
    await scheduler.add_job(id, SELDOM)
    await scheduler.add_job(f"{id}.5", SELDOM)
    assert set(await site.timers()) == {id, f"{id}.5"}
    await scheduler.remove_job(id)
    assert set(await site.timers()) == {f"{id}.5"}


async def test_a_scheduler_that_has_no_such_job_makes_no_stream(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls, timer="leader")
    await scheduler.add_job("tick", every("20ms"))
    await calls.until(lambda: len(calls.events) > 2)
    assert not await site.look.has_timers()


async def test_what_the_server_cannot_time_is_refused_and_not_stored(site: Site) -> None:
    scheduler = await site.begin()
    with pytest.raises(InvalidScheduleError, match=r"an interval of 7s: its steps .* or use timer='leader'"):
        await scheduler.add_job("a", every("7s"))
    with pytest.raises(ValidationError, match="timer must be one of leader, server; got 'moon'"):
        await scheduler.add_job("a", SELDOM, timer="moon")
    assert await scheduler.list_jobs() == []
    await scheduler.add_job("a", SELDOM)
    with pytest.raises(InvalidScheduleError, match="jitter"):
        await scheduler.update_job_schedule("a", cron("0 9 * * *", jitter="5m"))
    assert (await site.timers())["a"].text == "0 0 0 1 1 *"


def test_only_nats_has_a_timer() -> None:
    with pytest.raises(ConfigError, match="timer='server' needs nats-server"):
        Scheduler("memory://", timer="server")
    with pytest.raises(ConfigError, match="timer must be one of leader, server; got 'sun'"):
        Scheduler("memory://", timer="sun")
    scheduler = Scheduler(MemoryStorage())
    with pytest.raises(ValidationError, match="job 'a': timer 'server' needs a scheduler on nats://"):
        scheduler.job("a", SELDOM, timer="server")


async def test_the_stream_of_another_program_is_left_alone_and_named(site: Site) -> None:
    config = {
        "name": site.options.timer_stream,
        "subjects": [f"{site.options.timer_prefix}.>"],
        "retention": "workqueue",
    }
    await site.look.connection.js_request(f"STREAM.CREATE.{config['name']}", config)
    scheduler = await site.begin()
    with pytest.raises(ConfigError, match=rf"stream {config['name']} exists and is not one for timers .*timer_stream"):
        await scheduler.add_job("a", SELDOM)
    await scheduler.add_job("b", SELDOM, timer="leader")
    info = await site.look.connection.js_request(f"STREAM.INFO.{config['name']}")
    assert info["config"]["retention"] == "workqueue"
