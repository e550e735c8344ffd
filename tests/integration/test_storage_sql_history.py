"""The history of the SQL storage."""

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, select, text, update
from tests.support.sql import execute, go_time, make_go_tables, rows, scalars

from natscron.clock import SystemClock
from natscron.errors import ValidationError
from natscron.model import Delivery, Overlap, Run, RunStatus
from natscron.storage.protocol import RunQuery
from natscron.storage.queue import record_id
from natscron.storage.sql.options import SQLOptions
from natscron.storage.sql.schema import executions
from natscron.storage.sql.storage import SQLStorage
from natscron.testing.conformance.driving import JOB, Driver, ending_of
from natscron.testing.conformance.sinks import Runs

pytestmark = pytest.mark.anyio

MINUTE = 60_000


@pytest.fixture
async def storage(sql_url: str) -> AsyncIterator[SQLStorage]:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    yield storage
    await storage.close()


@pytest.fixture
async def frugal(sql_url: str) -> AsyncIterator[SQLStorage]:
    """Keeps ten records of each job, for an hour."""
    storage = SQLStorage(sql_url, SQLOptions(runs_per_job=10, runs_max_age_ms=60 * MINUTE))
    await storage.initialize()
    yield storage
    await storage.close()


def _now() -> int:
    return SystemClock().now_ms()


def _run(number: int, at_ms: int, job: str = "a", **fields: Any) -> Run:  # noqa: ANN401 - any of its fields
    given: dict[str, Any] = {"status": RunStatus.COMPLETED, "delivery": Delivery.HANDLER, "instance": "me"} | fields
    return Run(
        job=job, run_id=f"{job}-{number}", scheduled_at_ms=at_ms, started_at_ms=at_ms, finished_at_ms=at_ms + 5, **given
    )


async def _ids(storage: SQLStorage, **query: Any) -> list[str]:  # noqa: ANN401 - any of its fields
    return [run.run_id or "" for run in await storage.list_runs(RunQuery(**query))]


# Records of the Go library.


async def _go_record(url: str, name: str, status: str, start: Any = None, **values: Any) -> None:  # noqa: ANN401 - columns
    given = {"execution_id": name, "job_id": "a", "start_time": start, "status": status, "error": ""} | values
    names, places = ", ".join(given), ", ".join(f":{key}" for key in given)
    await execute(url, text(f"INSERT INTO scheduler_executions ({names}) VALUES ({places})"), given)  # noqa: S608 - own names


async def test_all_words_of_the_go_library_are_read_and_its_columns_stay_as_they_are(sql_url: str) -> None:
    await make_go_tables(sql_url)
    words = {
        "completed": RunStatus.COMPLETED,
        "failed": RunStatus.FAILED,
        "pending": RunStatus.PENDING,
        "running": RunStatus.RUNNING,
        "rescheduling_failed": RunStatus.FAILED,
        "disabled": RunStatus.SKIPPED,
    }
    start = dt.datetime(2026, 11, 1, 12, 0, 0, 250_000, tzinfo=dt.UTC)
    for number, word in enumerate((*words, "a newer word")):
        moment = go_time(sql_url, start + dt.timedelta(hours=number))
        await _go_record(sql_url, f"a_{number}", word, moment, metadata='{"team":"x"}', duration=1_500_000_000)
    names = "execution_id, start_time, end_time, duration, status, error, metadata"
    columns = text(f"SELECT {names} FROM scheduler_executions")  # noqa: S608 - own names
    before = sorted(map(tuple, await rows(sql_url, columns)))
    storage = SQLStorage(sql_url)
    await storage.initialize()
    found = {run.run_id: run for run in await storage.list_runs(RunQuery(job="a"))}
    assert [found[f"a_{number}"].status for number in range(6)] == list(words.values())
    assert len(found) == 6, "what a later version wrote is left out, and nothing else"
    first = found["a_0"]
    started_ms = int(start.timestamp() * 1000)
    assert (first.started_at_ms or 0) - started_ms in {0, 1}
    assert first.duration_ms == 1_500
    assert first.finished_at_ms == (first.started_at_ms or 0) + 1_500, "from the duration, where the end is missing"
    assert first.error is None
    for status in set(words.values()):
        mine = {f"a_{number}" for number, told in enumerate(words.values()) if told is status}
        assert set(await _ids(storage, job="a", status=status)) == mine
        assert set(await _ids(storage, status=status)) == mine
    assert await _ids(storage, run_id="a_1") == ["a_1"]
    assert sorted(map(tuple, await rows(sql_url, columns))) == before
    await storage.close()


