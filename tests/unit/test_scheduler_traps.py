"""Traps that other schedulers fell into and that are about handlers; threads are named as repository#number."""

import asyncio
import datetime as dt
import time

import pytest
from tests.unit.scheduling import NEVER, Spy, at, brief, cluster, member, play

from natscron import JobEvent, MemoryStorage, Retry, Scheduler, ValidationError, cron, every
from natscron.model import WorkerInfo
from natscron.testing.scheduler import VirtualScheduler
from natscron.testing.virtual import VirtualClock


async def test_a_day_off_is_no_storm(natscron_scheduler: VirtualScheduler) -> None:
    """hangfire#1591: 300 runs after a day off."""
    spy = Spy()
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", every("5m"))
    await natscron_scheduler.advance("5m")
    await natscron_scheduler.stop()
    await natscron_scheduler.advance("24h2m")
    await natscron_scheduler.start()
    await natscron_scheduler.settle()
    assert [event.is_catch_up for event in spy.events] == [False, True]
    [left_out] = await natscron_scheduler.list_runs("a", status="skipped")
    assert (left_out.reason, left_out.count) == ("catchup_latest", 287)


def test_a_deploy_over_a_slot_loses_and_doubles_nothing() -> None:
    """oban#892, river#791, sidekiq#6804: the tick inside a deploy was lost."""

    async def story() -> None:
        shared = cluster()
        spy = Spy()
        members = [member(shared, spy, instance=f"old{n}") for n in range(3)]
        for one in members:
            await one.start()
        await members[0].add_job("a", every("1s"))
        for n, one in enumerate(members):
            await asyncio.sleep(0.99)
            following = member(shared, spy, instance=f"new{n}")
            await following.start()
            await one.stop()
            members[n] = following
        await asyncio.sleep(3.5)
        slots = spy.slots
        assert slots == [at(n) for n in range(1, len(slots) + 1)]
        assert len(slots) >= 6
        for one in members:
            await one.stop()

    play(story)


def test_several_processes_run_each_slot_once() -> None:
    """apscheduler#256, celery#2856, taskiq#296: each of two processes ran every job."""

    async def story() -> None:
        shared = cluster()
        spy = Spy()
        members = [member(shared, spy) for _ in range(4)]
        for one in members:
            await one.ensure_job("a", every("100ms"), overlap="allow")
            await one.start()
        await asyncio.sleep(30.05)
        assert spy.slots == [at(0.1 * n) for n in range(1, 301)]
        for one in members:
            await one.stop()

    play(story)


def test_no_run_stays_running_when_its_process_died() -> None:
    """river#1258: a run was shown as running for months."""

    async def story() -> None:
        shared = cluster()
        shared.queue.beat(WorkerInfo(id="dead.1", instance="dead", lease_ms=3_000))
        async with member(shared, Spy()) as one:
            await one.add_job("a", NEVER, handler="elsewhere")
            run_id = await one.trigger("a")
            await asyncio.sleep(0.5)
            assert shared.queue.claim("dead.1", ["elsewhere"], 1).runs
            assert (await one.get_job("a")).is_running
            one.handler("elsewhere")(Spy())
            await asyncio.sleep(20)
            assert not (await one.get_job("a")).is_running
            runs = await one.list_runs("a", descending=False)
            assert brief(runs) == [(1, "failed", "worker_lost"), (2, "completed", None)]
            assert runs[0].run_id == run_id

    play(story)


async def test_an_update_holds_for_every_run_that_begins_after_it(natscron_scheduler: VirtualScheduler) -> None:
    """bullmq#3095: an update kept the old data."""
    spy = Spy(lasts_s=10)
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", NEVER, payload="old", overlap="buffer_all", metadata={"v": "1"})
    await natscron_scheduler.trigger("a")
    await natscron_scheduler.trigger("a")
    await natscron_scheduler.advance("1s")
    await natscron_scheduler.update_job("a", payload="new", metadata={"v": "2"})
    await natscron_scheduler.finish()
    assert [(event.payload, event.metadata) for event in spy.events] == [("old", {"v": "1"}), ("new", {"v": "2"})]


@pytest.mark.parametrize("times", [1, 3])
def test_an_unchanged_job_registered_at_every_boot_keeps_its_next_run(times: int) -> None:
    """The Go library: registering at boot lost the next run."""

    async def story() -> None:
        shared = cluster()
        spy = Spy()
        for _ in range(times):
            one = member(shared, spy)
            await one.ensure_job("a", every("1h"), metadata={"k": "v"})
            async with one:
                await asyncio.sleep(600)
        async with member(shared, spy):
            await asyncio.sleep(3_600 - 600 * times + 1)
        assert spy.slots == [at(3_600)]

    play(story)


