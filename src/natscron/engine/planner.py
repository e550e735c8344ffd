"""Which slots are due: pure, told what time it is, never asking.

The planner holds one cursor per job (more while an older version of its schedule has undecided slots) in a heap
ordered by due instant. It knows one mark, the *decided* mark: every slot at or before its instant, of every job
revision up to its sequence, is decided. What a cursor may still yield follows from the mark and from the writes that
changed the schedule:

* A version that the mark's leader had seen (its write's sequence is at most ``jobs_seq``) yields its slots after the
  mark, up to the next version's write.
* A version it had not seen yields its slots after its own write, also into the past of the mark. But up to the mark's
  instant that leader had decided by the version it did know, so a slot that both have is left out: it ran.
* A once slot, and the slot of ``run_at_start``, is exempt from the floor of the write that brought it.

So editing never re-runs a slot, resuming never back-fills, and an edit that no leader saw in time loses nothing.
"""

import heapq
from typing import Final

import msgspec

from natscron.engine.table import Entry
from natscron.errors import InvalidScheduleError
from natscron.model import CatchUp, CatchUpPolicy, Mark, Ms, NoteRef, Reason, ScheduleSpec, Stamp, Trigger
from natscron.policy import catchup
from natscron.schedule import Schedule, compile_schedule

_NEVER: Final[Ms] = -(1 << 62)
_DEAD_KEPT: Final = 1_024
"""The heap is cleared of dead cursors when there are more than this, and more than the live ones."""


class Cursor:
    """A stretch of one job's schedule with undecided slots: after ``after``, up to ``until`` (None: open)."""

    __slots__ = ("after", "alive", "entry", "next_ms", "schedule", "shadow", "shadow_from", "shadow_until", "until")

    def __init__(self, entry: Entry, schedule: Schedule, after: Ms, until: Ms | None) -> None:
        self.entry = entry
        self.schedule = schedule
        self.after = after
        self.until = until
        self.alive = True
        self.next_ms: Ms | None = None
        """The slot that lies in the heap; all before it were yielded."""
        self.shadow: Schedule | None = None
        self.shadow_from = self.shadow_until = _NEVER

    def _shadowed(self, slot: Ms) -> bool:
        """The version that the mark's leader knew has this slot too, and it was decided then."""
        return (
            self.shadow is not None
            and self.shadow_from < slot <= self.shadow_until
            and self.shadow.last_at_or_before_ms(slot) == slot
        )

    def next_after(self, t_ms: Ms) -> Ms | None:
        """The first undecided slot later than ``t_ms``."""
        slot = self.schedule.next_after_ms(max(self.after, t_ms))
        while slot is not None and slot <= self.shadow_until and self._shadowed(slot):
            slot = self.schedule.next_after_ms(slot)
        return None if slot is None or (self.until is not None and slot > self.until) else slot

    def last_at_or_before(self, t_ms: Ms) -> Ms | None:
        """The last undecided slot at or before ``t_ms``."""
        start = t_ms if self.until is None or t_ms < self.until else self.until
        slot = self.schedule.last_at_or_before_ms(start)
        while slot is not None and slot > self.after and self._shadowed(slot):
            slot = self.schedule.last_at_or_before_ms(slot - 1)
        return None if slot is None or slot <= self.after else slot

    def count(self, after_ms: Ms, until_ms: Ms, cap: int) -> int:
        """Undecided slots in (after, until]; those shadowed are few and counted along.

        ``cap`` bounds what has to be walked; an interval's slots are counted by arithmetic, exactly.
        """
        end = until_ms if self.until is None or until_ms < self.until else self.until
        start = max(after_ms, self.after)
        if end <= start:
            return 0
        # No more than one slot lies in a millisecond.
        return self.schedule.count(start, end, cap if self.schedule.interval is None else end - start)


class Due(msgspec.Struct, frozen=True):
    """One slot to run. ``cursor.alive`` False: the job changed or left since, leave it."""

    due_ms: Ms
    slot_ms: Ms
    cursor: Cursor
    trigger: Trigger = Trigger.SCHEDULE


