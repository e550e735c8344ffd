"""Three cron jobs in memory, and when each of them runs next.

python examples/library/cron_example.py [SECONDS]

Ctrl-C ends it, or the given number of seconds.
"""

import asyncio
import signal
import sys

from natscron import JobEvent, Scheduler, cron

JOBS = {
    "every-second": cron("* * * * * *"),
    "every-quarter": cron("*/15 * * * *"),
    "weekdays-at-nine": cron("0 9 * * MON-FRI", tz="Europe/Berlin"),
}


async def run(event: JobEvent) -> None:
    """Do the work of every job that names no handler of its own."""
    print(f"{event.id} runs for {event.scheduled_at:%H:%M:%S}, {event.delay.total_seconds() * 1000:.0f} ms late")


async def main(seconds: float | None) -> None:
    """Add the jobs, show them, and run until a signal comes."""
    scheduler = Scheduler("memory://", run)
    await scheduler.start()
    for name, schedule in JOBS.items():
        await scheduler.add_job(name, schedule)
    for job in await scheduler.list_jobs():
        print(f"{job.id}: next run {job.next_run}")
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, signal.raise_signal, signal.SIGINT)
    await scheduler.run_forever()
    print("stopped")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else None))
