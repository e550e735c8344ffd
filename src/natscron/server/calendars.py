"""The API's calls about calendars: named windows of time in which the jobs that refer to them do not run.

Who is authoritative: the store, in which a calendar lies beside the jobs, in one order with them. A write to a calendar
is a schedule change of every job that refers to it, so nothing is written that would make one of these invalid. A job
that begins to refer to a calendar in the very moment in which it is deleted becomes invalid, is listed so and does not
run, until the calendar is there again.

A write names the revision that it was decided on; without ``expected_revision`` it is decided again on the row as the
store has it, at most five times.
"""

import asyncio
from typing import Any, Final

from natscron.codec import calendar_view, parse_calendar, successor_calendar
from natscron.durations import parse_duration_ms
from natscron.engine.table import Entry
from natscron.errors import (
    CalendarInUseError,
    CalendarNotFoundError,
    InvalidCalendarError,
    InvalidScheduleError,
    LimitExceededError,
    ValidationError,
    WrongRevisionError,
)
from natscron.model import Calendar, CalendarSpec, Ms
from natscron.schedule import compile_schedule
from natscron.server.context import Context
from natscron.server.edits import TRIES
from natscron.server.jobs import Input, Reply
from natscron.server.replies import encode
from natscron.server.requests import CalendarRequest, CalendarsRequest, read, revision_of

__all__ = ["MAX_CALENDARS", "Calendars"]

MAX_CALENDARS: Final = 1_000
"""How many there may be: each instance holds all of them compiled."""
_NAMED: Final = 10
_COMPILED_AT_ONCE: Final = 50
_ROOM: Final = 1024
_LARGE: Final = frozenset({"dates", "weekly", "ical"})


