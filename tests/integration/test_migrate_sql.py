"""Moving between real storages of every kind, and a database of the Go library into ours."""

import asyncio
import datetime as dt
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import text
from tests.support.databases import fresh_database
from tests.support.sql import execute, go_time, insert_go_job, make_go_tables, rows
from tests.unit.migrating import NOW, held, lead, records, run, seed, store

from natscron import JobEvent, Scheduler, every
from natscron.clock import SystemClock
from natscron.ids import RunIds
from natscron.model import CatchUp, CatchUpPolicy, Job, Mark, Overlap, ScheduleSpec, Stamp
from natscron.storage.listing import list_jobs
from natscron.storage.migrate import MigrateResult, migrate_storage
from natscron.storage.nats import NATSStorage
from natscron.storage.nats.library_options import LibraryOptions
from natscron.storage.queue import QueueStorage, record_id
from natscron.storage.sql import SQLStorage

if TYPE_CHECKING:
    from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio

PAIRS = [
    ("memory", "sqlite"),
    ("sqlite", "sqlite"),
    ("sqlite", "postgresql"),
    ("postgresql", "mysql"),
    ("mysql", "postgresql"),
    ("mysql", "memory"),
    ("postgresql", "nats"),
    ("nats", "sqlite"),
]
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
_numbers = itertools.count()
Place = Callable[[str], Any]


