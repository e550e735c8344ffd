"""The candidate for the lease, and what it does when it has it.

States: *standing by* (the planner is kept warm by following the leader's mark), *blocked* (it may not lead: configured
so, a clock too far off, a Go instance alive, a record that only a later version can honour) and *leading* (a
:class:`~natscron.engine.term.Term` runs). A candidate watches the record and judges its age by its own clock; then it
reads the record from the stream's leader (asking again at a quarter of the lease, because a stream between two leaders
lets questions fall), waits until its own view of the jobs is complete, and writes by compare-and-set. Refused: somebody
else was faster. No answer: the next round finds its own nonce in the record and takes it again under a new epoch.

A term that fails, for whatever reason, is given up whole: the link is cut, the planner forgets what it decided, and
the next term, here or elsewhere, begins from the mark in the store. What cannot be reached is tried again at growing
distances up to :data:`RETRY_MAX_S`, and said.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec

from natscron.clock import Clock
from natscron.engine.candidate import Claim, Observed
from natscron.engine.failing import OnFailing
from natscron.engine.history import HistoryWriter
from natscron.engine.lateness import Lateness
from natscron.engine.options import EngineOptions
from natscron.engine.planner import Planner
from natscron.engine.renewal import ClockSkewError, Renewal, skew_between, skew_text
from natscron.engine.storetime import StoreClock
from natscron.engine.table import Entry, JobTable
from natscron.engine.target import Target
from natscron.engine.term import Term
from natscron.engine.trust import Trust, read
from natscron.errors import (
    LeadershipLostError,
    MalformedInputError,
    NatscronError,
    StorageUnavailableError,
    WrongRevisionError,
)
from natscron.model import Holder, Lease, LeaseRecord, Mark, Ms, OpenRow, OpenState, Reason
from natscron.storage.protocol import LeaderLink, LeaseStore, Reply
from natscron.storage.timers import TimerStore

log = logging.getLogger("natscron.leader")

_T = TypeVar("_T")

RETRY_MAX_S: Final = 1.0
_SKEWED_PAUSE_S: Final = 10.0
_UNREADABLE_PAUSE_S: Final = 5.0
_VIEW_WAIT_S: Final = 1.0
_ASK_S: Final = 0.5
_ASKS: Final = 10
"""How long an answer is waited for before the same is asked again (a quarter of the lease, if that is more)."""
_SLICE: Final = 256
"""Jobs planned before others may run: about 2 ms."""


class Taken(NamedTuple):
    """A lease that was taken: the record, trust in it, and the store's time."""

    record: LeaseRecord
    trust: Trust
    clock: StoreClock


