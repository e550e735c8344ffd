"""Writes to jobs: done together, each with its own outcome; jobs in a transaction of the caller's own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, create_engine, event, insert, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.support.sql import scalars

from natscron.errors import (
    EmptyJobIDError,
    JobAlreadyExistsError,
    JobNotFoundError,
    LimitExceededError,
    StorageNotInitializedError,
    StorageUnavailableError,
    StorageUncertainError,
    ValidationError,
    WrongRevisionError,
)
from natscron.model import Calendar, CalendarSpec, Job, ScheduleSpec, Stamp
from natscron.storage.sql import SQLStorage
from natscron.storage.sql.address import Address
from natscron.storage.sql.rows import job_values
from natscron.storage.sql.schema import jobs as jobs_table
from natscron.storage.sql.writes import Kind, Write, plan
from natscron.testing.conformance.sinks import Jobs, ignore

pytestmark = pytest.mark.anyio

HOURLY = ScheduleSpec(every="1h")


def _job(job_id: str, **labels: str) -> Job:
    return Job(id=job_id, schedule=HOURLY, labels=labels)


@pytest.fixture
async def storage(sql_url: str) -> AsyncIterator[SQLStorage]:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    yield storage
    await storage.close()


@pytest.fixture
async def engine(sql_url: str) -> AsyncIterator[AsyncEngine]:
    """An application's own."""
    engine = Address.parse(sql_url).engine(5)
    yield engine
    await engine.dispose()


async def _transactions(storage: SQLStorage, work: Any) -> int:  # noqa: ANN401 - an awaitable
    """How many transactions were committed meanwhile."""
    parts = storage._parts
    assert parts is not None
    committed = 0

    def count(_connection: Connection) -> None:
        nonlocal committed
        committed += 1

    event.listen(parts._engine.sync_engine, "commit", count)
    await work
    event.remove(parts._engine.sync_engine, "commit", count)
    return committed


# Group commit.


async def test_writes_that_wait_are_one_transaction_with_an_outcome_each(storage: SQLStorage) -> None:
    await storage.create_job(_job("there"))
    revision = await storage.create_job(_job("edited"))
    outcomes: list[Any] = []

    async def all_at_once() -> None:
        outcomes.extend(
            await asyncio.gather(
                storage.create_job(_job("first")),  # goes alone: nobody waits for others
                storage.create_job(_job("there")),
                storage.create_job(_job("new")),
                storage.create_job(_job("new", second="x")),
                storage.put_job(_job("edited", n="1"), revision),
                storage.put_job(_job("edited", n="2"), revision),
                storage.delete_job("unknown"),
                storage.delete_job("there"),
                storage.create_job(_job("there", again="x")),
                storage.put_calendar(Calendar(name="holidays", spec=CalendarSpec(dates=("12-25",)))),
                storage.delete_calendar("unknown"),
                return_exceptions=True,
            )
        )

    assert await _transactions(storage, all_at_once()) <= 3
    kinds = [type(outcome) if isinstance(outcome, Exception) else outcome for outcome in outcomes]
    first = revision + 1
    assert kinds[:7] == [
        first,
        JobAlreadyExistsError,
        first + 1,
        JobAlreadyExistsError,
        first + 2,
        WrongRevisionError,
        JobNotFoundError,
    ]
    assert kinds[7:10] == [None, first + 4, first + 5]
    assert await storage.last_jobs_seq() == first + 5, "what is refused takes no number"
    there = await storage.fetch_job("there")
    assert there is not None
    assert (there.labels, there.generation) == ({"again": "x"}, first + 4)
    new = await storage.fetch_job("new")
    assert new is not None
    assert new.labels == {}


async def test_a_thousand_jobs_at_once_have_a_number_each_and_no_gap(storage: SQLStorage) -> None:
    revisions = await asyncio.gather(*(storage.create_job(_job(f"job-{n}")) for n in range(1_000)))
    assert sorted(revisions) == list(range(1, 1_001))
    assert await storage.last_jobs_seq() == 1_000


