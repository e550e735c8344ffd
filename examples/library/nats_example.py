"""Four kinds of schedules on NATS: an interval, one with a beginning, a single instant, and cron.

    pip install natscron
    nats-server -js
    python examples/library/nats_example.py [URL [SECONDS]]

Default: nats://localhost:4222, until Ctrl-C. Start it in as many processes, and on as many hosts, as you like: each run
is executed once, by any of them, and one that is killed in the midst of a run is replaced by another.
"""

import asyncio
import datetime as dt
import signal
import sys

from natscron import JobEvent, Scheduler, cron, every, once


async def work(event: JobEvent) -> None:
    """Show what runs, and for which instant."""
    print(f"{event.id} runs for {event.scheduled_at:%H:%M:%S}, attempt {event.attempt}")


async def main(url: str, seconds: float | None) -> None:
    """Have the jobs, run for a while, and show how often each completed."""
    soon = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(seconds=2)
    schedules = {
        "interval": every("1s"),
        "from-soon-on": every("500ms", start_at=soon),
        "single": once(soon),
        "cron": cron("* * * * * *"),
    }
    scheduler = Scheduler(url, work)
    await scheduler.start()
    for name, schedule in schedules.items():
        await scheduler.ensure_job(name, schedule)
        print(f"{name}: next run {(await scheduler.get_job(name)).next_run}")
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, signal.raise_signal, signal.SIGINT)
    await scheduler.run_forever()
    async with scheduler:
        for name in schedules:
            print(f"{name}: {len(await scheduler.list_runs(name, status='completed'))} completed")


if __name__ == "__main__":
    asyncio.run(
        main(
            sys.argv[1] if len(sys.argv) > 1 else "nats://localhost:4222",
            float(sys.argv[2]) if len(sys.argv) > 2 else None,  # noqa: PLR2004 - the second argument
        )
    )
