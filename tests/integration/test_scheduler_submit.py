"""Jobs that become part of the submitter's own SQL transaction."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

import natscron.sync
from natscron import (
    InvalidScheduleError,
    JobAlreadyExistsError,
    JobEvent,
    JobNotFoundError,
    Run,
    Scheduler,
    ValidationError,
    every,
)
from natscron.storage.sql.address import Address

pytestmark = pytest.mark.anyio

SELDOM = every("1h")
ORDERS = "CREATE TABLE orders (id INTEGER PRIMARY KEY)"
ORDER = text("INSERT INTO orders (id) VALUES (:id)")
COUNT = text("SELECT count(*) FROM orders")


def nothing(_event: JobEvent) -> None:
    pass


async def test_a_job_is_there_when_its_transaction_is_committed_and_not_before(sql_url: str) -> None:
    # The application's engine; the scheduler has connections of its own.
    engine = create_async_engine(Address.parse(sql_url).url)
    ran: asyncio.Queue[Run] = asyncio.Queue()
    async with Scheduler(sql_url, nothing) as scheduler, asyncio.timeout(40):
        scheduler.on("run_finished", ran.put_nowait)
        async with engine.begin() as connection:
            await connection.execute(text(ORDERS))

        async with engine.connect() as connection:
            await connection.execute(ORDER, {"id": 1})
            await scheduler.submit_job("order.1", SELDOM, connection=connection, metadata={"order": "1"})
            with pytest.raises(JobAlreadyExistsError):
                await scheduler.submit_job("order.1", SELDOM, connection=connection)
            await connection.rollback()
        with pytest.raises(JobNotFoundError):
            await scheduler.get_job("order.1")

        async with engine.begin() as connection:
            await connection.execute(ORDER, {"id": 2})
            await scheduler.submit_job("order.2", every("50ms"), connection=connection, metadata={"order": "2"})
        # Nobody told the scheduler: it follows the database.
        assert (await ran.get()).job == "order.2"
        assert (await scheduler.get_job("order.2")).metadata == {"order": "2"}
        with pytest.raises(JobAlreadyExistsError):
            await scheduler.add_job("order.2", SELDOM)

        async with engine.begin() as connection:
            with pytest.raises(JobAlreadyExistsError):
                await scheduler.submit_job("order.2", SELDOM, connection=connection)
            # The refusal leaves the transaction usable.
            await connection.execute(ORDER, {"id": 3})
        async with engine.connect() as connection:
            assert (await connection.execute(COUNT)).scalar_one() == 2
    await engine.dispose()


async def test_what_cannot_be_a_job_is_refused_before_the_transaction_is_touched(sqlite_url: str) -> None:
    engine = create_async_engine(Address.parse(sqlite_url).url)
    async with Scheduler(sqlite_url, nothing) as scheduler, engine.begin() as connection:
        with pytest.raises(InvalidScheduleError):
            await scheduler.submit_job("a", every("1us"), connection=connection)
        with pytest.raises(ValidationError, match="unknown argument"):
            await scheduler.submit_job("a", SELDOM, connection=connection, nonsense=1)  # type: ignore[call-arg]
        assert (await connection.execute(text("SELECT count(*) FROM scheduler_jobs"))).scalar_one() == 0
    await engine.dispose()


async def test_a_scheduler_that_is_not_started_can_submit_too_where_the_tables_are(sqlite_url: str) -> None:
    scheduler = Scheduler(sqlite_url, nothing)
    async with scheduler:
        pass
    engine = create_async_engine(Address.parse(sqlite_url).url)
    async with engine.begin() as connection:
        await scheduler.submit_job("a", SELDOM, connection=connection)
        with pytest.raises(InvalidScheduleError):
            await scheduler.submit_job("b", every("1us"), connection=connection)
    async with scheduler:
        assert [job.id for job in await scheduler.list_jobs()] == ["a"]
    await engine.dispose()


def test_the_twin_takes_a_plain_connection(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    engine = create_engine(url)
    with natscron.sync.Scheduler(url, nothing) as scheduler:
        with engine.begin() as connection:
            connection.execute(text(ORDERS))
        with engine.connect() as connection:
            connection.execute(ORDER, {"id": 1})
            scheduler.submit_job("order.1", SELDOM, connection=connection)
            connection.rollback()
        assert scheduler.list_jobs() == []
        with engine.begin() as connection:
            connection.execute(ORDER, {"id": 2})
            scheduler.submit_job("order.2", SELDOM, connection=connection)
        assert [job.id for job in scheduler.list_jobs()] == ["order.2"]
    engine.dispose()