class Missed(msgspec.Struct, frozen=True):
    """Slots of one job that are not run, as a range."""

    entry: Entry
    skipped: catchup.Skipped


class Window(msgspec.Struct, frozen=True):
    """What is due: in time order, catch-up runs by the oldest slot of their job. ``more``: ask again at once."""

    due: tuple[Due, ...]
    missed: tuple[Missed, ...]
    more: bool


class _VersionInForce(msgspec.Struct, frozen=True):
    spec: ScheduleSpec | None
    since: Stamp
    until: Ms | None


def _timeline(entry: Entry) -> list[_VersionInForce]:
    """The job's versions, oldest first; the last one is the present."""
    job = entry.job
    starts = [*(v.since for v in job.previous), job.counts_from]
    specs = [*(v.schedule for v in job.previous), None if job.paused else job.schedule]
    ends = [s.at_ms for s in starts[1:]]
    return [_VersionInForce(p, s, e) for p, s, e in zip(specs, starts, [*ends, None], strict=True)]


def _floor(entry: Entry, versions: list[_VersionInForce], index: int, schedule: Schedule) -> Ms:
    """After which instant the version at ``index``, unseen by the mark's leader, has its slots."""
    version = versions[index]
    floor = version.since.at_ms
    spec = version.spec
    if spec is None:
        return floor
    created = entry.job.generation in (0, version.since.seq)
    if created and spec.run_at_start:
        return min(floor, entry.job.anchor_ms - 1)
    if spec.at is not None and (at := schedule.next_after_ms(_NEVER)) is not None:
        # An edit reaches back no further than the version it replaces, and a resume not at all: what was due
        # before is either decided or was due while the job was paused.
        if created and index == 0:
            return min(floor, at - 1)
        before = versions[index - 1] if index else None
        if before is not None and before.spec is not None and at > before.since.at_ms:
            return min(floor, at - 1)
    return floor


def cursors_of(entry: Entry, mark: Mark) -> list[Cursor]:
    """What of a job is still undecided at ``mark``."""
    if entry.schedule is None:
        return []
    job = entry.job
    if not job.previous and job.counts_from.seq <= mark.jobs_seq and job.counts_from.at_ms <= mark.instant_ms:
        # By far the most frequent case, kept short.
        return [] if job.paused else [Cursor(entry, entry.schedule, mark.instant_ms, None)]
    versions = _timeline(entry)
    known = max((i for i, v in enumerate(versions) if v.since.seq <= mark.jobs_seq), default=-1)
    compiled = [_compiled(entry, v.spec, present=i == len(versions) - 1) for i, v in enumerate(versions)]
    result: list[Cursor] = []
    for i, (version, schedule) in enumerate(zip(versions, compiled, strict=True)):
        if schedule is None:
            continue
        after = _floor(entry, versions, i, schedule)
        if i <= known:
            # Normally nothing is left of the versions before the known one. But a leader whose clock is behind the
            # store's may have seen a write from its own future, before which slots of the old version are undecided.
            after = max(mark.instant_ms, after)
        if version.until is not None and version.until <= after:
            continue
        cursor = Cursor(entry, schedule, after, version.until)
        if i > known >= 0 and compiled[known] is not None:
            cursor.shadow = compiled[known]
            cursor.shadow_from = versions[known].since.at_ms
            cursor.shadow_until = mark.instant_ms
        result.append(cursor)
    return result


def _compiled(entry: Entry, spec: ScheduleSpec | None, *, present: bool) -> Schedule | None:
    if present:
        return None if entry.job.paused else entry.schedule
    if spec is None:
        return None
    try:
        # It was valid when it was in force; the minimum interval of today must not undo that.
        return compile_schedule(
            spec, anchor_ms=entry.job.anchor_ms, seed=entry.job.id, min_interval_ns=1, lenient=True
        ).schedule
    except InvalidScheduleError:
        # Not here: a zone that this host does not know, say. The present version runs all the same.
        return None


