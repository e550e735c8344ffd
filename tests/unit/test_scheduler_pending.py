"""What is asked of a scheduler before it runs, and its options."""

import asyncio
import logging
from typing import Any

import pytest
from tests.unit.scheduling import NEVER, Spy, at, cluster, member, play

from natscron import (
    ConfigError,
    JobAlreadyExistsError,
    JobEvent,
    Scheduler,
    SchedulerAlreadyStartedError,
    SchedulerNotStartedError,
    UnknownCalendarError,
    ValidationError,
    every,
)


def test_before_the_start_nothing_can_be_asked_or_removed() -> None:
    async def story() -> None:
        one = member(cluster(), Spy())
        await one.add_job("a", every("1m"))
        for call in (
            one.get_job("a"),
            one.list_jobs(),
            one.remove_job("a"),
            one.pause("a"),
            one.resume("a"),
            one.update_job("a", note="n"),
            one.update_job_schedule("a", every("2m")),
            one.trigger("a"),
            one.backfill("a", at(-9), at(-1)),
            one.list_runs(),
            one.get_run("x"),
            one.delete_runs("a", at(0)),
            one.redrive("x"),
            one.health_check(),
        ):
            with pytest.raises(SchedulerNotStartedError, match="not started"):
                await call

    play(story)


def test_what_is_asked_before_the_start_is_done_at_the_start_and_in_order() -> None:
    async def story() -> None:
        spy = Spy()
        one = member(cluster(), spy)
        await one.add_job("a", every("10s"), metadata={"n": "1"})
        assert not await one.ensure_job("b", every("10s"), payload=1)
        assert not await one.ensure_job("b", every("20s"), payload=2)
        assert not await one.ensure_job("a", every("10s"), metadata={"n": "2"})
        await one.start()
        assert one.failures == {}
        jobs = {job.id: job for job in await one.list_jobs()}
        assert sorted(jobs) == ["a", "b"]
        assert (jobs["a"].metadata, jobs["b"].payload, jobs["b"].schedule) == ({"n": "2"}, 2, every("20s"))
        await asyncio.sleep(20.5)
        ran = sorted((event.id, event.scheduled_at) for event in spy.events)
        assert ran == [("a", at(10)), ("a", at(20)), ("b", at(20))]
        await one.stop()

    play(story)


def test_a_mistake_of_shape_shows_before_the_start_already() -> None:
    async def story() -> None:
        one = member(cluster(), Spy())
        with pytest.raises(ValidationError):
            await one.add_job("a", every("1m"), timeout="never")
        with pytest.raises(ValidationError):
            await one.ensure_job("", every("1m"))
        await one.start()
        assert await one.list_jobs() == []
        await one.stop()

    play(story)


def test_one_that_fails_at_the_start_is_reported_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        one = member(cluster(), Spy())
        await one.add_job("a", every("10s"))
        await one.add_job("a", every("20s"))
        await one.add_job("bad", every("10s", except_="nowhere"))
        await one.add_job("c", every("10s"))
        with caplog.at_level(logging.ERROR):
            await one.start()
        assert {job.id for job in await one.list_jobs()} == {"a", "c"}
        assert isinstance(one.failures["a"], JobAlreadyExistsError)
        assert isinstance(one.failures["bad"], UnknownCalendarError)
        assert set(one.failures) == {"a", "bad"}
        told = {record.job for record in caplog.records if "could not be stored" in record.message}  # type: ignore[attr-defined]
        assert told == {"a", "bad"}
        await one.stop()

    play(story)


def test_a_strict_start_fails_with_it_and_can_be_tried_again() -> None:
    async def story() -> None:
        shared = cluster()
        one = member(shared, Spy(), strict=True)
        other = member(shared, Spy())
        await other.add_job("b", every("20s"))
        await other.start()
        await one.add_job("a", every("10s"))
        await one.add_job("b", every("10s"))
        await one.add_job("c", every("10s"))
        with pytest.raises(JobAlreadyExistsError, match="b"):
            await one.start()
        assert not one.is_running
        await other.remove_job("b")
        await one.start()
        assert {job.id for job in await one.list_jobs()} == {"a", "b", "c"}
        await one.stop()
        await other.stop()

    play(story)


def test_what_was_added_before_is_added_once_and_decorated_jobs_at_each_start() -> None:
    async def story() -> None:
        one = member(cluster(), Spy())
        await one.add_job("added", NEVER)

        @one.job("decorated", NEVER)
        async def decorated(_event: JobEvent) -> None: ...

        for _ in range(3):
            await one.start()
            assert one.failures == {}
            await one.stop()
        await one.start()
        await one.remove_job("added")
        await one.remove_job("decorated")
        await one.stop()
        await one.start()
        assert [job.id for job in await one.list_jobs()] == ["decorated"]
        await one.stop()

    play(story)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": ""}, "name"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 10_001}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": "7"}, "concurrency"),
        ({"lease": "100ms"}, "lease"),
        ({"lease": "2m"}, "lease"),
        ({"lease": "soon"}, "lease"),
        ({"worker_lease": 0.5}, "worker_lease"),
        ({"grace": "-1s"}, "grace"),
        ({"stop_timeout": "25h"}, "stop_timeout"),
    ],
)
def test_an_option_that_cannot_work_is_refused_by_name(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Scheduler("memory://", **options)


@pytest.mark.parametrize("url", ["mssql://x", "redis://x", "nonsense", "", "file:///tmp/x"])
def test_a_storage_that_there_is_not_is_refused_naming_those_that_there_are(url: str) -> None:
    with pytest.raises(ConfigError, match="memory://"):
        Scheduler(url)


def test_a_decorator_is_for_before_the_start() -> None:
    async def story() -> None:
        async with member(cluster(), Spy()) as one:
            with pytest.raises(SchedulerAlreadyStartedError, match="decorate before the start"):
                one.job("a", every("1m"))(Spy())
            with pytest.raises(SchedulerAlreadyStartedError):
                one.every("1m", id="b")(Spy())

    play(story)
