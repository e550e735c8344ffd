"""Calendars in the hot table: their jobs follow them, and nobody hears of a job as invalid that is not."""

import asyncio

import pytest

from natscron.engine.calendars import calendars_of, uses_zones
from natscron.engine.table import Entry, JobTable
from natscron.model import Calendar, CalendarSpec, Job, ScheduleSpec, Stamp, Version, Weekly

SPEC = ScheduleSpec(cron="* * * * *", except_=(ScheduleSpec(calendar="c"),))
PLAIN = ScheduleSpec(cron="* * * * *")


def job(job_id: str, revision: int, schedule: ScheduleSpec = SPEC, previous: tuple[Version, ...] = ()) -> Job:
    stamp = Stamp(revision * 10, revision)
    return Job(
        id=job_id, schedule=schedule, revision=revision, updated_at_ms=stamp.at_ms, counts_from=stamp, previous=previous
    )


def calendar(revision: int, name: str = "c", *, end: str = "23:00", invalid: str | None = None) -> Calendar:
    return Calendar(
        name=name,
        spec=CalendarSpec(weekly=(Weekly(end=end),)),
        revision=revision,
        updated_at_ms=revision * 10,
        counts_from=Stamp(revision * 10, revision),
        invalid=invalid,
    )


class Heard:
    """A table, and what it told its listeners: the job, and why it is invalid."""

    def __init__(self, *rows: Job | Calendar) -> None:
        self.told: list[tuple[str, str | None]] = []
        self.table = JobTable(10_000_000)
        self.table.listen(self._hear)
        self.replay(*rows)

    def _hear(self, job_id: str, entry: Entry | None) -> None:
        assert self.table.get(job_id) is entry
        self.told.append((job_id, "gone" if entry is None else entry.job.invalid))

    def replay(self, *rows: Job | Calendar) -> None:
        self.table.reset()
        for row in rows:
            self.put(row)
        self.table.complete(max((row.revision for row in rows), default=0))

    def put(self, row: Job | Calendar) -> None:
        if isinstance(row, Job):
            self.table.put(row)
        else:
            self.table.put_calendar(row)

    def heard(self) -> list[tuple[str, str | None]]:
        told, self.told = self.told, []
        return told

    def entry(self, job_id: str) -> Entry:
        entry = self.table.get(job_id)
        assert entry is not None
        return entry


def test_in_the_first_replay_jobs_wait_for_their_calendars() -> None:
    heard = Heard(job("a", 3), job("plain", 4, PLAIN), calendar(9))
    assert heard.heard() == [("plain", None), ("a", None)]
    assert heard.table.seq == 9
    assert heard.entry("a").counts_from == Stamp(90, 9)
    assert [c.name for c in heard.entry("a").calendars] == ["c"]
    assert heard.entry("plain").counts_from == Stamp(40, 4)


def test_a_job_whose_calendar_is_not_there_is_invalid_until_it_comes() -> None:
    heard = Heard()
    heard.put(job("a", 1))
    [(job_id, why)] = heard.heard()
    assert (job_id, "c" in (why or "")) == ("a", True)
    assert heard.entry("a").schedule is None
    heard.put(calendar(2))
    assert heard.heard() == [("a", None)]
    assert heard.entry("a").schedule is not None
    assert heard.table.seq == 2
    heard.table.delete_calendar("c", 3)
    assert heard.table.seq == 3
    [(_, why)] = heard.heard()
    assert why is not None


def test_a_calendar_that_changes_changes_its_jobs_and_no_others_nor_their_order() -> None:
    heard = Heard(calendar(1), job("a", 2), job("plain", 3, PLAIN), job("b", 4))
    before = heard.entry("a").schedule
    heard.heard()
    heard.put(calendar(5, end="12:00"))
    assert heard.heard() == [("a", None), ("b", None)]
    assert heard.entry("a").schedule is not before
    assert [entry.job.id for entry in heard.table.entries()] == ["a", "plain", "b"]
    heard.put(calendar(4))
    assert heard.heard() == []


def test_a_calendar_that_cannot_be_read_is_the_reason_of_its_jobs() -> None:
    heard = Heard(calendar(1, invalid="garbage"), job("a", 2))
    assert heard.heard() == [("a", "calendar 'c' cannot be read: garbage")]
    assert heard.table.calendars() == {}
    assert [row.name for row in heard.table.calendar_rows()] == ["c"]


def test_a_calendar_of_a_later_version_binds_its_jobs() -> None:
    later = Calendar(name="c", revision=1, invalid="needs a later version", newer=True)
    heard = Heard(later, job("a", 2))
    assert heard.table.newer == {"a"}
    heard.put(calendar(3))
    assert (heard.table.newer, heard.entry("a").job.invalid) == (set(), None)


def test_a_replay_tells_of_the_jobs_of_calendars_that_changed_and_of_no_others() -> None:
    heard = Heard(calendar(1), calendar(2, "other"), job("a", 3), job("b", 4))
    heard.heard()
    heard.replay(job("a", 3), job("b", 4), calendar(2, "other"), calendar(1))
    assert heard.heard() == []
    heard.replay(calendar(2, "other"), job("a", 3), job("b", 6), calendar(7))
    assert heard.heard() == [("b", None), ("a", None)]
    heard.replay(job("a", 3), job("b", 6))
    assert [(job_id, why is None) for job_id, why in heard.heard()] == [("a", False), ("b", False)]


