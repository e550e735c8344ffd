"""What of a job is still undecided at a mark: stretches of its versions' slots, each with a place in time. Pure.

Cursors count in *due* instants, as the mark does; with jitter these lie behind the slots. Where a slot belongs is
decided by the slot: an edit at T leaves the version before it its slots up to T, however late these are due. A pause is
about what is due in it. Both kinds of bounds are turned into due instants once, when a cursor is made, so that whoever
runs through the slots compares numbers only.

A silent cursor (``reason`` set) has slots that do not run: those that a user asked to be left out (SKIP_NEXT), and
those of a pause (PAUSED), which are told of when it is over.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from natscron.engine.table import Entry
from natscron.engine.timeline import InForce, compiled, timeline
from natscron.model import Mark, Ms, Reason, Skip
from natscron.schedule import Schedule
from natscron.schedule.base import Wrapper
from natscron.schedule.interval import IntervalSchedule
from natscron.schedule.once import OnceSchedule
from natscron.schedule.servertimed import ServerTimedSchedule

__all__ = ["NEVER", "Cursor", "bound_of", "cursors_of"]

NEVER: Final[Ms] = -(1 << 62)
_NONE: Final = OnceSchedule(NEVER)
_RANK: Final = 1 << 44
"""More than there are pushes into a heap in a process's life."""


def bound_of(schedule: Schedule, slot_ms: Ms) -> Ms:
    """The due instant up to which the slots at or before ``slot_ms`` are due, and none that is later."""
    dues = schedule.dues
    if dues is schedule:
        return slot_ms
    last = schedule.last_at_or_before_ms(slot_ms)
    return slot_ms if last is None else max(slot_ms, dues.due_of(last))


def _edge(schedule: Schedule, at_ms: Ms) -> Ms:
    """Up to which due instant what is before ``at_ms`` lies, a pause's begin or end.

    A pause is about what is due in it, and to the server, which times them, slots are due when they are.
    """
    return bound_of(schedule, at_ms) if isinstance(schedule, ServerTimedSchedule) else at_ms


def _arithmetic(schedule: Schedule) -> bool:
    """Whether counting costs the same however many there are."""
    while isinstance(schedule, Wrapper):
        schedule = schedule.inner
    return isinstance(schedule, IntervalSchedule)


class Cursor(msgspec.Struct, eq=False, gc=False):
    """A stretch of one job's slots: those due after ``after``, up to ``until`` (None: open). All in due instants."""

    entry: Entry
    slots: Schedule
    after: Ms
    until: Ms | None
    schedule: Schedule = _NONE
    """The due instants; the very same object as ``slots`` unless there is jitter."""
    reason: Reason | None = None
    """Why its slots do not run; None: they do."""
    alive: bool = True
    rank: int = 0
    """What orders cursors at one instant, together with a running number."""
    next_ms: Ms | None = None
    """The due instant that lies in the heap; all before it were yielded."""
    shadow: Schedule | None = None
    shadow_from: Ms = NEVER
    shadow_until: Ms = NEVER

    def __post_init__(self) -> None:
        """What follows from the rest."""
        self.schedule = self.slots.dues
        self.rank = -self.entry.job.priority * _RANK

    def slot_of(self, due_ms: Ms) -> Ms:
        """The slot that is due at ``due_ms``."""
        return due_ms if self.schedule is self.slots else self.schedule.slot_of(due_ms)

    def bound(self, slot_ms: Ms) -> Ms:
        """The due instant up to which its slots at or before ``slot_ms`` are due."""
        return bound_of(self.slots, slot_ms)

    def _shadowed(self, due: Ms) -> bool:
        """The version that the mark's leader knew has this slot too, and it was decided then."""
        shadow = self.shadow
        if shadow is None:
            return False
        slot = self.slot_of(due)
        if shadow.last_at_or_before_ms(slot) != slot:
            return False
        return self.shadow_from < bound_of(shadow, slot) <= self.shadow_until

    def next_after(self, t_ms: Ms) -> Ms | None:
        """The first undecided due instant later than ``t_ms``."""
        due = self.schedule.next_after_ms(max(self.after, t_ms))
        # The slot may have been due earlier than it is now: it lies before its due instants.
        while due is not None and self.shadow is not None and self.slot_of(due) <= self.shadow_until:
            if not self._shadowed(due):
                break
            due = self.schedule.next_after_ms(due)
        return None if due is None or (self.until is not None and due > self.until) else due

    def last_at_or_before(self, t_ms: Ms) -> Ms | None:
        """The last undecided due instant at or before ``t_ms``."""
        due = self.schedule.last_at_or_before_ms(t_ms if self.until is None or t_ms < self.until else self.until)
        while due is not None and due > self.after and self._shadowed(due):
            due = self.schedule.last_at_or_before_ms(due - 1)
        return None if due is None or due <= self.after else due

    def count(self, after_ms: Ms, until_ms: Ms, cap: int) -> int:
        """Slots undecided and due in (after, until]; those shadowed are few and counted along.

        ``cap`` bounds what has to be walked; an interval's slots are counted by arithmetic, exactly.
        """
        end = until_ms if self.until is None or until_ms < self.until else self.until
        start = max(after_ms, self.after)
        if end <= start:
            return 0
        # No more than one slot lies in a millisecond.
        return self.schedule.count(start, end, end - start if _arithmetic(self.slots) else cap)

    def part(self, after: Ms, until: Ms | None) -> "Cursor | None":
        """What of it lies in (after, until], as a new cursor; None if nothing can."""
        after = max(after, self.after)
        if until is None or (self.until is not None and self.until < until):
            until = self.until
        if until is not None and until <= after:
            return None
        twin = Cursor(self.entry, self.slots, after, until)
        twin.reason = self.reason
        twin.shadow_by(self)
        return twin

    def shadow_by(self, other: "Cursor") -> None:
        """Leave out what ``other`` leaves out."""
        self.shadow, self.shadow_from, self.shadow_until = other.shadow, other.shadow_from, other.shadow_until


