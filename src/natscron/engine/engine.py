"""Every instance's engine: hot copies of what is stored, and a candidate for the lease.

States: *standing by* (following the leader's mark, so that a takeover starts from a warm planner), *blocked* (it may
not lead: configured so, a clock too far off, a Go instance alive) and *leading* (a :class:`~natscron.engine.term.Term`
runs). The lease record decides who leads; an instance that cannot reach the store does nothing but try again, at
growing distances up to :data:`RETRY_MAX_S`, and says so.

A term that fails, for whatever reason, is given up whole: the link is cut, the planner forgets what it decided, and
the next term, here or elsewhere, begins from the mark in the store.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from natscron import ids
from natscron.clock import Clock
from natscron.engine.candidate import Claim, Observed
from natscron.engine.history import HistoryWriter
from natscron.engine.lateness import Lateness
from natscron.engine.options import EngineOptions
from natscron.engine.planner import Planner
from natscron.engine.renewal import ClockSkewError, Renewal, skew_between, skew_text
from natscron.engine.table import Entry, JobTable
from natscron.engine.target import Target
from natscron.engine.term import Term
from natscron.engine.trust import Trust, read
from natscron.errors import (
    JobNotFoundError,
    LeadershipLostError,
    NatscronError,
    StorageError,
    StorageUnavailableError,
    WrongRevisionError,
)
from natscron.model import (
    Holder,
    JobState,
    Lease,
    LeaseRecord,
    Mark,
    Ms,
    Node,
    NoteRef,
    OpenRow,
    OpenState,
    Reason,
    Run,
    RunStatus,
    Trigger,
)
from natscron.storage.protocol import LeaderLink, Reply, RunQuery, Storage, Watch

log = logging.getLogger("natscron.engine")

SERVICE_JOB: Final = "_service"
"""Under which leader changes and invalid rows are recorded."""
RETRY_MAX_S: Final = 1.0
_NODE_EVERY_S: Final = 5.0
_NODE_GONE_S: Final = 15.0
_SWEEP_EVERY_S: Final = 60.0
_SKEWED_PAUSE_S: Final = 10.0
_VIEW_WAIT_S: Final = 1.0


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance knows of itself and the others. ``blocked``: why it may not lead."""

    is_leader: bool
    leader: str | None
    epoch: int
    mark_ms: Ms | None
    instances: list[str]
    jobs: int
    lateness_p50_ms: float | None
    lateness_p99_ms: float | None
    started_at_ms: Ms
    blocked: str | None
    warnings: list[str]


