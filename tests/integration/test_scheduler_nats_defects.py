"""What the Go library does wrong on NATS (its defects N1 to N24), and that this one does not: a test for each.

Two schedulers on one server stand for two processes; those that are killed are in the fault tests.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path

import pytest

from natscron.clock import SystemClock
from natscron.errors import JobAlreadyExistsError, JobNotFoundError
from natscron.model import RunStatus
from natscron.schedule import cron, every, once
from natscron.scheduler import Scheduler
from natscron.storage.nats import LibraryOptions, NATSStorage
from natscron.testing.nats import NatsCluster, NatsServer, TcpProxy
from natscron.wire.kv import last_seq
from natscron.wire.reading import read_range
from natscron.worker.event import JobEvent

pytestmark = pytest.mark.anyio

CLOCK = SystemClock()
FAR = cron("0 0 1 1 *")
_numbers = count(1)
Begin = Callable[..., Awaitable[Scheduler]]


class Calls:
    """A handler that notes its calls, and lasts as long as it is told."""

    def __init__(self, lasts_s: float = 0.0) -> None:
        self.lasts_s = lasts_s
        self.events: list[JobEvent] = []
        self.ended = 0
        self.going = 0
        self.most = 0
        self._changed = asyncio.Event()

    async def __call__(self, event: JobEvent) -> None:
        self.events.append(event)
        self.going += 1
        self.most = max(self.most, self.going)
        self._changed.set()
        try:
            await asyncio.sleep(self.lasts_s)
        finally:
            self.going -= 1
            self.ended += 1
            self._changed.set()

    async def until(self, done: Callable[[], bool], within_s: float = 20.0) -> None:
        async with asyncio.timeout(within_s):
            while not done():
                self._changed.clear()
                await self._changed.wait()

    def of(self, job: str) -> list[JobEvent]:
        return [event for event in self.events if event.id == job]


def now() -> dt.datetime:
    return dt.datetime.fromtimestamp(CLOCK.now_ms() / 1_000, dt.UTC)


def ahead(seconds: float) -> dt.datetime:
    """An instant in whole milliseconds."""
    return dt.datetime.fromtimestamp((CLOCK.now_ms() + int(seconds * 1_000)) / 1_000, dt.UTC)


async def so(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await done():  # noqa: ASYNC110 - the store is asked
            await asyncio.sleep(0.02)


class Site:
    """One queue on one server, and the schedulers that share it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.options = LibraryOptions(prefix=f"DEFECT{next(_numbers)}")
        self.storages: dict[Scheduler, NATSStorage] = {}

    async def begin(self, handler: Calls | None = None, *, url: str = "", **options: object) -> Scheduler:
        storage = NATSStorage(url or self.url, self.options)
        given = {"lease": "1s", "worker": handler is not None} | options
        scheduler = Scheduler(storage, handler, **given)  # type: ignore[arg-type]  # any of its options
        self.storages[scheduler] = storage
        await scheduler.start()
        return scheduler

    async def end(self, scheduler: Scheduler) -> None:
        storage = self.storages.pop(scheduler)
        await scheduler.stop()
        await storage.close()

    async def close(self) -> None:
        for scheduler in list(self.storages):
            await self.end(scheduler)


@pytest.fixture
async def site(shared_nats: NatsServer) -> AsyncIterator[Site]:
    site = Site(shared_nats.url)
    yield site
    await site.close()


