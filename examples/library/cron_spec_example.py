"""Cron expressions field by field, without asyncio.

python examples/library/cron_spec_example.py [SECONDS]

Ctrl-C ends it, or the given number of seconds.
"""

import signal
import sys
import threading

from natscron import CronSpec, JobEvent
from natscron.sync import Scheduler

scheduler = Scheduler("memory://")

# What is left out is "*".
HOURLY = CronSpec(minute="30")
WEEKDAYS = CronSpec(minute="0", hour="9", day_of_week="MON-FRI", tz="Europe/Berlin")
MONTHLY = CronSpec(minute="0", hour="0", day_of_month="1")


@scheduler.job("every-second", CronSpec(second="*"))
def tick(event: JobEvent) -> None:
    """Run in a thread: a handler need not be async."""
    # In one piece: the program prints at the same time.
    print(f"{event.id} runs for {event.scheduled_at:%H:%M:%S}\n", end="")


def main(seconds: float | None) -> None:
    """Show the jobs, and run until a signal comes."""
    scheduler.set_handler(lambda event: print(f"{event.id} runs"))
    scheduler.start()
    for name, schedule in (("hourly", HOURLY), ("weekdays", WEEKDAYS), ("monthly", MONTHLY)):
        scheduler.add_job(name, schedule)
    for job in scheduler.list_jobs():
        assert job.schedule is not None  # noqa: S101 - it was given one above
        print(f"{job.id}: {job.schedule.cron}, next run {job.next_run}\n", end="")
    if seconds is not None:
        end = threading.Timer(seconds, signal.raise_signal, [signal.SIGINT])
        end.daemon = True
        end.start()
    scheduler.run_forever()
    print("stopped")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else None)
