"""Tries of runs in the memory queue, and the lines in which they wait for a claim. No clock, no I/O."""

import heapq
from collections.abc import Iterator
from typing import Final

from natscron.model import Claim, Delivery, Ms, OpenState, QueuedRun, Run, RunStatus

__all__ = ["Line", "Try"]

_STALE_MIN: Final = 64


class Try:
    """One try of one run, as long as it is not over."""

    __slots__ = ("attempt", "cancel", "instance", "not_before", "order", "reason", "run", "started", "state", "worker")

    def __init__(self, run: QueuedRun, attempt: int, not_before: Ms, order: int, reason: str | None) -> None:
        self.run = run
        self.attempt = attempt
        self.not_before = not_before
        self.order = order
        self.reason = reason
        self.state = OpenState.PENDING
        self.worker = ""
        self.instance = ""
        self.started: Ms = 0
        self.cancel = ""

    def __lt__(self, other: "Try") -> bool:
        return (-self.run.priority, self.not_before, self.order) < (
            -other.run.priority,
            other.not_before,
            other.order,
        )

    @property
    def waiting(self) -> bool:
        """It may be claimed, now or at its instant."""
        return self.state is OpenState.PENDING

    def begin(self, worker: str, instance: str, now_ms: Ms) -> None:
        """It is claimed."""
        self.state, self.reason = OpenState.RUNNING, None
        self.worker, self.instance, self.started = worker, instance, now_ms

    def undo(self) -> None:
        """As if it had never been claimed."""
        self.worker, self.instance, self.started = "", "", 0

    def claim(self, last_completed_ms: Ms | None) -> Claim:
        """As its worker sees it."""
        run = self.run
        return Claim(
            run_id=run.run_id,
            job=run.job,
            generation=run.generation,
            scheduled_at_ms=run.scheduled_at_ms,
            due_ms=run.due_ms,
            trigger=run.trigger,
            attempt=self.attempt,
            handler=run.handler,
            payload=run.payload,
            worker=self.worker,
            started_ms=self.started,
            last_completed_ms=last_completed_ms,
        )

    def record(self, status: RunStatus, **ending: "str | int | None") -> Run:
        """As the history shows it."""
        run, started = self.run, self.started or None
        finished = ending.get("finished_at_ms")
        return Run(
            job=run.job,
            status=status,
            run_id=run.run_id,
            scheduled_at_ms=run.scheduled_at_ms,
            started_at_ms=started,
            attempt=self.attempt,
            trigger=run.trigger,
            delivery=Delivery.HANDLER,
            lateness_ms=None if started is None else started - run.due_ms,
            duration_ms=None if started is None or not isinstance(finished, int) else finished - started,
            instance=self.instance,
            **{"reason": self.reason, **ending},  # type: ignore[arg-type]
        )


class Line:
    """What waits for one handler: heaps of what is due and of what will be.

    A try that is dropped stays in its heap until it comes to the top, or until half of the heap is such.
    """

    __slots__ = ("_due", "_later", "_stale")

    def __init__(self) -> None:
        self._due: list[Try] = []
        self._later: list[tuple[Ms, int, Try]] = []
        self._stale = 0

    def __bool__(self) -> bool:
        return bool(self._due or self._later)

    def put(self, one: Try, now_ms: Ms) -> None:
        """It waits."""
        if one.not_before > now_ms:
            heapq.heappush(self._later, (one.not_before, one.order, one))
        else:
            heapq.heappush(self._due, one)

    def dropped(self) -> None:
        """One of these waits no more, without having been taken."""
        self._stale += 1
        if self._stale > max(_STALE_MIN, (len(self._due) + len(self._later)) // 2):
            self._stale = 0
            self._due = [one for one in self._due if one.waiting]
            self._later = [entry for entry in self._later if entry[2].waiting]
            heapq.heapify(self._due)
            heapq.heapify(self._later)

    def first(self, now_ms: Ms) -> Try | None:
        """The one whose turn is next, if any is due."""
        later, due = self._later, self._due
        while later and later[0][0] <= now_ms:
            heapq.heappush(due, heapq.heappop(later)[2])
        while due and not due[0].waiting:
            heapq.heappop(due)
            self._stale -= 1
        return due[0] if due else None

    def pop(self) -> None:
        """Take out what :meth:`first` gave."""
        heapq.heappop(self._due)

    def next_ms(self) -> Ms | None:
        """When the next one is due of those that :meth:`first` found not to be."""
        later = self._later
        while later and not later[0][2].waiting:
            heapq.heappop(later)
            self._stale -= 1
        return later[0][0] if later else None

    def all_due(self, now_ms: Ms) -> Iterator[Try]:
        """All that are due, in any order."""
        self.first(now_ms)
        return (one for one in self._due if one.waiting)
