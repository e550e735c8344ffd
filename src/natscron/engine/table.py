"""The hot table: every job, compiled, in every instance.

The store is authoritative; a watch hands its rows to :meth:`JobTable.put` in the order of their sequence. ``seq`` says
up to which sequence the table is complete, and a leader's mark names it, so it must never run ahead of what the table
holds, nor may the table hold a revision beyond it while a decision is made. Live changes keep both equal. A watch that
is made anew replays everything: rows that did not change are recognised by their revision, the others are held back
until the replay is complete and then taken over at once.

Calendars lie in the same order of writes. A job is compiled with those that it refers to, and anew when one of them
changes. While one is missing or unreadable the job is invalid, with that as its reason. In a replay a calendar may come
after its jobs, so these wait for the replay to be complete: nobody hears of a job as invalid that is not. A calendar
that many jobs refer to is worked into them in slices, aside; they are taken over at once when all are done, and what
the watch hands over meanwhile waits, so that nothing of the table is ever ahead of ``seq``.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

import msgspec

from natscron.codec import packed
from natscron.engine.calendars import calendars_of, calendars_used
from natscron.errors import InvalidCalendarError, InvalidScheduleError
from natscron.model import Calendar, CalendarSpec, Job, Stamp
from natscron.schedule import Schedule, compile_schedule
from natscron.schedule.compile import NO_CALENDARS

_AS_IT_IS: Final = Job(id="")
Listener = Callable[[str, "Entry | None"], None]
Admits = Callable[[Job], str | None]
"""Why a job can never be sent, None if it can: the target's word."""

_WAITERS_MAX: Final = 10_000
_SLICE: Final = 256
"""Jobs that a changed calendar is worked into before others may run: some milliseconds."""


class Entry(msgspec.Struct, eq=False, gc=False):
    """One row of the table. Read-only. ``schedule`` is None exactly when ``job.invalid`` is set.

    ``calendars`` are those that the job's schedule and its earlier ones refer to; ``counts_from`` is the newest of the
    writes that changed when the job runs: its own, or one to a calendar.
    """

    job: Job
    schedule: Schedule | None
    warnings: tuple[str, ...]
    calendars: tuple[Calendar, ...] = ()
    row: Job = _AS_IT_IS
    """The job as it is stored, before it was found to be invalid here."""
    counts_from: Stamp = Stamp()

    def __post_init__(self) -> None:
        """What follows from the rest."""
        if self.row is _AS_IT_IS:
            self.row = self.job
        self.counts_from = self.job.counts_from
        for calendar in self.calendars:
            newest, other = self.counts_from, calendar.counts_from
            self.counts_from = Stamp(max(newest.at_ms, other.at_ms), max(newest.seq, other.seq))


def compile_entry(
    job: Job,
    min_interval_ns: int,
    admits: Admits = lambda _job: None,
    calendars: Mapping[str, Calendar] | None = None,
) -> Entry:
    """Compile a stored job; one that cannot be honoured comes back with ``invalid`` set, and nothing is raised."""
    row = job
    if job.invalid is None and job.schedule is None:
        job = _with_invalid(job, "the row has no schedule")
    if job.invalid is None and (why := admits(job)) is not None:
        job = _with_invalid(job, why)
    names = calendars_used(job)
    used: tuple[Calendar, ...] = ()
    if names:
        used = tuple(c for name in names if (c := (calendars or {}).get(name)) is not None)
        if job.invalid is None:
            job = _with_readable(job, used)
    if job.invalid is not None or job.schedule is None:
        return Entry(job, None, (), used, row)
    try:
        compiled = compile_schedule(
            job.schedule,
            anchor_ms=job.anchor_ms,
            seed=job.id,
            min_interval_ns=min_interval_ns,
            lenient=True,
            calendars={c.name: c.spec for c in used} if used else NO_CALENDARS,
        )
    except (InvalidScheduleError, InvalidCalendarError) as error:
        return Entry(_with_invalid(job, str(error)), None, (), used, row)
    readable = tuple(c for c in used if c.invalid is None) if used else ()
    return Entry(job, compiled.schedule, compiled.warnings, readable, row)


def _with_readable(job: Job, calendars: tuple[Calendar, ...]) -> Job:
    """The job; invalid if its schedule refers to a calendar that cannot be read."""
    names = calendars_of(job.schedule)
    for calendar in calendars:
        if calendar.invalid is not None and calendar.name in names:
            # A calendar of a later version binds its jobs as a row of a later version would.
            job = msgspec.structs.replace(job, newer=job.newer or calendar.newer)
            return _with_invalid(job, f"calendar {calendar.name!r} cannot be read: {calendar.invalid}")
    return job


def _with_invalid(job: Job, why: str) -> Job:
    return msgspec.structs.replace(job, invalid=why)