def cursors_of(entry: Entry, mark: Mark) -> list[Cursor]:
    """What of a job is still undecided at ``mark``, each version's stretch in their order."""
    schedule = entry.schedule
    if schedule is None:
        return []
    job = entry.job
    newest = entry.counts_from
    if (
        newest.seq <= mark.jobs_seq
        and newest.at_ms <= mark.instant_ms
        and schedule.dues is schedule
        and job.paused_until_ms is None
        and all(v.schedule is None or (v.schedule.jitter is None and v.schedule.timer is None) for v in job.previous)
    ):
        # By far the most frequent case, kept short: the mark is behind every change.
        found = [] if job.paused else [Cursor(entry, schedule, mark.instant_ms, None)]
    else:
        found = _from_versions(entry, mark)
    return found if job.skip is None else _without_skipped(found, job.skip)


def _from_versions(entry: Entry, mark: Mark) -> list[Cursor]:
    believed = timeline(entry)
    versions = [version for version in believed if not version.void]
    believed = [version for version in believed if version.since.seq <= mark.jobs_seq]
    last = len(versions) - 1
    known = max((i for i, v in enumerate(versions) if v.since.seq <= mark.jobs_seq), default=-1)
    schedules = [compiled(entry, v, last=i == last) for i, v in enumerate(versions)]
    floors: list[Ms] = []
    shadow: tuple[Schedule | None, Ms] | None = None
    found: list[Cursor] = []
    for i, (version, schedule) in enumerate(zip(versions, schedules, strict=True)):
        if version.spec is None and i < last and (i >= known or versions[i + 1].since.at_ms > mark.instant_ms):
            found += _paused(entry, versions, i, schedules)
        if schedule is None:
            floors.append(version.since.at_ms)
            continue
        floor = _floor(entry, versions, i, schedule)
        floors.append(floor)
        # Normally nothing is left of the versions before the known one. But a leader whose clock is behind the
        # store's may have seen a write from its own future, before which slots of the old version are undecided.
        after = max(mark.instant_ms, floor) if i <= known else floor
        until = version.until
        if until is not None and until >= version.since.at_ms:
            until = bound_of(schedule, until)
        if until is not None and until <= after:
            continue
        cursor = Cursor(entry, schedule, after, until)
        if i > known >= 0:
            if shadow is None:
                shadow = schedules[known], floors[known]
                if believed[-1].void:
                    shadow = _void_shadow(entry, versions[: known + 1], believed[-1])
            cursor.shadow, cursor.shadow_from = shadow
            cursor.shadow_until = mark.instant_ms
        jittered = version.spec is not None and version.spec.jitter is not None
        if jittered and until is not None and version.until is not None and until > version.until:
            # Jitter leaves slots of it to the time after its end, and some of that may be a pause.
            found += _around_pauses(cursor, versions[i + 1 :])
        else:
            found.append(cursor)
    return found


