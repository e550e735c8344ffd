"""From one database to another, jobs and history: as often as you like, the source stays as it is.

    pip install 'natscron[sqlite]'
    python examples/library/migrate_example.py SOURCE DESTINATION [SECONDS]

Both are URLs; a source without jobs is given some first. Then it runs on the destination, until Ctrl-C. The command for
the same is: nats-cron migrate SOURCE DESTINATION
"""

import asyncio
import signal
import sys

from natscron import JobEvent, MigrateProgress, Scheduler, SQLStorage, every, migrate_storage


async def work(event: JobEvent) -> None:
    """Do a job's work."""
    print(f"{event.id} runs")


async def seed(url: str) -> None:
    """Make jobs that have run, unless there are some."""
    # A process that neither plans nor works only looks.
    async with Scheduler(url, worker=False, plan=False) as onlooker:
        if await onlooker.list_jobs():
            return
    ran = asyncio.Event()
    async with Scheduler(url, work) as scheduler:
        scheduler.on("run_finished", lambda _run: ran.set())
        await scheduler.ensure_job("heartbeat", every("1s"))
        await scheduler.ensure_job("cleanup", every("1h"), metadata={"folder": "reports"})
        await ran.wait()
    print("seeded: heartbeat, cleanup")


def show(progress: MigrateProgress) -> None:
    """Say how far it is."""
    print(f"migrating {progress.stage}: {progress.done} of {progress.total}")


async def main(source: str, destination: str, seconds: float | None) -> None:
    """Seed, migrate, list, run."""
    await seed(source)
    old, new = SQLStorage(source), SQLStorage(destination)
    await old.initialize()
    await new.initialize()
    try:
        done = await migrate_storage(old, new, progress=show)
    finally:
        await old.close()
        await new.close()
    print(f"migrated: {done.jobs_migrated} jobs, {done.executions_migrated} executions")
    print(f"skipped: {done.jobs_skipped} jobs, {done.executions_skipped} executions")

    scheduler = Scheduler(destination, work)
    await scheduler.start()
    for job in await scheduler.list_jobs():
        print(f"{job.id}: next run {job.next_run}")
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, signal.raise_signal, signal.SIGINT)
    await scheduler.run_forever()
    print("stopped")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else None))  # noqa: PLR2004 - the third argument
