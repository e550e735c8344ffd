"""What a job takes along to another store: exactly what is undecided of it, whatever was done to it before."""

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.planning import BIRTH, FIVES, SECONDS, TWOS, Jobs, at, mark

from natscron.codec import decode_row, encode_row, key_of
from natscron.codec.calendar import calendar_key, decode_calendar, encode_calendar
from natscron.engine.cursors import cursors_of
from natscron.engine.planner import Planner
from natscron.engine.table import Entry, compile_entry
from natscron.model import Calendar, CalendarSpec, Job, Mark, ScheduleSpec, Skip, Stamp, Weekly
from natscron.storage.carrying import carried, carried_calendar

HORIZON = BIRTH + 120_000
EXCEPT_C = (ScheduleSpec(calendar="c"),)
SHUT = CalendarSpec(weekly=(Weekly(end="00:05"),))
POOL = [
    SECONDS,
    FIVES,
    ScheduleSpec(every="700ms"),
    ScheduleSpec(every="2s", run_at_start=True),
    ScheduleSpec(cron="*/7 * * * * *", run_at_start=True),
    ScheduleSpec(cron="*/10 * * * * *", jitter="9s"),
    ScheduleSpec(every="5s", jitter="4s"),
    ScheduleSpec(every="5s", start_at="1970-01-01T00:00:03Z", max_runs=9, last_slot="1970-01-01T00:00:48Z"),
    at(BIRTH - 5_000),
    at(BIRTH + 5_000),
    at(BIRTH + 30_000),
    msgspec.structs.replace(at(BIRTH + 20_000), jitter="8s"),
]
# An edit to an instant in the past reaches back to the write before it, which the other store does not know.
NEXT = [*POOL[:8], at(BIRTH + 100_000), msgspec.structs.replace(at(BIRTH + 80_000), jitter="8s")]


class There:
    """The other store: its time, its numbers and its mark."""

    def __init__(self, decided: Mark, seq: int, now_ms: int = HORIZON + 5_000) -> None:
        self.decided = decided
        self.stamp = Stamp(now_ms, seq)

    def entry(self, job: Job, mark: Mark | None, calendars: tuple[Calendar, ...] = ()) -> Entry:
        """The job as it is read there once it was carried over."""
        specs = {calendar.name: calendar.spec for calendar in calendars}
        stored = decode_row(key_of(job.id), encode_row(carried(job, mark, specs)), self.stamp)
        kept = {}
        for calendar in calendars:
            row = encode_calendar(carried_calendar(calendar, mark))
            stamp = Stamp(self.stamp.at_ms, self.stamp.seq - 1)
            kept[calendar.name] = decode_calendar(calendar_key(calendar.name), row, stamp)
        return compile_entry(stored, 1, calendars=kept)


def undecided(entry: Entry, mark: Mark, *, silent: bool = False) -> list[tuple[int, int]]:
    """The slots that a leader with this mark still runs (or tells of as paused), with their due instants."""
    found = []
    for cursor in cursors_of(entry, mark):
        if (cursor.reason is not None) is not silent:
            continue
        due = cursor.next_after(-1)
        while due is not None and due <= HORIZON:
            found.append((cursor.slot_of(due), due))
            due = cursor.next_after(due)
    return sorted(found)


EDITS = st.one_of(
    st.tuples(st.just("edit"), st.integers(0, len(NEXT) - 1)),
    st.tuples(st.just("pause"), st.sampled_from([None, 1_000, 7_300, 60_000])),
    st.tuples(st.just("resume"), st.none()),
    st.tuples(st.just("label"), st.integers(0, 9)),
)


