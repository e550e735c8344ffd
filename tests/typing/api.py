"""Never run, only checked by mypy: the public API as a user's own type checker sees it."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, assert_type

from fastapi import FastAPI
from nats.aio.client import Client
from starlette.applications import Starlette

from natscron import (
    CatchUp,
    CronSpec,
    Job,
    JobEvent,
    JobStatus,
    MemoryStorage,
    MigrateResult,
    Overlap,
    Retry,
    Run,
    RunStatus,
    Scheduler,
    ScheduleSpec,
    SQLStorage,
    Trigger,
    cron,
    daily_at,
    every,
    lifespan,
    migrate_storage,
    next_slots,
    once,
    union,
    with_lifespan,
)
from natscron.errors import JobNotFoundError, NatscronError
from natscron.server import Server, ServerOptions
from natscron.server.embedded import EmbeddedNats
from natscron.sync import Scheduler as SyncScheduler


async def embedding(connection: Client) -> None:
    async with EmbeddedNats() as embedded:
        assert_type(embedded.url, str)

    options = ServerOptions(nats_url="nats://localhost:4222", name="nats-cron", instance_id="a")
    assert_type(ServerOptions(connection=connection), ServerOptions)
    assert_type(ServerOptions.from_env(), ServerOptions)

    server = Server(options)
    await server.start()
    assert_type(server.is_running, bool)
    assert_type(server.is_leader, bool)
    await server.wait()
    await server.stop()

    async with Server() as running:
        assert_type(running, Server)


async def jobs(server: Server) -> None:
    job: dict[str, Any] = {"subject": "demo.tick", "schedule": {"every": "1s"}}
    await server.create_job(job)
    await server.create_job(b'{"subject": "demo.tick", "schedule": {"every": "1s"}}')
    await server.update_job(job)
    await server.put_job(job)
    await server.get_job("demo.tick")
    await server.list_jobs()
    await server.pause_job("demo.tick")
    await server.resume_job("demo.tick")
    await server.trigger_job("demo.tick")
    await server.trigger_job({"subject": "demo.tick", "overlap": "skip"})
    await server.skip_job("demo.tick")
    await server.skip_job({"subject": "demo.tick", "count": 3})
    await server.explain_job("demo.tick")
    await server.report_run({"run_id": "01KAG8T3M0Y3N0F4S8V1XW2QZ7", "job": "demo.tick", "status": "completed"})
    await server.delete_job("demo.tick")
    await server.delete_jobs("demo.>")


async def backfills(server: Server) -> None:
    begun = await server.backfill_job({"subject": "demo.tick", "from": "2027-01-01T00:00:00Z", "rate": "10/s"})
    assert_type(begun, dict[str, Any])
    assert_type(await server.list_backfills(), list[dict[str, Any]])
    await server.cancel_backfill("01KAG8T3M0Y3N0F4S8V1XW2QZ7")


async def calendars(server: Server) -> None:
    await server.put_calendar({"name": "closed", "weekly": [{"days": "SAT,SUN"}]})
    assert_type(await server.get_calendar("closed"), dict[str, Any])
    assert_type(await server.list_calendars(), list[dict[str, Any]])
    await server.delete_calendar("closed")


def errors(error: NatscronError) -> None:
    assert_type(error.code, int)
    assert_type(error.may_have_happened, bool)
    assert_type(error.retry_helps, bool)
    if isinstance(error, JobNotFoundError):
        raise error


# The library.


def on_event(event: JobEvent) -> str:
    assert_type(event.id, str)
    assert_type(event.metadata, dict[str, str])
    assert_type(event.scheduled_at, dt.datetime)
    assert_type(event.delay, dt.timedelta)
    assert_type(event.last_completed_at, dt.datetime | None)
    assert_type(event.attempt, int)
    assert_type(event.is_catch_up, bool)
    assert_type(event.trigger, Trigger)
    return event.run_id


async def on_event_async(event: JobEvent) -> None:
    on_event(event)


def told(run: Run) -> None:
    assert_type(run.status, RunStatus)
    assert_type(run.error, str | None)


def schedules() -> None:
    assert_type(every("5m"), ScheduleSpec)
    assert_type(every(dt.timedelta(minutes=5)), ScheduleSpec)
    assert_type(cron("0 9 * * *", tz="Europe/Berlin"), ScheduleSpec)
    assert_type(daily_at(9, tz="Europe/Berlin"), ScheduleSpec)
    assert_type(once(dt.datetime.now(dt.UTC)), ScheduleSpec)
    assert_type(union(every("5m"), CronSpec(minute="0")), ScheduleSpec)
    assert_type(next_slots(every("5m"), dt.datetime.now(dt.UTC), 3), list[dt.datetime])


async def library(event: JobEvent, run: Run) -> None:
    scheduler = Scheduler("sqlite:///jobs.db", on_event, concurrency=10, grace="10s", stop_timeout=dt.timedelta(1))
    scheduler.set_handler(on_event_async)
    assert_type(scheduler.on("run_failed", told)(run), None)
    daily = scheduler.job("daily", cron("0 3 * * *"), overlap="skip", timeout="10m", retry=Retry(attempts=5))
    # A decorated function stays what it was.
    assert_type(daily(on_event)(event), str)
    assert_type(scheduler.every("5m")(on_event)(event), str)
    assert_type(await scheduler.handler("mail")(on_event_async)(event), None)
    scheduler.job("x", every("1s"), nonsense=1)  # type: ignore[call-arg]  # no such policy
    scheduler.set_handler("text")  # type: ignore[arg-type]  # not a function

    async with scheduler as running:
        assert_type(running, Scheduler)
        assert_type(running.is_running, bool)
        assert_type(running.is_leader, bool)
        assert_type(running.failure, BaseException | None)
        assert_type(running.failures, dict[str, Exception])
        await running.add_job("a", every("5m"), metadata={"team": "x"}, payload={"any": ["json"]}, priority=5)
        await running.submit_job("b", every("5m"), connection=object())
        assert_type(await running.ensure_job("a", every("5m"), catchup=CatchUp(), overlap=Overlap.ALLOW), bool)
        await running.update_job_schedule("a", every("10m"))
        await running.update_job("a", note="why", paused=None)
        job = await running.get_job("a")
        assert_type(job, Job)
        assert_type(job.next_run, dt.datetime | None)
        assert_type(job.status, JobStatus)
        assert_type(await running.list_jobs(JobStatus.FAILED), list[Job])
        await running.pause("a", until=dt.datetime.now(dt.UTC))
        await running.resume("a")
        assert_type(await running.trigger("a", {"any": "json"}, key="k"), str)
        assert_type(await running.backfill("a", dt.datetime.now(dt.UTC), dt.datetime.now(dt.UTC)), str)
        runs = await running.list_runs("a", status="failed", sort_by="duration", limit=10)
        assert_type(runs, Sequence[Run])
        assert_type(await running.get_run("id"), Run)
        assert_type(await running.delete_runs("a", dt.datetime.now(dt.UTC)), int)
        await running.redrive("id")
        await running.remove_job("a", wait=False)
        await running.health_check()
        await running.wait_until_running("1s")
        await running.run_forever()

    assert_type(Scheduler.from_config("app.toml", "jobs", handler=on_event), Scheduler)
    assert_type(Scheduler.from_config({"mode": "memory"}), Scheduler)
    FastAPI(lifespan=lifespan(scheduler))
    Starlette(lifespan=lifespan(scheduler, lifespan(scheduler)))
    with_lifespan(Starlette(), scheduler)


async def storages() -> None:
    Scheduler(MemoryStorage(), on_event)
    Scheduler(SQLStorage("sqlite:///jobs.db"), on_event)
    done = await migrate_storage(SQLStorage("sqlite:///a.db"), MemoryStorage())
    assert_type(done, MigrateResult)
    assert_type(done.jobs_migrated, int)


def library_without_async(event: JobEvent) -> None:
    with SyncScheduler("memory://", on_event) as scheduler:
        assert_type(scheduler, SyncScheduler)
        assert_type(scheduler.is_running, bool)
        assert_type(scheduler.failure, BaseException | None)
        scheduler.add_job("a", every("5m"), metadata={"team": "x"})
        assert_type(scheduler.ensure_job("a", every("5m")), bool)
        assert_type(scheduler.get_job("a"), Job)
        assert_type(scheduler.list_jobs("failed"), list[Job])
        assert_type(scheduler.trigger("a"), str)
        assert_type(scheduler.list_runs("a"), Sequence[Run])
        assert_type(scheduler.every("5m")(on_event)(event), str)
        scheduler.add_job("b", every("5m"), nonsense=1)  # type: ignore[call-arg]  # no such policy
        scheduler.run_forever()
    assert_type(SyncScheduler.from_config("app.toml"), SyncScheduler)
