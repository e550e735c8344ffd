"""Jobs that are removed, paused and resumed while a scheduler runs."""

import datetime as dt

import pytest
from tests.unit.scheduling import Spy, at

from natscron import (
    InvalidScheduleTimeError,
    JobEvent,
    JobNotFoundError,
    JobStatus,
    ValidationError,
    every,
)
from natscron.testing.scheduler import VirtualScheduler


@pytest.fixture
def scheduler(natscron_scheduler: VirtualScheduler) -> VirtualScheduler:
    natscron_scheduler.set_handler(Spy())
    return natscron_scheduler


async def test_a_removed_job_is_gone_and_its_history_stays(scheduler: VirtualScheduler) -> None:
    spy = Spy()
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"))
    await scheduler.advance("3m")
    await scheduler.remove_job("a")
    with pytest.raises(JobNotFoundError):
        await scheduler.get_job("a")
    await scheduler.advance("10m")
    assert len(spy.events) == 3
    assert len(await scheduler.list_runs("a")) == 3


async def test_a_job_removed_and_added_again_is_a_new_one(scheduler: VirtualScheduler) -> None:
    spy = Spy()
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"), payload="old")
    await scheduler.advance("90s")
    await scheduler.remove_job("a")
    await scheduler.add_job("a", every("1m"), payload="new")
    assert (await scheduler.get_job("a")).created_at == at(90)
    await scheduler.advance("60s")
    assert spy.slots == [at(60), at(150)]
    assert [event.payload for event in spy.events] == ["old", "new"]
    assert len({event.run_id for event in spy.events}) == 2


async def test_a_removal_waits_for_the_handlers_that_run(scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=30)
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"), overlap="buffer_all")
    await scheduler.trigger("a")
    await scheduler.trigger("a")
    await scheduler.advance("10s")
    await scheduler.remove_job("a")
    assert at(30) <= scheduler.now <= at(32)
    assert len(spy.ended) == 1
    waited = [run for run in await scheduler.list_runs("a") if run.reason == "job_removed"]
    assert [run.status for run in waited] == ["skipped"]


async def test_a_removal_need_not_wait(scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=30)
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"))
    await scheduler.advance("1m")
    await scheduler.remove_job("a", wait=False)
    assert (scheduler.now, spy.at_once) == (at(60), 1)
    await scheduler.advance("1m")
    assert len(spy.ended) == 1


async def test_a_handler_removes_its_own_job(scheduler: VirtualScheduler) -> None:
    removed: list[dt.datetime] = []

    async def last_time(event: JobEvent) -> None:
        await scheduler.remove_job(event.id)
        removed.append(scheduler.now)

    scheduler.set_handler(last_time)
    await scheduler.add_job("a", every("1m"))
    await scheduler.advance("1m")
    assert removed == [at(60)]
    assert await scheduler.list_jobs() == []
    [run] = await scheduler.list_runs("a")
    assert run.status == "completed"


async def test_a_handler_updates_its_own_job(scheduler: VirtualScheduler) -> None:
    async def slower(event: JobEvent) -> None:
        await scheduler.update_job_schedule(event.id, every("1h"))

    scheduler.set_handler(slower)
    await scheduler.add_job("a", every("1m"))
    await scheduler.advance("30m")
    assert len(await scheduler.list_runs("a")) == 1
    assert (await scheduler.get_job("a")).next_run == at(3_600)


async def test_a_pause_lets_slots_go_and_a_resume_makes_none_up(scheduler: VirtualScheduler) -> None:
    spy = Spy()
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"), catchup="all")
    await scheduler.advance("90s")
    await scheduler.pause("a")
    job = await scheduler.get_job("a")
    assert (job.status, job.paused, job.next_run) == (JobStatus.DISABLED, True, None)
    await scheduler.advance("1h")
    assert len(spy.events) == 1
    await scheduler.resume("a")
    job = await scheduler.get_job("a")
    assert (job.status, job.paused, job.next_run) == (JobStatus.COMPLETED, False, at(62 * 60))
    await scheduler.advance("2m")
    assert spy.slots == [at(60), at(62 * 60), at(63 * 60)]
    [pause] = [run for run in await scheduler.list_runs("a", limit=1_000) if run.reason == "paused"]
    assert (pause.status, pause.count) == ("skipped", 60)


async def test_a_pause_may_end_by_itself(scheduler: VirtualScheduler) -> None:
    spy = Spy()
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"))
    await scheduler.pause("a", until=at(600))
    job = await scheduler.get_job("a")
    assert (job.paused, job.paused_until, job.next_run) == (True, at(600), at(660))
    await scheduler.advance("11m")
    assert spy.slots == [at(660)]
    assert not (await scheduler.get_job("a")).paused
    with pytest.raises(ValidationError, match="future"):
        await scheduler.pause("a", until=at(60))
    with pytest.raises(InvalidScheduleTimeError):
        await scheduler.pause("a", until=dt.datetime(2031, 1, 1))  # noqa: DTZ001 - naive on purpose


async def test_a_paused_job_can_be_triggered(scheduler: VirtualScheduler) -> None:
    spy = Spy()
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"), paused=True)
    await scheduler.trigger("a")
    await scheduler.advance("5m")
    assert len(spy.events) == 1


async def test_pausing_and_resuming_are_idempotent(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("1m"))
    for _ in range(2):
        await scheduler.pause("a")
    for _ in range(2):
        await scheduler.resume("a")
    assert not (await scheduler.get_job("a")).paused
