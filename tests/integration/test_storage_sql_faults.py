"""What goes wrong between a storage and its database: kills, locks, lost connections, callers that give up."""

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tests.support.sql import scalars

from natscron.clock import SystemClock
from natscron.errors import StorageNotInitializedError, StorageUnavailableError, StorageUncertainError
from natscron.model import Holder, Job, Lease, Mark, NoteRef, ScheduleSpec
from natscron.storage.protocol import RunQuery
from natscron.storage.sql import SQLOptions, SQLStorage, numbers
from natscron.storage.sql.address import Address
from natscron.storage.sql.schema import executions, jobs, meta, notes
from natscron.testing.conformance.sinks import Jobs, ignore
from natscron.testing.nats import free_ports

pytestmark = pytest.mark.anyio

WAIT_S = 15

_WRITER = """
import asyncio, sys
from natscron.model import Holder, Job, Lease, Mark, NoteRef, QueuedRun, ScheduleSpec
from natscron.storage.sql import SQLStorage

async def main():
    storage = SQLStorage(sys.argv[1])
    await storage.initialize()
    link = await storage.open_link(lambda reply: None)
    current = await link.read_lease()
    epoch = 1 if current is None else current.lease.epoch + 1
    lease = Lease(epoch=epoch, mark=Mark(instant_ms=5), holder=Holder("host", f"n{epoch}"))
    await link.write_lease(lease, 0 if current is None else current.revision)

    async def runs():
        n = 0
        while True:
            n += 1
            name = f"{epoch}-{n}"
            run = QueuedRun(run_id=name, job=name, generation=1, scheduled_at_ms=5, due_ms=5)
            await link.commit(NoteRef(epoch, n), [link.stage(run)], [name])
            print("run", name, flush=True)

    async def jobs(who):
        n = 0
        while True:
            n += 1
            await storage.create_job(Job(id=f"{epoch}-{who}-{n}", schedule=ScheduleSpec(every="1h")))
            print("job", f"{epoch}-{who}-{n}", flush=True)

    await asyncio.gather(runs(), jobs("a"), jobs("b"))

asyncio.run(main())
"""


def _job(job_id: str) -> Job:
    return Job(id=job_id, schedule=ScheduleSpec(every="1h"))


def _lease(epoch: int = 1) -> Lease:
    return Lease(epoch=epoch, mark=Mark(instant_ms=5), holder=Holder("host", "n"))


async def test_what_a_killed_process_had_confirmed_is_there_and_nothing_is_there_by_half(sql_url: str) -> None:
    confirmed: dict[str, set[str]] = {"run": set(), "job": set()}
    for kill_after in (7, 20, 41):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WRITER, sql_url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        seen = 0
        while seen < kill_after:
            line = (await process.stdout.readline()).decode().split()
            assert line, (await process.stderr.read()).decode()
            confirmed[line[0]].add(line[1])
            seen += 1
        process.send_signal(signal.SIGKILL)
        rest, _ = await process.communicate()
        for line in (one.split() for one in rest.decode().splitlines() if one.count(" ") == 1):
            confirmed[line[0]].add(line[1])
    storage = SQLStorage(sql_url)
    await storage.initialize()
    noted = {run_id for found in await scalars(sql_url, select(notes.c.run_ids)) for run_id in found.split("\n")}
    assert noted == set(await scalars(sql_url, select(executions.c.run_id)))
    assert confirmed["run"] <= noted
    assert confirmed["job"] <= set(await scalars(sql_url, select(jobs.c.id)))
    revisions = await scalars(sql_url, select(jobs.c.revision))
    assert sorted(revisions) == list(range(1, len(revisions) + 1)), "each its number, and no gap"
    assert await storage.last_jobs_seq() == len(revisions)
    link = await storage.open_link(ignore)
    record = await link.read_lease()
    assert record is not None
    assert record.lease.epoch == 3
    await link.close()
    await storage.close()