def test_a_calendar_deleted_within_a_replay_is_gone() -> None:
    heard = Heard(calendar(1))
    heard.table.reset()
    heard.table.put_calendar(calendar(1))
    heard.table.delete_calendar("c", 2)
    heard.table.complete(2)
    assert (heard.table.calendar("c"), heard.table.seq) == (None, 2)


def test_users_are_those_whose_present_schedule_refers_to_a_calendar() -> None:
    former = job("former", 5, PLAIN, (Version(schedule=SPEC, since=Stamp(10, 1)),))
    heard = Heard(calendar(1), job("b", 2), job("a", 3), former)
    assert heard.table.users_of("c") == ["a", "b"]
    assert heard.table.users_of("unknown") == []
    # The earlier schedule may still have slots to run.
    assert [c.name for c in heard.entry("former").calendars] == ["c"]
    heard.heard()
    heard.put(calendar(6))
    assert {job_id for job_id, _ in heard.heard()} == {"a", "b", "former"}
    heard.table.delete("a", 7)
    heard.put(job("b", 8, PLAIN))
    assert heard.table.users_of("c") == []


@pytest.mark.parametrize(
    ("spec", "zoned"),
    [
        (PLAIN, False),
        (ScheduleSpec(every="1s"), False),
        (ScheduleSpec(cron="* * * * *", tz="Europe/Berlin"), True),
        (ScheduleSpec(cron="CRON_TZ=Europe/Berlin * * * * *"), True),
        (ScheduleSpec(any=(PLAIN, ScheduleSpec(cron="* * * * *", tz="Europe/Berlin"))), True),
        (ScheduleSpec(every="1h", except_=(ScheduleSpec(cron="* 9 * * *", tz="Europe/Berlin"),)), True),
        (ScheduleSpec(every="1h", except_=(ScheduleSpec(calendar="here"),)), True),
        (ScheduleSpec(every="1h", except_=(ScheduleSpec(calendar="utc"), ScheduleSpec(calendar="none"))), False),
        (ScheduleSpec(kind="app.lunar", config=""), True),
        (None, False),
    ],
)
def test_a_schedule_hangs_on_zones_if_any_part_of_it_does(spec: ScheduleSpec | None, zoned: bool) -> None:  # noqa: FBT001 - a parameter
    calendars = {"here": CalendarSpec(tz="Europe/Berlin"), "utc": CalendarSpec(dates=("12-25",))}
    assert uses_zones(spec, calendars) is zoned


def test_calendars_are_named_once_each() -> None:
    twice = ScheduleSpec(every="1h", except_=(ScheduleSpec(calendar="b"), ScheduleSpec(calendar="a"), PLAIN))
    assert calendars_of(twice) == ("b", "a")
    assert calendars_of(PLAIN) == ()


async def settled(table: JobTable, seq: int) -> None:
    assert await table.wait_for(seq, 5)


def many(count: int = 1_000) -> Heard:
    return Heard(calendar(1), *(job(f"j{n}", n + 2) for n in range(count)))


def test_a_calendar_of_many_jobs_is_worked_into_them_aside_and_taken_over_at_once() -> None:
    async def main() -> None:
        heard = many()
        table = heard.table
        before = {entry.job.id: entry.schedule for entry in table.entries()}
        heard.told.clear()
        heard.put(calendar(2_000, end="22:00"))
        table.complete(2_000)
        heard.put(job("late", 2_001))
        table.complete(2_001)
        seen: set[int] = set()
        while table.seq < 2_001:
            # Nothing of the table is ahead of its sequence, and what came meanwhile waits.
            assert table.get("late") is None
            assert all(entry.schedule is before[entry.job.id] for entry in table.entries())
            seen.add(table.seq)
            await asyncio.sleep(0)
        assert seen == {1_001}
        assert [name for name, _ in heard.told] == [*(f"j{n}" for n in range(1_000)), "late"]
        assert {entry.counts_from.seq for entry in table.entries()} == {2_000, 2_001}

    asyncio.run(main())


def test_a_change_that_comes_while_a_calendar_is_worked_in_is_not_lost_nor_undone() -> None:
    async def main() -> None:
        heard = many()
        heard.put(calendar(2_000, end="22:00"))
        heard.table.delete("j0", 2_001)
        heard.put(job("j1", 2_002, PLAIN))
        heard.put(calendar(2_003, end="21:00"))
        heard.table.complete(2_003)
        await settled(heard.table, 2_003)
        assert heard.table.get("j0") is None
        edited, user = heard.table.get("j1"), heard.table.get("j2")
        assert edited is not None
        assert user is not None
        assert edited.job.schedule == PLAIN
        assert user.counts_from.seq == 2_003

    asyncio.run(main())


def test_a_replay_that_begins_while_a_calendar_is_worked_in_ends_with_what_it_brought() -> None:
    async def main() -> None:
        heard = many()
        heard.put(calendar(2_000, end="22:00"))
        heard.table.complete(2_000)
        heard.replay(calendar(2_000, end="22:00"), *(job(f"j{n}", n + 2) for n in range(500)))
        await settled(heard.table, 2_000)
        assert len(heard.table) == 500
        assert {entry.counts_from.seq for entry in heard.table.entries()} == {2_000}

    asyncio.run(main())


def test_refreshed_jobs_are_compiled_anew_and_told_of() -> None:
    heard = Heard(calendar(1), job("a", 2), job("b", 3, PLAIN))
    before = heard.table.get("a")
    heard.told.clear()
    heard.table.refresh(["a", "gone"])
    assert heard.told == [("a", None)]
    assert heard.table.get("a") is not before
