"""Jobs on virtual time: what would be run between two instants, and what not. Pure, and as fast as the planner.

It drives the same planner as a leader does, with the instants that would come instead of a clock, so that it decides
as a leader would: at each due instant, or, after an assumed outage, at its end, with catch-up. How long a run takes is
assumed too; with it the overlap policies decide. Runs do not fail here, so nothing is retried.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from natscron.engine.planner import Due, Missed, Planner
from natscron.engine.table import Entry
from natscron.model import Mark, Ms, Overlap, Reason, Trigger
from natscron.policy.overlap import Verdict, decide, leaving

__all__ = ["MAX_EVENTS", "Decision", "Event", "Outage", "Simulation"]

MAX_EVENTS: Final = 1_000_000
"""The most events that one simulation gives."""
_SEEN: Final = 1
_UNSEEN: Final = 2
_LEFT_OUT: Final = {Verdict.SKIP: Reason.OVERLAP_SKIP, Verdict.DROP: Reason.BUFFER_FULL}


class Decision(StrEnum):
    """What becomes of a slot."""

    RUN = "run"
    """It runs."""
    WAIT = "wait"
    """It waits for a run of its job that is going."""
    REPLACE = "replace"
    """It runs in the place of the one that is going."""
    SKIP = "skip"
    """It does not run, for ``reason``."""


class Outage(msgspec.Struct, frozen=True, order=True):
    """Nobody leads from ``from_ms`` on, until ``to_ms``, when a leader takes over."""

    from_ms: Ms
    to_ms: Ms


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision at ``at_ms``. A range of slots that do not run has ``from_ms``, ``to_ms`` and ``count``."""

    at_ms: Ms
    job: str
    decision: Decision
    trigger: Trigger = Trigger.SCHEDULE
    slot_ms: Ms | None = None
    due_ms: Ms | None = None
    reason: str = ""
    waited: bool = False
    """It had to wait, and starts now."""
    from_ms: Ms | None = None
    to_ms: Ms | None = None
    count: int | None = None


class _Run(msgspec.Struct):
    """A run that is going or waits."""

    entry: Entry
    due: Due
    alive: bool = True


