"""The defects of the Go library's own scheduler (S1 to S16), each with the proof that ours does not have it.

Those that are about a storage (S9, S11 to S13) have more in the conformance suite and in the tests of the storages. S14
is about reads without a lock; here nothing but the calls of handlers happens outside of the event loop.
"""

import asyncio
import datetime as dt
import logging
import time

import pytest
from tests.unit.scheduling import NEVER, Spy, at, brief, cluster, member, play

from natscron import (
    InvalidCronExpressionError,
    JobEvent,
    JobStatus,
    MemoryStorage,
    Run,
    RunStatus,
    Scheduler,
    ValidationError,
    cron,
    every,
    once,
)
from natscron.storage.protocol import RunQuery
from natscron.testing.scheduler import VirtualScheduler, run_virtual
from natscron.testing.virtual import VirtualClock, VirtualLoop


async def test_s1_runs_leave_at_their_instant_and_no_tick_rounds_them(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy()
    natscron_scheduler.set_handler(spy)
    for n in range(100):
        await natscron_scheduler.add_job(f"o{n}", once(at(10 + n * 0.017)))
    await natscron_scheduler.advance("20s")
    assert sorted(event.started_at for event in spy.events) == sorted(at(10 + n * 0.017) for n in range(100))


def test_s1_idle_jobs_cost_no_scan() -> None:
    turns = []

    class Counting(VirtualLoop):
        """Counts its turns."""

        def _run_once(self) -> None:
            turns.append(1)
            super()._run_once()  # type: ignore[misc]

    async def story(jobs: int) -> int:
        async with member(cluster(), Spy()) as one:
            for n in range(jobs):
                await one.add_job(f"j{n}", NEVER)
            await asyncio.sleep(5)
            before, began = len(turns), time.process_time()
            await asyncio.sleep(60)
            cost[jobs] = time.process_time() - began
            return len(turns) - before

    cost: dict[int, float] = {}
    found = []
    for jobs in (1, 3_000):
        with asyncio.Runner(loop_factory=Counting) as runner:
            found.append(runner.run(story(jobs)))
    assert found[1] <= found[0] * 1.1
    assert cost[3_000] < 5 * cost[1] + 0.5


@pytest.mark.parametrize("lasts_s", [0.0, 0.35, 0.9])
async def test_s2_an_interval_does_not_drift_however_long_its_runs_take(
    natscron_scheduler: VirtualScheduler, lasts_s: float
) -> None:
    spy = Spy(lasts_s=lasts_s)
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", every("1s"))
    await natscron_scheduler.advance("5m")
    assert [event.started_at for event in spy.events] == [at(n) for n in range(1, 301)]


async def test_s3_a_handler_that_blows_up_runs_once_a_slot_and_is_recorded(
    natscron_scheduler: VirtualScheduler,
) -> None:
    spy = Spy(error=SystemExit(1))
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", every("10s"))
    await natscron_scheduler.advance("30s")
    assert spy.slots == [at(10), at(20), at(30)]
    assert brief(await natscron_scheduler.list_runs("a")) == [(1, "failed", "handler_error")] * 3
    assert (await natscron_scheduler.get_job("a")).status is JobStatus.FAILED


async def test_s3_a_schedule_without_a_next_slot_does_not_fire_for_ever(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy()
    natscron_scheduler.set_handler(spy)
    with pytest.raises(ValidationError):
        await natscron_scheduler.add_job("never", cron("0 0 31 2 *"))
    await natscron_scheduler.add_job("a", once(at(5)))
    await natscron_scheduler.advance("1h")
    assert spy.slots == [at(5)]
    assert (await natscron_scheduler.get_job("a")).next_run is None


def test_s4_s5_what_ends_during_a_stop_is_recorded_and_does_not_run_again() -> None:
    async def story() -> None:
        shared = cluster()
        spy = Spy(lasts_s=3)
        one = member(shared, spy)
        await one.start()
        await one.add_job("a", once(at(2)))
        await asyncio.sleep(3)
        await one.stop()
        async with member(shared, spy) as other:
            await asyncio.sleep(3_600)
            assert len(spy.events) == 1
            assert brief(await other.list_runs("a")) == [(1, "completed", None)]
            job = await other.get_job("a")
            assert (job.status, job.is_running) == (JobStatus.COMPLETED, False)

    play(story)


def test_s5_errors_of_the_store_are_not_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        shared = cluster()
        spy = Spy(lasts_s=3)
        async with member(shared, spy) as one:
            await one.add_job("a", NEVER)
            run_id = await one.trigger("a")
            await asyncio.sleep(1)
            shared.up = False
            await asyncio.sleep(5)
            shared.up = True
            await asyncio.sleep(5)
            assert (await one.get_run(run_id)).status == "completed"

    with caplog.at_level(logging.WARNING):
        play(story)
    assert any("cannot be stored now" in record.message for record in caplog.records)


async def test_s6_when_a_job_was_made_stays_through_runs_and_updates(natscron_scheduler: VirtualScheduler) -> None:
    natscron_scheduler.set_handler(Spy())
    await natscron_scheduler.advance("5s")
    await natscron_scheduler.add_job("a", every("10s"))
    await natscron_scheduler.advance("1m")
    await natscron_scheduler.update_job_schedule("a", every("20s"))
    await natscron_scheduler.update_job("a", note="n")
    await natscron_scheduler.ensure_job("a", every("30s"))
    await natscron_scheduler.pause("a")
    job = await natscron_scheduler.get_job("a")
    assert (job.created_at, job.updated_at) == (at(5), at(65))


def test_s7_jobs_added_before_the_start_are_stored() -> None:
    async def story() -> None:
        shared = cluster()
        one = member(shared, Spy())
        await one.add_job("a", every("10s"))
        async with one:
            pass
        async with member(shared, Spy()) as other:
            assert [job.id for job in await other.list_jobs()] == ["a"]

    play(story)


async def test_s8_a_handler_may_remove_and_update_its_own_job(natscron_scheduler: VirtualScheduler) -> None:
    done: list[str] = []

    async def changes(event: JobEvent) -> None:
        if event.id == "a":
            await natscron_scheduler.update_job_schedule("a", every("1h"))
        else:
            await natscron_scheduler.remove_job(event.id)
        done.append(event.id)

    natscron_scheduler.set_handler(changes)
    await natscron_scheduler.add_job("a", every("1s"))
    await natscron_scheduler.add_job("b", every("1s"))
    await natscron_scheduler.advance("1s")
    assert sorted(done) == ["a", "b"]
    assert [job.id for job in await natscron_scheduler.list_jobs()] == ["a"]


def test_s8_a_removal_from_a_thread_of_the_jobs_own_handler_does_not_wait_for_itself() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        one = member(cluster())

        def removes(event: JobEvent) -> None:
            asyncio.run_coroutine_threadsafe(one.remove_job(event.id), loop).result(20)

        one.set_handler(removes)
        async with one:
            await one.add_job("a", every("1s"))
            await asyncio.sleep(1.5)
            assert await one.list_jobs() == []
            assert brief(await one.list_runs("a")) == [(1, "completed", None)]

    play(story)


def test_s9_s10_a_stop_closes_no_storage_of_the_callers_and_wipes_nothing() -> None:
    async def story() -> None:
        shared = cluster()
        storage = MemoryStorage(shared)
        one = Scheduler(storage, Spy(), clock=VirtualClock(asyncio.get_running_loop()))
        async with one:
            await one.add_job("a", every("1s"))
            await asyncio.sleep(2.5)
        await storage.health_check()
        assert (await storage.fetch_job("a")) is not None
        assert len(await storage.list_runs(RunQuery(job="a"))) == 2

    play(story)


@pytest.mark.parametrize("sort_by", ["start_time; DROP TABLE x", "start_time DESC", "1", "start_time--", "START_TIME"])
async def test_s11_what_is_sorted_by_is_a_word_of_three(natscron_scheduler: VirtualScheduler, sort_by: str) -> None:
    with pytest.raises(ValidationError, match="sort_by must be start_time, end_time or duration"):
        await natscron_scheduler.list_runs("a", sort_by=sort_by)


def test_s12_of_many_that_add_a_job_at_once_one_does() -> None:
    async def story() -> None:
        shared = cluster()
        members = [member(shared, Spy()) for _ in range(3)]
        for one in members:
            await one.start()
        outcomes = await asyncio.gather(
            *[one.add_job("a", every("1m")) for one in members for _ in range(4)], return_exceptions=True
        )
        assert outcomes.count(None) == 1
        assert {type(outcome).__name__ for outcome in outcomes if outcome} == {"JobAlreadyExistsError"}
        for one in members:
            await one.stop()

    play(story)


def test_s13_a_long_history_is_sorted_fast() -> None:
    async def story() -> None:
        shared = cluster()
        for n in range(20_000):
            shared.put_run(
                Run(
                    job="a",
                    status=RunStatus.COMPLETED,
                    run_id=str(n),
                    started_at_ms=n * 7_919 % 20_000,
                    finished_at_ms=n * 7_919 % 20_000 + n % 13,
                    duration_ms=n % 13,
                )
            )
        async with member(shared, Spy()) as one:
            began = time.process_time()
            runs = await one.list_runs("a", sort_by="start_time", limit=10)
            assert time.process_time() - began < 0.5
            assert [run.started_at_ms for run in runs] == list(range(19_999, 19_989, -1))

    play(story)


def test_s15_ids_of_runs_are_unique_also_in_the_hour_that_comes_twice() -> None:
    fold = dt.datetime(2027, 11, 7, 5, tzinfo=dt.UTC)  # 01:00 in New York, for the first of two times

    async def story(scheduler: VirtualScheduler) -> None:
        spy = Spy()
        scheduler.set_handler(spy)
        await scheduler.add_job("a", cron("0 */10 * * * *", tz="America/New_York"))
        await scheduler.advance("2h")
        assert len(spy.events) == 12
        assert len({event.run_id for event in spy.events}) == 12
        assert len(await scheduler.list_runs("a", status="completed")) == 12

    run_virtual(story, now=fold)


@pytest.mark.parametrize("expression", ["TZ=UTC", "CRON_TZ=UTC", "TZ=", "TZ=UTC ", "nonsense", "* * * *"])
def test_s16_a_cron_mistake_is_an_error_of_its_class_and_never_a_crash(expression: str) -> None:
    with pytest.raises(InvalidCronExpressionError):
        cron(expression)
