"""Databases that the Go library wrote: they open, their jobs go on where it left off, their history is readable."""

import asyncio
import datetime as dt
from typing import Any

import pytest
from sqlalchemy import text
from tests.support.sql import execute, go_time, insert_go_job, make_go_tables, rows, scalars

from natscron.clock import SystemClock
from natscron.errors import JobAlreadyExistsError, WrongRevisionError
from natscron.model import Job, NoteRef, Overlap, RunStatus, ScheduleSpec
from natscron.scheduler import JobStatus, Scheduler
from natscron.storage.protocol import RunQuery
from natscron.storage.sql import SQLOptions, SQLStorage
from natscron.testing.conformance.sinks import Jobs, ignore

pytestmark = pytest.mark.anyio

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


def _now() -> dt.datetime:
    return dt.datetime.fromtimestamp(SystemClock().now_ms() / 1000, dt.UTC)


def _ms(moment: dt.datetime) -> int:
    return int(moment.timestamp() * 1000)


async def _insert_execution(url: str, job_id: str, start: dt.datetime, status: str, error: str = "") -> None:
    values = {
        "id": f"{job_id}_{start:%Y%m%d%H%M%S}",
        "job": job_id,
        "start": go_time(url, start),
        "finish": go_time(url, start + dt.timedelta(seconds=2)),
        "duration": 2_000_000_000,
        "status": status,
        "error": error,
        "metadata": '{"team":"x"}',
    }
    statement = (
        "INSERT INTO scheduler_executions (execution_id, job_id, start_time, end_time, duration, status, error,"
        " metadata) VALUES (:id, :job, :start, :finish, :duration, :status, :error, :metadata)"
    )
    await execute(url, text(statement), values)


async def test_its_rows_are_jobs_with_what_they_say(sql_url: str) -> None:
    now = _now()
    await make_go_tables(sql_url)
    following, created = now + HOUR / 2, now - DAY
    metadata = '{"team":"x","ünïcode":"yes"}'
    await insert_go_job(
        sql_url,
        "every",
        "interval",
        "1h0m0s",
        next_run=following,
        last_run=now - HOUR / 2,
        created_at=created,
        metadata=metadata,
    )
    await insert_go_job(sql_url, "cron", "cron", "0 3 * * *", next_run=following, created_at=created, metadata="{}")
    await insert_go_job(sql_url, "off", "cron", "0 3 * * *", status="disabled", created_at=created)
    await insert_go_job(sql_url, "odd", "json", '{"interval":"5s"}', created_at=created)
    await insert_go_job(sql_url, "broken", "interval", "1h", metadata="{not json", created_at=created)
    storage = SQLStorage(sql_url)
    await storage.initialize()
    every = await storage.fetch_job("every")
    assert every is not None
    assert every.invalid is None
    assert (every.schedule, every.labels) == (ScheduleSpec(every="1h0m0s"), {"team": "x", "ünïcode": "yes"})
    assert (every.paused, every.overlap, every.generation) == (False, Overlap.SKIP, 0)
    assert abs(every.created_at_ms - _ms(created)) <= 1
    assert abs(every.counts_from.at_ms + 1 - _ms(following)) <= 1, "what is before next_run, the Go library has run"
    assert abs(every.anchor_ms + 3_600_000 - _ms(following)) <= 1, "the grid goes on"
    assert every.revision > 0
    off = await storage.fetch_job("off")
    assert off is not None
    assert off.paused
    for job_id, why in (("odd", "unsupported schedule type"), ("broken", "JSON")):
        job = await storage.fetch_job(job_id)
        assert job is not None
        assert job.invalid is not None
        assert why in job.invalid
    assert await storage.last_jobs_seq() == 5
    await storage.close()