class Simulation:
    """One simulation; :meth:`events` may be gone through once."""

    def __init__(  # noqa: PLR0913 - what is assumed
        self,
        entries: Sequence[Entry],
        *,
        from_ms: Ms,
        to_ms: Ms,
        duration_ms: Ms = 0,
        durations_ms: Mapping[str, Ms] | None = None,
        outages: Sequence[Outage] = (),
        grace_floor_ms: Ms = 0,
        limit: int = MAX_EVENTS,
    ) -> None:
        """Slots due in (``from_ms``, ``to_ms``].

        ``duration_ms``: how long a run takes, of each job unless ``durations_ms`` names it; 0: it ends at once.
        Outages may overlap. Jobs that were created before ``from_ms`` are taken as decided up to then; the others begin
        with their creation, so that a once job that is over is shown as such.
        """
        self.cut_ms: Ms | None = None
        """Where it ended because ``limit`` events were given; None: it went to the end."""
        self._from_ms = from_ms
        self._to_ms = to_ms
        self._duration_ms = duration_ms
        self._durations_ms = durations_ms or {}
        self._outages = _merged(outages)
        self._grace_floor_ms = grace_floor_ms
        self._limit = min(limit, MAX_EVENTS)
        self._going: dict[str, list[_Run]] = {}
        self._waiting: dict[str, deque[_Run]] = {}
        self._ends: list[tuple[Ms, int, _Run]] = []
        self._order = itertools.count()
        self._planner = Planner()
        self._planner.restart(Mark(instant_ms=from_ms, jobs_seq=_SEEN))
        for entry in entries:
            self._planner.put(entry)

    @staticmethod
    def seq_of(*, created_before: bool) -> int:
        """What ``counts_from.seq`` and ``generation`` of an entry have to be: whether the simulation finds it there."""
        return _SEEN if created_before else _UNSEEN

    def events(self) -> Iterator[Event]:
        """The events in the order of their instants, at most ``limit``; :attr:`cut_ms` says if there were more."""
        for given, event in enumerate(self._all()):
            if given >= self._limit:
                self.cut_ms = event.at_ms
                return
            yield event

    def _all(self) -> Iterator[Event]:
        now = self._awake(self._from_ms)
        while now <= self._to_ms:
            yield from self._decided_at(now)
            due = self._planner.next_due()
            coming = [*([due] if due is not None else []), *([self._ends[0][0]] if self._ends else [])]
            if not coming:
                return
            now = self._awake(max(now, min(coming)))

    def _decided_at(self, now: Ms) -> Iterator[Event]:
        """All that a leader decides at ``now``."""
        yield from self._let_go(now)
        more = True
        while more:
            window = self._planner.take(now, _UNSEEN, grace_floor_ms=self._grace_floor_ms)
            for missed in window.missed:
                yield _skipped(missed, now)
            for due in window.due:
                yield from self._due(due, now)
            more = window.more

    def _awake(self, at_ms: Ms) -> Ms:
        """The first instant from ``at_ms`` on at which somebody leads."""
        for outage in self._outages:
            if outage.from_ms <= at_ms < outage.to_ms:
                return outage.to_ms
        return at_ms

    # Runs that go on.

    def _due(self, due: Due, now: Ms) -> Iterator[Event]:
        job = due.cursor.entry.job
        going, waiting = self._going.get(job.id, []), self._waiting.get(job.id, ())
        verdict = decide(job.overlap, running=len(going), waiting=len(waiting))
        run = _Run(due.cursor.entry, due)
        if verdict is Verdict.BUFFER:
            self._waiting.setdefault(job.id, deque()).append(run)
            yield self._event(run, now, Decision.WAIT)
        elif verdict in _LEFT_OUT:
            yield self._event(run, now, Decision.SKIP, _LEFT_OUT[verdict])
        else:
            yield self._begin(run, now, verdict)

    def _begin(self, run: _Run, now: Ms, verdict: Verdict, *, waited: bool = False) -> Event:
        job = run.entry.job
        replaces = verdict is Verdict.REPLACE
        if replaces:
            for other in (*self._going.pop(job.id, ()), *self._waiting.pop(job.id, ())):
                other.alive = False
        duration = self._durations_ms.get(job.id, self._duration_ms)
        # With `allow` nobody asks whether one is going, so there is no need to remember it.
        if duration > 0 and job.overlap is not Overlap.ALLOW:
            self._going.setdefault(job.id, []).append(run)
            heapq.heappush(self._ends, (now + duration, next(self._order), run))
        return self._event(run, now, Decision.REPLACE if replaces else Decision.RUN, waited=waited)

    def _let_go(self, now: Ms) -> Iterator[Event]:
        """Runs that have ended by now, and what waited for them."""
        while self._ends and self._ends[0][0] <= now:
            _, _, run = heapq.heappop(self._ends)
            if not run.alive:
                continue
            job = run.entry.job
            going = self._going.get(job.id, [])
            going[:] = [other for other in going if other is not run]
            if not going:
                self._going.pop(job.id, None)
            line = self._waiting.pop(job.id, None)
            if line is None:
                continue
            kept: deque[_Run] = deque()
            verdicts = leaving([job.overlap] * len(line), running=len(going))
            for other, verdict in zip(line, verdicts, strict=True):
                if verdict is Verdict.BUFFER:
                    kept.append(other)
                elif verdict in _LEFT_OUT:
                    yield self._event(other, now, Decision.SKIP, _LEFT_OUT[verdict])
                else:
                    yield self._begin(other, now, verdict, waited=True)
            if kept:
                self._waiting[job.id] = kept

    @staticmethod
    def _event(run: _Run, now: Ms, decision: Decision, reason: str = "", *, waited: bool = False) -> Event:
        due = run.due
        return Event(
            at_ms=now,
            job=run.entry.job.id,
            decision=decision,
            trigger=due.trigger,
            slot_ms=due.slot_ms,
            due_ms=due.due_ms,
            reason=str(reason),
            waited=waited,
        )


def _skipped(missed: Missed, now: Ms) -> Event:
    skipped = missed.skipped
    return Event(
        at_ms=now,
        job=missed.entry.job.id,
        decision=Decision.SKIP,
        reason=str(skipped.reason),
        from_ms=skipped.from_ms,
        to_ms=skipped.to_ms,
        count=skipped.count,
    )


def _merged(outages: Sequence[Outage]) -> list[Outage]:
    """In order, those that touch as one."""
    found: list[Outage] = []
    for outage in sorted(outages):
        if found and outage.from_ms <= found[-1].to_ms:
            found[-1] = Outage(found[-1].from_ms, max(found[-1].to_ms, outage.to_ms))
        else:
            found.append(outage)
    return found