async def test_instants_of_the_go_library_that_are_none_do_no_harm(sql_url: str) -> None:
    await make_go_tables(sql_url)
    await _go_record(sql_url, "without", "failed")
    if sql_url.startswith("sqlite"):
        await _go_record(sql_url, "zero", "failed", "0001-01-01 00:00:00+00:00")
        await _go_record(sql_url, "unreadable", "failed", "yesterday")
    storage = SQLStorage(sql_url)
    await storage.initialize()
    found = await storage.list_runs(RunQuery(job="a"))
    assert {(run.started_at_ms, run.finished_at_ms) for run in found} == {(None, None)}
    assert await storage.delete_runs("a", _now()) == len(found) > 0
    await storage.close()


async def test_records_that_the_go_library_writes_meanwhile_are_taken_up_by_a_sweep(
    storage: SQLStorage, sql_url: str
) -> None:
    await _go_record(sql_url, "a_1", "completed")
    assert await _ids(storage, job="a") == []
    await storage.sweep()
    assert await _ids(storage, job="a") == ["a_1"]
    await storage.sweep()
    assert await _ids(storage, job="a", status=RunStatus.COMPLETED) == ["a_1"]


async def test_a_record_of_the_go_library_cannot_be_redriven(storage: SQLStorage, sql_url: str) -> None:
    await _go_record(sql_url, "a_1", "failed")
    await storage.sweep()
    assert await _ids(storage) == ["a_1"]
    assert not await storage.redrive("a_1")


# Saving.


async def test_a_record_that_is_saved_again_takes_its_own_place(storage: SQLStorage) -> None:
    now = _now()
    record = Run(job="a", status=RunStatus.SKIPPED, reason="paused", from_ms=now - 9, to_ms=now, count=9)
    runs = [_run(1, now), _run(1, now, attempt=2, status=RunStatus.FAILED), record]
    for _ in range(2):
        await storage.save_runs(runs)
    assert len(await storage.list_runs(RunQuery())) == 3
    await storage.save_runs([_run(1, now, status=RunStatus.DEAD), _run(1, now, status=RunStatus.FAILED)])
    found = [(run.attempt, run.status) for run in await storage.list_runs(RunQuery(run_id="a-1"))]
    assert sorted(found) == [(1, RunStatus.FAILED), (2, RunStatus.FAILED)]


async def test_saving_never_overwrites_a_try_that_is_not_over(storage: SQLStorage) -> None:
    driver = await Driver.begin(storage)
    await driver.queue(driver.run("r1", concurrency=1), driver.run("r2", concurrency=1))
    [claim] = await driver.take("r1")
    await storage.save_runs(
        [Run(job=JOB, status=RunStatus.FAILED, run_id=run_id, finished_at_ms=5) for run_id in ("r1", "r2")]
    )
    assert [run.status for run_id in ("r1", "r2") for run in await driver.tries(run_id)] == [
        RunStatus.RUNNING,
        RunStatus.PENDING,
    ]
    assert await driver.end(claim)
    await driver.take("r2")


async def test_a_record_that_no_row_can_hold_keeps_no_other_from_being_saved(storage: SQLStorage) -> None:
    now = _now()
    bad = [
        msgspec.structs.replace(_run(1, now), job="x" * 300),
        msgspec.structs.replace(_run(1, now), job="a\0b"),
        msgspec.structs.replace(_run(1, now), job="a\ud800"),
        msgspec.structs.replace(_run(1, now), run_id="y" * 300),
    ]
    odd = _run(3, now, error="\0\ud800", result="\0", reason="r" * 300, instance="i" * 300)
    await storage.save_runs([*bad, _run(2, now), odd])
    assert sorted(await _ids(storage)) == ["a-2", "a-3"]
    for text_ in ("a\0b", "a\ud800", "x" * 300, "'; DROP TABLE scheduler_executions; --"):
        assert await _ids(storage, job=text_) == []
        assert await _ids(storage, run_id=text_) == []
        assert dict(await storage.last_runs([text_, "a"])) == {"a": now}
        assert dict(await storage.activity([text_])) == {}
        assert await storage.drop_runs(text_, 1) == 0
        assert not await storage.redrive(text_)
    assert sorted(await _ids(storage)) == ["a-2", "a-3"]