def _same_write(known: Job | Calendar, new: Job | Calendar) -> bool:
    """Sequences begin again when a stream is made anew; the time of the write tells the two apart."""
    return known.revision == new.revision and known.updated_at_ms == new.updated_at_ms


class _Replay:
    """What a watch that is made anew has handed over so far."""

    def __init__(self) -> None:
        self.jobs: dict[str, Entry | Job | None] = {}
        """None: as it is known. A bare job waits for its calendars."""
        self.calendars: dict[str, Calendar] = {}


class JobTable:
    """All jobs by id, in the order of their last write (the order in which the Go version lists)."""

    def __init__(self, min_interval_ns: int, admits: Admits = lambda _job: None) -> None:
        self.seq = 0
        self._admits = admits
        self._min_interval_ns = min_interval_ns
        self.newer: set[str] = set()
        """Jobs whose rows need a later version of this code."""
        self._entries: dict[str, Entry] = {}
        self._calendars: dict[str, Calendar] = {}
        self._users: dict[str, dict[str, None]] = {}
        """By calendar the jobs whose schedule, or an earlier one, refers to it."""
        self._listeners: list[Listener] = []
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._loaded = False
        self._replay: _Replay | None = None
        self._stale: dict[str, None] = {}
        """Jobs that a changed calendar is still to be worked into ..."""
        self._fresh: list[Entry] = []
        """... those that it was worked into already ..."""
        self._held: deque[Callable[[], None]] = deque()
        """... and what the watch hands over meanwhile, which waits until all are done."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, job_id: str) -> Entry | None:
        """The job's entry, None if there is no such job."""
        return self._entries.get(job_id)

    def entries(self) -> list[Entry]:
        """All entries, oldest change first."""
        return list(self._entries.values())

    def calendar(self, name: str) -> Calendar | None:
        """The calendar as it is stored, None if there is none of that name."""
        return self._calendars.get(name)

    def calendar_rows(self) -> list[Calendar]:
        """All calendars as they are stored, also those that cannot be read, by name."""
        return [self._calendars[name] for name in sorted(self._calendars)]

    def calendars(self) -> Mapping[str, CalendarSpec]:
        """What the calendars hold, by name; those that cannot be read are left out."""
        return {name: calendar.spec for name, calendar in self._calendars.items() if calendar.invalid is None}

    def users_of(self, calendar_name: str) -> list[str]:
        """The ids of the jobs whose schedule refers to a calendar, in order."""
        return sorted(
            job_id
            for job_id in self._users.get(calendar_name, ())
            if calendar_name in calendars_of(self._entries[job_id].job.schedule)
        )

    def invalid_since(self, seq: int) -> list[Job]:
        """Jobs that cannot be honoured, and that became so after ``seq``, or may have: a calendar of theirs is gone."""
        return [
            entry.job
            for entry in self._entries.values()
            if entry.schedule is None
            and (
                entry.job.revision > seq
                or entry.counts_from.seq > seq
                or any(name not in self._calendars for name in calendars_of(entry.job.schedule))
            )
        ]

    def listen(self, fn: Listener) -> None:
        """Call ``fn(job_id, entry)`` after each change; entry None when the job was deleted."""
        self._listeners.append(fn)

    def refresh(self, job_ids: Iterable[str]) -> None:
        """Compile these jobs anew: what they were compiled from besides their rows has changed (zone data)."""
        for job_id in job_ids:
            entry = self._entries.get(job_id)
            if entry is not None:
                self._announce(self._compiled(entry.row))

    async def wait_for(self, seq: int, timeout_s: float) -> bool:
        """Wait until the table is complete up to ``seq``; False if it is not within the time."""
        if self.seq >= seq:
            return True
        if len(self._waiters) >= _WAITERS_MAX:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((seq, future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return self.seq >= seq
        finally:
            self._waiters = [w for w in self._waiters if w[1] is not future]
        return True

    # The JobSink that the store's watch calls.

    def reset(self) -> None:
        """A replay begins."""
        while self._stale:
            self._freshen()
        self._replay = _Replay()

    def put(self, job: Job) -> None:
        """A row, live or replayed."""
        if self._stale:
            self._held.append(partial(self.put, job))
            return
        replay = self._replay
        if replay is None:
            self._apply(job)
            self._reached(job.revision)
            return
        known = self._entries.get(job.id)
        if known is not None and _same_write(known.job, job):
            replay.jobs[job.id] = None
        elif calendars_used(job):
            replay.jobs[job.id] = job
        elif self._loaded:
            replay.jobs[job.id] = self._compiled(job)
        else:
            replay.jobs[job.id] = None
            self._apply(job)

    def delete(self, job_id: str, seq: int) -> None:
        """A deletion, live or replayed."""
        if self._stale:
            self._held.append(partial(self.delete, job_id, seq))
            return
        if self._replay is not None:
            self._replay.jobs.pop(job_id, None)
            return
        self._remove(job_id)
        self._reached(seq)

    def put_calendar(self, calendar: Calendar) -> None:
        """A calendar, live or replayed."""
        if self._stale:
            self._held.append(partial(self.put_calendar, calendar))
            return
        if self._replay is not None:
            self._replay.calendars[calendar.name] = calendar
            return
        known = self._calendars.get(calendar.name)
        if known is None or known.revision <= calendar.revision:
            self._calendars[calendar.name] = calendar
            self._recompile([calendar.name])
        self._then(partial(self._reached, calendar.revision))

    def delete_calendar(self, name: str, seq: int) -> None:
        """A calendar was deleted, live or replayed."""
        if self._stale:
            self._held.append(partial(self.delete_calendar, name, seq))
            return
        if self._replay is not None:
            self._replay.calendars.pop(name, None)
            return
        if self._calendars.pop(name, None) is not None:
            self._recompile([name])
        self._then(partial(self._reached, seq))

    def complete(self, seq: int) -> None:
        """The replay is over, or a live change is in."""
        if self._stale:
            self._held.append(partial(self.complete, seq))
            return
        if self._replay is not None:
            replay, self._replay = self._replay, None
            self._take_over(replay)
            self._then(partial(self._replayed, seq))
        else:
            self._reached(seq)

    def _replayed(self, seq: int) -> None:
        # Also backwards: then the stream was made anew, and what was known of the old one is void.
        self._loaded, self.seq = True, seq
        self._reached(seq)

    def _reached(self, seq: int) -> None:
        """Everything up to ``seq`` is in."""
        self.seq = max(self.seq, seq)
        for wanted, future in self._waiters:
            if self.seq >= wanted and not future.done():
                future.set_result(None)

    def _take_over(self, replay: _Replay) -> None:
        before, self._calendars = self._calendars, replay.calendars
        for job_id in [i for i in self._entries if i not in replay.jobs]:
            self._remove(job_id)
        for found in replay.jobs.values():
            if found is not None:
                self._take_in(found if isinstance(found, Entry) else self._compiled(found))
        # Those that waited came in late: the order is that of the last writes.
        self._entries = {job_id: self._entries[job_id] for job_id in replay.jobs}
        names = [*before, *(name for name in replay.calendars if name not in before)]
        changed = [n for n in names if not _unchanged(before.get(n), replay.calendars.get(n))]
        self._recompile(changed, but={job_id for job_id, found in replay.jobs.items() if found is not None})

    def _compiled(self, job: Job) -> Entry:
        return compile_entry(packed(job), self._min_interval_ns, self._admits, self._calendars)

    def _apply(self, job: Job) -> None:
        known = self._entries.get(job.id)
        if known is None or known.job.revision <= job.revision:
            self._take_in(self._compiled(job))

    def _recompile(self, names: list[str], but: AbstractSet[str] = frozenset()) -> None:
        """These calendars changed: so did the jobs that refer to them, ``but`` some that know it already."""
        users = dict.fromkeys(job_id for name in names for job_id in self._users.get(name, ()) if job_id not in but)
        if len(users) <= _SLICE:
            self.refresh(users)
            return
        self._stale = users
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._stale:
            self._freshen()
        if self._stale:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _freshen(self) -> None:
        """Work calendars into some of the jobs that wait for it, and take all over after the last."""
        for job_id in list(itertools.islice(self._stale, _SLICE)):
            del self._stale[job_id]
            self._fresh.append(self._compiled(self._entries[job_id].row))
        if self._stale:
            return
        fresh, self._fresh = self._fresh, []
        for entry in fresh:
            self._announce(entry)
        while self._held and not self._stale:
            self._held.popleft()()

    def _then(self, call: Callable[[], None]) -> None:
        """Do it, or keep it back while calendars are being worked in: before all that waits already."""
        if self._stale:
            self._held.appendleft(call)
        else:
            call()

    def _take_in(self, entry: Entry) -> None:
        job = entry.job
        self._forget_users(job.id)
        for name in calendars_used(job):
            self._users.setdefault(name, {})[job.id] = None
        self._entries.pop(job.id, None)
        self._announce(entry)

    def _announce(self, entry: Entry) -> None:
        job = entry.job
        self._entries[job.id] = entry
        if job.newer:
            self.newer.add(job.id)
        else:
            self.newer.discard(job.id)
        for fn in self._listeners:
            fn(job.id, entry)

    def _remove(self, job_id: str) -> None:
        self._forget_users(job_id)
        if self._entries.pop(job_id, None) is not None:
            self.newer.discard(job_id)
            for fn in self._listeners:
                fn(job_id, None)

    def _forget_users(self, job_id: str) -> None:
        entry = self._entries.get(job_id)
        for name in () if entry is None else calendars_used(entry.job):
            users = self._users[name]
            del users[job_id]
            if not users:
                del self._users[name]


def _unchanged(before: Calendar | None, now: Calendar | None) -> bool:
    return before is not None and now is not None and _same_write(before, now)