async def test_n1_n14_idle_jobs_cost_no_messages(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    await asyncio.gather(*(scheduler.add_job(f"idle-{n}", FAR) for n in range(900)))
    storage = site.storages[scheduler]
    stream = storage.library.runs_stream
    before = await last_seq(storage.connection, stream)
    await scheduler.add_job("tick", every("1s"))
    await calls.until(lambda: calls.ended == 2)
    # Three rows a run, and a worker's announcements; nothing for the others.
    assert await last_seq(storage.connection, stream) - before <= 2 * 3 + 4
    info = await storage.connection.js_request(f"STREAM.INFO.{storage.library.jobs_stream}")
    assert info["state"]["messages"] == 901


async def test_n2_thousands_of_far_future_jobs_do_not_delay_a_job_of_one_second(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    numbers = iter(range(5_000))

    async def add() -> None:
        for n in numbers:
            await scheduler.add_job(f"far-{n}", FAR)

    await asyncio.gather(*(add() for _ in range(64)))
    await scheduler.add_job("tick", every("1s"))
    await calls.until(lambda: len(calls.of("tick")) == 3)
    assert all(event.delay < dt.timedelta(seconds=0.5) for event in calls.of("tick"))


async def test_n3_a_slow_handler_blocks_no_other_job(site: Site) -> None:
    slow, quick = Calls(60), Calls()
    scheduler = await site.begin(quick)
    scheduler.handler("slow")(slow)
    await scheduler.add_job("slow", FAR, handler="slow")
    await scheduler.add_job("quick", every("100ms"))
    await scheduler.trigger("slow")
    await slow.until(lambda: slow.going == 1)
    await quick.until(lambda: quick.ended >= 5)
    assert slow.going == 1
    await scheduler.remove_job("slow", wait=False)
    slow.lasts_s = 0
    await scheduler.stop(0)


async def test_n4_ensuring_a_job_at_each_of_twenty_restarts_loses_no_run(site: Site) -> None:
    calls = Calls()
    begin = ahead(1)
    schedule = every("200ms", start_at=begin)
    for _ in range(20):
        scheduler = await site.begin(calls)
        await scheduler.ensure_job("steady", schedule)
        await site.end(scheduler)
    scheduler = await site.begin(calls)
    last = now()
    await calls.until(lambda: bool(calls.events) and max(event.scheduled_at for event in calls.events) > last)
    slots = sorted(event.scheduled_at for event in calls.events)
    step = dt.timedelta(milliseconds=200)
    wanted = [begin + n * step for n in range((slots[-1] - begin) // step + 1)]
    runs = await scheduler.list_runs("steady", limit=1_000)
    left_out = {run.scheduled_at for run in runs if run.status is RunStatus.SKIPPED}
    assert slots == [slot for slot in wanted if slot not in left_out]


async def test_n4_a_once_job_that_is_removed_and_added_again_runs(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    at = ahead(1)
    await scheduler.add_job("once", once(at))
    await scheduler.remove_job("once")
    await scheduler.add_job("once", once(at))
    await calls.until(lambda: len(calls.events) == 1)
    assert calls.events[0].scheduled_at == at


async def test_n5_a_run_that_is_late_because_handlers_are_busy_is_not_left_out(site: Site) -> None:
    calls = Calls(1.5)
    scheduler = await site.begin(calls, concurrency=1)
    await scheduler.add_job("long", FAR)
    await scheduler.add_job("hourly", every("1h", start_at=ahead(0.5)))
    await scheduler.trigger("long")
    await calls.until(lambda: calls.ended == 2)
    [event] = calls.of("hourly")
    assert event.delay > dt.timedelta(seconds=0.5)


async def test_n6_runs_of_one_job_do_not_overlap_across_instances(site: Site) -> None:
    calls = Calls(0.5)
    one, _ = await site.begin(calls), await site.begin(calls)
    await one.add_job("job", every("100ms"))
    await calls.until(lambda: calls.ended >= 5)
    assert calls.most == 1
    left_out = await one.list_runs("job", status=RunStatus.SKIPPED)
    assert {run.reason for run in left_out} == {"overlap_skip"}


async def test_n7_an_update_is_not_reverted_and_a_removed_job_stays_removed_by_who_runs_it(site: Site) -> None:
    calls = Calls(0.7)
    planner = await site.begin()
    worker = await site.begin(calls, plan=False)
    await planner.add_job("job", every("7s"))
    await planner.add_job("gone", every("7s"))
    for job in ("job", "gone"):
        await planner.trigger(job)
    await calls.until(lambda: calls.going == 2)
    await planner.update_job_schedule("job", every("2s"))
    await planner.remove_job("gone", wait=False)
    await calls.until(lambda: calls.ended >= 2)

    async def agreed() -> bool:
        jobs = {job.id: job.schedule for job in await worker.list_jobs()}
        return jobs == {"job": every("2s")}

    await so(agreed)
    await calls.until(lambda: len(calls.of("job")) == 2)
    assert [job.id for job in await planner.list_jobs()] == ["job"]
    assert (await planner.get_job("job")).schedule == every("2s")


async def test_n8_a_run_that_is_queued_while_the_server_goes_away_runs_when_it_is_back(nats_server: NatsServer) -> None:
    site, calls = Site(nats_server.url), Calls()
    scheduler = await site.begin(calls)
    await scheduler.add_job("job", every("300ms"))
    await calls.until(lambda: calls.ended == 2)
    nats_server.kill()
    before = now()
    nats_server.start()
    await calls.until(lambda: calls.events[-1].scheduled_at > before + dt.timedelta(seconds=1))
    slots = sorted(event.scheduled_at for event in calls.events)
    assert len(slots) == len(set(slots))
    assert slots[-1] - slots[0] == (len(slots) - 1) * dt.timedelta(milliseconds=300)
    await site.close()


async def test_n9_a_job_that_has_run_runs_once_more_when_it_becomes_a_once_job(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    await scheduler.add_job("job", every("1h"))
    await scheduler.trigger("job")
    await calls.until(lambda: calls.ended == 1)
    at = ahead(0.5)
    await scheduler.update_job_schedule("job", once(at))
    await calls.until(lambda: calls.ended == 2)
    assert calls.events[1].scheduled_at == at


async def test_n10_n20_runs_begin_at_their_millisecond_and_never_early(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    begin = ahead(1)
    await scheduler.add_job("fast", every("100ms", start_at=begin, not_after=begin + dt.timedelta(seconds=1)))
    await calls.until(lambda: calls.ended == 11)
    slots = [event.scheduled_at for event in calls.events]
    assert slots == [begin + n * dt.timedelta(milliseconds=100) for n in range(11)]
    assert all(event.started_at >= event.scheduled_at for event in calls.events)


async def test_n11_once_jobs_that_were_missed_while_down_run_or_are_recorded(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin()
    await scheduler.add_job("runs", once(ahead(0.3)))
    await scheduler.add_job("recorded", once(ahead(0.3)), catchup="none")
    await site.end(scheduler)
    await asyncio.sleep(0.5)
    scheduler = await site.begin(calls)
    await calls.until(lambda: bool(calls.of("runs")))

    async def told() -> bool:
        return bool(await scheduler.list_runs("recorded")) or bool(calls.of("recorded"))

    await so(told)


async def test_n12_what_a_stopping_worker_has_not_begun_runs_elsewhere_at_once(site: Site) -> None:
    calls = Calls(0.3)
    planner = await site.begin()
    first = await site.begin(calls, concurrency=1, plan=False)
    at = ahead(1)
    for n in range(6):
        await planner.add_job(f"job-{n}", once(at))
    await calls.until(lambda: calls.ended == 1)
    await site.end(first)
    begun = CLOCK.trust_s()
    await site.begin(calls, plan=False)
    await calls.until(lambda: calls.ended == 6)
    assert CLOCK.trust_s() - begun < 5
    assert len(calls.events) == 6


async def test_n13_streams_with_three_replicas_keep_them(shared_cluster: NatsCluster) -> None:
    site = Site(shared_cluster.url)
    scheduler = await site.begin()
    connection = site.storages[scheduler].connection
    for _ in range(2):
        await site.end(await site.begin())
    for stream in (site.options.runs_stream, site.options.jobs_stream, site.options.log_stream):
        assert (await connection.js_request(f"STREAM.INFO.{stream}"))["config"]["num_replicas"] == 3
    await site.close()


async def test_n15_no_run_leaves_an_id_in_a_servers_table(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    await scheduler.add_job("job", FAR)
    await scheduler.trigger("job")
    await calls.until(lambda: calls.ended == 1)
    storage = site.storages[scheduler]
    entries = await read_range(storage.connection, storage.library.runs_stream, [storage.library.runs_prefix + ">"])
    assert entries
    assert not any("Nats-Msg-Id" in (entry.headers or {}) for entry in entries)


async def test_n16_what_can_never_work_is_refused_at_once(site: Site) -> None:
    scheduler = await site.begin()
    await scheduler.add_job("job", FAR)
    begun = CLOCK.trust_s()
    with pytest.raises(JobAlreadyExistsError):
        await scheduler.add_job("job", FAR)
    with pytest.raises(JobNotFoundError):
        await scheduler.remove_job("other")
    assert CLOCK.trust_s() - begun < 1


async def test_n17_every_instance_sees_the_same(site: Site) -> None:
    calls = Calls(0.5)
    one, two = await site.begin(calls), await site.begin(calls)
    await one.add_job("job", every("1h"))
    assert (await two.get_job("job")).schedule == every("1h")
    with pytest.raises(JobAlreadyExistsError):
        await two.add_job("job", FAR)
    await two.trigger("job")
    await calls.until(lambda: calls.going == 1)
    for scheduler in (one, two):

        async def running(scheduler: Scheduler = scheduler) -> bool:
            return (await scheduler.get_job("job")).is_running

        await so(running)
    assert (await one.get_job("job")).next_run == (await two.get_job("job")).next_run
    await two.remove_job("job")
    assert await one.list_jobs() == []


async def test_n18_each_of_many_runs_in_one_second_has_its_record(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    begin = ahead(1)
    schedule = every("20ms", start_at=begin, not_after=begin + dt.timedelta(milliseconds=980))
    await scheduler.add_job("job", schedule, overlap="allow")
    await calls.until(lambda: calls.ended == 50)

    async def recorded() -> bool:
        return len(await scheduler.list_runs("job", status=RunStatus.COMPLETED, limit=100)) == 50

    await so(recorded)
    assert len({run.run_id for run in await scheduler.list_runs("job", limit=100)}) == 50


async def test_n19_the_newest_records_cost_as_much_as_they_are(site: Site) -> None:
    calls = Calls()
    scheduler = await site.begin(calls)
    storage = site.storages[scheduler]
    await scheduler.add_job("mine", FAR)
    await scheduler.add_job("other", FAR, overlap="allow")
    await asyncio.gather(*(scheduler.trigger("other") for _ in range(1_500)))
    await scheduler.trigger("mine")
    await calls.until(lambda: calls.ended == 1_501)

    async def recorded() -> bool:
        return len(await scheduler.list_runs("mine", status=RunStatus.COMPLETED)) == 1

    await so(recorded)
    client = storage.connection._client
    assert client is not None
    before = client.stats["in_msgs"]
    assert len(await scheduler.list_runs("mine", limit=10)) == 1
    assert client.stats["in_msgs"] - before < 50


async def test_n21_nothing_blocks_while_a_start_waits_for_the_server(nats_server: NatsServer) -> None:
    nats_server.kill()
    storage = NATSStorage(nats_server.url, LibraryOptions(prefix="LATE"))
    scheduler = Scheduler(storage, Calls())
    starting = asyncio.create_task(scheduler.start())
    await asyncio.sleep(0)
    before = scheduler.is_running
    await scheduler.add_job("kept", FAR)
    nats_server.start()
    async with asyncio.timeout(20):
        await starting
    assert (before, scheduler.is_running) == (False, True)
    assert (await scheduler.get_job("kept")).id == "kept"
    await scheduler.stop()
    await storage.close()


async def test_n22_what_is_over_does_not_lie_in_the_queue(shared_nats: NatsServer) -> None:
    site, calls = Site(shared_nats.url), Calls()
    site.options = LibraryOptions(prefix=f"DEFECT{next(_numbers)}", over_ttl_ms=1_000)
    scheduler = await site.begin(calls)
    for n in range(20):
        await scheduler.add_job(f"once-{n}", once(ahead(0.2)))
    await calls.until(lambda: calls.ended == 20)
    storage = site.storages[scheduler]

    async def only_the_worker() -> bool:
        info = await storage.connection.js_request(f"STREAM.INFO.{storage.library.runs_stream}")
        return int(info["state"]["messages"]) == 1

    await so(only_the_worker)
    await site.close()


async def test_n23_ids_and_payloads_of_any_kind_and_queues_of_their_own(site: Site, shared_nats: NatsServer) -> None:
    calls, others = Calls(), Calls()
    scheduler = await site.begin(calls)
    elsewhere = Site(shared_nats.url)
    await elsewhere.begin(others)
    ids = ("with space", "café", "a:b*c>d", ".dot.", "_reserved")
    for job in ids:
        await scheduler.add_job(job, FAR, payload={"id": job}, retry=2, priority=3, timeout="5s")
        await scheduler.trigger(job)
    await calls.until(lambda: calls.ended == len(ids))
    assert {event.id: event.payload for event in calls.events} == {job: {"id": job} for job in ids}
    assert others.events == []
    await scheduler.pause(ids[0])
    assert (await scheduler.get_job(ids[0])).paused
    await elsewhere.close()


async def test_n24_a_worker_that_is_cut_off_for_its_lease_ends_its_handlers(
    nats_server: NatsServer, proxy: TcpProxy, tmp_path: Path
) -> None:
    del tmp_path
    site, cut, other = Site(nats_server.url), Calls(60), Calls()
    planner = await site.begin()
    lonely = await site.begin(cut, url=proxy.url, worker_lease="1s", plan=False)
    await planner.add_job("job", FAR)
    await planner.trigger("job")
    await cut.until(lambda: cut.going == 1)
    await site.begin(other, worker_lease="1s", plan=False)
    proxy.freeze()
    await cut.until(lambda: cut.going == 0)
    await other.until(lambda: other.ended == 1)
    assert other.events[0].attempt == 2
    await proxy.mend()
    await site.end(lonely)
    await site.close()
