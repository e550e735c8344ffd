"""What a leader owes, told by brute force from the whole history of a job and its calendars: no row, no cursor."""

from typing import NamedTuple

from natscron.model import CalendarSpec, ScheduleSpec
from natscron.schedule import Schedule, compile_schedule

FOREVER = 1 << 40


class Segment(NamedTuple):
    """A stretch of a job's history. ``spec`` None: paused."""

    spec: ScheduleSpec | None
    calendar: CalendarSpec | None
    from_ms: int
    until_ms: int


class Change(NamedTuple):
    """A write: of the job, or of the calendar that it may refer to."""

    at_ms: int
    schedule: ScheduleSpec | None = None
    paused: bool = False
    paused_until_ms: int | None = None
    calendar: CalendarSpec | None = None


def history(changes: list[Change], anchor_ms: int) -> "History":
    """The stretches that these writes make, each write with the whole state after it."""
    segments: list[Segment] = []
    for i, change in enumerate(changes):
        end = changes[i + 1].at_ms if i + 1 < len(changes) else FOREVER
        if not change.paused:
            segments.append(Segment(change.schedule, change.calendar, change.at_ms, end))
            continue
        ends = FOREVER if change.paused_until_ms is None else change.paused_until_ms
        resumed = max(change.at_ms, min(end, ends))
        if ends > change.at_ms:
            segments.append(Segment(None, None, change.at_ms, resumed))
        if resumed < end or ends <= change.at_ms:
            segments.append(Segment(change.schedule, change.calendar, resumed, end))
    merged: list[Segment] = []
    for segment in segments:
        if merged and (merged[-1].spec, merged[-1].calendar) == (segment.spec, segment.calendar):
            merged[-1] = merged[-1]._replace(until_ms=segment.until_ms)
        else:
            merged.append(segment)
    return History(merged, anchor_ms)


class History:
    """The slots of it."""

    def __init__(self, segments: list[Segment], anchor_ms: int) -> None:
        self.segments = segments
        self.anchor_ms = anchor_ms

    def owed(self, until_ms: int) -> dict[int, int]:
        """Every slot that is due at or before ``until_ms``, with its due instant."""
        found: dict[int, int] = {}
        for i, segment in enumerate(self.segments):
            if segment.spec is None:
                continue
            found |= {
                slot: due
                for slot, due in self._slots(segment, until_ms)
                if due <= until_ms and self._begun(i, slot, due) and not self._ended(i, slot, due)
            }
        return found

    def _slots(self, segment: Segment, until_ms: int) -> list[tuple[int, int]]:
        schedule = self._compiled(segment)
        found = []
        slot = schedule.next_after_ms(self.anchor_ms - 1)
        while slot is not None and slot <= min(until_ms, segment.until_ms):
            found.append((slot, schedule.dues.due_of(slot)))
            slot = schedule.next_after_ms(slot)
        return found

    def _compiled(self, segment: Segment) -> Schedule:
        assert segment.spec is not None
        calendars = {} if segment.calendar is None else {"c": segment.calendar}
        return compile_schedule(segment.spec, anchor_ms=self.anchor_ms, seed="a", calendars=calendars).schedule

    def _begun(self, i: int, slot: int, due: int) -> bool:
        segment = self.segments[i]
        if i == 0:
            start = segment.spec is not None and segment.spec.run_at_start
            return slot > segment.from_ms - (1 if start else 0)
        if self.segments[i - 1].spec is not None:
            return slot > segment.from_ms
        # What was before the pause belongs to the schedule before it. To the server slots are due when they are.
        by = slot if segment.spec is not None and segment.spec.timer else due
        return by > segment.from_ms and slot > self._pause_before(i)

    def _pause_before(self, i: int) -> int:
        while i and self.segments[i - 1].spec is None:
            i -= 1
        return self.segments[i].from_ms

    def _ended(self, i: int, slot: int, due: int) -> bool:
        if i + 1 == len(self.segments):
            return False
        spec = self.segments[i].spec
        by = slot if spec is not None and spec.timer else due
        paused = any(s.spec is None and s.from_ms < by <= s.until_ms for s in self.segments[i + 1 :])
        return paused or slot > self.segments[i].until_ms