async def test_a_query_out_of_bounds_is_refused(storage: SQLStorage) -> None:
    for query in (RunQuery(limit=0), RunQuery(limit=10_001), RunQuery(offset=-1)):
        with pytest.raises(ValidationError):
            await storage.list_runs(query)


# Taking over from another store.


async def test_records_of_another_store_are_taken_over_once(storage: SQLStorage) -> None:
    now = _now()
    driver = await Driver.begin(storage)
    await driver.queue(driver.run("a-9"))
    aged = _run(5, now - 40 * 24 * 60 * MINUTE)
    span = Run(job="a", status=RunStatus.SKIPPED, reason="paused", from_ms=now - 9, to_ms=now, count=9)
    runs = [_run(1, now), _run(2, now, attempt=2), _run(1, now), _run(9, now), aged, span]
    expected = [True, True, False, False, False, True]
    told = Runs()
    watch = storage.follow_runs(None, told)
    await watch.ready()
    assert list(await storage.import_runs(runs, dry_run=True)) == expected
    assert len(await storage.list_runs(RunQuery())) == 1
    assert list(await storage.import_runs(runs)) == expected
    assert list(await storage.import_runs(runs)) == [False] * 6
    assert {record_id(run) for run in await storage.list_runs(RunQuery())} == {"a-1", "a-2.2", "a-9", record_id(span)}
    # They count as having been here, cannot be redriven, and nobody who follows is told.
    await driver.queue(driver.run("a-1", job="a"), driver.run("a-2", job="a"))
    await driver.take("a-9")
    assert not await storage.redrive("a-1")
    await storage.save_runs([_run(3, now)])
    await told.until(lambda: bool(told.runs))
    assert [run.run_id for run in told.runs] == ["a-3"]
    await watch.close()


# Following.


async def test_what_another_process_ends_is_followed(storage: SQLStorage, sql_url: str) -> None:
    other = SQLStorage(sql_url)
    await other.initialize()
    told, mine = Runs(), Runs()
    watch, own = other.follow_runs(None, told), other.follow_runs(JOB, mine)
    await watch.ready()
    await own.ready()
    driver = await Driver.begin(storage)
    await driver.queue(driver.run("r1", overlap=Overlap.SKIP), driver.run("r2", overlap=Overlap.SKIP))
    await driver.queue(driver.run("b1", job="jobs.b"))
    one, other_job = await driver.take("r1", "b1")
    await driver.end(one, RunStatus.FAILED, retry_in_ms=0)
    await driver.end(other_job)
    await told.until(lambda: len(told.runs) == 3)
    assert sorted((run.run_id, run.status) for run in told.runs) == [
        ("b1", RunStatus.COMPLETED),
        ("r1", RunStatus.FAILED),
        ("r2", RunStatus.SKIPPED),
    ]
    await mine.until(lambda: len(mine.runs) == 2)
    assert {run.run_id for run in mine.runs} == {"r1", "r2"}
    await other.close()


async def test_whoever_begins_to_follow_is_told_of_nothing_that_was_before(storage: SQLStorage) -> None:
    now = _now()
    await storage.save_runs([_run(1, now)])
    early, late = Runs(), Runs()
    watch = storage.follow_runs(None, early)
    await watch.ready()
    await storage.save_runs([_run(2, now)])
    await early.until(lambda: len(early.runs) == 1)
    other = storage.follow_runs(None, late)
    await other.ready()
    await storage.save_runs([_run(3, now)])
    await late.until(lambda: len(late.runs) == 1)
    await early.until(lambda: len(early.runs) == 2)
    assert [run.run_id for run in early.runs] == ["a-2", "a-3"]
    assert [run.run_id for run in late.runs] == ["a-3"]
    await watch.close()
    await other.close()


# What is kept.


