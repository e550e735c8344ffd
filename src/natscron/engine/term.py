"""One leadership, from the lease that was taken to the lease that was released or lost.

Who is authoritative: the lease record in the store. This process may act while it trusts the lease
(:mod:`natscron.engine.trust`) and the link is whole; everything that ordering depends on goes over that one link.

Three tasks share the term. *Fire* takes what is due from the planner, hands it over in chunks through the journal,
sends what is to be tried again (:mod:`natscron.engine.tries`) and the slots of backfills
(:mod:`natscron.engine.backfills`), and encodes ahead while it waits. *Renew* (:mod:`natscron.engine.renewal`) writes
the lease every third of its life, with the mark. *Watch* ends the term when the link breaks. Any of them failing ends
all of them; the caller then takes the lease again, from the mark that is in the store, as after any other takeover.

The mark passes a window when its notes are stored and its unfinished runs are laid down as open rows. What the leader
before us sent after its mark is known from its journal: a core run in it is not sent again, a jetstream run is sent
again under its id, a request counts as running until its deadline.

A stop in order: no further chunk, notes settled, open rows, the lease released with its mark; then the link stays for
the answers still awaited, as long as the caller allows.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

import msgspec

from natscron import ids
from natscron.engine.alarm import Alarm
from natscron.engine.backfills import Backfills
from natscron.engine.failing import Failing, OnFailing
from natscron.engine.flights import DOUBT_MS, Flight, Flights
from natscron.engine.history import HistoryWriter
from natscron.engine.inbox import Inbox
from natscron.engine.journal import CHUNK_BYTES, CHUNK_RUNS, Chunk, Journal, Ready
from natscron.engine.lateness import Lateness
from natscron.engine.missed import without_sent
from natscron.engine.options import EngineOptions
from natscron.engine.planner import Due, Missed, Planner
from natscron.engine.records import core_run, skipped_run
from natscron.engine.stage import STAGED_MAX, Encoder, Stage
from natscron.engine.storetime import StoreClock
from natscron.engine.table import Entry, JobTable
from natscron.engine.target import Outcome, Target
from natscron.engine.timed import Timed
from natscron.engine.tries import Tries
from natscron.engine.trust import Trust
from natscron.errors import LeadershipLostError
from natscron.model import (
    ANSWERED,
    DEFAULT_TIMEOUT_MS,
    Delivery,
    Job,
    LeaseRecord,
    Mark,
    Ms,
    NoteRef,
    OpenRow,
    OpenState,
    Run,
    RunStatus,
    Trigger,
)
from natscron.storage.protocol import LeaderLink, Reply, StateSnapshot
from natscron.storage.timers import TimerStore

log = logging.getLogger("natscron.leader")

_AHEAD_MS: Final[Ms] = 3_000
"""How far ahead runs are encoded: long enough for 50,000 at one instant, short enough to stay small."""
_SLACK_MS: Final[Ms] = 4
"""Closer than this to the next instant nothing is encoded ahead."""
_SLICE: Final = 128
"""Slots encoded before others may run: about 2 ms."""
_IDLE_S: Final = 0.25
_FAR_MS: Final[Ms] = 60_000
_RUNS: Final = frozenset({OpenState.PENDING, OpenState.RUNNING, OpenState.RETRY, OpenState.BUFFERED})
_BY_PLAN: Final = frozenset({Trigger.SCHEDULE, Trigger.CATCHUP})


class Term:
    """Fires; see the module's prose."""

    def __init__(  # noqa: PLR0913 - the parts of a leadership, wired by the engine
        self,
        *,
        link: LeaderLink,
        record: LeaseRecord,
        trust: Trust,
        snapshot: StateSnapshot,
        table: JobTable,
        planner: Planner,
        target: Target,
        clock: StoreClock,
        history: HistoryWriter,
        lateness: Lateness,
        options: EngineOptions,
        on_ran: Callable[[Mapping[str, Ms]], None],
        on_failing: OnFailing,
        timers: TimerStore | None = None,
    ) -> None:
        self.link = link
        self.lease = record.lease
        self.trust = trust
        self.table = table
        self.planner = planner
        self.clock = clock
        self.options = options
        self.journal = Journal(link, record.lease.epoch, trust, clock, self._stored)
        self._alarm = Alarm(clock)
        epoch = record.lease.epoch
        self.failing = Failing(self._find_job, on_failing, clock.now_ms, namespace=options.namespace, epoch=epoch)
        self.flights = Flights(
            target,
            self._record,
            self._find_job,
            instance=options.instance,
            epoch=epoch,
            wake=self._alarm.ring_before,
        )
        self.tries = Tries(
            link=link,
            journal=self.journal,
            flights=self.flights,
            target=target,
            history=history,
            clock=clock,
            epoch=epoch,
            on_ran=on_ran,
            ring=self._alarm.ring,
        )
        self.backfills = Backfills(
            table.get,
            self.flights,
            self.tries,
            self._record,
            namespace=options.namespace,
            instance=options.instance,
            epoch=epoch,
        )
        self._inbox = Inbox(
            flights=self.flights,
            failing=self.failing,
            backfills=self.backfills,
            find_job=self._find_job,
            expected=self._expected,
            # Whoever waited for it has counted its end already.
            record=history.record,
            clock=clock,
        )
        self.confirmed: Mark = record.lease.mark
        """How far the mark may move: all notes up to here are stored."""
        self._target = target
        self._history = history
        self._lateness = lateness
        self._on_ran = on_ran
        self._stage = Stage()
        self._encoder = Encoder(options.namespace, options.instance, target, link, self._record)
        self._closing: dict[str, int] = {}
        """Rows of runs that are over, and how many records were queued when that was noticed."""
        self._windows: deque[tuple[int, int, Mark]] = deque()
        """Marks that may follow: the notes that must be stored, those that the mark covers, and the mark."""
        self._whole_n = 0
        """The newest note before which no slot went out that is due after the mark: of an instant that came in parts
        a successor must find the notes until the last part went out."""
        self._stopping = False
        self.timed = Timed(timers, planner, table, self._encoder.run_id, clock, self._alarm.ring)
        self._sent = dict.fromkeys(snapshot.known, record.stored_at_ms)
        self._sent |= {run_id: note.stored_at_ms for note in snapshot.notes for run_id in note.run_ids}
        self._rows_known = {row.run_id for row in snapshot.rows}
        # A run id begins with its slot; a leader whose clock was ahead had sent slots after ours.
        slots = [ids.ulid_time_ms(run_id) for run_id in self._sent if ids.is_ulid(run_id)]
        slots.extend(row.scheduled_at_ms for row in snapshot.rows if row.state in _RUNS and row.trigger in _BY_PLAN)
        told_until = record.stored_at_ms + options.max_skew_ms  # a report may name any run, of the far future too
        told = [row.scheduled_at_ms for row in snapshot.rows if row.state is OpenState.REPORTED]
        slots.extend(slot_ms for slot_ms in told if slot_ms <= told_until)
        # All of it was stored before the lease was; a slot's due instant may lie behind the slot.
        self._inherited_until = max([*slots, record.stored_at_ms])
        self._inherited_note = record.lease.mark.note
        self._began_with = record.lease.mark
        self._inbox.opened_all(snapshot.rows)

    # What others tell the term; all called in the event loop.

    def job_changed(self, job_id: str, entry: Entry | None) -> None:
        """The table changed."""
        self.failing.job_changed(job_id, None if entry is None else entry.job)
        if entry is None:
            self.planner.remove(job_id)
        else:
            self.planner.put(entry)
            self._alarm.ring_before(self.planner.next_due())
        self.timed.job_changed(job_id, entry)

    def on_reply(self, reply: Reply) -> None:
        """An answer came over the link."""
        self.flights.on_reply(reply, self.clock.now_ms())

    def row_seen(self, row: OpenRow) -> None:
        """An open row of somebody else: a trigger, word from a worker, or what a leader before us left."""
        if row.epoch == self.lease.epoch or row.state is OpenState.FAILURES or self._stopping:
            return
        self._inbox.opened(row)
        self._alarm.ring()

    def row_gone(self, run_id: str) -> None:
        """An open row was deleted."""
        self.flights.settled_elsewhere(run_id)

    def stop(self) -> None:
        """Hand over nothing more; :meth:`fire` returns after the present chunk. What waits is the successor's."""
        self._stopping = True
        self.flights.holding = True
        self._alarm.ring()

    # The fire task.

    async def fire(self) -> None:
        """Run what is due until stopped. Raises LeadershipLostError."""
        floor = self.options.effective_grace_ms
        while not self._stopping:
            now = self.clock.now_ms()
            self.journal.ensure_trusted()
            staged = self._stage.take(now)
            decided = self.planner.decided
            fired = self.timed.take(now)
            window = self.planner.take(
                now, self.table.seq, reference_ms=self._reference(), grace_floor_ms=floor, limit=_SLICE * 8
            )
            due = [*self._missed(window.missed), *window.due, *fired]
            if staged or due:
                await self._send(staged, due)
            self.timed.handed(self.journal.last_n)
            if not window.more:
                self._whole_n = self.journal.last_n
            if self.planner.decided != decided:
                # Else slots behind the mark went out, of a job that its maker had not seen, and more are to come: until
                # the mark covers them, a successor must find their notes.
                self._windows.append((self.journal.last_n, self._whole_n, self.planner.decided))
            self._confirm()
            await self.tries.step(now)
            await self.backfills.step(now)
            if window.more:
                await asyncio.sleep(0)
                continue
            await self._wait()

    async def _wait(self) -> None:
        """Until the next instant; encode ahead meanwhile."""
        wants = (self.planner.next_due(), self._stage.next_due(), self.flights.next_ms(), self.backfills.next_ms())
        wake = min((t for t in wants if t is not None), default=self.clock.now_ms() + _FAR_MS * self.options.calm)
        now = self.clock.now_ms()
        planned = self.planner.next_due()
        if (
            planned is not None
            and max(now, self.planner.decided.instant_ms) < planned <= now + _AHEAD_MS
            and wake - now > _SLACK_MS
            and len(self._stage) < STAGED_MAX
        ):
            for due in self.planner.take_ahead(now + _AHEAD_MS, _SLICE):
                if (run := self._prepared(due)) is not None:
                    self._stage.add(run)
            await asyncio.sleep(0)
            return
        await self._alarm.until(wake, _IDLE_S * self.options.calm)

    def _reference(self) -> Ms | None:
        """What ages count from: the takeover instant until the decided mark has passed it."""
        takeover = self.lease.takeover_ms
        return takeover if takeover is not None and self.planner.decided.instant_ms < takeover else None

    def _prepared(self, due: Due) -> Ready | None:
        """Encode a slot, unless the leader before us sent it."""
        job = due.cursor.entry.job
        if due.due_ms != due.slot_ms and self.timed.has_run(due):
            return None
        if self.flights.holding:
            run_id = self._encoder.run_id(job, due.slot_ms)
            if run_id in self._rows_known:
                return None
            sent_ms = self._sent.get(run_id)
            if sent_ms is None and self._inbox.has_word_of(run_id):
                sent_ms = due.due_ms
            if sent_ms is not None and not self._resend(due, run_id, sent_ms):
                return None
        return self._encoder.ready(due)

    def _resend(self, due: Due, run_id: str, sent_ms: Ms) -> bool:
        """Whether a run that stands in the journal goes out again."""
        job = due.cursor.entry.job
        delivery = self._target.delivery_of(job)
        if delivery is Delivery.HANDLER:
            return False  # the run queue has it, and its record with it
        heard = self._inbox.has_word_of(run_id)
        if delivery is Delivery.JETSTREAM and not heard:
            return True
        flight = self._flight(due, run_id, delivery)
        flight.state, flight.stored = OpenState.RUNNING, delivery is Delivery.JETSTREAM
        flight.started_ms = sent_ms
        if delivery is Delivery.CORE and not job.reports and not heard:
            self._record(self.flights.run_of(flight, Outcome(RunStatus.SENT), sent_ms))
            return False
        flight.deadline_ms = sent_ms + (job.timeout_ms or DEFAULT_TIMEOUT_MS)
        self.flights.taken_over(flight, flight.deadline_ms + DOUBT_MS)
        self._inbox.taken_up(run_id)
        return False

    async def _send(self, staged: list[list[Ready]], due: list[Due]) -> None:
        """Hand over a window in chunks: first what is encoded already, then the rest as it is encoded."""
        chunk: list[Ready] = []
        for i, runs in enumerate(staged):
            chunk = self.timed.unfired(runs)
            if any([run.guarded for run in chunk]):  # noqa: C419 - a list is faster, and this is the instant
                chunk = [run for run in chunk if not run.guarded or self._admitted(run)]
            if chunk and (i < len(staged) - 1 or not due):
                await self._commit(chunk)
                await asyncio.sleep(0)
                chunk = []
        size = sum(run.staged.size for run in chunk)
        for i, item in enumerate(due):
            run = self._prepared(item)
            if run is not None and (not run.guarded or self._admitted(run)):
                chunk.append(run)
                size += run.staged.size
            if len(chunk) >= CHUNK_RUNS or size >= CHUNK_BYTES:
                await self._commit(chunk)
                chunk, size = [], 0
            if i % CHUNK_RUNS == CHUNK_RUNS - 1:
                await asyncio.sleep(0)
        if chunk:
            await self._commit(chunk)

    async def _commit(self, runs: list[Ready]) -> None:
        await self.journal.commit(runs, self._handed_over)

    def _handed_over(self, chunk: Chunk) -> None:
        runs = chunk.runs
        self._lateness.add(runs, chunk.sent_ms)
        self._on_ran({run.job_id: run.slot_ms for run in runs})
        for run in [run for run in runs if run.delivery in ANSWERED or run.tracked]:
            flight = self.flights.find(run.run_id) if run.guarded else self._flight(run, run.run_id, run.delivery)
            if flight is not None:  # else another of the same window took its place, which is recorded
                self.flights.sent(flight, chunk.sent_ms)

    def _admitted(self, run: Ready) -> bool:
        """Ask the overlap policy; True if the run is part of the present chunk."""
        flight = self._flight(run, run.run_id, run.delivery)
        now = self.clock.now_ms()
        if run.run_id in self._sent:
            # It goes again under the same id; whether it may was decided by the leader before us.
            self.flights.enter(flight)
            return True
        if not self.flights.admit(flight, now):
            return False
        if flight.replaces:
            # Its message names the run whose place it takes: encoded anew, and sent by itself.
            self.flights.send_at(flight, now)
            return False
        return True

    def close(self) -> None:
        """The term is over: end what still runs beside it."""
        self.tries.close()

    def _stored(self, chunk: Chunk) -> None:
        """A note is stored: its core runs are sent, and the mark may follow."""
        core = [run for run in chunk.runs if run.delivery is Delivery.CORE and not run.tracked]
        sent_ms = chunk.sent_ms
        if core:
            instance = self.options.instance
            self._history.record_later(len(core), lambda: [core_run(run, sent_ms, instance) for run in core])
            if self.failing.counting:
                for run in core:
                    self.failing.observe(core_run(run, sent_ms, instance))
        for run in chunk.runs:
            if run.tracked and run.delivery is Delivery.CORE:
                flight = self.flights.find(run.run_id)
                if flight is not None and flight.state is OpenState.RUNNING and flight.attempt == 1:
                    self.flights.underway(flight, self.clock.now_ms())
        self._confirm()

    def _confirm(self) -> None:
        windows = self._windows
        while windows and windows[0][0] <= self.journal.stored_n:
            _, n, mark = windows.popleft()
            if mark.instant_ms >= self._inherited_until:
                self._sent, self._rows_known = {}, set()
                if not self._stopping:
                    self._inbox.all_known()
            # As long as a slot after the mark may stand in the journal before ours, a successor must read that too.
            note = self._inherited_note if self._sent else NoteRef(self.lease.epoch, n)
            self.confirmed = msgspec.structs.replace(mark, note=note)
        self.timed.confirmed(self.journal.stored_n, self.confirmed)

    def _find_job(self, job_id: str) -> Job | None:
        entry = self.table.get(job_id)
        return None if entry is None else entry.job

    def _flight(self, at: "Due | Ready", run_id: str, delivery: Delivery) -> Flight:
        return Flight(
            run_id=run_id,
            job=at.cursor.entry.job,
            delivery=delivery,
            scheduled_ms=at.slot_ms,
            due_ms=at.due_ms,
            trigger=at.trigger,
        )

    def _record(self, run: Run) -> None:
        self._history.record(run)
        self.failing.observe(run)

    def rows_before(self, instant_ms: Ms) -> tuple[list[OpenRow], Ms]:
        """What is to be laid down before the mark may pass ``instant_ms``, and how far it may pass with that."""
        rows, instant_ms = self.flights.rows_before(instant_ms)
        return rows + self.failing.rows(), instant_ms

    def rows_saved(self, rows: Iterable[OpenRow]) -> None:
        """These rows are stored."""
        self.flights.rows_saved(row for row in rows if row.state is not OpenState.FAILURES)
        for row in rows:
            if row.state is OpenState.FAILURES:
                self.failing.saved(row)

    def _missed(self, ranges: tuple[Missed, ...]) -> list[Due]:
        """Record what was not run; what the leader before us sent after its mark is not that, and returned."""
        sent: list[Due] = []
        for missed in ranges:
            job, left = missed.entry.job, [missed.skipped]
            if self._sent:
                was_sent = partial(self._was_sent, job)
                found, left = without_sent(missed, self._began_with, was_sent, until_ms=self._inherited_until)
                sent += found
            for skipped in left:
                self._record(skipped_run(missed.entry, skipped, self.options.instance))
        return sent

    def _expected(self, row: OpenRow) -> bool:
        """Whether a report is about a run of the leader before us that the planner has yet to come to."""
        slot_ms = row.scheduled_at_ms
        cut = self.flights.holding and self._began_with.instant_ms < slot_ms <= self._inherited_until
        return cut or row.about in self._sent

    def _was_sent(self, job: Job, slot_ms: Ms) -> bool:
        return self._encoder.run_id(job, slot_ms) in self._sent

    # The end.

    async def watch_link(self) -> None:
        """Raise LeadershipLostError when the link breaks."""
        await self.link.broken.wait()
        raise LeadershipLostError("the leader's connection ended")

    async def drain(self, timeout_s: float) -> None:
        """After the lease was released: wait for answers, at most ``timeout_s``, and delete the rows they close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.flights.landed(self.link.broken)
        await self.delete_closed_rows(at_last=True)

    async def delete_closed_rows(self, *, at_last: bool = False) -> None:
        """Delete the open rows of runs that are over and whose records are stored; ``at_last``: or soon will be.

        The history is written behind: of a run whose row went before its record, a crash would leave nothing.
        """
        rows, mark_ms = self.flights.closed_rows, self.lease.mark.instant_ms
        over = [row_id for row_id, at_ms in rows.items() if at_ms <= mark_ms]
        self._closing = {row_id: self._closing.get(row_id, self._history.recorded) for row_id in over}
        settled = self._history.settled
        closed = {row_id: rows[row_id] for row_id in over if at_last or self._closing[row_id] <= settled}
        for row_id in closed:
            del rows[row_id], self._closing[row_id]
        closed |= dict.fromkeys(self.failing.gone(), 0)
        if closed and not self.link.broken.is_set():
            try:
                await self.link.delete_rows(list(closed))
            except BaseException:
                rows.update(closed)
                raise