class Calendars:
    """Store, show and delete calendars."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._engine = context.engine
        self._admission = context.admission
        self._fresh = context.fresh
        self._max_reply = context.max_reply

    async def put(self, data: Input) -> Reply:
        """Store a calendar, in place of one that is there."""
        parsed = parse_calendar(data)
        expected = revision_of(parsed.expected_revision)
        new = parsed.calendar
        from natscron.schedule.calendar import compile_calendar  # noqa: PLC0415 - most services have no calendar

        try:
            # A large iCalendar file takes some tenths of a second: not in the event loop.
            await asyncio.to_thread(compile_calendar, new.spec)
        except InvalidCalendarError as error:
            raise InvalidCalendarError(f"calendar {new.name!r}: {error}") from None
        await self._fresh.catch_up()
        users = self._users(new.name)
        await self._check(new, users)
        jitter_ms = max((_jitter_ms(entry) for entry in users), default=0)
        for attempt in range(TRIES):
            old = await self._store.fetch_calendar(new.name)
            found = 0 if old is None else old.revision
            if expected is not None and found != expected:
                there = f"is at revision {found}" if old is not None else "is not there"
                raise WrongRevisionError(
                    f"calendar {new.name!r} {there}, and expected_revision is {expected}; read it and decide again"
                )
            if old is None and len(self._engine.table.calendars()) >= MAX_CALENDARS:
                raise LimitExceededError(f"there are {MAX_CALENDARS} calendars, the most there may be; delete some")
            if old is not None and old.newer:
                raise ValidationError(
                    f"calendar {new.name!r} cannot be changed by this instance ({old.invalid}); ask a newer one, or "
                    "delete it"
                )
            row = new if old is None else successor_calendar(old, new, self._engine.mark, jitter_ms)
            try:
                revision = await self._store.put_calendar(row, found)
            except WrongRevisionError:
                if attempt == TRIES - 1:
                    raise
            else:
                status = "created" if old is None else "updated"
                reply: Reply = {"jobs": len(users), "name": new.name, "revision": str(revision), "status": status}
                if not (new.spec.dates or new.spec.weekly or new.spec.ical):
                    reply["warning"] = "the calendar covers nothing: it has no dates, no weekly windows and no events"
                return reply
        raise AssertionError("unreachable")

    async def get(self, data: Input) -> Reply:
        """One calendar."""
        name = _named(read(CalendarRequest, data).name)
        await self._fresh.catch_up()
        calendar = await self._store.fetch_calendar(name)
        if calendar is None:
            raise _unknown(name)
        return self._view(calendar)

    async def page(self, data: Input, *, bounded: bool = True) -> Reply:
        """Calendars by name, as many as fit into one message (if ``bounded``)."""
        request = read(CalendarsRequest, data, empty_is_default=True)
        await self._fresh.catch_up()
        rows = self._engine.table.calendar_rows()
        wanted = [row for row in rows if row.name > request.cursor]
        shown: list[dict[str, Any]] = []
        room = max(self._max_reply() - _ROOM, _ROOM)
        for row in wanted[: request.limit]:
            view = self._view(row)
            room -= len(encode(view)) + 1 if bounded else 0
            if room < 0 and shown:
                break
            # One calendar larger than a message is shown without its content rather than hiding all after it.
            shown.append(view if room >= 0 else {key: value for key, value in view.items() if key not in _LARGE})
        reply: Reply = {"calendars": shown}
        if shown and len(shown) < len(wanted):
            reply["next"] = shown[-1]["name"]
        reply["total"] = len(rows)
        return reply

    async def delete(self, data: Input) -> Reply:
        """Remove a calendar that no job refers to."""
        request = read(CalendarRequest, data)
        name = _named(request.name)
        await self._fresh.catch_up()
        if users := self._engine.table.users_of(name):
            more = f" and {len(users) - _NAMED} more" if len(users) > _NAMED else ""
            raise CalendarInUseError(
                f"calendar {name!r} cannot be deleted: {len(users)} job(s) refer to it, "
                f"{', '.join(map(repr, users[:_NAMED]))}{more}; change these first"
            )
        try:
            await self._store.delete_calendar(name, revision_of(request.expected_revision))
        except CalendarNotFoundError:
            raise _unknown(name) from None
        return {"name": name, "status": "deleted"}

    def _view(self, calendar: Calendar) -> Reply:
        return {**calendar_view(calendar), "jobs": len(self._engine.table.users_of(calendar.name))}

    def _users(self, name: str) -> list[Entry]:
        table = self._engine.table
        return [entry for job_id in table.users_of(name) if (entry := table.get(job_id)) is not None]

    async def _check(self, new: Calendar, users: list[Entry]) -> None:
        """Refuse a content with which a job that can be honoured now could not be any more."""
        calendars: dict[str, CalendarSpec] = {**self._engine.table.calendars(), new.name: new.spec}
        broken: list[str] = []
        for place, entry in enumerate(users):
            if place % _COMPILED_AT_ONCE == 0:
                await asyncio.sleep(0)
            job = entry.job
            if job.invalid is not None or job.schedule is None:
                continue
            try:
                compile_schedule(
                    job.schedule,
                    anchor_ms=job.anchor_ms,
                    seed=job.id,
                    min_interval_ns=self._admission.min_interval_ns,
                    lenient=True,
                    calendars=calendars,
                )
            except (InvalidScheduleError, InvalidCalendarError) as error:
                broken.append(f"{job.id!r} ({error})")
        if broken:
            more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
            raise ValidationError(
                f"calendar {new.name!r} would make {len(broken)} job(s) invalid: {', '.join(broken[:_NAMED])}{more}"
            )


def _named(name: str) -> str:
    if not name:
        raise InvalidCalendarError("calendar name is required; name the calendar")
    return name


def _unknown(name: str) -> CalendarNotFoundError:
    return CalendarNotFoundError(f"there is no calendar {name[:64]!r}; calendars.list shows those there are")


def _jitter_ms(entry: Entry) -> Ms:
    spec = entry.job.schedule
    return 0 if entry.schedule is None or spec is None or spec.jitter is None else parse_duration_ms(spec.jitter)
