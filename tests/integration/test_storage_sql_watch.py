"""Watches across processes: what others write is seen, in order, whole, and after every outage."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select, text, update
from tests.support.databases import MariaServer, MissingServerError, PostgresServer, Server, fresh_database
from tests.support.sql import execute, scalars

from natscron.errors import StorageError, StorageUnavailableError
from natscron.model import Calendar, CalendarSpec, Holder, Job, Lease, Mark, Node, OpenRow, OpenState, ScheduleSpec
from natscron.storage.sql import SQLOptions, SQLStorage
from natscron.storage.sql.address import Address
from natscron.storage.sql.schema import meta, removed
from natscron.testing.conformance.sinks import Jobs, State, ignore

pytestmark = pytest.mark.anyio


def _job(job_id: str, **labels: str) -> Job:
    return Job(id=job_id, schedule=ScheduleSpec(every="1h"), labels=labels)


class Traced(Jobs):
    """Counts full sets."""

    def __init__(self) -> None:
        super().__init__()
        self.resets = 0

    def reset(self) -> None:
        super().reset()
        self.resets += 1


@pytest.fixture
async def writer(sql_url: str) -> AsyncIterator[SQLStorage]:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    yield storage
    await storage.close()


@pytest.fixture
async def reader(sql_url: str, writer: SQLStorage) -> AsyncIterator[SQLStorage]:
    """Another process's, in effect."""
    del writer
    storage = SQLStorage(sql_url)
    await storage.initialize()
    yield storage
    await storage.close()


async def test_what_another_process_writes_is_handed_over_in_order(writer: SQLStorage, reader: SQLStorage) -> None:
    sink = Traced()
    watch = reader.watch_jobs(sink)
    await watch.ready()
    await writer.create_job(_job("a"))
    await writer.put_calendar(Calendar(name="c", spec=CalendarSpec(dates=("12-25",))))
    await writer.put_job(_job("a", n="1"))
    await writer.create_job(_job("b"))
    await writer.delete_job("b")
    await writer.delete_calendar("c")
    await sink.until(lambda: sink.seq == 6)
    assert sink.jobs["a"].labels == {"n": "1"}
    assert (set(sink.jobs), set(sink.calendars), sink.resets) == ({"a"}, set(), 1)
    assert [one for one in sink.order if one.startswith("-")] == ["-b", "-c"]
    await watch.close()


async def test_state_that_another_process_writes_is_handed_over(writer: SQLStorage, reader: SQLStorage) -> None:
    sink = State()
    watch = reader.watch_state(sink)
    await watch.ready()
    link = await writer.open_link(ignore)
    lease = Lease(epoch=1, mark=Mark(instant_ms=5), holder=Holder("host", "n"))
    first = await link.write_lease(lease, 0)
    await sink.until(lambda: [one.revision for one in sink.leases] == [first])
    row = OpenRow(run_id="r", job_id="a", generation=1, scheduled_at_ms=5, state=OpenState.PENDING)
    await writer.submit_row(row)
    await sink.until(lambda: sink.rows == {"r": row})
    await link.delete_rows(["r"])
    await sink.until(lambda: not sink.rows)
    node = Node(instance="host", nonce="n", version="1", started_at_ms=5)
    await writer.announce(node)
    await sink.until(lambda: sink.nodes == {("host", "n"): node})
    await writer.retract(node)
    await sink.until(lambda: not sink.nodes)
    await watch.close()
    await link.close()


async def test_one_that_is_behind_what_was_forgotten_is_handed_everything_anew(
    writer: SQLStorage, reader: SQLStorage, sql_url: str
) -> None:
    await writer.create_job(_job("kept"))
    await writer.create_job(_job("gone"))
    sink = Traced()
    watch = reader.watch_jobs(sink)
    await watch.ready()
    follower = reader._parts.job_follower if reader._parts else None
    assert follower is not None
    # It hears of nothing for a while, in which a deletion is made and forgotten.
    task, follower._task = follower._task, None
    assert task is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await writer.delete_job("gone")
    await execute(sql_url, update(removed).values(stored_ms=5))
    await writer.sweep()
    assert await scalars(sql_url, select(removed.c.id)) == []
    assert await scalars(sql_url, select(meta.c.number).where(meta.c.name == "swept")) == [3]
    await writer.create_job(_job("new"))
    other = Jobs()
    second = reader.watch_jobs(other)  # begins the looking again
    await sink.until(lambda: sink.seq == 4)
    assert (set(sink.jobs), sink.resets) == ({"kept", "new"}, 2)
    await second.ready()
    assert set(other.jobs) == {"kept", "new"}
    await watch.close()
    await second.close()


async def test_what_was_deleted_lately_is_not_forgotten(writer: SQLStorage, sql_url: str) -> None:
    await writer.create_job(_job("a"))
    await writer.delete_job("a")
    await writer.sweep()
    assert await scalars(sql_url, select(removed.c.id)) == ["a"]


async def test_many_changes_at_once_come_as_a_full_set(writer: SQLStorage, reader: SQLStorage) -> None:
    sink = Traced()
    watch = reader.watch_jobs(sink)
    await watch.ready()
    follower = reader._parts.job_follower if reader._parts else None
    assert follower is not None
    hold = asyncio.Event()
    look = follower.look

    async def held(watches: object) -> None:
        await hold.wait()
        await look(watches)  # type: ignore[arg-type]

    follower.look = held  # type: ignore[method-assign]
    await asyncio.gather(*(writer.create_job(_job(f"job-{n}")) for n in range(2_100)))
    hold.set()
    await sink.until(lambda: sink.seq == 2_100)
    assert (len(sink.jobs), sink.resets) == (2_100, 2)
    await watch.close()