async def test_its_jobs_run_where_it_left_off(sql_url: str) -> None:
    now = _now()
    await make_go_tables(sql_url)
    century = now + 100 * 365 * DAY
    at, long_ago = now - HOUR, now - 5 * HOUR - HOUR / 8
    text_of = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    await insert_go_job(sql_url, "missed-once", "once", text_of, next_run=at, created_at=at - HOUR)
    await insert_go_job(
        sql_url, "ran-once", "once", text_of, next_run=century, last_run=at, status="completed", created_at=at - HOUR
    )
    await insert_go_job(
        sql_url,
        "missed-every",
        "interval",
        "20m",
        next_run=long_ago,
        last_run=long_ago - HOUR,
        created_at=at,
    )
    await insert_go_job(sql_url, "disabled", "once", text_of, next_run=at, status="disabled", created_at=at - HOUR)
    await insert_go_job(sql_url, "without-next", "once", text_of, created_at=at - HOUR)
    await insert_go_job(sql_url, "soon", "interval", "1s", next_run=now, last_run=now, created_at=at)
    ran: list[tuple[str, Any]] = []
    done = asyncio.Event()

    async def handler(event: Any) -> None:  # noqa: ANN401 - the event
        ran.append((event.id, event.is_catch_up))
        if sum(name == "soon" for name, _ in ran) >= 3 and len({name for name, _ in ran}) >= 3:
            done.set()

    async with Scheduler(sql_url, handler) as scheduler:
        async with asyncio.timeout(30):
            await done.wait()
        names = [name for name, _ in ran if name != "soon"]
        assert sorted(names) == ["missed-every", "missed-once"], "each once, however much was missed"
        assert ("missed-every", True) in ran
        jobs = {job.id: job for job in await scheduler.list_jobs()}
        assert jobs["disabled"].status is JobStatus.DISABLED
        assert jobs["ran-once"].next_run is None
        for job_id in ("ran-once", "disabled", "without-next"):
            assert await scheduler.list_runs(job_id) == []


async def test_its_history_is_listed_with_ours(sql_url: str) -> None:
    now = _now()
    await make_go_tables(sql_url)
    await insert_go_job(sql_url, "a", "interval", "1h", next_run=now + HOUR, created_at=now - DAY)
    await _insert_execution(sql_url, "a", now - 2 * HOUR, "completed")
    await _insert_execution(sql_url, "a", now - HOUR, "failed", "boom")
    await _insert_execution(sql_url, "gone", now - HOUR, "completed")
    storage = SQLStorage(sql_url)
    await storage.initialize()
    found = await storage.list_runs(RunQuery(job="a"))
    assert [run.status for run in found] == [RunStatus.FAILED, RunStatus.COMPLETED]
    assert [run.error or "" for run in found] == ["boom", ""]
    assert [run.duration_ms for run in found] == [2_000, 2_000]
    assert len(await storage.list_runs(RunQuery())) == 3
    assert await storage.delete_runs("a", _ms(now - 2 * HOUR) + 1) == 1
    await storage.close()


async def test_a_job_that_it_adds_meanwhile_is_taken_in(sql_url: str) -> None:
    await make_go_tables(sql_url)
    storage = SQLStorage(sql_url)
    await storage.initialize()
    sink = Jobs()
    watch = storage.watch_jobs(sink)
    await watch.ready()
    before = await storage.last_jobs_seq()
    await insert_go_job(sql_url, "late", "interval", "1h", next_run=_now() + HOUR, created_at=_now())
    await sink.until(lambda: "late" in sink.jobs)
    assert sink.jobs["late"].revision == before + 1 == sink.seq
    with pytest.raises(JobAlreadyExistsError):
        await storage.create_job(Job(id="late", schedule=ScheduleSpec(every="5m")))
    with pytest.raises(WrongRevisionError):
        await storage.put_job(Job(id="late", schedule=ScheduleSpec(every="5m")), 0)
    await storage.put_job(Job(id="late", schedule=ScheduleSpec(every="5m")), before + 1)
    assert await scalars(sql_url, text("SELECT schedule_config FROM scheduler_jobs WHERE id = 'late'")) == ["5m0s"]
    await watch.close()
    await storage.close()