async def test_a_foreign_writer_on_the_same_file_is_waited_for(sqlite_url: str) -> None:
    storage = SQLStorage(sqlite_url)
    await storage.initialize()
    foreign = sqlite3.connect(Address.parse(sqlite_url).url.database or "", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(storage.create_job(_job("a")))
    async with asyncio.timeout(5):
        assert await storage.fetch_job("a") is None, "readers wait for nobody"
        assert await storage.list_runs(RunQuery()) == []
    assert not writing.done()
    foreign.execute("COMMIT")
    foreign.close()
    assert await writing == 1
    await storage.close()


async def test_a_foreign_writer_that_never_ends_is_not_waited_for_for_ever(sqlite_url: str) -> None:
    storage = SQLStorage(sqlite_url, SQLOptions(busy_timeout_ms=20))
    await storage.initialize()
    foreign = sqlite3.connect(Address.parse(sqlite_url).url.database or "", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailableError, match="locked"):
        await storage.create_job(_job("a"))
    foreign.execute("COMMIT")
    foreign.close()
    await storage.create_job(_job("a"))
    await storage.close()


async def test_sqlite_is_set_up_as_asked_for(sqlite_url: str) -> None:
    for synchronous, code in (("normal", 1), ("full", 2)):
        storage = SQLStorage(sqlite_url, SQLOptions(synchronous=synchronous, busy_timeout_ms=1_234))
        await storage.initialize()
        parts = storage._parts
        assert parts is not None
        async with parts.database.transaction() as connection:
            found = [
                (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "busy_timeout")
            ]
        assert found == ["wal", code, 1_234]
        await storage.close()


async def test_a_read_changes_nothing(sql_url: str) -> None:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    parts = storage._parts
    assert parts is not None
    with pytest.raises(StorageUnavailableError):
        async with parts.database.reading() as connection:
            await connection.execute(meta.update().values(number=99))
    assert await storage.last_jobs_seq() == 0
    await storage.close()


async def test_a_read_sees_one_state_from_its_beginning_to_its_end(sql_url: str) -> None:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    parts = storage._parts
    assert parts is not None
    async with parts.database.reading() as connection:
        before = await numbers.read(connection, numbers.JOBS)
        await storage.create_job(_job("a"))
        assert await numbers.read(connection, numbers.JOBS) == before
        assert (await connection.execute(select(func.count()).select_from(jobs))).scalar_one() == 0
    assert await storage.last_jobs_seq() == before + 1
    await storage.close()


async def test_the_databases_clock_goes_on_within_a_transaction(sql_url: str) -> None:
    """now() would be the time at which the transaction began."""
    storage = SQLStorage(sql_url)
    await storage.initialize()
    parts = storage._parts
    assert parts is not None
    database = parts.database
    host = SystemClock()
    async with database.transaction() as connection:
        first = await database.now_ms(connection)
        assert abs(first - host.now_ms()) < 60_000
        async with asyncio.timeout(WAIT_S):
            while await database.now_ms(connection) == first:
                pass
    await storage.close()


async def test_conflicts_are_tried_again_and_other_errors_are_not(sql_url: str) -> None:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    parts = storage._parts
    assert parts is not None
    database = parts.database
    tries = 0

    async def deadlocked(connection: Any) -> int:  # noqa: ANN401 - a connection
        nonlocal tries
        tries += 1
        if tries < 3:
            await _conflict(connection, database.name)
        return tries

    if database.name != "sqlite":
        assert await database.run(deadlocked) == 3
    tries = 0

    async def wrong(connection: Any) -> None:  # noqa: ANN401 - a connection
        nonlocal tries
        tries += 1
        await connection.execute(text("SELECT nonsense FROM nowhere"))

    with pytest.raises(StorageUnavailableError, match="nowhere"):
        await database.run(wrong)
    assert tries == 1
    await storage.close()


async def _conflict(connection: Any, name: str) -> None:  # noqa: ANN401 - a connection
    if name == "postgresql":
        statement = "DO $$ BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$"
    else:
        statement = "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'"
    await connection.exec_driver_sql(statement)


async def test_a_lost_commit_is_said_to_be_in_doubt(server_url: str) -> None:
    storage = SQLStorage(server_url)
    await storage.initialize()
    parts = storage._parts
    assert parts is not None
    database = parts.database
    for doomed, expected in ((False, StorageUnavailableError), (True, StorageUncertainError)):
        with pytest.raises(expected):
            await _written_over_a_cut_connection(database, at_commit=doomed)
    assert await storage.last_jobs_seq() == 0, "the pool has others"
    await storage.close()


async def _written_over_a_cut_connection(database: Any, *, at_commit: bool) -> None:  # noqa: ANN401 - a Database
    async with database.transaction() as connection:
        await numbers.take(connection, numbers.STATE)
        _cut((await connection.get_raw_connection()).driver_connection)
        if not at_commit:
            await numbers.take(connection, numbers.STATE)


def _cut(raw: Any) -> None:  # noqa: ANN401 - a driver's connection
    """The network ends it, and the driver has not noticed."""
    transport = getattr(raw, "_transport", None) or raw._writer.transport
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)


