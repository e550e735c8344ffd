"""The past of an explanation: records and slots of a window, joined. Pure.

A slot with a record is what the record says; one inside a range record is part of that range; the others are named by
what is known: not decided yet, taken away by an exclusion, paused, or without a record although there should be one.

Work is bounded: at most :data:`MAX_SLOTS` slots are looked at, the newest of the window, and :data:`MAX_LINES` lines
are given.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from natscron.engine.explain.gaps import count_slots, excluded, merged, slots_text
from natscron.engine.explain.lines import GOING, RAN, Asked, Line, What, Why
from natscron.engine.explain.slots import Stretch, Wall
from natscron.engine.explain.words import instant_of, said, story, why
from natscron.model import Ms, Reason, Run, RunStatus, Trigger
from natscron.schedule import format_instant

__all__ = ["MAX_LINES", "MAX_SLOTS", "Past", "latest"]

MAX_SLOTS: Final = 1_000
"""Slots of the past that are looked at one by one."""
MAX_LINES: Final = 2_000
"""Lines of the past; runs that no slot asked for have lines too."""

_YOUNG_MS: Final[Ms] = 10_000
"""How long a record may be on its way to the history."""
_OWN: Final = frozenset({Trigger.SCHEDULE, Trigger.CATCHUP})


def latest(runs: Iterable[Run]) -> dict[str, Run]:
    """The newest record of each run, by run id."""
    found: dict[str, Run] = {}
    for run in runs:
        if run.run_id is None:
            continue
        known = found.get(run.run_id)
        # A final record beats one of the same try that was on its way.
        if known is None or (run.attempt, run.status not in GOING) >= (known.attempt, known.status not in GOING):
            found[run.run_id] = run
    return found


class Past:
    """Collects the lines of a window, newest first where their number is bounded."""

    def __init__(self, asked: Asked, stretches: list[Stretch], wall: Wall, latest: dict[str, Run]) -> None:
        self._asked = asked
        self._stretches = stretches
        self._wall = wall
        self._until = min(asked.until_ms, asked.now_ms + 1)
        inside = [run for run in latest.values() if self._inside(run.scheduled_at_ms)]
        self._by_slot = {run.scheduled_at_ms: run for run in inside if run.trigger in _OWN}
        self._others = [run for run in inside if run.trigger not in _OWN]
        self._ranges = _ranges(asked.runs, asked.since_ms, self._until)
        self._starts, self._ends = _covered([run for run in self._ranges if run.count != 0])
        self._oldest = min((instant_of(run) for run in asked.runs), default=None)
        self._left = MAX_SLOTS
        self._found: list[Line] = []
        self._cut: Line | None = None

    def _inside(self, at_ms: Ms | None) -> bool:
        return at_ms is not None and self._asked.since_ms <= at_ms < self._until

    def lines(self) -> list[Line]:
        """The lines, oldest first."""
        asked = self._asked
        if asked.entry.job.invalid is not None:
            self._found.append(
                Line(
                    what=What.INVALID,
                    reason=Reason.INVALID_JOB,
                    text=f"the stored job cannot be honoured and has no slots: {asked.entry.job.invalid}",
                )
            )
        self._found += [self._ran(run) for run in (*self._by_slot.values(), *self._others)]
        self._found += [self._range(run) for run in self._ranges]
        for stretch in reversed(self._stretches):
            if not self._walk(stretch):
                break
        self._beginnings()
        found = sorted(self._found, key=_order)
        if self._cut is not None:
            end = self._cut.to_ms or 0
            found = [self._cut, *(line for line in found if line.when_ms > end)]
        found = merged(found)
        if len(found) > MAX_LINES:
            over = len(found) - MAX_LINES
            dropped = found[: over + 1]
            cut = Line(
                what=What.CUT,
                reason=Why.LIMIT,
                text=f"{len(dropped)} earlier lines are not shown: ask for a shorter window",
                from_ms=asked.since_ms,
                to_ms=max(asked.since_ms, dropped[-1].when_ms),
                count=len(dropped),
            )
            found = [cut, *found[over + 1 :]]
        return found

    # Lines that records give.

    def _ran(self, run: Run) -> Line:
        at = run.scheduled_at_ms or 0
        what = What.FAILED
        if run.status in RAN:
            what = What.RAN
        elif run.status in GOING:
            what = What.GOING
        elif run.status is RunStatus.SKIPPED:
            what = What.NOT_RUN
        slot = run.trigger is not Trigger.MANUAL
        return Line(
            what=what,
            reason=run.reason or "",
            text=story(run),
            at_ms=at,
            local=self._wall.local(at),
            mark=self._mark(at) if slot else "",
            run=run,
        )

    def _mark(self, at_ms: Ms) -> str:
        """What a clock change did to a slot that was run; empty if the present schedule has no such slot."""
        schedule = self._stretches[-1].schedule if self._stretches else None
        return "" if schedule is None or schedule.last_at_or_before_ms(at_ms) != at_ms else schedule.mark(at_ms)

    def _range(self, run: Run) -> Line:
        first, last = run.from_ms or 0, run.to_ms or 0
        count = 1 if run.count is None else run.count
        # A record of no slot says from when on something holds.
        told = f"{slots_text(count)} not run" if count else "none runs from here on"
        return Line(
            what=What.NOT_RUN,
            reason=run.reason or "",
            text=f"{told}: {why(run.reason)}{said(run)}",
            from_ms=max(first, self._asked.since_ms),
            to_ms=min(last, self._until - 1),
            # The record counts all of its slots; a part of it does not.
            count=count if first >= self._asked.since_ms and last < self._until else None,
            run=run,
        )

    # Slots that have none.

    def _walk(self, stretch: Stretch) -> bool:
        """The stretch's slots without a record; False when the bound was reached."""
        since, newer = self._asked.since_ms, None
        top = self._until - 1
        for slot, due in stretch.back(since, top):
            if due > self._asked.now_ms:
                continue  # the future has it
            if self._left <= 0:
                self._cut_at(stretch, slot)
                return False
            self._left -= 1
            if stretch.base is not None:
                self._excluded(stretch, slot, top if newer is None else newer - 1)
            newer = slot
            if slot not in self._by_slot and not self._in_range(slot):
                self._found.append(self._without(stretch, slot, due))
        if stretch.base is not None:
            low = max(since - 1, stretch.after_ms)
            self._excluded(stretch, low, min(top, stretch.until_ms or top) if newer is None else newer - 1)
        return True

    def _cut_at(self, stretch: Stretch, slot: Ms) -> None:
        since = max(self._asked.since_ms, stretch.after_ms + 1)
        more = count_slots(stretch.schedule, since - 1, slot)
        self._cut = Line(
            what=What.CUT,
            reason=Why.LIMIT,
            text=f"{more} or more earlier slots are not shown, {MAX_SLOTS} are: ask for a shorter window",
            from_ms=self._asked.since_ms,
            to_ms=slot,
            count=more,
        )

    def _excluded(self, stretch: Stretch, after_ms: Ms, until_ms: Ms) -> None:
        """What exclusions took away between two slots."""
        if stretch.base is not None and not stretch.paused:
            self._found += excluded(stretch, stretch.base, after_ms, until_ms, What.NOT_RUN)

    def _in_range(self, slot: Ms) -> bool:
        place = bisect_right(self._starts, slot) - 1
        return place >= 0 and slot <= self._ends[place]

    def _without(self, stretch: Stretch, slot: Ms, due: Ms) -> Line:
        asked, job = self._asked, self._asked.entry.job
        mark = asked.mark
        reason: str
        if slot in asked.waiting:
            what, reason, text = What.GOING, Why.WAITS, "waits until the run before it has ended (overlap)"
        elif stretch.paused:
            what, reason, text = What.NOT_RUN, str(Reason.PAUSED), f"not run: {why(Reason.PAUSED)}"
        elif job.skip is not None and job.skip.from_ms < slot <= job.skip.until_ms:
            what, reason, text = What.NOT_RUN, str(Reason.SKIP_NEXT), f"not run: {why(Reason.SKIP_NEXT)}"
        elif mark is None or due > mark.instant_ms or stretch.seq > mark.jobs_seq:
            upto = "nothing is decided yet" if mark is None else f"decided up to {format_instant(mark.instant_ms)}"
            what, reason = What.UNDECIDED, Why.AFTER_MARK
            text = f"not decided yet ({upto}): the leader does so in a moment, or the next one by catch-up"
        else:
            what = What.NO_RECORD
            reason, text = self._missing(slot, due)
        return Line(
            what=what,
            reason=reason,
            text=text,
            at_ms=slot,
            local=stretch.wall.local(slot),
            due_ms=due if due != slot else None,
            mark=stretch.schedule.mark(slot),
            earlier=stretch is not self._stretches[-1],
        )

    def _missing(self, slot: Ms, due: Ms) -> tuple[str, str]:
        asked = self._asked
        if due > asked.now_ms - _YOUNG_MS:
            return Why.NOT_WRITTEN, "no record yet: records are written behind, ask again in a moment"
        if asked.read_from_ms is not None and slot <= asked.read_from_ms:
            return Why.NOT_READ, "not looked at: too many newer records; ask for a shorter window"
        if self._oldest is None or slot < self._oldest:
            return Why.AGED_OUT, f"no record any more: the history keeps {asked.keeps}"
        return Why.LOST, (
            "no record, although the history has older ones: it was lost, or the run was left to another service"
        )

    def _beginnings(self) -> None:
        """What came before the first slot that counts."""
        asked, job = self._asked, self._asked.entry.job
        born = job.created_at_ms if job.generation else 0
        if self._cut is not None:
            return
        if asked.since_ms < min(born, self._until):
            self._found.append(
                Line(
                    what=What.NOT_RUN,
                    reason=Why.BEFORE_JOB,
                    text=f"the job did not exist before {format_instant(born)}",
                    from_ms=asked.since_ms,
                    to_ms=min(born, self._until) - 1,
                )
            )
        begins = max((s.after_ms for s in self._stretches[:1]), default=0)
        start = max(asked.since_ms, born)
        if start <= min(begins, self._until - 1) and begins > born:
            self._found.append(
                Line(
                    what=What.NOT_RUN,
                    reason=Why.BEFORE_SCHEDULE,
                    text=f"the present schedule counts from {format_instant(begins)}, when it was changed or the job "
                    "resumed; of the time before, only the records tell",
                    from_ms=start,
                    to_ms=min(begins, self._until - 1),
                )
            )


def _ranges(runs: Iterable[Run], since_ms: Ms, until_ms: Ms) -> list[Run]:
    """The range records that reach into [since, until), each once."""
    found: dict[tuple[Ms, Ms, str | None], Run] = {}
    for run in runs:
        first, last = run.from_ms, run.to_ms
        if run.run_id is None and first is not None and last is not None and first < until_ms and last >= since_ms:
            found[first, last, run.reason] = run
    return list(found.values())


def _covered(ranges: Iterable[Run]) -> tuple[list[Ms], list[Ms]]:
    """Where ranges begin and end, in order, those that overlap as one."""
    starts: list[Ms] = []
    ends: list[Ms] = []
    for first, last in sorted((run.from_ms or 0, run.to_ms or 0) for run in ranges):
        if ends and first <= ends[-1]:
            ends[-1] = max(ends[-1], last)
        else:
            starts.append(first)
            ends.append(last)
    return starts, ends


def _order(line: Line) -> tuple[Ms, bool]:
    """By time; what is about a range before what lies in it."""
    return line.when_ms, line.at_ms is not None
