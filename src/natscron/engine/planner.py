"""Which slots are due: pure, told what time it is, never asking.

The planner holds one cursor per job (more while an older version of its schedule has undecided slots) in a heap
ordered by due instant, and at one instant by the job's priority. Cursors of slots that do not run, skipped or paused,
lie in a heap of their own: nobody waits for them, they are told of when their time has come. Those whose schedule fails
to answer are asked again later (:mod:`natscron.engine.unanswered`).

The planner knows one mark, the *decided* mark: every slot due at or before its instant, of every job revision up to its
sequence, is decided. What a cursor may still yield follows from the mark and from the writes that changed the schedule:

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

from natscron.engine.cursors import NEVER, Cursor, cursors_of
from natscron.engine.table import Entry
from natscron.engine.unanswered import Unanswered
from natscron.model import CatchUp, CatchUpPolicy, Job, Mark, Ms, NoteRef, Reason, Trigger
from natscron.policy import catchup

__all__ = ["Cursor", "Due", "Missed", "Planner", "Window", "cursors_of"]

_DEAD_KEPT: Final = 1_024
"""The heaps are cleared of dead cursors when there are more than this, and more than the live ones."""
_LATE_WEIGHT: Final = 8
"""A late job costs a take about as much as so many slots, also if it comes to one run or to none."""


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


class Planner:
    """All cursors, in a heap. Costs per slot: one pop, one next slot, one push."""

    def __init__(self) -> None:
        self.decided = Mark(instant_ms=0, jobs_seq=0, note=NoteRef())
        self._heap: list[tuple[Ms, int, Cursor]] = []
        self._silent: list[tuple[Ms, int, Cursor]] = []
        """By the instant at which to tell of them."""
        self._cursors: dict[str, tuple[Cursor, ...]] = {}
        self._unseen: dict[str, Entry] = {}
        self._passed: dict[str, Missed] = {}
        self._unanswered = Unanswered()
        self._ahead: dict[str, tuple[int, Mark]] = {}
        """Jobs of which more is decided than the mark says, by generation: :meth:`take` was to yield less at once."""
        self._ahead_until: Ms = NEVER
        self._order = 0
        self._dead = 0

    def __len__(self) -> int:
        return len(self._cursors)

    def next_due(self) -> Ms | None:
        """The earliest due instant that :meth:`take` would yield."""
        return self._first(self._heap)

    def put(self, entry: Entry) -> None:
        """A job is new or changed: plan it from the decided mark."""
        job = entry.job
        shadowed = self._shadowed(job)
        self._drop(job.id)
        if entry.counts_from.seq > self.decided.jobs_seq:
            self._unseen[job.id] = entry
        cursors = cursors_of(entry, self._decided_of(job))
        if cursors:
            self._cursors[job.id] = tuple(cursors)
        for cursor in cursors:
            if shadowed is not None and cursor.shadow is None:
                cursor.shadow_by(shadowed)
            self._place(cursor, cursor.after)
        if job.counts_from.seq > self.decided.jobs_seq and not any(
            c.next_ms is not None and (c.until is None or c.reason is Reason.SKIP_NEXT) for c in cursors
        ):
            self._note_passed(entry)

    def _shadowed(self, job: Job) -> Cursor | None:
        """A cursor of the job with slots that ran by an earlier version and that jitter puts behind the mark."""
        for cursor in self._cursors.get(job.id, ()):
            if (
                cursor.shadow is not None
                and cursor.entry.job.generation == job.generation
                and cursor.bound(cursor.shadow_until) > self.decided.instant_ms
            ):
                return cursor
        return None

    def _decided_of(self, job: Job) -> Mark:
        generation, ahead = self._ahead.get(job.id, (0, self.decided))
        return ahead if generation == job.generation and ahead.instant_ms > self.decided.instant_ms else self.decided

    def _note_passed(self, entry: Entry) -> None:
        """A once slot that was over when it began to count is not run; :meth:`take` says so, once."""
        job = entry.job
        if job.paused or entry.schedule is None or job.schedule is None or job.schedule.at is None:
            return
        at = entry.schedule.next_after_ms(NEVER)
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
        self._drop(job_id)
        self._ahead.pop(job_id, None)

    def _drop(self, job_id: str) -> None:
        for cursor in self._cursors.pop(job_id, ()):
            cursor.alive = False
            self._dead += 1
        self._unseen.pop(job_id, None)
        self._passed.pop(job_id, None)
        if self._dead > _DEAD_KEPT and self._dead * 2 > len(self._heap) + len(self._silent):
            self._heap = [item for item in self._heap if item[2].alive]
            self._silent = [item for item in self._silent if item[2].alive]
            heapq.heapify(self._heap)
            heapq.heapify(self._silent)
            self._dead = 0

    def decide(self, mark: Mark) -> None:
        """Everything up to ``mark`` is decided: by what :meth:`take` yielded, or by another leader."""
        self.decided = mark
        if self._ahead and self._ahead_until <= mark.instant_ms:
            self._ahead.clear()
        if self._unseen:
            seen = [e for e in self._unseen.values() if e.counts_from.seq <= mark.jobs_seq]
            for entry in seen:
                del self._unseen[entry.job.id]

    def beyond(self, mark: Mark) -> bool:
        """Whether more is decided here than ``mark`` says: then its slots may be missing here."""
        return self.decided.instant_ms > mark.instant_ms or self.decided.jobs_seq > mark.jobs_seq

    def follow(self, mark: Mark) -> None:
        """Standing by: another leader's mark. Drops what it decided, keeps what it had not seen."""
        unseen = list(self._unseen.values())
        self._passed.clear()
        self.decide(mark)
        for entry in unseen:
            self.put(entry)
        self._unanswered.decided(mark.instant_ms)
        for heap in (self._heap, self._silent):
            while (due := self._first(heap)) is not None and due <= mark.instant_ms:
                _, _, cursor = heapq.heappop(heap)
                if cursor.entry.job.id in self._unseen:
                    # Its slots before the mark are undecided: out of the heap until it is put again.
                    continue
                self._place(cursor, mark.instant_ms)

    def restart(self, mark: Mark) -> None:
        """Forget everything and begin at ``mark``; the caller puts all jobs again."""
        self.decided = mark
        self._heap.clear()
        self._silent.clear()
        self._cursors.clear()
        self._unseen.clear()
        self._passed.clear()
        self._unanswered.clear()
        self._ahead.clear()
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
        if self._unanswered:
            told = self._unanswered.ask(now_ms, self._decided_for, self._push)
            missed += [Missed(cursor.entry, skipped) for cursor, skipped in told]
        late: dict[str, Ms] = {}
        weight = 0
        heap = self._heap
        while len(due) + weight < limit and (first := self._first(heap)) is not None and first <= now_ms:
            _, _, cursor = heapq.heappop(heap)
            job = cursor.entry.job
            if first <= reference - max(job.catchup.grace_ms, grace_floor_ms):
                late[job.id] = reference - max(job.catchup.grace_ms, grace_floor_ms)
                weight += job.catchup.limit if job.catchup.policy is CatchUpPolicy.ALL else _LATE_WEIGHT
                # All of the job's cursors are dealt with together, by fresh ones.
                for other in self._cursors[job.id]:
                    other.alive = not _caught_up(other)
                continue
            slot = first if cursor.schedule is cursor.slots else cursor.schedule.slot_of(first)
            due.append(Due(first, slot, cursor))
            self._push(cursor, first)
        for job_id in late:
            self._catch_up(job_id, now_ms, reference, grace_floor_ms, due, missed)
        if late:
            due.sort(key=lambda d: (d.due_ms, d.cursor.rank))
        following = self._first(heap)
        if self._silent:
            self._tell(now_ms if following is None else min(now_ms, following - 1), limit, missed)
            silent = self._first(self._silent)
            following = silent if following is None or (silent is not None and silent < following) else following
        more = following is not None and following <= now_ms
        instant = max(following - 1 if more and following is not None else now_ms, self.decided.instant_ms)
        # The mark lies ahead of this clock, and a change that its maker had not seen has slots before it: until these
        # are taken, nobody may believe that the change was decided.
        whole = following is None or following > instant
        seq = max(jobs_seq, self.decided.jobs_seq) if whole else self.decided.jobs_seq
        if more:
            self._note_ahead(due, late, instant, max(jobs_seq, self.decided.jobs_seq))
        self.decide(msgspec.structs.replace(self.decided, instant_ms=instant, jobs_seq=seq))
        return Window(tuple(due), tuple(missed), more)

    def undecided(self, job_id: str, now_ms: Ms, until_ms: Ms, limit: int) -> list[Due]:
        """The job's slots that run and are not yet due at ``now_ms``, but at ``until_ms``; at most so many.

        They stay undecided: whoever sends them before they are due leaves them out when :meth:`take` yields them. What
        is due is for :meth:`take` alone, which may be behind, and goes by the job's policies.
        """
        found: list[Due] = []
        after = max(now_ms, self.decided.instant_ms)
        for cursor in self._cursors.get(job_id, ()):
            due = cursor.next_after(after) if cursor.alive and cursor.reason is None else None
            while due is not None and due <= until_ms and len(found) < limit:
                found.append(Due(due, cursor.slot_of(due), cursor))
                due = cursor.next_after(due)
        return found

    def take_ahead(self, until_ms: Ms, limit: int) -> list[Due]:
        """Slots after the decided mark and at or before ``until_ms``, to be made ready before they are due.

        They are undecided until their instant: the caller leaves out those whose cursor is no longer alive then.
        """
        ahead: list[Due] = []
        mark = self.decided.instant_ms
        while len(ahead) < limit and (first := self.next_due()) is not None and mark < first <= until_ms:
            _, _, cursor = heapq.heappop(self._heap)
            ahead.append(Due(first, cursor.slot_of(first), cursor))
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
        fresh = [twin for c in old if _caught_up(c) and c.next_ms is not None and (twin := c.part(c.next_ms - 1, None))]
        self._cursors[job_id] = (*fresh, *(c for c in old if not _caught_up(c)))
        for cursor in fresh:
            # Slots within the grace stay in the heap: the caller takes them in time order.
            self._push(cursor, boundary)
        young = any(c.next_ms is not None and c.next_ms <= now_ms for c in fresh)
        plan = catchup.plan(fresh, policy, reference_ms=reference, boundary_ms=boundary, young_due=young)
        missed.extend(Missed(entry, skipped) for skipped in plan.skipped)
        for at, i in zip(plan.run, plan.of, strict=True):
            due.append(Due(at, fresh[i].slot_of(at), fresh[i], Trigger.CATCHUP))

    def _decided_for(self, cursor: Cursor) -> Ms:
        return self._decided_of(cursor.entry.job).instant_ms

    def _note_ahead(self, due: list[Due], late: dict[str, Ms], instant: Ms, seq: int) -> None:
        """The mark stays behind some of what was handed out: a job that changes now must not have it again."""
        for one in reversed(due):
            if one.due_ms <= instant:
                break
            self._decided_ahead(one.cursor.entry.job, one.due_ms, seq)
        for job_id, until in late.items():
            self._decided_ahead(self._cursors[job_id][0].entry.job, until, seq)

    def _decided_ahead(self, job: Job, until: Ms, seq: int) -> None:
        if until > self._decided_of(job).instant_ms:
            self._ahead[job.id] = (job.generation, Mark(instant_ms=until, jobs_seq=seq))
            self._ahead_until = max(self._ahead_until, until)

    def _tell(self, now_ms: Ms, limit: int, missed: list[Missed]) -> None:
        """Make ranges, at most ``limit``, of the slots that do not run and whose time has come."""
        silent = self._silent
        while (first := self._first(silent)) is not None and first <= now_ms and len(missed) < limit:
            _, _, cursor = heapq.heappop(silent)
            paused = cursor.reason is Reason.PAUSED
            begin, end = (cursor.after, first) if paused else (first - 1, now_ms)
            low, high = cursor.next_after(begin), cursor.last_at_or_before(end)
            if low is None or high is None or cursor.reason is None:
                continue
            count = max(1, cursor.count(begin, end, catchup.COUNT_CAP))
            skipped = catchup.Skipped(cursor.slot_of(low), cursor.slot_of(high), count, cursor.reason)
            missed.append(Missed(cursor.entry, skipped))
            self._place(cursor, end)

    def _place(self, cursor: Cursor, after: Ms) -> None:
        """Put a cursor of either kind where its first undecided slot after ``after`` belongs."""
        if cursor.reason is None:
            self._push(cursor, after)
            return
        first = cursor.next_after(after)
        if cursor.reason is Reason.PAUSED and cursor.until is not None:
            # Told of as a whole, when it is over.
            whole = after < cursor.until and cursor.next_after(cursor.after) is not None
            first = cursor.until if whole else None
        cursor.next_ms = first
        if first is not None:
            self._order += 1
            heapq.heappush(self._silent, (first, self._order, cursor))

    def _push(self, cursor: Cursor, after: Ms) -> None:
        due = cursor.next_ms = cursor.next_after(after)
        if cursor.slots.failure is not None:
            # Also if there is an answer: that of a union's other members, or one without what an exclusion takes away.
            cursor.next_ms = None
            self._unanswered.add(cursor, after)
        elif due is not None:
            self._order += 1
            heapq.heappush(self._heap, (due, cursor.rank + self._order, cursor))

    def _first(self, heap: list[tuple[Ms, int, Cursor]]) -> Ms | None:
        while heap and not heap[0][2].alive:
            heapq.heappop(heap)
            self._dead = max(0, self._dead - 1)
        return heap[0][0] if heap else None


def _caught_up(cursor: Cursor) -> bool:
    """Whether a cursor of a job that is late is dealt with then: it has slots, and they run."""
    return cursor.reason is None and cursor.next_ms is not None