async def test_a_caller_that_gives_up_leaves_no_connection_behind(server_url: str) -> None:
    storage = SQLStorage(server_url, SQLOptions(pool_size=2))
    await storage.initialize()
    parts = storage._parts
    assert parts is not None
    for turns in range(40):
        task = asyncio.create_task(storage.list_runs(RunQuery()))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(storage.list_runs(RunQuery()) for _ in range(10)))
    await storage.close()


async def test_closing_leaves_no_connection_at_the_server(server_url: str) -> None:
    watched = Jobs()
    storage = SQLStorage(server_url)
    await storage.initialize()
    await storage.watch_jobs(watched).ready()
    link = await storage.open_link(ignore)
    await link.write_lease(_lease(), 0)
    link.commit(NoteRef(1, 1), [], ["run"])
    await asyncio.gather(*(storage.create_job(_job(f"job-{n}")) for n in range(20)))
    assert await _connections(server_url) >= 3
    await storage.close()
    assert link.broken.is_set()
    async with asyncio.timeout(WAIT_S):
        while await _connections(server_url):
            pass  # the server notices a moment later
    with pytest.raises(StorageNotInitializedError):
        await storage.fetch_job("a")
    await storage.initialize()
    assert await storage.last_jobs_seq() == 20
    await storage.close()


async def _connections(url: str) -> int:
    """How many there are to the database, but for the one that asks."""
    if url.startswith("postgresql"):
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    else:
        query = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
    return int((await scalars(url, text(query)))[0])


async def test_a_server_that_is_not_there_is_said_to_be_unreachable() -> None:
    [port] = free_ports(1)
    for scheme in ("postgresql", "mysql"):
        storage = SQLStorage(f"{scheme}://user:geheim@127.0.0.1:{port}/db")
        with pytest.raises(StorageUnavailableError) as caught:
            await storage.initialize()
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert "geheim" not in f"{caught.value!r}{storage!r}"
        await storage.close()


async def test_a_wrong_password_is_shown_nowhere(server_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    url = Address.parse(server_url).url.set(password="geheim!pw", drivername=server_url.partition(":")[0])  # noqa: S106 - of nobody
    storage = SQLStorage(url.render_as_string(hide_password=False))
    with pytest.raises(StorageUnavailableError) as caught:
        await storage.initialize()
    shown = f"{caught.value!r} {caught.value.__cause__!r} {storage!r} {storage._address!r} {caplog.text}"
    assert "geheim" not in shown
    assert "natscron" in str(caught.value), "the user's name is"
    await storage.close()


@contextlib.asynccontextmanager
async def _callers_engine(url: str) -> AsyncIterator[AsyncEngine]:
    address = Address.parse(url)
    engine = create_async_engine(address.url)
    yield engine
    await engine.dispose()


async def test_the_callers_engine_is_used_and_left_open(sql_url: str) -> None:
    async with _callers_engine(sql_url) as engine:
        for _ in range(2):
            storage = SQLStorage(engine)
            await storage.initialize()
            sink = Jobs()
            watch = storage.watch_jobs(sink)
            await watch.ready()
            await storage.put_job(_job("a"))
            await sink.until(lambda sink=sink: "a" in sink.jobs)  # type: ignore[misc]
            link = await storage.open_link(ignore)
            record = await link.read_lease()
            revision = await link.write_lease(
                _lease() if record is None else _lease(record.lease.epoch + 1), 0 if record is None else record.revision
            )
            assert revision > 0
            await watch.close()
            await storage.close()
        async with engine.connect() as connection:
            assert (await connection.execute(select(func.count()).select_from(jobs))).scalar_one() == 1
        assert "s3cret" not in repr(storage)


async def test_an_engine_that_sends_begin_by_itself_will_do(sqlite_url: str) -> None:
    """The known recipe for transactions in SQLite."""
    async with _callers_engine(sqlite_url) as engine:
        event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        storage = SQLStorage(engine)
        await storage.initialize()
        await storage.create_job(_job("a"))
        await storage.close()


async def test_an_engine_without_transactions_will_do(sql_url: str) -> None:
    engine = create_async_engine(Address.parse(sql_url).url, isolation_level="AUTOCOMMIT")
    storage = SQLStorage(engine)
    await storage.initialize()
    parts = storage._parts
    assert parts is not None
    state = select(meta.c.number).where(meta.c.name == "state")
    before = await scalars(sql_url, state)
    transaction = parts.database.transaction()
    await numbers.take(await transaction.__aenter__(), numbers.STATE)
    error = ZeroDivisionError()
    assert not await transaction.__aexit__(type(error), error, None)
    assert await scalars(sql_url, state) == before
    await storage.create_job(_job("a"))
    await storage.close()
    await engine.dispose()