async def test_a_database_that_was_set_back_is_handed_over_anew(writer: SQLStorage, sql_url: str) -> None:
    class Backwards(Jobs):
        def complete(self, seq: int) -> None:
            self.seq = min(self.seq, seq)
            super().complete(seq)

    for job_id in ("a", "b", "c"):
        await writer.create_job(_job(job_id))
    sink = Backwards()
    watch = writer.watch_jobs(sink)
    await watch.ready()
    await execute(sql_url, text("DELETE FROM scheduler_jobs WHERE id <> 'a'"))
    await execute(sql_url, update(meta).where(meta.c.name == "jobs").values(number=1))
    watch.renew()
    await sink.until(lambda: set(sink.jobs) == {"a"} and sink.seq == 1)
    await watch.close()


async def test_a_sink_that_raises_stops_no_other(writer: SQLStorage, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Jobs):
        def put(self, job: Job) -> None:
            raise RuntimeError(job.id)

    broken, whole = Broken(), Jobs()
    watches = [writer.watch_jobs(broken), writer.watch_jobs(whole)]
    for watch in watches:
        await watch.ready()
    await writer.create_job(_job("a"))
    await whole.until(lambda: set(whole.jobs) == {"a"})
    await writer.create_job(_job("b"))
    await whole.until(lambda: set(whole.jobs) == {"a", "b"})
    assert "could not take what it was told" in caplog.text
    for watch in watches:
        await watch.close()


async def test_postgresql_tells_at_once(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("natscron.storage.sql.signals._SLOW_S", 3_600)
    writer, reader = SQLStorage(postgresql_url), SQLStorage(postgresql_url)
    await writer.initialize()
    await reader.initialize()
    jobs, state = Jobs(), State()
    watches = [reader.watch_jobs(jobs), reader.watch_state(state)]
    for watch in watches:
        await watch.ready()
    await writer.create_job(_job("a"))
    await jobs.until(lambda: set(jobs.jobs) == {"a"})
    await writer.announce(Node(instance="host", nonce="n", version="1", started_at_ms=5))
    await state.until(lambda: bool(state.nodes))
    link = await writer.open_link(ignore)
    await link.write_lease(Lease(epoch=1, mark=Mark(instant_ms=5), holder=Holder("host", "n")), 0)
    await state.until(lambda: bool(state.leases))
    engine = Address.parse(postgresql_url).engine(2)
    async with engine.begin() as connection:
        await writer.insert_job(connection, _job("b"))
    await jobs.until(lambda: set(jobs.jobs) == {"a", "b"})
    await engine.dispose()
    for watch in watches:
        await watch.close()
    await link.close()
    await writer.close()
    await reader.close()


async def test_notifications_that_are_lost_are_made_up_for(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy between may swallow them."""
    monkeypatch.setattr("natscron.storage.sql.signals._SLOW_S", 0.2)
    monkeypatch.setattr("natscron.storage.sql.signals.CHANNEL", "nobody_hears_this")
    writer, reader = SQLStorage(postgresql_url), SQLStorage(postgresql_url)
    await writer.initialize()
    await reader.initialize()
    sink = Jobs()
    watch = reader.watch_jobs(sink)
    await watch.ready()
    await writer.create_job(_job("a"))
    await sink.until(lambda: set(sink.jobs) == {"a"})
    await watch.close()
    await writer.close()
    await reader.close()


async def test_the_poll_may_be_set(sqlite_url: str) -> None:
    writer, reader = SQLStorage(sqlite_url), SQLStorage(sqlite_url, SQLOptions(poll_s=0.01))
    await writer.initialize()
    await reader.initialize()
    sink = Jobs()
    watch = reader.watch_jobs(sink)
    await watch.ready()
    await writer.create_job(_job("a"))
    await sink.until(lambda: set(sink.jobs) == {"a"})
    await watch.close()
    await writer.close()
    await reader.close()


@pytest.mark.parametrize("kind", [PostgresServer, MariaServer])
async def test_a_watch_outlives_its_server(kind: type[Server]) -> None:
    try:
        made = kind()
    except MissingServerError as error:
        pytest.skip(str(error))
    with made as server:
        async with fresh_database(server) as url:
            storage = SQLStorage(url)
            await storage.initialize()
            jobs, state = Jobs(), State()
            watches = [storage.watch_jobs(jobs), storage.watch_state(state)]
            for watch in watches:
                await watch.ready()
            await storage.create_job(_job("before"))
            link = await storage.open_link(ignore)
            lease = Lease(epoch=1, mark=Mark(instant_ms=5), holder=Holder("host", "n"))
            revision = await link.write_lease(lease, 0)
            await jobs.until(lambda: set(jobs.jobs) == {"before"})
            server.stop()
            with pytest.raises(StorageUnavailableError):
                await storage.create_job(_job("meanwhile"))
            with pytest.raises(StorageUnavailableError):
                await storage.health_check()
            with pytest.raises(StorageError):
                await link.write_lease(lease, revision)
            assert link.broken.is_set()
            server.start()
            await storage.health_check()
            await storage.create_job(_job("after"))
            # By another connection, so that it is the server's word that is heard.
            other = SQLStorage(url)
            await other.initialize()
            await other.create_job(_job("others"))
            await jobs.until(lambda: set(jobs.jobs) == {"before", "after", "others"})
            successor = await storage.open_link(ignore)
            second = await successor.write_lease(lease, revision)
            await state.until(lambda: state.leases[-1].revision == second)
            for watch in watches:
                await watch.close()
            await successor.close()
            await other.close()
            await storage.close()