async def test_a_busy_handler_thins_no_schedule(natscron_scheduler: VirtualScheduler) -> None:
    """bullmq, the Go library: each run laid down the next, so a slow one thinned the schedule."""
    spy = Spy(lasts_s=95)
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", every("1m"), overlap="allow")
    await natscron_scheduler.advance("1h")
    assert spy.slots == [at(60 * n) for n in range(1, 61)]


async def test_one_bad_handler_stops_nobody(natscron_scheduler: VirtualScheduler) -> None:
    """taskiq#669, oban#1095: one bad entry stopped all."""
    fine = Spy()
    natscron_scheduler.set_handler(fine)
    for n, error in enumerate((ValueError(), SystemExit(), StopIteration(), asyncio.CancelledError())):
        natscron_scheduler.handler(f"bad{n}")(Spy(error=error))
        await natscron_scheduler.add_job(f"bad{n}", every("1s"), handler=f"bad{n}")
    await natscron_scheduler.add_job("hangs", every("1s"), handler="hangs")
    natscron_scheduler.handler("hangs")(Spy(lasts_s=1_000_000))
    await natscron_scheduler.add_job("fine", every("1s"))
    await natscron_scheduler.advance("10s")
    assert len(fine.events) == 10
    for n in range(4):
        assert len(await natscron_scheduler.list_runs(f"bad{n}", status="failed")) == 10


def test_times_in_the_history_are_the_stores_whatever_a_hosts_clock_says() -> None:
    """A host whose clock is off must not make runs that end before they begin, or that are never due."""

    async def story() -> None:
        shared = cluster()
        loop = asyncio.get_running_loop()
        spy = Spy(lasts_s=3)
        planner = member(shared, worker=False)
        ahead = Scheduler(MemoryStorage(shared), spy, clock=VirtualClock(loop, 3_600), plan=False)
        behind = Scheduler(MemoryStorage(shared), spy, clock=VirtualClock(loop, -3_600), plan=False)
        for worker in (ahead, behind):
            async with planner, worker:
                await planner.ensure_job("a", every("10s"))
                before = len(spy.events)
                await asyncio.sleep(34)
                assert len(spy.events) == before + 3
            for event in spy.events[before:]:
                assert abs(event.delay) < dt.timedelta(milliseconds=5)
        async with planner:
            runs = await planner.list_runs("a", status="completed")
            assert {run.duration for run in runs} == {dt.timedelta(seconds=3)}
            assert all(abs(run.lateness_ms or 0) < 5 for run in runs)

    play(story)


async def test_nothing_that_a_caller_gives_is_pickled_or_run(natscron_scheduler: VirtualScheduler) -> None:
    """apscheduler, taskiq-nats: rows were pickled, broke on a rename and ran code."""
    natscron_scheduler.set_handler(Spy())
    with pytest.raises(ValidationError, match="JSON"):
        await natscron_scheduler.add_job("a", NEVER, payload=Spy())
    await natscron_scheduler.add_job("a", NEVER, payload={"__reduce__": "os.system", "py/object": "x"})
    raw, _ = natscron_scheduler.storage.cluster.jobs["a"]
    assert raw is not None
    assert raw.startswith(b"{")


async def test_many_due_at_one_instant_are_all_run_at_it(natscron_scheduler: VirtualScheduler) -> None:
    """django-celery-beat#650, dkron#1828: a thousand entries due together took seconds, or brought the leader down."""
    calls: list[JobEvent] = []

    async def remembers(event: JobEvent) -> None:
        calls.append(event)

    natscron_scheduler.set_handler(remembers)
    for n in range(2_000):
        await natscron_scheduler.add_job(f"j{n}", cron("* * * * *"))
    began = time.process_time()
    await natscron_scheduler.advance("1m")
    assert len(calls) == 2_000
    assert {event.started_at for event in calls} == {at(60)}
    assert time.process_time() - began < 10


async def test_a_retry_that_waits_survives_a_restart(natscron_scheduler: VirtualScheduler) -> None:
    """Retries that sleep in a handler are lost with their process."""
    spy = Spy(error=ValueError())
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", NEVER, retry=Retry(attempts=2, backoff_ms=60_000, jitter=0))
    run_id = await natscron_scheduler.trigger("a")
    await natscron_scheduler.advance("10s")
    await natscron_scheduler.stop()
    await natscron_scheduler.start()
    spy.error = None
    await natscron_scheduler.finish()
    assert [event.started_at for event in spy.events] == [at(0), at(60)]
    assert (await natscron_scheduler.get_run(run_id)).status == "completed"
