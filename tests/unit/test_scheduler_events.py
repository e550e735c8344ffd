"""What a scheduler tells the program of, and what listeners can do to it."""

import asyncio
import logging
from typing import Any

import pytest
from tests.unit.scheduling import NEVER, Spy, Told, at, cluster, member, play

from natscron import Problem, Retry, Run, ValidationError, every
from natscron.model import Job as Row
from natscron.model import ScheduleSpec
from natscron.scheduler.events import EVENTS
from natscron.testing.scheduler import VirtualScheduler


async def test_the_life_of_a_run_is_told_in_order(natscron_scheduler: VirtualScheduler) -> None:
    await natscron_scheduler.settle()
    told = Told(natscron_scheduler, *EVENTS)
    spy = Spy(lasts_s=2, error=ValueError("no"))
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", NEVER, retry=Retry(attempts=2, backoff_ms=1_000, jitter=0))
    run_id = await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    spy.error = None
    await natscron_scheduler.redrive(run_id)
    await natscron_scheduler.finish()
    assert [event for event, _ in told.all] == [
        "run_started",
        "run_retrying",
        "run_started",
        "run_failed",
        "run_started",
        "run_finished",
    ]
    runs: list[Run] = [value for _, value in told.all]
    assert {run.run_id for run in runs} == {run_id}
    assert [run.attempt for run in runs] == [1, 1, 2, 2, 3, 3]
    assert [run.status.value for run in runs] == ["running", "failed", "running", "dead", "running", "completed"]
    assert [run.started_at for run in runs] == [at(0), at(0), at(3), at(3), at(5), at(5)]
    assert "ValueError: no" in (runs[3].error or "")
    stored = await natscron_scheduler.list_runs("a", descending=False)
    assert [runs[1], runs[3], runs[5]] == list(stored), "what is told is what is stored"


async def test_a_skipped_run_is_told_once(natscron_scheduler: VirtualScheduler) -> None:
    told = Told(natscron_scheduler, "run_skipped")
    natscron_scheduler.set_handler(Spy(lasts_s=10))
    await natscron_scheduler.add_job("a", NEVER)
    await natscron_scheduler.trigger("a")
    skipped = await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    assert [(run.run_id, run.reason) for run in told.of("run_skipped")] == [(skipped, "overlap_skip")]


async def test_slots_that_are_not_caught_up_with_are_told_as_skipped(natscron_scheduler: VirtualScheduler) -> None:
    natscron_scheduler.set_handler(Spy())
    await natscron_scheduler.add_job("a", every("1m"), catchup="none")
    await natscron_scheduler.stop()
    await natscron_scheduler.advance("10m30s")
    told = Told(natscron_scheduler, "run_skipped")
    await natscron_scheduler.start()
    await natscron_scheduler.settle()
    assert [(run.reason, run.count) for run in told.of("run_skipped")] == [("catchup_none", 10)]


async def test_a_job_that_cannot_be_honoured_is_told(natscron_scheduler: VirtualScheduler) -> None:
    told = Told(natscron_scheduler, "job_invalid", "reschedule_failed")
    await natscron_scheduler.storage.put_job(Row(id="bad", schedule=ScheduleSpec(cron="nonsense")))
    await natscron_scheduler.advance("1s")
    [problem] = told.of("job_invalid")
    assert isinstance(problem, Problem)
    assert problem.job == "bad"
    assert problem.error


def test_a_change_of_leader_is_told_in_every_process() -> None:
    async def story() -> None:
        shared = cluster()
        one, other = member(shared, Spy(), instance="one"), member(shared, Spy(), instance="other")
        told = Told(other, "leader_changed")
        async with one:
            await asyncio.sleep(1)
            async with other:
                await asyncio.sleep(1)
                await one.stop()
                await asyncio.sleep(5)
                assert other.is_leader
                assert told.of("leader_changed") == ["one", None, "other"]

    play(story)


async def test_a_listener_that_raises_harms_nobody(
    natscron_scheduler: VirtualScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Run] = []

    def bad(_run: Run) -> None:
        raise ZeroDivisionError

    async def bad_later(_run: Run) -> None:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    for listener in (bad, bad_later, heard.append):
        natscron_scheduler.on("run_started", listener)
        natscron_scheduler.on("run_finished", listener)
    natscron_scheduler.set_handler(Spy())
    await natscron_scheduler.add_job("a", every("1m"))
    with caplog.at_level(logging.ERROR):
        await natscron_scheduler.advance("2m10s")
    assert [run.status.value for run in heard] == ["running", "completed"] * 2
    assert len([record for record in caplog.records if record.message == "a listener raised"]) == 8


async def test_an_async_listener_runs_beside_and_may_use_the_scheduler(natscron_scheduler: VirtualScheduler) -> None:
    heard: list[str] = []

    async def follows_up(run: Run) -> None:
        await asyncio.sleep(5)
        heard.append((await natscron_scheduler.get_run(run.run_id or "")).status)
        await natscron_scheduler.trigger("b")

    natscron_scheduler.on("run_failed", follows_up)
    natscron_scheduler.handler("bad")(Spy(error=ValueError()))
    natscron_scheduler.set_handler(Spy())
    await natscron_scheduler.add_job("a", every("1m"), handler="bad")
    await natscron_scheduler.add_job("b", NEVER)
    await natscron_scheduler.advance("70s")
    assert heard == ["failed"]
    assert len(await natscron_scheduler.list_runs("b")) == 1


async def test_listeners_that_do_not_keep_up_are_bounded(
    natscron_scheduler: VirtualScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    begun = 0

    async def hangs(_run: Run) -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    natscron_scheduler.on("run_finished", hangs)
    natscron_scheduler.set_handler(Spy())
    await natscron_scheduler.add_job("a", every("1s"))
    with caplog.at_level(logging.WARNING):
        await natscron_scheduler.advance("1050s")
    assert begun == 1_000
    assert any("listeners are too slow" in record.message for record in caplog.records)
    assert len(await natscron_scheduler.list_runs("a", status="completed", limit=2_000)) == 1_050


@pytest.mark.parametrize("event", ["", "run_exploded", "RUN_STARTED"])
def test_an_event_is_one_that_there_is(event: str) -> None:
    async def story() -> None:
        with pytest.raises(ValidationError, match="run_started"):
            member(cluster(), Spy()).on(event, print)

    play(story)


@pytest.mark.parametrize("listener", [None, 5, "print"])
def test_a_listener_is_something_to_call(listener: Any) -> None:  # noqa: ANN401 - anything but a function
    async def story() -> None:
        with pytest.raises(ValidationError, match="function"):
            member(cluster(), Spy()).on("run_started", listener)

    play(story)