async def test_two_storages_write_in_one_order(storage: SQLStorage, sql_url: str) -> None:
    other = SQLStorage(sql_url)
    await other.initialize()
    sink = Jobs()
    watch = other.watch_jobs(sink)
    await watch.ready()
    both = await asyncio.gather(
        *(one.create_job(_job(f"{name}-{n}")) for n in range(100) for name, one in (("a", storage), ("b", other)))
    )
    assert sorted(both) == list(range(1, 201))
    await sink.until(lambda: sink.seq == 200)
    assert len(sink.jobs) == 200
    assert [sink.jobs[job_id].revision for job_id in sink.order] == sorted(both)
    await watch.close()
    await other.close()


async def test_a_caller_that_is_cancelled_stops_no_other(storage: SQLStorage) -> None:
    tasks = [asyncio.create_task(storage.create_job(_job(f"job-{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, int) for result in results[1::2])
    kept = [n for n in range(20) if await storage.fetch_job(f"job-{n}") is not None]
    assert set(kept) >= set(range(1, 20, 2))
    assert await storage.last_jobs_seq() == len(kept)


async def test_one_write_that_the_database_refuses_stops_no_other(storage: SQLStorage) -> None:
    parts = storage._parts
    assert parts is not None
    store = parts.jobs
    bad = Write(Kind.JOB, "bad", lambda now: {**job_values(_job("bad"), now), "stored_ms": object()})
    outcomes = await store._write(
        [store._job_write(_job("a"), create=True), bad, store._job_write(_job("b"), create=True)]
    )
    assert (outcomes[0], outcomes[2]) == (1, 2)
    assert isinstance(outcomes[1], StorageUnavailableError)
    assert await storage.last_jobs_seq() == 2


async def test_a_defect_in_a_write_is_told_and_the_next_goes_through(
    storage: SQLStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object) -> object:
        raise LookupError

    with monkeypatch.context() as patched:
        patched.setattr("natscron.storage.sql.jobs.plan", broken)
        with pytest.raises(StorageUncertainError, match="LookupError"):
            await storage.create_job(_job("a"))
    assert await storage.create_job(_job("a")) == 1


async def test_a_schedule_too_long_for_the_go_librarys_column_is_stored_all_the_same(storage: SQLStorage) -> None:
    spec = ScheduleSpec(kind="x.y", config="z" * 70_000)
    await storage.create_job(Job(id="a", schedule=spec))
    job = await storage.fetch_job("a")
    assert job is not None
    assert job.schedule == spec


async def test_a_job_keeps_what_was_decided_about_it_over_edits(storage: SQLStorage) -> None:
    revision = await storage.create_job(_job("a"))
    job = await storage.fetch_job("a")
    assert job is not None
    edited = msgspec.structs.replace(job, labels={"n": "1"}, counts_from=Stamp(5, 3))
    await storage.put_job(edited, revision)
    again = await storage.fetch_job("a")
    assert again is not None
    assert (again.generation, again.anchor_ms, again.created_at_ms) == (revision, job.anchor_ms, job.created_at_ms)
    assert again.counts_from == Stamp(5, 3)
    assert again.revision == revision + 1


# Arguments come first.


async def test_what_is_wrong_with_arguments_is_said_before_what_is_wrong_with_the_storage(sql_url: str) -> None:
    storage = SQLStorage(sql_url)
    with pytest.raises(EmptyJobIDError):
        await storage.create_job(_job(""))
    with pytest.raises(EmptyJobIDError):
        await storage.fetch_job("")
    with pytest.raises(EmptyJobIDError):
        await storage.delete_job("")
    with pytest.raises(EmptyJobIDError):
        await storage.delete_runs("", 5)
    with pytest.raises(StorageNotInitializedError):
        await storage.create_job(_job("a"))


async def test_an_id_that_no_column_holds_is_refused(storage: SQLStorage, sql_url: str) -> None:
    with pytest.raises(LimitExceededError):
        await storage.create_job(_job("x" * 256))
    for bad in ("a\0b", "a\ud800"):
        with pytest.raises(ValidationError):
            await storage.create_job(_job(bad))
        with pytest.raises(ValidationError):
            await storage.fetch_job(bad)
    longest = "é" * 255
    await storage.create_job(_job(longest))
    assert await storage.fetch_job(longest) is not None
    if "mysql" in sql_url:
        with pytest.raises(ValidationError, match="ends in a space"):
            await storage.create_job(_job("a "))
    else:
        await storage.create_job(_job("a "))
        await storage.create_job(_job("a"))


# A transaction of the caller's own.


async def test_a_job_of_a_transaction_is_there_when_it_is_committed(storage: SQLStorage, engine: AsyncEngine) -> None:
    sink = Jobs()
    watch = storage.watch_jobs(sink)
    await watch.ready()
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: sync.execute(text("CREATE TABLE orders (id INTEGER)")))
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO orders VALUES (1)"))
        await storage.insert_job(connection, _job("order-1", n="1"))
    await sink.until(lambda: "order-1" in sink.jobs)
    job = sink.jobs["order-1"]
    assert job.revision == job.generation == job.counts_from.seq == 1
    assert job.created_at_ms == job.anchor_ms == job.counts_from.at_ms > 0
    assert job == await storage.fetch_job("order-1")
    await watch.close()


async def test_a_job_of_a_transaction_that_is_rolled_back_never_was(storage: SQLStorage, engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await storage.insert_job(connection, _job("order-1"))
        await connection.rollback()
    assert await storage.fetch_job("order-1") is None
    assert await storage.last_jobs_seq() == 0


async def test_a_read_after_the_commit_finds_it_and_counts_it(storage: SQLStorage, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await storage.insert_job(connection, _job("a"))
    assert await storage.last_jobs_seq() == 1
    async with engine.begin() as connection:
        await storage.insert_job(connection, _job("b"))
    link = await storage.open_link(ignore)
    assert await link.jobs_seq() == 2
    await link.close()
    async with engine.begin() as connection:
        await storage.insert_job(connection, _job("c"))
    job = await storage.fetch_job("c")
    assert job is not None
    assert job.revision == 3


async def test_a_write_adopts_the_row_that_it_meets(storage: SQLStorage, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        for job_id in ("a", "b", "c", "d"):
            await storage.insert_job(connection, _job(job_id))
    with pytest.raises(JobAlreadyExistsError):
        await storage.create_job(_job("a"))
    with pytest.raises(WrongRevisionError):
        await storage.put_job(_job("b"), 0)
    await storage.delete_job("c")
    assert await storage.put_job(_job("d", n="1")) > 0
    assert await storage.fetch_job("c") is None
    revisions = await scalars_of(storage, "a", "b", "d")
    assert len(set(revisions)) == 3
    assert 0 not in revisions


async def scalars_of(storage: SQLStorage, *job_ids: str) -> list[int]:
    """Their revisions."""
    found = [await storage.fetch_job(job_id) for job_id in job_ids]
    return [0 if job is None else job.revision for job in found]


async def test_more_rows_than_one_transaction_takes_are_adopted(storage: SQLStorage, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await storage.insert_job(connection, _job("model"))
        row = (await connection.execute(select(jobs_table))).mappings().one()
        values = [
            {**row, "id": f"job-{n}", "row_data": row["row_data"].replace(b"model", f"job-{n}".encode())}
            for n in range(2_300)
        ]
        await connection.execute(insert(jobs_table), values)
    assert await storage.last_jobs_seq() == 2_301
    job = await storage.fetch_job("job-2299")
    assert job is not None
    assert job.invalid is None


async def test_a_duplicate_leaves_the_callers_transaction_usable(storage: SQLStorage, engine: AsyncEngine) -> None:
    await storage.create_job(_job("a"))
    async with engine.begin() as connection:
        with pytest.raises(JobAlreadyExistsError):
            await storage.insert_job(connection, _job("a"))
        await storage.insert_job(connection, _job("b"))
        with pytest.raises(JobAlreadyExistsError):
            await storage.insert_job(connection, _job("b"))
    assert await storage.fetch_job("b") is not None


async def test_a_synchronous_connection_will_do(storage: SQLStorage, sqlite_url: str, sql_url: str) -> None:
    if sql_url != sqlite_url:  # the synchronous drivers of the others are not installed
        return
    engine = create_engine(make_url(sqlite_url).set(drivername="sqlite"))
    with engine.begin() as connection:
        await storage.insert_job(connection, _job("a"))
    engine.dispose()
    assert await storage.fetch_job("a") is not None


async def test_it_needs_the_tables_and_no_initialized_storage(
    storage: SQLStorage, engine: AsyncEngine, sql_url: str
) -> None:
    async with engine.begin() as connection:
        await SQLStorage(sql_url).insert_job(connection, _job("a"))
        with pytest.raises(EmptyJobIDError):
            await SQLStorage(sql_url).insert_job(connection, _job(""))
    assert await storage.fetch_job("a") is not None


class TestAnOpenTransaction:
    """On a server: SQLite has one writer, and there an open transaction is it."""

    @pytest.fixture
    async def sql_url(self, server_url: str) -> str:
        return server_url

    async def test_it_blocks_nobody(self, storage: SQLStorage, engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await storage.insert_job(connection, _job("held"))
            async with asyncio.timeout(5):
                await asyncio.gather(*(storage.create_job(_job(f"job-{n}")) for n in range(50)))
                await storage.put_job(_job("job-1", n="1"))
                await storage.delete_job("job-2")
                assert await storage.fetch_job("held") is None
                assert await storage.last_jobs_seq() == 52
            await connection.commit()
        assert await storage.last_jobs_seq() == 53

    async def test_only_who_wants_the_same_id_fails_and_may_try_again(
        self, storage: SQLStorage, engine: AsyncEngine
    ) -> None:
        async with engine.connect() as connection:
            await storage.insert_job(connection, _job("held"))
            async with asyncio.timeout(10):
                outcomes = await asyncio.gather(
                    *(storage.create_job(_job(f"job-{n}")) for n in range(10)),
                    storage.create_job(_job("held")),
                    *(storage.create_job(_job(f"job-{n}")) for n in range(10, 20)),
                    return_exceptions=True,
                )
            refused = outcomes.pop(10)
            assert isinstance(refused, StorageUnavailableError)
            assert "transaction that is open" in str(refused)
            assert all(isinstance(outcome, int) for outcome in outcomes), outcomes
            await connection.rollback()
        await storage.create_job(_job("held"))


async def test_on_sqlite_an_open_transaction_is_the_one_writer_and_readers_go_on(
    sqlite_url: str,
) -> None:
    storage = SQLStorage(sqlite_url)
    await storage.initialize()
    await storage.create_job(_job("a"))
    engine = Address.parse(sqlite_url).engine(5)
    async with engine.connect() as connection:
        await storage.insert_job(connection, _job("held"))
        writing = asyncio.create_task(storage.create_job(_job("b")))
        async with asyncio.timeout(5):
            assert await storage.fetch_job("a") is not None
            assert await storage.last_jobs_seq() == 1
        assert not writing.done()
        await connection.commit()
    assert await writing == 2
    assert await storage.last_jobs_seq() == 3
    await engine.dispose()
    await storage.close()


async def test_the_writes_of_one_batch_leave_one_row_each(storage: SQLStorage, sql_url: str) -> None:
    parts = storage._parts
    assert parts is not None
    store = parts.jobs
    one = [store._job_write(_job("a"), create=True), Write(Kind.JOB, "a", None), store._job_write(_job("a", n="2"))]
    assert await store._write(one) == [1, 2, 3]
    assert await scalars(sql_url, select(jobs_table.c.revision)) == [3]
    sink = Jobs()
    watch = storage.watch_jobs(sink)
    await watch.ready()
    assert await store._write([store._job_write(_job("b")), Write(Kind.JOB, "b", None)]) == [4, 5]
    await sink.until(lambda: sink.seq == 5)
    assert set(sink.jobs) == {"a"}
    await watch.close()


def test_a_plan_writes_a_row_that_is_deleted_and_made_again_as_an_update() -> None:
    there = {(Kind.JOB, "a"): 7}
    writes = [Write(Kind.JOB, "a", None, 7), Write(Kind.JOB, "a", lambda now: {"id": "a", "stored_ms": now}, 0)]
    found = plan(writes, there, 10, 99)
    assert found.outcomes == [11, 12]
    assert found.updates == {(Kind.JOB, "a"): {"id": "a", "stored_ms": 99, "revision": 12}}
    assert (found.inserts, found.deletes) == ({}, set())
    assert [row["revision"] for row in found.removed] == [11]


async def test_a_connection_of_no_transaction_is_the_callers_business(storage: SQLStorage, engine: AsyncEngine) -> None:
    connection = await engine.connect()
    await storage.insert_job(connection, _job("a"))
    await connection.close()
    assert await storage.fetch_job("a") is None
