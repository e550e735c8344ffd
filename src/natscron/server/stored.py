"""Compiles the stored calendars before the jobs are read.

A large iCalendar file takes a tenth of a second or two, and is compiled in the event loop with the first job that names
it. So the calendars are read first, by a watch of their own that ends at once, and compiled one after the other in a
thread; the jobs then find them in the compiler's memory. Nothing hangs on it: a calendar that is written in between is
compiled with the jobs, one that is wrong makes these invalid there, and a store that is away is waited for, as for the
jobs.
"""

import asyncio

from natscron.errors import InvalidCalendarError
from natscron.model import Calendar, CalendarSpec, Job
from natscron.storage.nats.storage import NatsStorage

__all__ = ["compile_stored"]


class _Contents:
    """A JobSink that keeps what calendars hold."""

    def __init__(self) -> None:
        self.specs: dict[str, CalendarSpec] = {}

    def reset(self) -> None:
        """The watch begins, or begins anew."""
        self.specs.clear()

    def put(self, job: Job) -> None:
        """No job is asked for."""

    def delete(self, job_id: str, seq: int) -> None:
        """No job is asked for."""

    def put_calendar(self, calendar: Calendar) -> None:
        """One that is stored."""
        if calendar.invalid is None:
            self.specs[calendar.name] = calendar.spec

    def delete_calendar(self, name: str, seq: int) -> None:  # noqa: ARG002 - as the protocol has it
        """One that was deleted."""
        self.specs.pop(name, None)

    def complete(self, seq: int) -> None:
        """The watch tells when it is ready."""


async def compile_stored(storage: NatsStorage) -> None:
    """Compile what is stored now, without keeping others in the event loop waiting."""
    found = _Contents()
    watch = storage.watch_calendars(found)
    try:
        await watch.ready()
    finally:
        await watch.close()
    await asyncio.to_thread(_compile, list(found.specs.values()))


def _compile(specs: list[CalendarSpec]) -> None:
    if not specs:
        return
    from natscron.schedule.calendar import compile_calendar  # noqa: PLC0415 - most services have no calendar

    for spec in specs:
        try:
            compile_calendar(spec)
        except InvalidCalendarError:
            continue  # the jobs that name it say so
