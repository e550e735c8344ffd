"""What every JobStore does with calendars."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, PLR2004, S101

import asyncio
from typing import Final

import msgspec

from natscron.errors import CalendarNotFoundError, InvalidCalendarError, WrongRevisionError
from natscron.model import Calendar, CalendarSpec, CalendarVersion, Stamp
from natscron.storage.protocol import Storage
from natscron.testing.conformance.sinks import Jobs, a_job, fails

CHRISTMAS: Final = CalendarSpec(dates=("12-25",), tz="Europe/Berlin", note="why")


def _calendar(name: str = "holidays", spec: CalendarSpec = CHRISTMAS) -> Calendar:
    return Calendar(name=name, spec=spec)


class CalendarChecks:
    """Calendars lie beside the jobs: one sequence, one watch, and neither is ever taken for the other."""

    async def test_a_calendar_is_read_back_as_it_was_written_with_the_stores_own_fields(self, storage: Storage) -> None:
        assert await storage.fetch_calendar("holidays") is None
        revision = await storage.put_calendar(_calendar())
        calendar = await storage.fetch_calendar("holidays")
        assert calendar is not None
        assert (calendar.name, calendar.spec, calendar.invalid) == ("holidays", CHRISTMAS, None)
        assert (calendar.revision, calendar.counts_from.seq) == (revision, revision)
        assert calendar.updated_at_ms == calendar.counts_from.at_ms > 0

    async def test_what_counted_before_is_kept_with_it(self, storage: Storage) -> None:
        older = CalendarVersion(spec=CalendarSpec(dates=("01-01",)), since=Stamp(5, 3))
        written = msgspec.structs.replace(_calendar(), counts_from=Stamp(9, 4), previous=(older,))
        await storage.put_calendar(written)
        calendar = await storage.fetch_calendar("holidays")
        assert calendar is not None
        assert (calendar.counts_from, calendar.previous) == (Stamp(9, 4), (older,))

    async def test_a_write_of_a_calendar_at_another_revision_is_refused(self, storage: Storage) -> None:
        first = await storage.put_calendar(_calendar(), 0)
        await fails(WrongRevisionError, storage.put_calendar(_calendar(), 0))
        second = await storage.put_calendar(_calendar(), first)
        assert second > first
        for wrong in (first, second + 100):
            await fails(WrongRevisionError, storage.put_calendar(_calendar(), wrong))
            await fails(WrongRevisionError, storage.delete_calendar("holidays", wrong))
        assert await storage.last_jobs_seq() == second
        await storage.put_calendar(_calendar())
        await storage.delete_calendar("holidays")
        assert await storage.fetch_calendar("holidays") is None
        await storage.put_calendar(_calendar(), 0)

    async def test_of_two_first_writes_of_a_calendar_one_wins(self, storage: Storage) -> None:
        results = await asyncio.gather(
            *(storage.put_calendar(_calendar(), 0) for _ in range(5)), return_exceptions=True
        )
        assert sum(isinstance(result, int) for result in results) == 1
        assert sum(isinstance(result, WrongRevisionError) for result in results) == 4

    async def test_deleting_an_unknown_calendar_is_an_error_and_writes_nothing(self, storage: Storage) -> None:
        seq = await storage.last_jobs_seq()
        await fails(CalendarNotFoundError, storage.delete_calendar("holidays"))
        assert await storage.last_jobs_seq() == seq
        await storage.put_calendar(_calendar())
        await storage.delete_calendar("holidays")
        await fails(CalendarNotFoundError, storage.delete_calendar("holidays"))

    async def test_a_name_that_may_not_be_is_refused(self, storage: Storage) -> None:
        seq = await storage.last_jobs_seq()
        for name in ("", "A", "a b", "a.b", "*", ">", "a" * 64):
            await fails(InvalidCalendarError, storage.put_calendar(_calendar(name)))
        for name in ("", "*", ">", "a b"):
            await fails(InvalidCalendarError, storage.fetch_calendar(name))
            await fails(InvalidCalendarError, storage.delete_calendar(name))
        assert await storage.last_jobs_seq() == seq

    async def test_a_job_and_a_calendar_never_meet(self, storage: Storage) -> None:
        await storage.put_calendar(_calendar())
        for job_id in ("_cal.holidays", "holidays"):
            assert await storage.fetch_job(job_id) is None
            await storage.create_job(a_job(job_id))
        sink = Jobs()
        watch = storage.watch_jobs(sink)
        await watch.ready()
        assert set(sink.jobs) == {"_cal.holidays", "holidays"}
        assert sink.jobs["_cal.holidays"].invalid is None
        assert set(sink.calendars) == {"holidays"}
        for job_id in ("_cal.holidays", "holidays"):
            job = await storage.fetch_job(job_id)
            assert job is not None
            assert job.id == job_id
            await storage.delete_job(job_id)
        assert await storage.fetch_calendar("holidays") is not None
        last = await storage.last_jobs_seq()
        await sink.until(lambda: sink.seq >= last)
        assert (set(sink.jobs), set(sink.calendars)) == (set(), {"holidays"})
        await watch.close()

    async def test_a_watch_tells_of_jobs_and_calendars_in_the_order_of_their_writes(self, storage: Storage) -> None:
        sink = Jobs()
        watch = storage.watch_jobs(sink)
        await watch.ready()
        first = await storage.put_calendar(_calendar("one"))
        second = await storage.create_job(a_job("jobs.a"))
        third = await storage.put_calendar(_calendar("two"))
        assert (second, third) == (first + 1, first + 2)
        # A store may tell of a row that was written and deleted meanwhile by its end alone.
        await sink.until(lambda: sink.seq >= third)
        await storage.delete_job("jobs.a")
        await storage.delete_calendar("one")
        await sink.until(lambda: sink.seq >= third + 2)
        assert sink.order == ["one", "jobs.a", "two", "-jobs.a", "-one"]
        assert sink.calendars == {"two": await storage.fetch_calendar("two")}
        assert sink.calendars["two"].revision == third
        await watch.close()

    async def test_a_fresh_watch_hands_over_the_calendars_that_are_left(self, storage: Storage) -> None:
        await storage.put_calendar(_calendar("gone"))
        kept = await storage.put_calendar(_calendar("kept"))
        await storage.delete_calendar("gone")
        sink = Jobs()
        watch = storage.watch_jobs(sink)
        await watch.ready()
        assert {name: one.revision for name, one in sink.calendars.items()} == {"kept": kept}
        sink.calendars.clear()
        watch.renew()
        await sink.until(lambda: set(sink.calendars) == {"kept"})
        assert sink.jobs == {}
        await watch.close()

    async def test_sweeping_takes_no_calendar_away(self, storage: Storage) -> None:
        await storage.put_calendar(_calendar("gone"))
        await storage.delete_calendar("gone")
        revision = await storage.put_calendar(_calendar())
        await storage.sweep()
        calendar = await storage.fetch_calendar("holidays")
        assert calendar is not None
        assert calendar.revision == revision