@pytest.fixture
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Makes empty places: the URL of a database or, for ``nats``, of a server; None for memory."""
    async with AsyncExitStack() as stack:

        async def make(kind: str) -> str | None:
            if kind == "sqlite":
                return f"sqlite:///{tmp_path}/{next(_numbers)}.db"
            if kind == "nats":
                server: NatsServer = request.getfixturevalue("shared_nats")
                return server.url
            if kind == "memory":
                return None
            return await stack.enter_async_context(fresh_database(request.getfixturevalue(f"{kind}_server")))

        yield make


@asynccontextmanager
async def opened(url: str | None, prefix: str = "") -> AsyncIterator[QueueStorage]:
    storage: Any
    if url is None:
        storage = store()
    elif url.startswith("nats"):
        storage = NATSStorage(url, LibraryOptions(prefix=prefix))
    else:
        storage = SQLStorage(url)
    await storage.initialize()
    try:
        yield storage
    finally:
        await storage.close()


@asynccontextmanager
async def pair(place: Place, kinds: tuple[str, str]) -> AsyncIterator[tuple[QueueStorage, QueueStorage]]:
    number = next(_numbers)
    urls = [await place(kind) for kind in kinds]
    async with opened(urls[0], f"SRC{number}") as src, opened(urls[1], f"DST{number}") as dst:
        yield src, dst


@pytest.mark.parametrize("kinds", PAIRS, ids=" to ".join)
async def test_from_any_kind_to_any_other_everything_arrives_and_a_scheduler_goes_on(
    place: Place, kinds: tuple[str, str]
) -> None:
    async with pair(place, kinds) as (src, dst):
        await seed(src)
        await src.create_job(Job(id="tick", schedule=ScheduleSpec(every="1s"), handler="tick"))
        told = await migrate_storage(src, dst, dry_run=True, removed_jobs=True)
        assert (await list_jobs(dst)).jobs == ()
        assert await migrate_storage(src, dst, removed_jobs=True) == told
        assert told == MigrateResult(4, 0, 7, 0, calendars_migrated=1)
        jobs, calendars, history = await held(dst)
        assert (jobs, calendars) == (await held(src))[:2]
        assert history.items() <= (await records(src)).items()
        assert len(history) == 7
        again = MigrateResult(0, 4, 0, 7, calendars_skipped=1)
        assert await migrate_storage(src, dst, removed_jobs=True) == again
        ticks: asyncio.Queue[JobEvent] = asyncio.Queue()
        scheduler = Scheduler(dst)
        scheduler.handler("tick")(ticks.put_nowait)
        async with scheduler, asyncio.timeout(20):
            events = [await ticks.get() for _ in range(3)]
            found = await scheduler.get_job("tick")
        source = await src.fetch_job("tick")
        assert source is not None
        assert found.created_at is not None
        for event in events:
            assert event.scheduled_at is not None
            assert (event.scheduled_at - found.created_at).total_seconds() % 1 == 0, "the interval's phase"
        assert round(found.created_at.timestamp() * 1000) == source.created_at_ms


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
async def test_no_row_of_the_source_changes(place: Place, kind: str) -> None:
    url = await place(kind)
    async with opened(url) as src, opened(None) as dst:
        await seed(src)
        before = await _dump(url)
        await migrate_storage(src, dst, removed_jobs=True)
        await migrate_storage(src, dst, dry_run=True)
        assert await _dump(url) == before


async def test_many_records_arrive_in_pages(place: Place) -> None:
    async with pair(place, ("sqlite", "postgresql")) as (src, dst):
        await src.create_job(Job(id="busy", schedule=ScheduleSpec(every="1s")))
        many = [run("busy", n, at_ms=SystemClock().now_ms() - 3_600_000 + n // 7) for n in range(12_000)]
        for begin in range(0, len(many), 1_000):
            await src.import_runs(many[begin : begin + 1_000])
        assert await migrate_storage(src, dst) == MigrateResult(1, 0, 12_000, 0)
        assert await records(dst) == {record_id(one): one for one in many}
        assert await migrate_storage(src, dst) == MigrateResult(0, 1, 0, 12_000)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql", "nats"])
async def test_what_the_old_scheduler_ran_after_its_mark_was_read_is_not_run_again(place: Place, kind: str) -> None:
    """Its slots have the same run ids in both, so it is enough that their records come before the scheduler starts."""
    async with pair(place, ("memory", kind)) as (src, dst):
        began = NOW - 3_600_000
        job = Job(
            id="steady",
            schedule=ScheduleSpec(every="1m"),
            catchup=CatchUp(policy=CatchUpPolicy.ALL),
            overlap=Overlap.ALLOW,
            created_at_ms=began,
            anchor_ms=began,
            generation=5,
            counts_from=Stamp(began, 0),
        )
        await src.create_job(job)
        await lead(src, Mark(instant_ms=NOW - 600_000, jobs_seq=1))
        assert (await migrate_storage(src, dst)).jobs_migrated == 1
        ids = RunIds("scheduler", "steady", 5)
        slots = [began + k * 60_000 for k in range(51, 61)]
        late = [msgspec.structs.replace(run("steady", 0, at_ms=slot), run_id=ids.at(slot)) for slot in slots[:5]]
        await src.save_runs(late)
        assert await migrate_storage(src, dst) == MigrateResult(0, 1, 5, 0)
        ran: list[int] = []
        caught_up = asyncio.Event()

        def handler(event: JobEvent) -> None:
            assert event.scheduled_at is not None
            ran.append(round(event.scheduled_at.timestamp() * 1000))
            if slots[-1] in ran and len(ran) >= 5:
                caught_up.set()

        async with Scheduler(dst, handler), asyncio.timeout(20):
            await caught_up.wait()
        assert sorted(slot for slot in ran if slot <= slots[-1]) == slots[5:]


TABLES = (
    "scheduler_jobs",
    "scheduler_calendars",
    "scheduler_executions",
    "scheduler_lease",
    "scheduler_open",
    "scheduler_nodes",
    "scheduler_removed",
    "scheduler_workers",
    "scheduler_meta",
)


async def _dump(url: str) -> list[Sequence[Any]]:
    return [[tuple(row) for row in await rows(url, text(f"SELECT * FROM {name} ORDER BY 1"))] for name in TABLES]  # noqa: S608 - own names


# A database of the Go library.

GO_JOB = "id, schedule_type, schedule_config, status, next_run, last_run, created_at, updated_at, metadata"
GO_RUN = "execution_id, job_id, start_time, end_time, duration, status, error, metadata"


async def _go_dump(url: str) -> list[Sequence[Any]]:
    jobs = await rows(url, text(f"SELECT {GO_JOB} FROM scheduler_jobs ORDER BY id"))  # noqa: S608 - own names
    runs = await rows(url, text(f"SELECT {GO_RUN} FROM scheduler_executions ORDER BY 1"))  # noqa: S608 - own names
    return [[tuple(row) for row in found] for found in (jobs, runs)]


async def _insert_execution(url: str, execution_id: str, job: str, start: dt.datetime, status: str) -> None:
    values = {
        "id": execution_id,
        "job": job,
        "start": go_time(url, start),
        "finish": go_time(url, start + dt.timedelta(seconds=2)),
        "status": status,
    }
    statement = (
        "INSERT INTO scheduler_executions (execution_id, job_id, start_time, end_time, duration, status, error,"
        " metadata) VALUES (:id, :job, :start, :finish, 2000000000, :status, '', '{}')"
    )
    await execute(url, text(statement), values)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
async def test_a_file_of_the_go_library_moves_with_its_history_and_goes_on_where_it_left_off(
    place: Place, kind: str
) -> None:
    now = dt.datetime.fromtimestamp(SystemClock().now_ms() / 1000, dt.UTC)
    source, target = await place("sqlite"), await place(kind)
    await make_go_tables(source)
    at = now - HOUR
    stamp, century = at.strftime("%Y-%m-%dT%H:%M:%SZ"), now + 36_500 * DAY
    created = now - DAY
    await insert_go_job(source, "missed", "once", stamp, next_run=at, created_at=created)
    await insert_go_job(source, "ran", "once", stamp, next_run=century, last_run=at, created_at=created)
    await insert_go_job(
        source, "behind", "interval", "20m", next_run=now - HOUR, last_run=now - HOUR, created_at=created
    )
    await insert_go_job(
        source, "nightly", "cron", "0 3 * * *", next_run=now + DAY, created_at=created, metadata='{"a":"b"}'
    )
    await insert_go_job(source, "odd", "json", '{"interval":"5s"}', created_at=created)
    await _insert_execution(source, "ran_20260101000000", "ran", at, "completed")
    await _insert_execution(source, "behind_1", "behind", now - 2 * HOUR, "failed")
    await _insert_execution(source, "gone_1", "gone", now - 2 * HOUR, "completed")
    before = await _go_dump(source)
    async with opened(source) as src, opened(target) as dst:
        found = await migrate_storage(src, dst, removed_jobs=True)
        assert (found.jobs_migrated, found.jobs_refused, found.executions_migrated) == (4, 1, 3)
        assert "unsupported schedule type" in found.warnings[0]
        again = await migrate_storage(src, dst, removed_jobs=True)
        assert (again.jobs_skipped, again.executions_skipped, again.executions_migrated) == (4, 3, 0)
        assert set(await records(dst)) == {"ran_20260101000000", "behind_1", "gone_1"}
        nightly = await dst.fetch_job("nightly")
        assert nightly is not None
        assert (nightly.labels, nightly.schedule, nightly.generation) == ({"a": "b"}, ScheduleSpec(cron="0 3 * * *"), 0)
    assert await _go_dump(source) == before
    ran: list[str] = []
    both = asyncio.Event()

    def handler(event: JobEvent) -> None:
        ran.append(event.id)
        if {"missed", "behind"} <= set(ran):
            both.set()

    async with Scheduler(target, handler) as scheduler:
        async with asyncio.timeout(20):
            await both.wait()
        behind = await scheduler.get_job("behind")
        assert behind.next_run is not None
        # The grid of the Go library: next_run and every 20 minutes from there, to the millisecond.
        assert ((behind.next_run - (now - HOUR)).total_seconds() + 0.005) % 1_200 < 0.01
        assert (await scheduler.get_job("ran")).next_run is None
        assert len(await scheduler.list_runs("ran")) == 1
        await scheduler.add_job("own", every("1h"))
    assert sorted(ran) == ["behind", "missed"], "each once, however much was missed"