async def test_of_each_job_the_newest_records_are_kept(frugal: SQLStorage) -> None:
    now = _now()
    runs = [_run(n, now - 1_000 + n, job) for n in range(35) for job in ("a", "b")]
    few = [_run(n, now - 5_000 + n, "few") for n in range(10)]
    await frugal.save_runs([*runs, *few])
    await frugal.sweep()
    for job in ("a", "b"):
        assert await _ids(frugal, job=job, descending=False) == [f"{job}-{n}" for n in range(25, 35)]
    assert len(await _ids(frugal, job="few")) == 10
    # What comes later is found by the next sweep, also of another process.
    await frugal.save_runs([_run(n, now + n, "a") for n in range(40, 45)])
    await frugal.sweep()
    assert await _ids(frugal, job="a", descending=False) == [f"a-{n}" for n in (*range(30, 35), *range(40, 45))]


async def test_records_over_the_age_are_deleted_in_batches(frugal: SQLStorage, sql_url: str) -> None:
    now = _now()
    aged = [_run(n, now - 61 * MINUTE - n, f"job{n}") for n in range(2_300)]
    await frugal.save_runs([*aged, _run(1, now - 59 * MINUTE, "young")])
    await frugal.sweep()
    assert await scalars(sql_url, select(executions.c.run_id)) == ["young-1"]


async def test_what_is_not_over_is_kept_however_old_and_many(frugal: SQLStorage, sql_url: str) -> None:
    driver = await Driver.begin(frugal)
    old: dict[str, Any] = {"scheduled_at_ms": driver.now_ms - 100 * MINUTE, "overlap": Overlap.BUFFER_ALL}
    await driver.queue(*(driver.run(f"r{n:02}", **old) for n in range(30)))
    [claim] = await driver.take("r00")
    await execute(
        sql_url, update(executions).where(executions.c.run_id == "r00").values(recorded_ms=claim.started_ms - 10**7)
    )
    await frugal.sweep()
    assert len(await _ids(frugal, job=JOB)) == 30
    assert await driver.end(claim, started_ms=claim.started_ms - 10**7)
    await frugal.sweep()
    assert len(await _ids(frugal, job=JOB)) == 29


async def test_the_history_of_the_go_library_is_kept_as_long_as_ours(frugal: SQLStorage, sql_url: str) -> None:
    start = dt.datetime.fromtimestamp(_now() / 1000, dt.UTC)
    for number in range(12):
        moment = go_time(sql_url, start - dt.timedelta(minutes=10 * number))
        await _go_record(sql_url, f"a_{number:02}", "completed", moment)
    await frugal.sweep()
    assert await _ids(frugal, job="a") == [f"a_{number:02}" for number in range(6)], "an hour, and ten at the most"


async def test_a_database_with_a_lot_of_history_is_swept_in_parts(frugal: SQLStorage, sql_url: str) -> None:
    now = _now()
    values = [
        {
            "execution_id": f"r{n}",
            "run_id": f"r{n}",
            "job_id": f"job{n % 7}",
            "status": "completed",
            "rank_order": 2002,
            "recorded_ms": now - 50 * MINUTE + n,
            "handler": "",
        }
        for n in range(6_000)
    ]
    await execute(sql_url, insert(executions), values)
    await frugal.sweep()
    assert len(await scalars(sql_url, select(executions.c.run_id))) == 70
    claims = await frugal.claim("w", ("",), 5)
    assert (claims.runs, claims.next_ms) == ((), None)


async def test_ends_are_told_by_when_they_were_stored(storage: SQLStorage, sql_url: str) -> None:
    """A worker whose store was away stores an end long after it happened, and it is followed all the same."""
    driver, told = await Driver.begin(storage), Runs()
    await driver.queue(driver.run("r1"))
    [claim] = await driver.take("r1")
    watch = storage.follow_runs(JOB, told)
    await watch.ready()
    ending = ending_of(claim, started_ms=claim.started_ms - 50 * MINUTE, finished_ms=claim.started_ms - 40 * MINUTE)
    assert list(await storage.finish("w", [ending])) == [True]
    await told.until(lambda: len(told.runs) == 1)
    [stored_ms] = await scalars(sql_url, select(executions.c.queue_ms))
    assert stored_ms >= claim.started_ms
    await watch.close()
