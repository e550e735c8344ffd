"""Transactions in SQLite's thread: what is cancelled, what fails, and that values are SQLAlchemy's."""

import asyncio
import datetime as dt
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import MultipleResultsFound, NoResultFound
from sqlalchemy.ext.asyncio import create_async_engine

from natscron.clock import SystemClock
from natscron.errors import StorageUnavailableError
from natscron.storage.sql import database as module
from natscron.storage.sql.address import Address
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.direct import _KEPT
from natscron.storage.sql.lists import Lists
from natscron.storage.sql.quick import QuickConnection
from natscron.storage.sql.schema import executions as e
from natscron.storage.sql.schema import meta, metadata

pytestmark = pytest.mark.anyio

AT = dt.datetime(2026, 3, 29, 1, 30, 0, 250_000, tzinfo=dt.UTC)
INSERT = insert(e)
ROW = {"execution_id": "r1", "job_id": "j", "start_time": AT, "payload": b"\x00\xff", "priority": -3, "end_time": None}
OTHER = {**ROW, "execution_id": "r2", "payload": None, "start_time": AT + dt.timedelta(days=1)}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    engine = Address.parse(f"sqlite:///{tmp_path}/jobs.db").engine(2)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    opened = Database(engine, SystemClock(), where="here")
    await opened.run(lambda connection: connection.execute(insert(meta), {"name": "n", "number": 0}))
    yield opened
    await opened.close()
    await engine.dispose()


async def rows_of(database: Database) -> int:
    async def work(connection: AnyConnection) -> int:
        return len((await connection.execute(select(e.c.execution_id))).all())

    return await database.read(work)


async def test_the_second_time_a_statement_gives_what_it_gave_the_first(database: Database) -> None:
    by_id = select(e).where(Lists(database).among(e.c.execution_id, "ids")).order_by(e.c.execution_id)
    change = update(e).where(e.c.execution_id == bindparam("the_id")).values(start_time=bindparam("at"))
    change = change.returning(e.c.start_time)
    seen: list[list[Any]] = []

    async def work(connection: AnyConnection) -> None:
        found: list[Any] = []
        inserted = await connection.execute(INSERT, [ROW, OTHER])
        found.append([tuple(row) for row in await connection.execute(by_id, {"ids": ["r1", "r2", "it's"]})])
        rows = await connection.execute(by_id, {"ids": ["r2"]})
        found += [rows.one().start_time, (await connection.execute(by_id, {"ids": []})).first()]
        found.append((await connection.execute(change, {"the_id": "r1", "at": AT})).scalar_one())
        found.append((await connection.execute(delete(e))).rowcount)
        assert inserted.rowcount in {2, -1}
        seen.append(found)

    for _ in range(3):
        await database.run(work)
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][1:] == [OTHER["start_time"], None, AT, 2]
    assert len(seen[0][0]) == 2


async def test_rows_refuse_what_sqlalchemys_refuse(database: Database) -> None:
    every = select(e.c.execution_id)

    async def work(connection: AnyConnection) -> None:
        for _ in range(2):
            with pytest.raises(NoResultFound):
                (await connection.execute(every)).one()
        await connection.execute(INSERT, [ROW, OTHER])
        for method in ("one", "one_or_none", "scalar_one", "scalar_one_or_none"):
            with pytest.raises(MultipleResultsFound):
                getattr(await connection.execute(every), method)()

    await database.run(work)


async def test_a_refused_statement_leaves_nothing_and_says_no_values(database: Database) -> None:
    async def work(connection: AnyConnection) -> None:
        await connection.execute(INSERT, OTHER)
        await connection.execute(INSERT, [{**ROW, "error": "secret"}])
        await connection.execute(INSERT, [{**ROW, "error": "secret"}])

    for _ in range(2):
        with pytest.raises(StorageUnavailableError, match="UNIQUE") as raised:
            await database.run(work)
        assert "secret" not in f"{raised.value}{raised.value.__cause__}"
        assert await rows_of(database) == 0


async def test_a_transaction_runs_in_the_thread_and_awaits_nothing_else(database: Database) -> None:
    async def where(_connection: AnyConnection) -> int:
        return threading.get_ident()

    async def dawdle(connection: AnyConnection) -> None:
        await connection.execute(INSERT, ROW)
        await asyncio.sleep(0)

    assert await database.run(where) != threading.get_ident()
    with pytest.raises(RuntimeError, match="awaited something else"):
        await database.run(dawdle)
    assert await rows_of(database) == 0


async def test_only_so_many_statements_are_remembered(database: Database) -> None:
    drivers: set[QuickConnection] = set()
    visit = QuickConnection.visit

    async def note(driver: QuickConnection, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - passes on
        drivers.add(driver)
        return await visit(driver, *args, **kwargs)

    async def work(connection: AnyConnection) -> None:
        for n in range(_KEPT + 20):
            await connection.execute(select(e.c.execution_id).where(e.c.attempt == n))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuickConnection, "visit", note)
        await database.run(work)
    assert [len(driver.plans) for driver in drivers] == [_KEPT]


class _Gate:
    """Holds a transaction in its thread until it is let go."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.there = asyncio.Event()
        self.go = threading.Event()

    def hold(self) -> None:
        self.loop.call_soon_threadsafe(self.there.set)
        assert self.go.wait(20)


async def test_who_is_cancelled_before_the_commit_has_written_nothing(database: Database) -> None:
    gate = _Gate()

    async def work(connection: AnyConnection) -> None:
        await connection.execute(INSERT, ROW)
        gate.hold()

    writing = asyncio.create_task(database.run(work))
    await gate.there.wait()
    writing.cancel()
    following = asyncio.create_task(database.run(lambda connection: connection.execute(INSERT, OTHER)))
    await asyncio.sleep(0)
    assert not writing.done(), "nobody else may use the connection yet"
    gate.go.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await following
    assert await rows_of(database) == 1


async def test_who_is_cancelled_twice_gives_the_connection_up(database: Database) -> None:
    gate = _Gate()

    async def work(connection: AnyConnection) -> None:
        await connection.execute(INSERT, ROW)
        gate.hold()

    writing = asyncio.create_task(database.run(work))
    await gate.there.wait()
    for _ in range(2):
        writing.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    gate.loop.call_later(0.05, gate.go.set)
    with pytest.raises(asyncio.CancelledError):
        await writing
    await database.run(lambda connection: connection.execute(INSERT, OTHER))
    assert await rows_of(database) == 1


async def test_what_takes_too_long_is_rolled_back_and_said_to_be(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate()
    monkeypatch.setattr(module, "BOUND_S", 0.05)

    async def work(connection: AnyConnection) -> None:
        await connection.execute(INSERT, ROW)
        gate.hold()

    gate.loop.call_later(0.2, gate.go.set)
    with pytest.raises(StorageUnavailableError, match="no answer in time"):
        await database.write(work)
    assert await rows_of(database) == 0


async def test_the_callers_own_engine_goes_through_sqlalchemy(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/theirs.db")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    database = Database(engine, SystemClock(), where="here", borrowed=True)

    async def work(connection: AnyConnection) -> int:
        await connection.execute(INSERT, ROW)
        return threading.get_ident()

    assert await database.run(work) == threading.get_ident()
    assert await rows_of(database) == 1
    await database.close()
    await engine.dispose()