def told(jobs: Jobs, steps: list[tuple[int, tuple[str, int | None]]], known: Mark) -> list[int]:
    """Do these things, each so much later than the one before; when each write was."""
    times = []
    for wait_ms, (what, n) in steps:
        now = jobs.now_ms + wait_ms
        seen = known if now > known.instant_ms else None
        if what == "edit":
            jobs.edit(now, seen, schedule=NEXT[n or 0])
        elif what == "pause":
            jobs.edit(now, seen, paused=True, paused_until_ms=None if n is None else now + n)
        elif what == "resume":
            jobs.edit(now, seen, paused=False, paused_until_ms=None)
        else:
            jobs.edit(now, seen, note=str(n))
        times.append(now)
    return times


STEPS = st.lists(st.tuples(st.sampled_from([1, 900, 3_000, 10_000]), EDITS), max_size=4)


@settings(max_examples=600)
@given(
    first=st.integers(0, len(POOL) - 1),
    steps=STEPS,
    stopped=st.integers(-200, 45_000),
    there=st.sampled_from([0, 5_000, 25_000, 200_000]),
    seq=st.integers(1, 6),
)
@example(first=3, steps=[], stopped=0, there=200_000, seq=1)
@example(first=8, steps=[], stopped=10_000, there=0, seq=1)
def test_what_the_old_leader_left_undecided_is_what_the_new_one_decides(
    first: int, steps: list[tuple[int, tuple[str, int | None]]], stopped: int, there: int, seq: int
) -> None:
    jobs = Jobs()
    jobs.create(POOL[first])
    source = mark(BIRTH + stopped)
    times = [BIRTH, *told(jobs, steps, source)]
    # A leader that stopped in order had seen all that was written by then, and nothing of what came later.
    source = mark(source.instant_ms, sum(time <= source.instant_ms for time in times))
    entry = jobs.entry()
    job = entry.job
    new = There(mark(there, seq - 1), seq)
    carried_over = new.entry(job, source)
    assert undecided(carried_over, new.decided) == undecided(entry, source)
    # No slot of a pause goes untold of; with jitter it may count as one of the time before.
    if all(spec is None or spec.jitter is None for spec in (entry.job.schedule, *(v.schedule for v in job.previous))):
        assert set(undecided(carried_over, new.decided, silent=True)) >= set(undecided(entry, source, silent=True))


@settings(max_examples=200)
@given(first=st.integers(0, len(POOL) - 1), steps=STEPS, there=st.sampled_from([0, 5_000, 200_000]))
def test_of_a_store_that_nobody_led_everything_is_undecided(
    first: int, steps: list[tuple[int, tuple[str, int | None]]], there: int
) -> None:
    jobs = Jobs()
    jobs.create(POOL[first])
    told(jobs, steps, mark(0))
    entry = jobs.entry()
    new = There(mark(there, 8), 9)
    assert undecided(new.entry(entry.job, None), new.decided) == undecided(entry, mark(0))


@pytest.mark.parametrize("changed_ms", [10_000, 40_000])
def test_slots_are_judged_by_what_a_calendar_held_at_their_time(changed_ms: int) -> None:
    jobs = Jobs()
    jobs.put_calendar(BIRTH, "c", CalendarSpec())
    jobs.create(ScheduleSpec(cron="*/5 * * * * *", except_=EXCEPT_C))
    jobs.put_calendar(BIRTH + changed_ms, "c", SHUT)
    entry = jobs.entry()
    source = mark(BIRTH + 20_000, 2 if changed_ms > 20_000 else 3)
    new = There(mark(200_000, 7), 9)
    carried_over = new.entry(entry.job, source, tuple(entry.calendars))
    left = [slot for slot, _ in undecided(entry, source)]
    assert left == ([35_000, 40_000, 45_000, 50_000] if changed_ms > 20_000 else [])
    assert undecided(carried_over, new.decided) == undecided(entry, source)