class Planner:
    """All cursors, in a heap. Costs per slot: one pop, one next slot, one push."""

    def __init__(self) -> None:
        self.decided = Mark(instant_ms=0, jobs_seq=0, note=NoteRef())
        self._heap: list[tuple[Ms, int, Cursor]] = []
        self._cursors: dict[str, list[Cursor]] = {}
        self._unseen: dict[str, Entry] = {}
        self._passed: dict[str, Missed] = {}
        self._order = 0
        self._dead = 0

    def __len__(self) -> int:
        return len(self._cursors)

    def next_due(self) -> Ms | None:
        """The earliest due instant that :meth:`take` would yield."""
        self._prune()
        return self._heap[0][0] if self._heap else None

    def put(self, entry: Entry) -> None:
        """A job is new or changed: plan it from the decided mark."""
        job = entry.job
        self.remove(job.id)
        if job.counts_from.seq > self.decided.jobs_seq:
            self._unseen[job.id] = entry
        cursors = cursors_of(entry, self.decided)
        if cursors:
            self._cursors[job.id] = cursors
        for cursor in cursors:
            self._push(cursor, cursor.after)
        if job.id in self._unseen and not any(c.until is None and c.next_ms is not None for c in cursors):
            self._note_passed(entry)

    def _note_passed(self, entry: Entry) -> None:
        """A once slot that was over when it began to count is not run; :meth:`take` says so, once."""
        job = entry.job
        if job.paused or entry.schedule is None or job.schedule is None or job.schedule.at is None:
            return
        at = entry.schedule.next_after_ms(_NEVER)
        if at is None:
            return
        if job.previous:
            # What an earlier version had is decided by it: the slots before a pause, and those since the edit before.
            pause = job.previous[-1].schedule is None
            since = job.previous[-1].since.at_ms
            for version in reversed(job.previous):
                if not pause or version.schedule is not None:
                    break
                since = version.since.at_ms
            if (at <= since) is pause:
                return
        self._passed[job.id] = Missed(entry, catchup.Skipped(at, at, 1, Reason.ONCE_PASSED))

    def remove(self, job_id: str) -> None:
        """A job is gone."""
        for cursor in self._cursors.pop(job_id, ()):
            cursor.alive = False
            self._dead += 1
        self._unseen.pop(job_id, None)
        self._passed.pop(job_id, None)
        if self._dead > _DEAD_KEPT and self._dead * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[2].alive]
            heapq.heapify(self._heap)
            self._dead = 0

    def decide(self, mark: Mark) -> None:
        """Everything up to ``mark`` is decided: by what :meth:`take` yielded, or by another leader."""
        self.decided = mark
        if self._unseen:
            seen = [e for e in self._unseen.values() if e.job.counts_from.seq <= mark.jobs_seq]
            for entry in seen:
                del self._unseen[entry.job.id]

    def follow(self, mark: Mark) -> None:
        """Standing by: another leader's mark. Drops what it decided, keeps what it had not seen."""
        unseen = list(self._unseen.values())
        self._passed.clear()
        self.decide(mark)
        for entry in unseen:
            self.put(entry)
        while (due := self.next_due()) is not None and due <= mark.instant_ms:
            _, _, cursor = heapq.heappop(self._heap)
            if cursor.entry.job.id in self._unseen:
                # Its slots before the mark are undecided: out of the heap until it is put again.
                continue
            self._push(cursor, mark.instant_ms)

    def restart(self, mark: Mark) -> None:
        """Forget everything and begin at ``mark``; the caller puts all jobs again."""
        self.decided = mark
        self._heap.clear()
        self._cursors.clear()
        self._unseen.clear()
        self._passed.clear()
        self._dead = 0

    def ready(self) -> None:
        """Standing by ends: put back what :meth:`follow` took out."""
        for entry in list(self._unseen.values()):
            self.put(entry)

    def take(
        self,
        now_ms: Ms,
        jobs_seq: int,
        *,
        reference_ms: Ms | None = None,
        grace_floor_ms: Ms = 0,
        limit: int = 4096,
    ) -> Window:
        """The slots due at or before ``now_ms``, at most about ``limit``, and move the decided mark behind them.

        ``jobs_seq`` is the sequence up to which jobs were put. ``reference_ms`` is what ages count from (default
        ``now_ms``). ``grace_floor_ms`` is the least grace of any job. The caller runs what it was given even if the
        job changes before it gets to it: the change came after the decision.
        """
        reference = now_ms if reference_ms is None else min(reference_ms, now_ms)
        due: list[Due] = []
        missed = list(self._passed.values())
        self._passed.clear()
        late: dict[str, None] = {}
        weight = 0
        while len(due) + weight < limit and (first := self.next_due()) is not None and first <= now_ms:
            _, _, cursor = heapq.heappop(self._heap)
            job = cursor.entry.job
            if first <= reference - max(job.catchup.grace_ms, grace_floor_ms):
                late[job.id] = None
                weight += job.catchup.limit if job.catchup.policy is CatchUpPolicy.ALL else 1
                # All of the job's cursors are dealt with together, by fresh ones.
                for other in self._cursors[job.id]:
                    other.alive = False
                continue
            due.append(Due(first, first, cursor))
            self._push(cursor, first)
        for job_id in late:
            self._catch_up(job_id, now_ms, reference, grace_floor_ms, due, missed)
        if late:
            due.sort(key=lambda d: d.due_ms)
        following = self.next_due()
        more = following is not None and following <= now_ms
        instant = max(following - 1 if more and following is not None else now_ms, self.decided.instant_ms)
        # The mark lies ahead of this clock, and a change that its maker had not seen has slots before it: until these
        # are taken, nobody may believe that the change was decided.
        whole = following is None or following > instant
        seq = max(jobs_seq, self.decided.jobs_seq) if whole else self.decided.jobs_seq
        self.decide(msgspec.structs.replace(self.decided, instant_ms=instant, jobs_seq=seq))
        return Window(tuple(due), tuple(missed), more)

    def take_ahead(self, until_ms: Ms, limit: int) -> list[Due]:
        """Slots after the decided mark and at or before ``until_ms``, to be made ready before they are due.

        They are undecided until their instant: the caller leaves out those whose cursor is no longer alive then.
        """
        ahead: list[Due] = []
        mark = self.decided.instant_ms
        while len(ahead) < limit and (first := self.next_due()) is not None and mark < first <= until_ms:
            _, _, cursor = heapq.heappop(self._heap)
            ahead.append(Due(first, first, cursor))
            self._push(cursor, first)
        return ahead

    def _catch_up(  # noqa: PLR0913, PLR0917 - the state of one take, handed on
        self, job_id: str, now_ms: Ms, reference: Ms, grace_floor_ms: Ms, due: list[Due], missed: list[Missed]
    ) -> None:
        """Decide a job's slots at or before ``now_ms`` together, and put its cursors behind it."""
        old = self._cursors[job_id]
        entry = old[0].entry
        policy: CatchUp = entry.job.catchup
        boundary = reference - max(policy.grace_ms, grace_floor_ms)
        fresh = [_renewed(c, c.next_ms) for c in old if c.next_ms is not None]
        self._cursors[job_id] = fresh
        young = any((s := c.next_after(boundary)) is not None and s <= now_ms for c in fresh)
        plan = catchup.plan(fresh, policy, reference_ms=reference, boundary_ms=boundary, young_due=young)
        missed.extend(Missed(entry, skipped) for skipped in plan.skipped)
        due.extend(Due(slot, slot, fresh[-1], Trigger.CATCHUP) for slot in plan.run)
        for cursor in fresh:
            # Slots within the grace stay in the heap: the caller takes them in time order.
            self._push(cursor, boundary)

    def _push(self, cursor: Cursor, after: Ms) -> None:
        slot = cursor.next_ms = cursor.next_after(after)
        if slot is not None:
            self._order += 1
            heapq.heappush(self._heap, (slot, self._order, cursor))

    def _prune(self) -> None:
        heap = self._heap
        while heap and not heap[0][2].alive:
            heapq.heappop(heap)
            self._dead = max(0, self._dead - 1)


def _renewed(cursor: Cursor, first: Ms) -> Cursor:
    """The same stretch from ``first`` on, its slot that comes next."""
    twin = Cursor(cursor.entry, cursor.schedule, first - 1, cursor.until)
    twin.shadow, twin.shadow_from, twin.shadow_until = cursor.shadow, cursor.shadow_from, cursor.shadow_until
    return twin
