"""What tests of the planner share: jobs as the store has them, and a leader's planner."""

from collections.abc import Iterable

import msgspec

from natscron.codec import decode_row, encode_row, key_of, successor
from natscron.codec.calendar import calendar_key, decode_calendar, encode_calendar
from natscron.codec.versions import successor_calendar
from natscron.engine.planner import Planner, Window
from natscron.engine.table import Entry, compile_entry
from natscron.model import Calendar, CalendarSpec, CatchUp, Job, Mark, NoteRef, Reason, ScheduleSpec, Stamp

NO_CATCHUP = 1 << 50
"""A grace so long that no slot is ever older."""
BIRTH = 10_000
SECONDS = ScheduleSpec(every="1s")
FIVES = ScheduleSpec(cron="*/5 * * * * *")
TWOS = ScheduleSpec(cron="*/2 * * * * *")
MINUTES = ScheduleSpec(cron="* * * * *")


def at(ms: int) -> ScheduleSpec:
    return ScheduleSpec(at=f"1970-01-01T00:{ms // 60_000:02}:{ms // 1000 % 60:02}.{ms % 1000:03}Z")


def mark(instant_ms: int, jobs_seq: int = 0) -> Mark:
    return Mark(instant_ms=instant_ms, jobs_seq=jobs_seq, note=NoteRef())


class Jobs:
    """Jobs as the store has them: each write is stamped, and read back from its bytes."""

    def __init__(self, at_ms: int = BIRTH) -> None:
        self.now_ms = at_ms
        self.seq = 0
        self.rows: dict[str, Job] = {}
        self.calendars: dict[str, Calendar] = {}

    def create(self, schedule: ScheduleSpec, job_id: str = "a", catchup: CatchUp | None = None) -> Entry:
        return self._write(Job(id=job_id, schedule=schedule, catchup=catchup or CatchUp()))

    def edit(self, at_ms: int, known: Mark | None = None, /, **changes: object) -> Entry:
        self.now_ms = at_ms
        old = self.rows["a"]
        return self._write(successor(old, msgspec.structs.replace(old, **changes), known))

    def put_calendar(self, at_ms: int, name: str, spec: CalendarSpec, known: Mark | None = None) -> None:
        self.now_ms = at_ms
        self.seq += 1
        new, old = Calendar(name=name, spec=spec), self.calendars.get(name)
        if old is not None:
            new = successor_calendar(old, new, known, 86_400_000)
        stamp = Stamp(self.now_ms, self.seq)
        self.calendars[name] = decode_calendar(calendar_key(name), encode_calendar(new), stamp)

    def entry(self, job_id: str = "a") -> Entry:
        return compile_entry(self.rows[job_id], 1, calendars=self.calendars)

    def _write(self, job: Job) -> Entry:
        self.seq += 1
        stored = decode_row(key_of(job.id), encode_row(job), Stamp(self.now_ms, self.seq))
        self.rows[job.id] = stored
        return self.entry(job.id)


def started(entries: Iterable[Entry] = (), from_ms: int = BIRTH, jobs_seq: int = 0) -> Planner:
    """A leader's planner that begins at ``from_ms``."""
    planner = Planner()
    planner.restart(mark(from_ms, jobs_seq))
    for entry in entries:
        planner.put(entry)
    return planner


def take(planner: Planner, now_ms: int, seq: int, limit: int = 4096) -> Window:
    return planner.take(now_ms, seq, grace_floor_ms=NO_CATCHUP, limit=limit)


def slots(planner: Planner, now_ms: int, seq: int) -> list[int]:
    """All that is due at ``now_ms``."""
    window = take(planner, now_ms, seq)
    assert not window.more
    assert all(missed.skipped.reason is Reason.PAUSED for missed in window.missed)
    return [due.slot_ms for due in window.due]
