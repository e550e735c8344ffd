"""Jobs and history to NATS and back."""

import asyncio

import pytest

from natscron.model import RunStatus
from natscron.schedule import cron, every
from natscron.scheduler import Scheduler
from natscron.storage.memory import MemoryStorage
from natscron.storage.migrate import migrate_storage
from natscron.storage.nats import LibraryOptions, NATSStorage
from natscron.storage.protocol import RunQuery
from natscron.testing.nats import NatsServer
from natscron.worker.event import JobEvent

pytestmark = pytest.mark.anyio


async def handler(event: JobEvent) -> str:
    return event.id


async def test_jobs_and_history_come_over_to_nats_and_back_once(shared_nats: NatsServer) -> None:
    before = MemoryStorage()
    async with Scheduler(before, handler) as scheduler:
        for n in range(10):
            schedule = every("1h") if n % 2 else cron("0 9 * * MON-FRI", tz="Europe/Berlin")
            await scheduler.add_job(f"job-{n}", schedule, metadata={"n": str(n)})
            await scheduler.trigger(f"job-{n}")
        async with asyncio.timeout(10):
            while len(await scheduler.list_runs(status=RunStatus.COMPLETED)) < 10:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        jobs = {job.id: (job.schedule, job.metadata) for job in await scheduler.list_jobs()}
    nats = NATSStorage(shared_nats.url, LibraryOptions(prefix="MIGRATED"))
    for expected in ((10, 10), (0, 0)):
        result = await migrate_storage(before, nats)
        assert (result.jobs_migrated, result.executions_migrated) == expected
        assert result.warnings == ()
    async with Scheduler(nats, handler) as scheduler:
        assert {job.id: (job.schedule, job.metadata) for job in await scheduler.list_jobs()} == jobs
    after = MemoryStorage()
    result = await migrate_storage(nats, after)
    assert (result.jobs_migrated, result.executions_migrated) == (10, 10)
    query = RunQuery(descending=False, service=False)
    found, expected_runs = await after.list_runs(query), await before.list_runs(query)
    assert sorted(found, key=lambda run: run.job) == sorted(expected_runs, key=lambda run: run.job)
    await nats.close()
