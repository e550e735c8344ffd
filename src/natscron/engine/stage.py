"""Turns due slots into encoded runs, ahead of their instant where there is time.

What is staged is still undecided: it waits here by due instant, and what changed meanwhile is left out when the
instant comes, because its cursor is no longer alive; the planner then has the job's new slots.
"""

import heapq
import logging
from collections.abc import Callable
from itertools import chain
from typing import Final

from natscron.engine.journal import CHUNK_BYTES, CHUNK_RUNS, Ready
from natscron.engine.planner import Due
from natscron.engine.target import Dispatch, Refusal, Target
from natscron.errors import LimitExceededError, MalformedInputError
from natscron.ids import RunIds
from natscron.model import Delivery, Job, Ms, Overlap, Reason, Run, RunStatus
from natscron.storage.protocol import LeaderLink

log = logging.getLogger("natscron.leader")

STAGED_MAX: Final = 100_000
_IDS_MAX: Final = 65_536


class Encoder:
    """Makes a due slot into a :class:`Ready` run; what cannot be sent becomes a record."""

    def __init__(
        self, namespace: str, instance: str, target: Target, link: LeaderLink, record: Callable[[Run], None]
    ) -> None:
        self._namespace = namespace
        self._instance = instance
        self._target = target
        self._link = link
        self._record = record
        self._ids: dict[tuple[str, int], RunIds] = {}

    def run_id(self, job: Job, slot_ms: Ms) -> str:
        """The id of a job's slot."""
        key = (job.id, job.generation)
        ids = self._ids.get(key)
        if ids is None:
            if len(self._ids) >= _IDS_MAX:
                self._ids.clear()
            ids = self._ids[key] = RunIds(self._namespace, job.id, job.generation)
        return ids.at(slot_ms)

    def ready(self, due: Due) -> Ready | None:
        """Encode; None when the run was refused, which is recorded."""
        job = due.cursor.entry.job
        run_id = self.run_id(job, due.slot_ms)
        try:
            delivery = self._target.delivery_of(job)
            message = self._target.encode(
                job, Dispatch(run_id, due.slot_ms, 1, due.trigger, due_ms=due.due_ms), delivery
            )
        except Exception as error:
            # A target must not raise; but if it does for one job, the others run.
            log.exception("job cannot be encoded", extra={"job": job.id})
            self._refused(due, run_id, Refusal(Reason.INVALID_JOB, f"{type(error).__name__}: {error}"))
            return None
        if isinstance(message, Refusal):
            self._refused(due, run_id, message)
            return None
        try:
            staged = self._link.stage(message)
        except LimitExceededError as error:
            self._refused(due, run_id, Refusal(Reason.TOO_LARGE, str(error)))
            return None
        except MalformedInputError as error:
            self._refused(due, run_id, Refusal(Reason.INVALID_JOB, str(error)))
            return None
        # Only where it is known when a run ends.
        guarded = job.overlap is not Overlap.ALLOW and (job.reports or delivery is Delivery.REQUEST)
        return Ready(
            due.due_ms, due.slot_ms, due.cursor, due.trigger, run_id, delivery, staged, job.id, guarded, job.reports
        )

    def _refused(self, due: Due, run_id: str, refusal: Refusal) -> None:
        self._record(
            Run(
                job=due.cursor.entry.job.id,
                status=RunStatus.FAILED,
                run_id=run_id,
                scheduled_at_ms=due.slot_ms,
                reason=refusal.reason,
                error=refusal.error,
                trigger=due.trigger,
                instance=self._instance,
            )
        )


class _Staged:
    """The runs of one instant, cut into chunks while there is time for it."""

    __slots__ = ("_mixed", "_rank", "chunks", "count", "size")

    def __init__(self) -> None:
        self.chunks: list[list[Ready]] = []
        self.count = 0
        self.size = CHUNK_BYTES
        self._rank: int | None = None
        self._mixed = False
        """A run of higher priority came behind one of a lower: its job was changed after the others were encoded."""

    def add(self, run: Ready) -> None:
        if self.size >= CHUNK_BYTES or len(self.chunks[-1]) >= CHUNK_RUNS:
            self.chunks.append([])
            self.size = 0
        rank = run.cursor.rank
        if self._rank is not None and rank < self._rank:
            self._mixed = True
        self._rank = rank
        self.chunks[-1].append(run)
        self.size += run.staged.size
        self.count += 1

    def sorted(self) -> "_Staged":
        """The runs in the order of their priorities; itself if they are."""
        if not self._mixed:
            return self
        found = _Staged()
        for run in sorted(chain.from_iterable(self.chunks), key=lambda run: run.cursor.rank):
            found.add(run)
        return found


class Stage:
    """Encoded runs by due instant."""

    def __init__(self) -> None:
        self._instants: list[Ms] = []
        self._staged: dict[Ms, _Staged] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def next_due(self) -> Ms | None:
        """The earliest staged instant."""
        return self._instants[0] if self._instants else None

    def add(self, run: Ready) -> None:
        """Keep a run until its instant."""
        staged = self._staged.get(run.due_ms)
        if staged is None:
            staged = self._staged[run.due_ms] = _Staged()
            heapq.heappush(self._instants, run.due_ms)
        staged.add(run)
        self._count += 1

    def take(self, now_ms: Ms) -> list[list[Ready]]:
        """The runs due at or before ``now_ms`` whose job is as it was when they were encoded.

        In chunks of one write each; small ones of instants that follow each other are put together.
        """
        taken: list[list[Ready]] = []
        size = CHUNK_BYTES
        while self._instants and self._instants[0] <= now_ms:
            staged = self._staged.pop(heapq.heappop(self._instants)).sorted()
            self._count -= staged.count
            last = len(staged.chunks) - 1
            for i, chunk in enumerate(staged.chunks):
                alive = [run for run in chunk if run.cursor.alive]
                more = staged.size if i == last else CHUNK_BYTES
                if taken and size + more <= CHUNK_BYTES and len(taken[-1]) + len(alive) <= CHUNK_RUNS:
                    taken[-1].extend(alive)
                    size += more
                elif alive:
                    taken.append(alive)
                    size = more
        return taken