class Leadership:
    """Takes the lease when it may, and leads."""

    def __init__(  # noqa: PLR0913 - the parts of an engine, wired by it
        self,
        *,
        store: LeaseStore,
        target: Target,
        clock: Clock,
        options: EngineOptions,
        table: JobTable,
        history: HistoryWriter,
        holder: Holder,
        may_lead: Callable[[], str | None],
        covered_until: Callable[[], Ms | None],
        renew_jobs: Callable[[], None],
        tell: Callable[[str, str], None],
        on_failing: OnFailing,
        timers: TimerStore | None = None,
    ) -> None:
        self.observed = Observed()
        self.lateness = Lateness()
        self.blocked: str | None = None
        """Why this instance may not lead; None if it may."""
        self.term: Term | None = None
        self.renewal: Renewal | None = None
        self.last_run: dict[str, Ms] = {}
        """The newest slot that this instance ran since it began to lead, by job."""
        self.ran_before: dict[str, Ms] = {}
        """The same of earlier times: others may have led in between."""
        self._store = store
        self._target = target
        self._clock = clock
        self._options = options
        self._table = table
        self._history = history
        self._holder = holder
        self._may_lead = may_lead
        self._covered_until = covered_until
        self._renew_jobs = renew_jobs
        self._tell = tell
        self._on_failing = on_failing
        self._timers = timers
        self._planner = Planner()
        self._warm = False
        self._rows: dict[str, tuple[OpenRow, int]] = {}
        self._newest: Lease | None = None
        self._serving = False
        self._poke = asyncio.Event()
        self._stopping = False
        self._stop_timeout_s = 0.0
        self._newer: dict[str, str] = {}
        self._skew_reason = ""
        self._skewed_until_s = 0.0
        self._term_lasted = False
        self._first = Mark(instant_ms=0)
        """Nothing was decided before: what counts is what was stored or due since this instance started."""

    @property
    def open_rows(self) -> int:
        """How many runs are laid down as open rows, by anybody."""
        return len(self._rows)

    def rows(self, state: OpenState) -> list[OpenRow]:
        """The open rows in this state, as far as this instance has seen them."""
        return [row for row, _ in self._rows.values() if row.state is state]

    def loaded(self, started_ms: Ms) -> None:
        """The first views are complete; ``started_ms`` is when this instance began to look."""
        self._first = Mark(instant_ms=started_ms, jobs_seq=self._table.seq)
        if not self.observed.known:
            self.observed.saw(None, self._clock.trust_s())

    def stop(self, timeout_s: float) -> None:
        """Make :meth:`run` release the lease and return; ``timeout_s`` bounds the wait for answers on their way."""
        self._stopping = True
        self._stop_timeout_s = timeout_s
        self._poke.set()

    # What the views say.

    def job_changed(self, job_id: str, entry: Entry | None) -> None:
        """The table changed."""
        if entry is None:
            self.last_run.pop(job_id, None)
            self.ran_before.pop(job_id, None)
        if self.term is not None and entry is not None and entry.job.newer:
            # Whoever can honour it goes on from the mark in the store, which must not come to cover this row by us.
            self.term.link.abort()
        if self.term is not None:
            self.term.job_changed(job_id, entry)
        elif self._warm and entry is None:
            self._planner.remove(job_id)
        elif self._warm and entry is not None:
            self._planner.put(entry)

    def lease_seen(self, record: LeaseRecord) -> None:
        """The lease changed."""
        self.observed.saw(record, self._clock.trust_s())
        self._newest = record.lease
        term, renewal = self.term, self.renewal
        if renewal is not None and term is not None:
            try:
                renewal.seen(record)
            except ClockSkewError as error:
                self._skewed(str(error))
                term.link.abort()
            return
        if self._warm and not self._serving:
            # Of two that began at once on an empty store the other may have been a little earlier.
            self._warm = not self._planner.beyond(record.lease.mark)
            if self._warm:
                self._planner.follow(record.lease.mark)
        self._poke.set()

    def row_seen(self, row: OpenRow, revision: int) -> None:
        """An open row was written."""
        self._rows[row.run_id] = (row, revision)
        if self.term is not None:
            self.term.row_seen(row)

    def newer_seen(self, record: str, why: str | None) -> None:
        """The lease or an open row needs a later version of this code; None: no longer."""
        if why is None:
            self._newer.pop(record, None)
        else:
            log.warning("a record needs a later version", extra={"record": record, "error": why})
            self._newer[record] = why
        self._poke.set()

    def row_gone(self, run_id: str) -> None:
        """An open row was deleted."""
        self._rows.pop(run_id, None)
        if self.term is not None:
            self.term.row_gone(run_id)

    # The candidate.

    async def run(self) -> None:
        """Stand by and lead, until stopped."""
        delay = 0.02
        while not self._stopping:
            self._poke.clear()
            self.blocked = self._why_blocked()
            claim = self.observed.claim(self._holder, self._clock.trust_s(), self._options.lease_ms)
            if self.blocked is not None or claim is Claim.HELD:
                await self._warm_up()
                wait = self.observed.expires_in_s(self._clock.trust_s(), self._options.lease_ms)
                await self._pause(min(max(wait, 0.02), 0.5) if self.blocked is None else 0.5)
                continue
            try:
                await self._lead()
                delay = 0.02
            except LeadershipLostError as error:
                log.warning("leadership lost", extra={"reason": str(error)})
                delay = 0.02 if self._term_lasted else min(delay * 2, RETRY_MAX_S)
            except MalformedInputError as error:
                # What nobody can read, nobody may overwrite: it may be the mark of a later version.
                self.blocked = f"the stored state cannot be used: {error}"
                log.warning("not leading", extra={"reason": self.blocked, "retry_s": _UNREADABLE_PAUSE_S})
                await self._pause(_UNREADABLE_PAUSE_S)
                continue
            except (NatscronError, TimeoutError) as error:
                log.warning("cannot take the lease", extra={"error": str(error), "retry_s": delay})
                delay = min(delay * 2, RETRY_MAX_S)
            except Exception:
                # A defect ends the term and is told; the next term may well succeed, and standing still never does.
                log.exception("leading failed")
                delay = min(delay * 2, RETRY_MAX_S)
            else:
                continue
            await self._pause(delay)

    def _why_blocked(self) -> str | None:
        if not self._options.plan:
            return "this instance is configured not to lead"
        if self._clock.trust_s() < self._skewed_until_s:
            return self._skew_reason
        return self._newer_reason() or self._may_lead()

    def _newer_reason(self) -> str | None:
        """Which record needs a later version of this code, if any does."""
        for job_id in self._table.newer:
            entry = self._table.get(job_id)
            if entry is not None:
                return f"job {job_id!r}: {entry.job.invalid}; update this instance, or remove the job"
        return next((f"{record}: {why}" for record, why in self._newer.items()), None)

    def _skewed(self, why: str) -> None:
        log.error(why)
        self._skew_reason = why
        self._skewed_until_s = self._clock.trust_s() + _SKEWED_PAUSE_S

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._poke.wait()

    async def _warm_up(self) -> None:
        """Fill the planner from the newest mark, so that a takeover finds it ready."""
        if not self._warm:
            await self._fill(self._first if self._newest is None else self._newest.mark)

    async def _fill(self, mark: Mark) -> None:
        self._planner.restart(mark)
        self._warm = True
        for i, entry in enumerate(self._table.entries()):
            # It may have changed while others ran: then the listener has put it already.
            if self._table.get(entry.job.id) is entry:
                self._planner.put(entry)
            if i % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)

    async def _lead(self) -> None:
        self._term_lasted = False
        # Before the lease is taken: a fill of many jobs would use up its trust.
        await self._warm_up()
        link = await self._store.open_link(self._replied)
        try:
            taken = await self._take(link)
            if taken is None:
                return
            self._serving = True
            await self._serve(link, taken)
        except BaseException:
            # Nothing more may leave over it.
            link.abort()
            raise
        finally:
            self._serving = False
            self.term = self.renewal = None
            await link.close()

    async def _take(self, link: LeaderLink) -> Taken | None:
        """Take the lease by compare-and-set; None if somebody else has it after all."""
        current = await self._asked(link.read_lease)
        self.observed.saw(current, self._clock.trust_s())
        claim = self.observed.claim(self._holder, self._clock.trust_s(), self._options.lease_ms)
        if claim is Claim.HELD:
            return None
        seq = await self._asked(link.jobs_seq)
        if not await self._table.wait_for(seq, _VIEW_WAIT_S):
            self._renew_jobs()
            raise StorageUnavailableError("the view of the jobs is behind; its watch is made anew")
        if self._newer_reason() is not None:
            return None
        now = self._clock.now_ms()
        lease, revision = self._successor(current, seq, now)
        mark = lease.mark
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
        clock = StoreClock(self._clock, skew)
        if lease.epoch == 1:
            # It was made by the host's own clock, as the takeover instant was; the next renewal writes them corrected.
            mark = msgspec.structs.replace(mark, instant_ms=mark.instant_ms - skew)
        if lease.takeover_ms == now:
            lease = msgspec.structs.replace(lease, takeover_ms=now - skew)
        record = msgspec.structs.replace(record, lease=msgspec.structs.replace(lease, mark=mark))
        return Taken(self._pulled_back(record, clock), Trust(self._options.lease_ms / 1000, started), clock)

    async def _asked(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask, and ask again soon: a stream between two leaders answers nothing, also not once it has the next one."""
        patience_s = max(_ASK_S, self._options.lease_ms / 4_000)
        for _ in range(_ASKS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    return await ask()
        raise StorageUnavailableError(f"the store answered none of {_ASKS} questions, {patience_s} s apart")

    def _successor(self, current: LeaseRecord | None, seq: int, now: Ms) -> tuple[Lease, int]:
        """The lease to write after ``current``, and the revision that it replaces."""
        takeover: Ms | None = now
        if current is None and self._newest is not None:
            # Somebody deleted the record; what it said is known.
            mark, epoch, revision = self._newest.mark, self._newest.epoch + 1, 0
            if mark.jobs_seq > seq:
                mark = msgspec.structs.replace(mark, jobs_seq=0)
        elif current is None:
            mark, epoch, revision = self._first, 1, 0
            mark = msgspec.structs.replace(mark, instant_ms=min(mark.instant_ms, now))
        else:
            mark, epoch, revision = current.lease.mark, current.lease.epoch + 1, current.revision
            if mark.jobs_seq > seq:
                # The jobs' bucket was made anew: none of its rows was ever seen.
                mark = msgspec.structs.replace(mark, jobs_seq=0)
            takeover = current.lease.takeover_ms
            self._newest = current.lease
        mark = self._covered(mark, now)
        if takeover is None or mark.instant_ms > takeover:
            takeover = now
        lease = Lease(
            epoch=epoch, mark=mark, holder=self._holder, takeover_ms=takeover, duration_ms=self._options.lease_ms
        )
        return lease, revision

    def _covered(self, mark: Mark, now: Ms) -> Mark:
        """The mark, behind what an instance that is not ours has run."""
        until = self._covered_until()
        if until is None or until <= mark.instant_ms:
            return mark
        until = min(until, now)
        seen = max((e.job.revision for e in self._table.entries() if e.job.updated_at_ms <= until), default=0)
        log.info("not running what was covered by others", extra={"until_ms": until})
        return msgspec.structs.replace(mark, instant_ms=until, jobs_seq=max(mark.jobs_seq, seen))

    def _pulled_back(self, record: LeaseRecord, clock: StoreClock) -> LeaseRecord:
        """A mark further in the future than the allowed skew, by our clock and the store's, is set back to now."""
        mark = record.lease.mark
        now = clock.now_ms()
        if mark.instant_ms <= max(now, record.stored_at_ms) + self._options.max_skew_ms:
            return record
        log.error("the mark lies in the future and is set back to now", extra={"mark_ms": mark.instant_ms})
        self._tell(Reason.CLOCK_PULLED_BACK, f"the mark was {mark.instant_ms - now} ms in the future")
        lease = msgspec.structs.replace(
            record.lease, mark=msgspec.structs.replace(mark, instant_ms=now), takeover_ms=now
        )
        return msgspec.structs.replace(record, lease=lease)

    async def _serve(self, link: LeaderLink, taken: Taken) -> None:
        """Lead until stopped, blocked or lost."""
        record = taken.record
        mark = record.lease.mark
        snapshot = await link.read_state(mark.note, record.revision)
        if not self._warm or self._planner.beyond(mark):
            await self._fill(mark)
        else:
            self._planner.follow(mark)
        self._planner.ready()
        self._warm = False
        if (why := self._newer_reason()) is not None:
            raise LeadershipLostError(why)
        self.ran_before |= self.last_run
        self.last_run.clear()
        term = Term(
            link=link,
            record=record,
            trust=taken.trust,
            snapshot=snapshot,
            table=self._table,
            planner=self._planner,
            target=self._target,
            clock=taken.clock,
            history=self._history,
            lateness=self.lateness,
            options=self._options,
            on_ran=self._ran,
            on_failing=self._on_failing,
            timers=self._timers,
        )
        renewal = Renewal(term, self._holder, record, jobs_behind=self._renew_jobs)
        self.renewal, self.term = renewal, term
        for row, seen in list(self._rows.values()):
            # Those before the lease are in the snapshot, read from the stream's leader; this copy may be old.
            if seen > record.revision:
                term.row_seen(row)
        log.info("leading", extra={"epoch": record.lease.epoch, "mark_ms": mark.instant_ms, "jobs": len(self._table)})
        self._tell(Reason.LEADER_CHANGED, f"epoch {record.lease.epoch}")
        for job in self._table.invalid_since(mark.jobs_seq if record.lease.epoch > 1 else 0):
            # Nobody led when they became so, and who leads later is told nothing of them.
            self._tell(Reason.INVALID_JOB, f"{job.id}: {job.invalid}")
        fire = asyncio.create_task(term.fire(), name="natscron fire")
        others = [
            asyncio.create_task(renewal.run(), name="natscron renew"),
            asyncio.create_task(term.watch_link(), name="natscron link"),
            asyncio.create_task(self._until_unwanted(), name="natscron unwanted"),
        ]
        if self._timers is not None:
            others.append(asyncio.create_task(term.timed.keep(), name="natscron timers"))
        try:
            done, _ = await asyncio.wait([fire, *others], return_when=asyncio.FIRST_COMPLETED)
            # Whoever gave the term up cut the link: its reason is told, not that the link ended.
            for task in [task for task in (fire, *others) if task in done]:
                task.result()
            self._term_lasted = True
            await self._resign(term, renewal, fire, others)
        except NatscronError:
            self._term_lasted = renewal.mark is not mark
            raise
        finally:
            term.close()
            for task in (fire, *others):
                task.cancel()
            await asyncio.gather(fire, *others, return_exceptions=True)

    async def _until_unwanted(self) -> None:
        """Return when this instance is to stop or may no longer lead."""
        while not self._stopping:
            self.blocked = self._why_blocked()
            if self.blocked is not None:
                return
            self._poke.clear()
            await self._pause(0.5 * self._options.calm)

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
        await term.delete_closed_rows(at_last=True)
        log.info("lease released", extra={"epoch": term.lease.epoch, "open_runs": len(term.flights)})
        self._tell(Reason.LEADER_RELEASED, f"epoch {term.lease.epoch}")
        if self._stopping and len(term.flights):
            await term.drain(self._stop_timeout_s)

    def _replied(self, reply: Reply) -> None:
        if self.term is not None:
            self.term.on_reply(reply)

    def _ran(self, slots: Mapping[str, Ms]) -> None:
        last = self.last_run
        for job_id, slot in slots.items():
            # What is tried again, or waited, is older than what ran meanwhile.
            if slot > last.get(job_id, 0):
                last[job_id] = slot