async def test_it_finds_in_our_rows_what_it_knows(sql_url: str) -> None:
    await make_go_tables(sql_url)
    storage = SQLStorage(sql_url)
    await storage.initialize()
    at = "2027-01-01T10:00:00.5+02:00"
    for job in (
        Job(id="every", schedule=ScheduleSpec(every="90m"), labels={"team": "x"}),
        Job(id="once", schedule=ScheduleSpec(at=at), paused=True),
        Job(id="from", schedule=ScheduleSpec(every="1h", start_at="2026-01-01T00:00:00Z")),
        Job(id="cron", schedule=ScheduleSpec(cron="0 3 * * MON-FRI")),
        Job(id="ours", schedule=ScheduleSpec(cron="0 3 * * *", tz="Europe/Berlin")),
    ):
        await storage.create_job(job)
    statement = "SELECT id, schedule_type, schedule_config, status, metadata FROM scheduler_jobs"
    found = {row[0]: tuple(row[1:]) for row in await rows(sql_url, text(statement))}
    assert found["every"] == ("interval", "1h30m0s", "pending", '{"team":"x"}')
    assert found["once"] == ("once", "2027-01-01T08:00:00.5Z", "disabled", "{}")
    assert found["from"] == ("start_at_interval", "2026-01-01T00:00:00Z|1h0m0s", "pending", "{}")
    assert found["cron"] == ("cron", "0 3 * * MON-FRI", "pending", "{}")
    assert found["ours"][:1] == ("natscron",)
    await storage.close()


async def test_a_first_leader_finds_a_lease_that_has_seen_no_write(sql_url: str) -> None:
    await make_go_tables(sql_url)
    storage = SQLStorage(sql_url)
    await storage.initialize()
    link = await storage.open_link(ignore)
    record = await link.read_lease()
    assert record is not None
    assert record.lease.holder is None
    assert (record.lease.mark.jobs_seq, record.lease.mark.note) == (0, NoteRef())
    assert abs(record.lease.mark.instant_ms - _ms(_now())) < 60_000
    await link.close()
    await storage.close()


async def test_ids_that_differ_in_case_are_two(sql_url: str) -> None:
    """MySQL would take them for one in the table that the Go library made."""
    await make_go_tables(sql_url)
    await insert_go_job(sql_url, "Report", "interval", "1h", created_at=_now())
    storage = SQLStorage(sql_url)
    await storage.initialize()
    await storage.create_job(Job(id="report", schedule=ScheduleSpec(every="1h"), labels={"😀": "ü"}))
    assert (await storage.fetch_job("Report")) is not None
    await storage.delete_job("Report")
    assert (await storage.fetch_job("report")) is not None
    await storage.close()


async def test_a_column_of_type_json_becomes_text(postgresql_url: str) -> None:
    await make_go_tables(postgresql_url)
    for table in ("scheduler_jobs", "scheduler_executions"):
        await execute(
            postgresql_url, text(f"ALTER TABLE {table} ALTER COLUMN metadata TYPE jsonb USING metadata::jsonb")
        )
    await execute(
        postgresql_url,
        text(
            "INSERT INTO scheduler_jobs (id, schedule_type, schedule_config, metadata)"
            """ VALUES ('a', 'interval', '1h', '{"team": "x"}')"""
        ),
    )
    storage = SQLStorage(postgresql_url)
    await storage.initialize()
    job = await storage.fetch_job("a")
    assert job is not None
    assert job.labels == {"team": "x"}
    await storage.create_job(Job(id="b", schedule=ScheduleSpec(every="1h"), labels={"team": "y"}))
    await storage.close()


async def test_a_start_says_how_much_of_its_history_will_be_deleted(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await make_go_tables(sqlite_url)
    for days in (1, 29, 31, 40):
        await _insert_execution(sqlite_url, "a", _now() - days * DAY, "completed")

    async def warned(options: SQLOptions) -> list[tuple[object, object]]:
        caplog.clear()
        storage = SQLStorage(sqlite_url, options)
        await storage.initialize()
        assert len(await storage.list_runs(RunQuery(job="a"))) == 4
        await storage.close()
        return [(vars(record)["records"], vars(record)["kept_days"]) for record in caplog.records]

    assert await warned(SQLOptions(runs_max_age_ms=365 * 86_400_000)) == []
    await execute(sqlite_url, text("UPDATE scheduler_executions SET recorded_ms = NULL"), {})
    assert await warned(SQLOptions()) == [(2, 30)]
    # It is known by now; and it is deleted by the sweeps.
    assert await warned(SQLOptions()) == []
