"""Jobs in a database: the second start finds what the first one left.

    pip install 'natscron[sqlite]'
    python examples/library/sql_example.py [URL [SECONDS]]

Default: sqlite:///example.db, until Ctrl-C. Start it twice, one after the other or at the same time.
"""

import asyncio
import signal
import sys

from natscron import JobEvent, Scheduler, every


async def work(event: JobEvent) -> str:
    """Show what a run knows; what is returned is kept with its record."""
    print(f"{event.id} runs, attempt {event.attempt}, run {event.run_id}")
    return f"done for {event.metadata['customer']}"


async def main(url: str, seconds: float | None) -> None:
    """Find the jobs or make them, run for a while, and show the history."""
    scheduler = Scheduler(url, work)
    await scheduler.start()
    jobs = await scheduler.list_jobs()
    if jobs:
        print("restored:", ", ".join(f"{job.id} (last run {job.last_run})" for job in jobs))
    else:
        # Of several processes that come here at once each ensures the same job, and it is made once.
        await scheduler.ensure_job("report", every("1s"), metadata={"customer": "ACME"}, retry=3, timeout="30s")
        print("created: report")
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, signal.raise_signal, signal.SIGINT)
    await scheduler.run_forever()
    async with scheduler:
        for run in await scheduler.list_runs("report", status="completed", limit=3):
            print(f"history: {run.status} in {run.duration_ms} ms, {run.result}")


if __name__ == "__main__":
    asyncio.run(
        main(
            sys.argv[1] if len(sys.argv) > 1 else "sqlite:///example.db",
            float(sys.argv[2]) if len(sys.argv) > 2 else None,  # noqa: PLR2004 - the second argument
        )
    )