def _around_pauses(cursor: Cursor, following: Sequence[InForce]) -> list[Cursor]:
    """What of a cursor is not due in a later pause, and what is as silent cursors."""
    found: list[Cursor | None] = []
    rest: Cursor | None = cursor
    for version in following:
        if version.spec is None and rest is not None:
            begin, end = version.since.at_ms, version.until
            silent = None if end is None else rest.part(begin, end)
            if silent is not None:
                silent.reason = Reason.PAUSED
            found += [rest.part(NEVER, begin), silent]
            rest = None if end is None else rest.part(end, None)
    return [one for one in (*found, rest) if one is not None]


def _void_shadow(entry: Entry, versions: Sequence[InForce], void: InForce) -> tuple[Schedule | None, Ms]:
    schedule = compiled(entry, void, last=False)
    if schedule is None:
        return None, NEVER
    return schedule, _floor(entry, [*versions, void], len(versions), schedule)


def _floor(entry: Entry, versions: Sequence[InForce], i: int, schedule: Schedule) -> Ms:
    """After which due instant the version at ``i``, unseen by the mark's leader, has its slots."""
    version = versions[i]
    spec = version.spec
    since = version.since.at_ms
    # After a pause: what the version before the pause had up to it is that one's, also if it is due after the pause.
    begun = i
    while begun and versions[begun - 1].spec is None:
        begun -= 1
    floor = max(_edge(schedule, since), bound_of(schedule, versions[begun].since.at_ms))
    if spec is None or not version.own:
        return floor
    # A generation that comes from another store may equal this store's sequence by chance.
    created = i == 0 and entry.job.generation in (0, version.since.seq) and since == entry.job.anchor_ms
    if created and spec.run_at_start:
        return min(floor, bound_of(schedule, entry.job.anchor_ms - 1))
    if spec.at is not None and (at := schedule.next_after_ms(NEVER)) is not None:
        # An edit reaches back no further than the version it replaces, and a resume not at all: what was due
        # before is either decided or was due while the job was paused.
        replaced = versions[i - 1] if i else None
        if created or (replaced is not None and replaced.spec is not None and at > replaced.since.at_ms):
            return min(floor, bound_of(schedule, at - 1))
    return floor


def _paused(entry: Entry, versions: Sequence[InForce], i: int, schedules: Sequence[Schedule | None]) -> list[Cursor]:
    """The slots of the pause at ``i``, as the schedule has them that goes on, or would."""
    version, over = versions[i], versions[i].until
    on = next((k for k in range(i + 1, len(versions)) if versions[k].spec is not None), -1)
    spec = entry.job.schedule if on < 0 else versions[on].spec
    schedule = entry.schedule if on < 0 else schedules[on]
    if spec is None or schedule is None or over is None:
        return []
    if spec.at is not None and versions[i + 1].since.seq != version.since.seq:
        # The planner tells of a once slot by itself, unless the pause ended by itself.
        return []
    over = _edge(schedule, over)
    # After a version what is before belongs to that, which tells of it by itself.
    first = i == 0 or versions[i - 1].spec is not None
    after = (bound_of if first else _edge)(schedule, version.since.at_ms)
    if over <= after:
        return []
    cursor = Cursor(entry, schedule, after, over)
    cursor.reason = Reason.PAUSED
    return [cursor]


def _without_skipped(cursors: Sequence[Cursor], skip: Skip) -> list[Cursor]:
    """The same, with the slots in the skip as silent cursors of their own."""
    found: list[Cursor | None] = []
    for cursor in cursors:
        if cursor.reason is not None:
            found.append(cursor)
            continue
        begin, end = cursor.bound(skip.from_ms), cursor.bound(skip.until_ms)
        if end <= begin:
            found.append(cursor)
            continue
        silent = cursor.part(begin, end)
        if silent is not None:
            silent.reason = Reason.SKIP_NEXT
        found += [cursor.part(NEVER, begin), silent, cursor.part(end, None)]
    return [cursor for cursor in found if cursor is not None]