@pytest.mark.parametrize("there", [mark(0, 8), mark(200_000, 8)])
@pytest.mark.parametrize("generation", [0, 1, 9])
@pytest.mark.parametrize(
    "schedule", [at(BIRTH - 5_000), at(BIRTH + 5_000), ScheduleSpec(every="1h", run_at_start=True)]
)
def test_what_is_over_does_not_run_again_and_nothing_is_told_of_it(
    schedule: ScheduleSpec, generation: int, there: Mark
) -> None:
    jobs = Jobs()
    job = msgspec.structs.replace(jobs.create(schedule).job, generation=generation)
    entry = There(there, 9).entry(job, mark(BIRTH + 5_000, 1))
    planner = Planner()
    planner.restart(there)
    planner.put(entry)
    window = planner.take(HORIZON, 9)
    assert (window.due, window.missed) == ((), ())


def test_a_row_of_the_go_version_keeps_its_generation_and_what_is_next() -> None:
    stamp = Stamp(BIRTH, 3)
    row = b'{"subject":"a","schedule":{"every":"5s"},"natscron":{"reader":1,"generation":0'
    row += b',"created_at":9000,"anchor":12000'
    done = decode_row("a", row + b',"counts_from":[9500,0]}}', stamp)
    waits = decode_row("a", row + b',"counts_from":[16999,3]}}', stamp)
    new = There(mark(40_000, 8), 9)
    assert [slot for slot, _ in undecided(new.entry(waits, None), new.decided)][:2] == [17_000, 22_000]
    # Every leader has seen it: it counts from the mark.
    assert [slot for slot, _ in undecided(new.entry(done, None), new.decided)][:2] == [42_000, 47_000]
    assert new.entry(waits, None).job.generation == 0


def test_everything_that_says_what_shall_happen_goes_along() -> None:
    jobs = Jobs()
    old = msgspec.structs.replace(
        jobs.create(ScheduleSpec(every="5s", jitter="1s")).job,
        payload={"n": 1},
        labels={"team": "a"},
        paused=True,
        paused_until_ms=90_000,
        note="why",
        priority=7,
        pause_after_failures=3,
        skip=Skip(20_000, 30_000),
        handler="h",
        concurrency=2,
        timeout_ms=5_000,
        extra={"x": [1]},
    )
    new = There(mark(0), 9, now_ms=77_000).entry(old, mark(BIRTH, 1)).job
    assert new.revision == 9
    assert new.updated_at_ms == 77_000
    assert new.counts_from == Stamp(BIRTH, 9)
    same = {"revision": old.revision, "updated_at_ms": old.updated_at_ms, "counts_from": old.counts_from}
    assert msgspec.structs.replace(new, **same) == old


def test_a_pause_is_told_of_from_its_beginning() -> None:
    jobs = Jobs()
    jobs.create(SECONDS)
    entry = jobs.edit(BIRTH + 5_000, paused=True)
    new = There(mark(0, 8), 9).entry(entry.job, mark(BIRTH + 60_000, 2))
    assert new.job.counts_from == Stamp(BIRTH + 5_000, 9)
    assert undecided(new, mark(0, 8)) == []


def test_a_jittered_slot_that_waits_for_its_delay_is_undecided_also_if_its_class_is_not_known_here() -> None:
    jobs = Jobs()
    unknown = msgspec.structs.replace(jobs.create(TWOS).job, schedule=ScheduleSpec(kind="theirs", jitter="3s"))
    assert carried(unknown, mark(BIRTH + 4_000, 1), {}).counts_from.at_ms == BIRTH + 4_000


def test_what_a_stamp_leaves_open_is_the_rows_own_number() -> None:
    own = b'"natscron":{"reader":1,"counts_from":[5,-1],"previous":[{"since":[4,-1],"spec":{}}]}}'
    job = decode_row("a", b'{"subject":"a","schedule":{"every":"5s"},' + own, Stamp(9, 7))
    calendar = decode_calendar(calendar_key("c"), b'{"calendar":{},' + own, Stamp(9, 7))
    for found in (job, calendar):
        assert (found.invalid, found.counts_from, found.previous[0].since) == (None, Stamp(5, 7), Stamp(4, 7))