class Engine:
    """One instance. Start it once; stop is idempotent."""

    def __init__(  # noqa: PLR0913 - what it is wired to
        self,
        storage: Storage,
        target: Target,
        clock: Clock,
        options: EngineOptions,
        *,
        may_lead: Callable[[], str | None] | None = None,
        covered_until: Callable[[], Ms | None] | None = None,
    ) -> None:
        self.table = JobTable(options.min_interval_ns)
        self.history = HistoryWriter(storage)
        self.holder = Holder(options.instance, os.urandom(8).hex())
        self.started_at_ms = clock.now_ms()
        self._storage = storage
        self._target = target
        self._clock = clock
        self._options = options
        self._may_lead = may_lead or (lambda: None)
        self._covered_until = covered_until or (lambda: None)
        self._observed = Observed()
        self._planner = Planner()
        self._warm = False
        self._lateness = Lateness()
        self._last_run: dict[str, Ms] = {}
        self._nodes: dict[tuple[str, str], tuple[Node, float]] = {}
        self._rows: dict[str, OpenRow] = {}
        self._term: Term | None = None
        self._renewal: Renewal | None = None
        self._poke = asyncio.Event()
        self._stopping = False
        self._skewed_until_s = 0.0
        self._blocked: str | None = None
        self._watches: list[Watch] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.failed: BaseException | None = None
        """What ended the engine's own tasks, if anything ever does: a defect, and the owner must stop."""

    # Life.

    async def start(self) -> None:
        """Follow the store and become a candidate; returns when the jobs are loaded. Raises StorageError."""
        self.started_at_ms = self._clock.now_ms()
        self.table.listen(self._job_changed)
        self.history.start()
        jobs = self._storage.watch_jobs(self.table)
        state = self._storage.watch_state(self)
        self._watches = [jobs, state]
        await jobs.ready()
        await state.ready()
        self._first_seq = self.table.seq
        if not self._observed.known:
            self._observed.saw(None, self._clock.trust_s())
        self._spawn(self._candidate(), "candidate")
        self._spawn(self._announce(), "announce")
        self._spawn(self._housekeeping(), "housekeeping")

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"natscron {name}")
        task.add_done_callback(self._task_done)
        self._tasks.append(task)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed = error
            log.critical("the engine failed", exc_info=error)

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Release the lease, then wait for answers on their way, at most ``timeout_s``. Idempotent."""
        if self._stopping and not self._tasks:
            return
        self._stopping = True
        self._stop_timeout_s = timeout_s
        self._poke.set()
        if self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s + 5):
                    await asyncio.gather(self._tasks[0], return_exceptions=True)
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(1):
                await self._storage.retract(self._node())
        await self.history.stop(min(timeout_s, 5.0))
        for watch in self._watches:
            await watch.close()
        self._watches = []

    # What can be asked.

    @property
    def is_leader(self) -> bool:
        """Whether this instance leads now."""
        return self._term is not None

    def status(self) -> EngineStatus:
        """The state of this instance, and of the others as far as it is known here."""
        record = self._observed.record
        lease = record.lease if record is not None else None
        now = self._clock.trust_s()
        live = {node.instance for node, seen in self._nodes.values() if now - seen < _NODE_GONE_S}
        warnings = []
        if self.history.dropped:
            warnings.append(f"{self.history.dropped} history records were dropped because they could not be stored")
        if self._twins():
            warnings.append(f"another process uses the instance id {self._options.instance!r}")
        renewal = self._renewal
        if renewal is not None and abs(renewal.skew_ms) > 1000:  # noqa: PLR2004 - the warned-about second
            warnings.append(f"this host's clock is {renewal.skew_ms} ms off against the store's")
        return EngineStatus(
            is_leader=self.is_leader,
            leader=lease.holder.instance if lease is not None and lease.holder is not None else None,
            epoch=lease.epoch if lease is not None else 0,
            mark_ms=lease.mark.instant_ms if lease is not None else None,
            instances=sorted(live | {self._options.instance}),
            jobs=len(self.table),
            lateness_p50_ms=self._lateness.percentile(0.5),
            lateness_p99_ms=self._lateness.percentile(0.99),
            started_at_ms=self.started_at_ms,
            blocked=self._blocked,
            warnings=warnings,
        )

    def last_run_ms(self, job_id: str) -> Ms | None:
        """The newest slot of the job that this instance ran; None if it ran none."""
        return self._last_run.get(job_id)

    def next_run_ms(self, job_id: str) -> Ms | None:
        """The job's next slot; None if there is none. Computed, never stored."""
        entry = self.table.get(job_id)
        if entry is None or entry.schedule is None or entry.job.paused:
            return None
        return entry.schedule.next_after_ms(max(self._clock.now_ms(), entry.job.counts_from.at_ms))

    def state_of(self, entry: Entry) -> JobState:
        """What the job is doing."""
        if entry.schedule is None:
            return JobState.INVALID
        if entry.job.paused:
            return JobState.PAUSED
        record = self._observed.record
        mark = record.lease.mark if record is not None else None
        if (
            mark is not None
            and entry.job.counts_from.seq <= mark.jobs_seq
            and entry.schedule.next_after_ms(mark.instant_ms) is None
        ):
            return JobState.DONE
        return JobState.ACTIVE

    @property
    def mark(self) -> Mark | None:
        """The newest mark that was seen; None before the first lease."""
        record = self._observed.record
        return record.lease.mark if record is not None else None

    def record(self, run: Run) -> None:
        """Put a record into the history."""
        self.history.record(run)

    async def trigger(
        self,
        job_id: str,
        payload: Any = msgspec.UNSET,  # noqa: ANN401 - any JSON value
        key: str | None = None,
    ) -> str:
        """Have a job run now, once; works on any instance. The run's id.

        ``key``: an idempotency key; the same key gives the same run, not another one. Raises JobNotFoundError.
        """
        entry = self.table.get(job_id)
        if entry is None:
            raise JobNotFoundError(f"no job {job_id!r} to trigger: see the list of jobs")
        job = entry.job
        now = self._clock.now_ms()
        if key is None:
            run_id = ids.ulid(now)
        else:
            run_id = ids.keyed_run_id(
                job.created_at_ms, self._options.namespace, job_id, str(job.generation), "trigger", key
            )
            if await self._storage.list_runs(RunQuery(job=job_id, run_id=run_id, limit=1)):
                return run_id
        row = OpenRow(
            run_id=run_id,
            job_id=job_id,
            generation=job.generation,
            scheduled_at_ms=now,
            state=OpenState.PENDING,
            trigger=Trigger.MANUAL,
            next_at_ms=now,
            payload=payload,
        )
        await self._storage.submit_row(row)
        return run_id

    # The state watch (StateSink).

    def lease(self, record: LeaseRecord) -> None:
        """The lease changed."""
        self._observed.saw(record, self._clock.trust_s())
        term, renewal = self._term, self._renewal
        if renewal is not None and term is not None:
            try:
                renewal.seen(record)
            except ClockSkewError as error:
                self._skewed(str(error))
                term.link.abort()
            return
        if self._warm:
            self._planner.follow(record.lease.mark)
        self._poke.set()

    def row(self, row: OpenRow, revision: int) -> None:
        """An open row was written."""
        del revision
        self._rows[row.run_id] = row
        if self._term is not None:
            self._term.row_seen(row)

    def row_gone(self, run_id: str) -> None:
        """An open row was deleted."""
        self._rows.pop(run_id, None)
        if self._term is not None:
            self._term.row_gone(run_id)

    def node(self, node: Node, stored_at_ms: Ms) -> None:
        """An instance announced itself."""
        del stored_at_ms
        key = (node.instance, node.nonce)
        if key not in self._nodes and node.instance == self._options.instance and node.nonce != self.holder.nonce:
            log.warning("another process uses this instance id", extra={"instance": node.instance})
        self._nodes[key] = (node, self._clock.trust_s())

    def node_gone(self, instance: str, nonce: str) -> None:
        """An instance left."""
        self._nodes.pop((instance, nonce), None)

    def _twins(self) -> bool:
        now = self._clock.trust_s()
        return any(
            n.instance == self._options.instance and n.nonce != self.holder.nonce and now - seen < _NODE_GONE_S
            for n, seen in self._nodes.values()
        )

    # The candidate.

    async def _candidate(self) -> None:
        delay = 0.02
        while not self._stopping:
            self._poke.clear()
            self._blocked = self._why_blocked()
            claim = self._observed.claim(self.holder, self._clock.trust_s(), self._options.lease_ms)
            if self._blocked is not None or claim is Claim.HELD:
                await self._warm_up()
                wait = self._observed.expires_in_s(self._clock.trust_s(), self._options.lease_ms)
                await self._pause(min(max(wait, 0.02), 0.5) if self._blocked is None else 0.5)
                continue
            try:
                await self._lead()
                delay = 0.02
            except LeadershipLostError as error:
                log.warning("leadership lost", extra={"reason": str(error)})
                delay = 0.02 if self._term_lasted else min(delay * 2, RETRY_MAX_S)
            except StorageError as error:
                log.warning("cannot take the lease", extra={"error": str(error), "retry_s": delay})
                delay = min(delay * 2, RETRY_MAX_S)
            else:
                continue
            await self._pause(delay)

    def _why_blocked(self) -> str | None:
        if not self._options.plan:
            return "this instance is configured not to lead"
        if self._clock.trust_s() < self._skewed_until_s:
            return self._skew_reason
        return self._may_lead()

    def _skewed(self, why: str) -> None:
        log.error(why)
        self._skew_reason = why
        self._skewed_until_s = self._clock.trust_s() + _SKEWED_PAUSE_S

    _first_seq = 0
    _skew_reason = ""
    _term_lasted = False
    _stop_timeout_s = 30.0

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._poke.wait()

    async def _warm_up(self) -> None:
        """Fill the planner from the newest mark, so that a takeover finds it ready."""
        record = self._observed.record
        if not self._warm and record is not None:
            await self._fill(record.lease.mark)

    async def _fill(self, mark: Mark) -> None:
        self._planner.restart(mark)
        self._warm = True
        for i, entry in enumerate(self.table.entries()):
            # It may have changed while others ran: then the listener has put it already.
            if self.table.get(entry.job.id) is entry:
                self._planner.put(entry)
            if i % 256 == 255:  # noqa: PLR2004 - about 2 ms of work
                await asyncio.sleep(0)

    async def _lead(self) -> None:
        self._term_lasted = False
        link = await self._storage.open_link(self._replied)
        try:
            taken = await self._take(link)
            if taken is None:
                return
            record, trust, renew_from = taken
            await self._serve(link, record, trust, renew_from)
        finally:
            self._term = self._renewal = None
            await link.close()

    async def _take(self, link: LeaderLink) -> tuple[LeaseRecord, Trust, int] | None:
        """Take the lease by compare-and-set; None if somebody else has it after all."""
        current = await link.read_lease()
        self._observed.saw(current, self._clock.trust_s())
        claim = self._observed.claim(self.holder, self._clock.trust_s(), self._options.lease_ms)
        if claim is Claim.HELD:
            return None
        seq = await link.jobs_seq()
        if not await self.table.wait_for(seq, _VIEW_WAIT_S):
            self._watches[0].renew()
            raise StorageUnavailableError("the view of the jobs is behind; its watch is made anew")
        now = self._clock.now_ms()
        if current is None:
            # Nothing was decided before: what counts is what was stored or due since this instance started.
            mark = Mark(instant_ms=min(self.started_at_ms, now), jobs_seq=self._first_seq, note=NoteRef())
            epoch, revision = 1, 0
            takeover: Ms | None = now
        else:
            mark, epoch, revision = current.lease.mark, current.lease.epoch + 1, current.revision
            if mark.jobs_seq > seq:
                # The jobs' bucket was made anew: none of its rows was ever seen.
                mark = msgspec.structs.replace(mark, jobs_seq=0)
            takeover = current.lease.takeover_ms
        mark = self._covered(mark, now)
        if takeover is None or mark.instant_ms > takeover:
            takeover = now
        lease = Lease(
            epoch=epoch, mark=mark, holder=self.holder, takeover_ms=takeover, duration_ms=self._options.lease_ms
        )
        started = read(self._clock)
        try:
            revision = await link.write_lease(lease, revision)
        except WrongRevisionError:
            return None
        record = await link.read_lease()
        if record is None or record.revision != revision:
            return None
        skew = skew_between((int(started.wall_s * 1000), self._clock.now_ms() + 1), record.stored_at_ms)
        if abs(skew) > self._options.max_skew_ms:
            self._skewed(skew_text(skew, self._options.max_skew_ms))
            await link.write_lease(msgspec.structs.replace(lease, holder=None), revision)
            return None
        return self._pulled_back(record), Trust(self._options.lease_ms / 1000, started), revision

    def _covered(self, mark: Mark, now: Ms) -> Mark:
        """The mark, behind what an instance that is not ours has run."""
        until = self._covered_until()
        if until is None or until <= mark.instant_ms:
            return mark
        until = min(until, now)
        seen = max((e.job.revision for e in self.table.entries() if e.job.updated_at_ms <= until), default=0)
        log.info("not running what was covered by others", extra={"until_ms": until})
        return msgspec.structs.replace(mark, instant_ms=until, jobs_seq=max(mark.jobs_seq, seen))

    def _pulled_back(self, record: LeaseRecord) -> LeaseRecord:
        """A mark further in the future than the allowed skew, by our clock and the store's, is set back to now."""
        mark = record.lease.mark
        now = self._clock.now_ms()
        if mark.instant_ms <= max(now, record.stored_at_ms) + self._options.max_skew_ms:
            return record
        log.error("the mark lies in the future and is set back to now", extra={"mark_ms": mark.instant_ms})
        self._service_record(Reason.CLOCK_PULLED_BACK, f"the mark was {mark.instant_ms - now} ms in the future")
        lease = msgspec.structs.replace(
            record.lease, mark=msgspec.structs.replace(mark, instant_ms=now), takeover_ms=now
        )
        return msgspec.structs.replace(record, lease=lease)

    async def _serve(self, link: LeaderLink, record: LeaseRecord, trust: Trust, revision: int) -> None:
        """Lead until stopped, blocked or lost."""
        mark = record.lease.mark
        snapshot = await link.read_state(mark.note, revision)
        if not self._warm or self._planner.decided.instant_ms > mark.instant_ms:
            await self._fill(mark)
        else:
            self._planner.follow(mark)
        self._planner.ready()
        self._warm = False
        term = Term(
            link=link,
            record=record,
            trust=trust,
            snapshot=snapshot,
            table=self.table,
            planner=self._planner,
            target=self._target,
            clock=self._clock,
            history=self.history,
            lateness=self._lateness,
            options=self._options,
            on_ran=self._ran,
        )
        renewal = Renewal(term, self.holder, record, jobs_behind=self._watches[0].renew)
        self._renewal, self._term = renewal, term
        for row in list(self._rows.values()):
            term.row_seen(row)
        log.info("leading", extra={"epoch": record.lease.epoch, "mark_ms": mark.instant_ms, "jobs": len(self.table)})
        self._service_record("leader_changed", f"epoch {record.lease.epoch}")
        fire = asyncio.create_task(term.fire(), name="natscron fire")
        others = [
            asyncio.create_task(renewal.run(), name="natscron renew"),
            asyncio.create_task(term.watch_link(), name="natscron link"),
            asyncio.create_task(self._until_unwanted(), name="natscron unwanted"),
        ]
        try:
            done, _ = await asyncio.wait([fire, *others], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self._term_lasted = True
            await self._resign(term, renewal, fire, others)
        except NatscronError:
            self._term_lasted = renewal.mark is not mark
            raise
        finally:
            term.close()
            link_tasks = [fire, *others]
            for task in link_tasks:
                task.cancel()
            await asyncio.gather(*link_tasks, return_exceptions=True)

    async def _until_unwanted(self) -> None:
        """Return when this instance is to stop or may no longer lead."""
        while not self._stopping:
            self._blocked = self._why_blocked()
            if self._blocked is not None:
                return
            self._poke.clear()
            await self._pause(0.5)

    async def _resign(
        self, term: Term, renewal: Renewal, fire: "asyncio.Task[None]", others: "list[asyncio.Task[None]]"
    ) -> None:
        """Lay down what is open, release, and wait for the answers still awaited."""
        term.stop()
        await fire
        await term.journal.settle(0.5)
        renewal.stop()
        others[0].cancel()
        await asyncio.gather(others[0], return_exceptions=True)
        await renewal.renew(None)
        await term.delete_closed_rows()
        log.info("lease released", extra={"epoch": term.lease.epoch, "open_runs": len(term.flights)})
        self._service_record("leader_released", f"epoch {term.lease.epoch}")
        if self._stopping and len(term.flights):
            await term.drain(self._stop_timeout_s)

    def _replied(self, reply: Reply) -> None:
        if self._term is not None:
            self._term.on_reply(reply)

    def _ran(self, job_id: str, slot_ms: Ms) -> None:
        self._last_run[job_id] = slot_ms

    def _job_changed(self, job_id: str, entry: Entry | None) -> None:
        if entry is None:
            self._last_run.pop(job_id, None)
        elif entry.job.invalid is not None:
            log.warning("job is invalid and does not run", extra={"job": job_id, "error": entry.job.invalid})
            if self.is_leader:
                self._service_record(Reason.INVALID_JOB, f"{job_id}: {entry.job.invalid}")
        if self._term is not None:
            self._term.job_changed(job_id, entry)
        elif self._warm:
            if entry is None:
                self._planner.remove(job_id)
            else:
                self._planner.put(entry)

    def _service_record(self, reason: str, text: str) -> None:
        now = self._clock.now_ms()
        self.history.record(
            Run(
                job=SERVICE_JOB,
                status=RunStatus.COMPLETED,
                scheduled_at_ms=now,
                started_at_ms=now,
                finished_at_ms=now,
                reason=reason,
                result=text,
                instance=self._options.instance,
            )
        )

    # What goes on beside.

    def _node(self) -> Node:
        return Node(
            instance=self._options.instance,
            nonce=self.holder.nonce,
            version=self._options.version,
            started_at_ms=self.started_at_ms,
            status="leading" if self.is_leader else self._blocked or "standing by",
        )

    async def _announce(self) -> None:
        while True:
            with contextlib.suppress(StorageError, TimeoutError):
                async with asyncio.timeout(_NODE_EVERY_S):
                    await self._storage.announce(self._node())
            now = self._clock.trust_s()
            for key in [k for k, (_, seen) in self._nodes.items() if now - seen > 4 * _NODE_GONE_S]:
                node, _ = self._nodes.pop(key)
                with contextlib.suppress(StorageError, TimeoutError):
                    async with asyncio.timeout(_NODE_EVERY_S):
                        await self._storage.retract(node)
            await asyncio.sleep(_NODE_EVERY_S)

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            if not self.is_leader:
                continue
            try:
                await self._remove_done()
                await self._storage.sweep()
            except (StorageError, TimeoutError) as error:
                log.debug("housekeeping put off", extra={"error": str(error)})

    async def _remove_done(self) -> None:
        """Once jobs that finished longer ago than they are kept."""
        limit = self._clock.now_ms() - self._options.keep_done_ms
        for i, entry in enumerate(self.table.entries()):
            if i % 256 == 255:  # noqa: PLR2004 - about 2 ms of work
                await asyncio.sleep(0)
            spec = entry.job.schedule
            if spec is None or spec.at is None or self.state_of(entry) is not JobState.DONE or entry.schedule is None:
                continue
            last = entry.schedule.last_at_or_before_ms(limit)
            if last is not None and entry.job.updated_at_ms < limit:
                with contextlib.suppress(JobNotFoundError, WrongRevisionError):
                    await self._storage.delete_job(entry.job.id, entry.job.revision)
