"""Opens what lies in open rows and hands it to whom it concerns.

Rows come from the snapshot that a leader takes below its lease, and from the watch: triggers and backfills laid down by
any instance, workers' reports, word that a backfill is to end, counters, and the unfinished runs of the leader before
us. Runs of that leader without a row, which stand in its journal or went out in a write that was cut before its note,
are taken up in their turn, when the planner comes to their slot; until then reports about them are kept here, and
nothing that waits is let go.
"""

from collections.abc import Callable

from natscron.engine.backfills import Backfills
from natscron.engine.failing import Failing
from natscron.engine.flights import DOUBT_MS, Flight, Flights
from natscron.engine.storetime import StoreClock
from natscron.model import ANSWERED, Delivery, Job, Ms, OpenRow, OpenState, Reason, Run, RunStatus

__all__ = ["Inbox"]


class Inbox:
    """The open rows of one leadership."""

    def __init__(  # noqa: PLR0913 - everybody whom a row may concern
        self,
        *,
        flights: Flights,
        failing: Failing,
        backfills: Backfills,
        find_job: Callable[[str], Job | None],
        expected: Callable[[OpenRow], bool],
        record: Callable[[Run], None],
        clock: StoreClock,
    ) -> None:
        self._flights = flights
        self._failing = failing
        self._backfills = backfills
        self._find_job = find_job
        self._expected = expected
        self._record = record
        self._clock = clock
        self._reports: dict[str, list[OpenRow]] = {}
        """Of runs that the planner has yet to come to, by run id."""

    def opened(self, row: OpenRow) -> None:
        """A row of somebody else."""
        now = self._clock.now_ms()
        if row.state is OpenState.REPORTED:
            self._reported(row, now)
        elif row.state is OpenState.FAILURES:
            self._failing.loaded(row)
        elif row.state is OpenState.CANCEL:
            self._backfills.cancel(row)
        elif row.state is OpenState.BACKFILL:
            self._backfills.taken_up(row, now)
        else:
            self._run(row, now)

    def opened_all(self, rows: "list[OpenRow] | tuple[OpenRow, ...]") -> None:
        """The rows that a leadership begins with: runs by their slots, and what is said about them after them."""
        self._flights.holding = True
        for row in sorted(rows, key=lambda r: (r.state is OpenState.REPORTED, r.scheduled_at_ms)):
            self.opened(row)

    def taken_up(self, run_id: str) -> None:
        """A run of the leader before us is on its way again: what was said about it counts now."""
        for row in self._reports.pop(run_id, ()):
            self._reported(row, self._clock.now_ms())

    def has_word_of(self, run_id: str) -> bool:
        """Whether a worker said something about a run that is not taken up yet: then its message did arrive."""
        return run_id in self._reports

    def all_known(self) -> None:
        """Nothing of the leader before us is left to be taken up."""
        if self._flights.holding:
            self._flights.release_all()
            for run_id in list(self._reports):
                self.taken_up(run_id)

    def _run(self, row: OpenRow, now: Ms) -> None:
        flights = self._flights
        if flights.knows(row.run_id):
            if flights.find(row.run_id) is None:
                # It ended here; laid down again (an idempotency key used twice) it must not outlive this term.
                flights.closed_rows[row.run_id] = 0
            return
        job = self._find_job(row.job_id)
        if job is None or job.generation != row.generation:
            job = Job(id=row.job_id, generation=row.generation)
        flight = Flight.of_row(row, job)
        if row.state is OpenState.BUFFERED:
            flights.queue(flight)
            if not flights.holding:
                flights.release_all()
            return
        at = now
        if row.state is OpenState.RUNNING and row.delivery is Delivery.JETSTREAM and not row.stored:
            flight.state = OpenState.RETRY
        elif row.state is OpenState.RUNNING and (row.delivery in ANSWERED or job.reports):
            at = row.deadline_ms + DOUBT_MS
        elif row.state is OpenState.RETRY:
            at = row.next_at_ms
        flights.taken_over(flight, at)

    def _reported(self, row: OpenRow, now: Ms) -> None:
        """A worker says how a run ended."""
        decided_ms = 0
        if row.report is not None and (flight := self._flights.find(row.about)) is not None:
            decided_ms = flight.decided_ms
            self._flights.reported(row.about, row.report, now)
        elif row.report is not None and self._expected(row) and not self._flights.knows(row.about):
            self._reports.setdefault(row.about, []).append(row)
            return
        elif row.report is not None and not self._flights.told(row.about):
            # Too late, or of a run that nobody waits for: it is recorded all the same.
            self._record(_late(row))
        # As long as the run stands in the journal only, this row is what tells a successor of its end.
        self._flights.closed_rows.setdefault(row.run_id, decided_ms)


def _late(row: OpenRow) -> Run:
    report = row.report
    assert report is not None  # noqa: S101 - asked by the caller
    started = report.started_at_ms
    return Run(
        job=row.job_id,
        status=report.status,
        run_id=row.about,
        scheduled_at_ms=row.scheduled_at_ms,
        started_at_ms=started,
        finished_at_ms=report.finished_at_ms,
        reason=Reason.WORKER_ERROR if report.status is RunStatus.FAILED else None,
        attempt=report.attempt,
        trigger=row.trigger,
        delivery=row.delivery,
        duration_ms=None if started is None else max(report.finished_at_ms - started, 0),
        error=report.error,
        result=report.result,
    )
