"""A small company on virtual time: schedulers that share a cluster, handlers that are watched, and what must hold."""

import asyncio
import contextvars
import itertools
import random
from collections import defaultdict
from typing import Any, Final

import msgspec
from tests.support.fickle import FickleStorage

from natscron import CatchUp, CatchUpPolicy, JobEvent, Retry, Scheduler, every
from natscron.ids import RunIds
from natscron.model import SERVICE_JOB, Ms, Overlap, QueuedRun, Run, RunStatus, ScheduleSpec, Trigger
from natscron.schedule import compile_schedule
from natscron.storage.memory import MemoryCluster
from natscron.testing.virtual import HOST, VirtualClock, VirtualLoop

__all__ = ["BEGIN_MS", "JOBS", "Company", "Member", "Span"]

BEGIN_MS: Final = 1_800_000_000_000
LEASE_MS: Final = 3_000
"""How long a worker may be silent."""
EVERYTHING: Final = CatchUp(policy=CatchUpPolicy.ALL, window_ms=3_600_000, limit=10_000)
NAME: Final = "company"
_FINAL: Final = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.SKIPPED, RunStatus.DEAD})
_BY_PLAN: Final = frozenset({Trigger.SCHEDULE, Trigger.CATCHUP})


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A job of the company, and how its handler behaves: how long it takes at most, how often it fails."""

    schedule: ScheduleSpec
    overlap: Overlap
    lasts_s: float
    fails: float = 0.0
    concurrency: int = 0
    retry: Retry = Retry()
    timeout_s: float | None = None
    handler: str = ""


JOBS: Final = {
    "skip": Plan(schedule=every("1s"), overlap=Overlap.SKIP, lasts_s=1.6),
    "one": Plan(
        schedule=every("900ms"),
        overlap=Overlap.BUFFER_ONE,
        lasts_s=1.2,
        fails=0.2,
        retry=Retry(attempts=3, backoff_ms=300),
    ),
    "all": Plan(schedule=every("2s"), overlap=Overlap.BUFFER_ALL, lasts_s=2.5, fails=0.1),
    "other": Plan(schedule=every("1500ms"), overlap=Overlap.CANCEL_OTHER, lasts_s=3.0, retry=Retry(attempts=2)),
    "allow": Plan(
        schedule=every("500ms"),
        overlap=Overlap.ALLOW,
        lasts_s=1.0,
        fails=0.3,
        retry=Retry(attempts=4, backoff_ms=500),
    ),
    "two": Plan(schedule=every("700ms"), overlap=Overlap.ALLOW, lasts_s=1.5, concurrency=2, timeout_s=1.2),
    "named": Plan(schedule=every("3s"), overlap=Overlap.SKIP, lasts_s=0.5, handler="named"),
}


class Span(msgspec.Struct):
    """One call of a handler. ``how``: completed, failed, cancelled, or killed with its process; "" while it goes."""

    job: str
    run_id: str
    attempt: int
    member: str
    host: str
    begin_ms: Ms
    end_ms: Ms | None = None
    how: str = ""


class Member:
    """One process: a scheduler with its own clock and its own client of the cluster.

    One of the members does not have the handler ``named``, and another never plans.
    """

    def __init__(self, company: "Company", name: str) -> None:
        self.company = company
        self.name = name
        self.host = ""
        self.clock = VirtualClock(company.loop)
        self.storage: FickleStorage | None = None
        self.scheduler: Scheduler | None = None
        self._lives = 0

    async def start(self) -> None:
        """A new process; all that it does carries its name, so that it can be suspended and killed."""
        self._lives += 1
        self.host = f"{self.name}#{self._lives}"
        context = contextvars.copy_context()
        context.run(HOST.set, self.host)
        self.storage = FickleStorage(self.company.cluster, self.company.rng, self.company.latency_s)
        self.scheduler = Scheduler(
            self.storage,
            self._handle,
            name=NAME,
            instance=self.host,
            concurrency=6,
            worker_lease=LEASE_MS / 1000,
            plan=not self.company.is_special(self, 1),
            clock=self.clock,
        )
        if not self.company.is_special(self, 0):
            self.scheduler.handler("named")(self._handle)
        await self.company.loop.create_task(self.scheduler.start(), context=context)

    async def _handle(self, event: JobEvent) -> str:
        company = self.company
        plan = company.plans[event.id]
        span = Span(event.id, event.run_id, event.attempt, self.name, self.host, company.now_ms())
        company.spans.append(span)
        try:
            await asyncio.sleep(company.rng.random() * plan.lasts_s)
            if company.rng.random() < plan.fails:
                span.how = "failed"
                raise ValueError("as drawn")
        except asyncio.CancelledError:
            span.how = span.how or "cancelled"
            raise
        else:
            span.how = "completed"
            return self.host
        finally:
            # Of a killed process nothing runs any more but the burial.
            span.end_ms = span.end_ms or company.now_ms()

    def kill(self) -> None:
        """As SIGKILL: nothing of it runs any more, and what it had written arrives up to some point."""
        if self.storage is None:
            return
        company = self.company
        company.loop.suspend(self.host)
        self.storage.cut(company.rng)
        self.storage.deafen()
        for span in company.spans:
            if span.host == self.host and span.end_ms is None:
                span.end_ms, span.how = company.now_ms(), "killed"
        company.graveyard.append(self.host)
        self.storage = self.scheduler = None

    def deafen(self) -> None:
        """Its watches fall silent, until they notice after some seconds, as those of real stores do."""
        if self.storage is not None:
            self.storage.deafen()
            context = contextvars.Context()
            context.run(HOST.set, self.host)
            self.company.loop.call_later(4.0, self._hear, self.storage, context=context)

    def _hear(self, storage: FickleStorage) -> None:
        if storage is self.storage:
            for watch in storage.watches:
                watch.renew()

    async def stop(self, timeout_s: float = 1.0) -> None:
        """A clean stop."""
        if self.scheduler is None or self.storage is None:
            return
        scheduler, storage = self.scheduler, self.storage
        self.scheduler = self.storage = None
        context = contextvars.copy_context()
        context.run(HOST.set, self.host)
        await self.company.loop.create_task(scheduler.stop(timeout_s), context=context)
        assert not scheduler.failure, scheduler.failure
        await storage.close()


class Company:
    """Everything, and a record of what happened."""

    def __init__(self, loop: VirtualLoop, seed: int, members: int = 3, plans: dict[str, Plan] | None = None) -> None:
        self.loop = loop
        self._seed = seed
        self.latency_s = (0.001, 0.001, 0.03, 0.12)[seed % 4]
        """How long a call takes, and as long again a leader's write."""
        self.rng = random.Random(seed)  # noqa: S311 - a simulation, seeded on purpose
        self.clock = VirtualClock(loop)
        self.cluster = MemoryCluster(self.clock, runs_per_job=1_000_000)
        self.plans = dict(JOBS if plans is None else plans)
        self.spans: list[Span] = []
        self.graveyard: list[str] = []
        """Killed processes, whose tasks are ended with the company."""
        self.story: list[str] = []
        self.cut_off: defaultdict[str, list[tuple[Ms, Ms]]] = defaultdict(list)
        """When a process, by host ("" all of them), may have lost its lease without knowing it."""
        self.deaf_since: dict[str, Ms] = {}
        """Since when the announcements of a process get lost."""
        self.redriven: set[str] = set()
        self.edited: set[str] = set()
        """Jobs whose slots and policy are not what was planned any more."""
        self.generations: dict[str, int] = {}
        self.entered: dict[str, set[str]] = defaultdict(set)
        """Every run id that was ever queued for a slot, by job and slot."""
        self.members = [Member(self, f"m{n}") for n in range(members)]
        enter = self.cluster.queue.enter

        def entered(run: QueuedRun) -> Run | None:
            if run.trigger in _BY_PLAN:
                self.entered[f"{run.job}.{run.generation}.{run.scheduled_at_ms}"].add(run.run_id)
            return enter(run)

        self.cluster.queue.enter = entered  # type: ignore[method-assign]

    def is_special(self, member: Member, shift: int) -> bool:
        """Whether it is the one that differs from the others in something, by the seed."""
        return self.members[(self._seed + shift) % len(self.members)] is member

    def now_ms(self) -> Ms:
        """The store's time."""
        return self.clock.now_ms()

    def tell(self, what: str) -> None:
        """Note what happens, for whoever reads a failure."""
        self.story.append(f"+{(self.now_ms() - BEGIN_MS) / 1000:.3f} {what}")

    def silenced(self, host: str, lasts_s: float) -> None:
        """``host`` ("" all) cannot announce itself for so long: what may cost it its lease is noted."""
        # It was heard a third of the lease before, and will be heard within another.
        if lasts_s * 1000 >= LEASE_MS // 3:
            now = self.now_ms()
            self.cut_off[host].append((now, now + int(lasts_s * 1000) + 2 * LEASE_MS))

    def mended(self, host: str) -> None:
        """Its announcements arrive again."""
        since = self.deaf_since.pop(host, None)
        if since is not None:
            self.cut_off[host].append((since, self.now_ms() + 2 * LEASE_MS))

    @property
    def leader(self) -> Member | None:
        """Who leads, if anybody does."""
        return next((m for m in self.members if m.scheduler is not None and m.scheduler.is_leader), None)

    def anybody(self, n: int = 0) -> Member | None:
        """A member that runs."""
        alive = [member for member in self.members if member.scheduler is not None]
        return alive[n % len(alive)] if alive else None

    async def open(self) -> None:
        """Everybody starts, and the jobs are stored."""
        for member in self.members:
            await member.start()
        for job_id in self.plans:
            await self.add(job_id)

    async def add(self, job_id: str) -> None:
        """Store a job as planned."""
        member = self.anybody()
        assert member is not None
        assert member.scheduler is not None
        plan = self.plans[job_id]
        await member.scheduler.add_job(
            job_id,
            plan.schedule,
            overlap=plan.overlap,
            concurrency=plan.concurrency or None,
            retry=plan.retry,
            timeout=plan.timeout_s,
            handler=plan.handler or None,
            catchup=EVERYTHING,
        )
        row = await FickleStorage(self.cluster).fetch_job(job_id)
        assert row is not None
        self.generations[job_id] = row.generation

    # The end.

    async def close(self) -> None:
        """Everything works again, no further slot comes, what is owed is done, and everybody stops."""
        self.cluster.up = True
        for member in self.members:
            if member.scheduler is None:
                await member.start()
            assert member.storage is not None
            member.storage.refuse.clear()
            member.storage.lose.clear()
        for host in list(self.deaf_since):
            self.mended(host)
        await asyncio.sleep(20)
        self.end_ms = self.now_ms()
        member = self.members[0]
        assert member.scheduler is not None
        for job in await member.scheduler.list_jobs():
            await member.scheduler.pause(job.id)
        for _ in range(600):
            if not any(True for _ in self.cluster.queue.open_runs(None)):
                break
            await asyncio.sleep(1)
        await asyncio.sleep(5)
        for member in self.members:
            await member.stop(5.0)
        await asyncio.sleep(2 * LEASE_MS / 1000)

    async def bury(self) -> None:
        """Let the killed rest."""
        for host in self.graveyard:
            tasks = self.loop.tasks_of(host)
            for task in tasks:
                task.cancel()
            self.loop.resume(host)
            await asyncio.gather(*tasks, return_exceptions=True)

    # What must hold.

    def check(self) -> None:
        """Assert the promise over everything that happened."""
        by_job: defaultdict[str, list[Run]] = defaultdict(list)
        for run in itertools.chain.from_iterable(self.cluster.runs.values()):
            if run.job != SERVICE_JOB:
                by_job[run.job].append(run)
        self._check_calls()
        for job_id, plan in self.plans.items():
            self._check_attempts(job_id, by_job[job_id])
            if job_id not in self.edited:
                self._check_room(job_id, plan)
                self._check_slots(job_id, plan, by_job[job_id])
        self._check_leaks()

    def _tale(self) -> str:
        return "\n  ".join(["", *self.story])

    def _check_calls(self) -> None:
        seen: dict[tuple[str, int], Span] = {}
        for span in self.spans:
            other = seen.setdefault((span.run_id, span.attempt), span)
            assert other is span, f"one try was executed twice: {other}, {span}{self._tale()}"
            assert span.end_ms is not None, f"a handler never ended: {span}{self._tale()}"

    def _check_attempts(self, job_id: str, runs: list[Run]) -> None:
        tries: defaultdict[str, dict[int, Run]] = defaultdict(dict)
        for run in runs:
            if run.run_id is None:
                continue
            assert run.status in _FINAL, f"{job_id}: not over: {run}{self._tale()}"
            assert run.attempt not in tries[run.run_id], f"{job_id}: a try has two records: {run}{self._tale()}"
            tries[run.run_id][run.attempt] = run
        for run_id, some in tries.items():
            assert sorted(some) == list(range(1, len(some) + 1)), f"{job_id}: {run_id}: {sorted(some)}{self._tale()}"
            for attempt, run in some.items():
                over = attempt == len(some)
                again = run.status is RunStatus.FAILED or run_id in self.redriven
                assert over or again, f"{job_id}: tried again after {run}{self._tale()}"
                assert run.status is RunStatus.COMPLETED or run.reason, f"{job_id}: no reason: {run}{self._tale()}"
        for span in self.spans:
            if span.job != job_id:
                continue
            record = tries[span.run_id].get(span.attempt)
            assert record is not None, f"{job_id}: a call left no record: {span}{self._tale()}"
            if record.status is RunStatus.COMPLETED:
                assert span.how == "completed", f"{job_id}: {span} is recorded as completed{self._tale()}"
            elif record.reason not in {"worker_lost", "worker_stopped"}:
                assert span.how != "completed", f"{job_id}: {span} is recorded as {record}{self._tale()}"

    def _check_room(self, job_id: str, plan: Plan) -> None:
        """Never more at once than may be, but where a worker had lost its lease."""
        most = QueuedRun(
            run_id="",
            job=job_id,
            generation=0,
            scheduled_at_ms=0,
            due_ms=0,
            overlap=plan.overlap,
            concurrency=plan.concurrency,
        ).capacity
        if not most:
            return
        spans = sorted((s for s in self.spans if s.job == job_id and not self._cut_off(s)), key=lambda s: s.begin_ms)
        going: list[Span] = []
        for span in spans:
            going = [other for other in going if other.end_ms is not None and other.end_ms > span.begin_ms]
            going.append(span)
            assert len(going) <= most, f"{job_id}: {len(going)} at once: {going}{self._tale()}"

    def _cut_off(self, span: Span) -> bool:
        """Whether its process may have lost its lease while it went."""
        return any(
            from_ms <= (span.end_ms or from_ms) and span.begin_ms <= to_ms
            for host in (span.host, "")
            for from_ms, to_ms in self.cut_off[host]
        )

    def _check_slots(self, job_id: str, plan: Plan, runs: list[Run]) -> None:
        generation = self.generations[job_id]
        schedule = compile_schedule(plan.schedule, anchor_ms=self._anchor_ms(job_id), seed=job_id).schedule
        ids = RunIds(NAME, job_id, generation)
        known = {run.run_id for run in runs}
        ranges = [(run.from_ms or 0, run.to_ms or 0) for run in runs if run.run_id is None and run.count]
        slot = schedule.next_after_ms(self._anchor_ms(job_id))
        missing = []
        total = 0
        while slot is not None and slot < self.end_ms:
            total += 1
            entered = self.entered[f"{job_id}.{generation}.{slot}"]
            assert entered <= {ids.at(slot)}, f"{job_id}: a slot has other ids: {entered}{self._tale()}"
            if ids.at(slot) not in known and not any(a <= slot <= b for a, b in ranges):
                missing.append(slot - BEGIN_MS)
            slot = schedule.next_after_ms(slot)
        assert not missing, (
            f"{job_id}: {len(missing)} of {total} slots neither ran nor have a reason: {missing[:5]}{self._tale()}"
        )

    def _anchor_ms(self, job_id: str) -> Ms:
        row = self.cluster.jobs[job_id]
        assert row[0] is not None
        from natscron.codec import decode_row  # noqa: PLC0415 - at the top it would hide what the rest is about

        return decode_row(job_id, row[0], row[1]).anchor_ms

    def _check_leaks(self) -> None:
        queue: Any = self.cluster.queue
        for name in ("_tries", "_lines", "_going", "_held", "_owned"):
            assert not getattr(queue, name), f"left in the queue: {name} {getattr(queue, name)}{self._tale()}"
        assert not queue.workers(), f"workers that nobody is: {queue.workers()}{self._tale()}"
        assert len(queue._over) <= 10_000
        assert not self.cluster.rows, f"open rows are left: {self.cluster.rows}{self._tale()}"
        live = {host for member in self.members for host in [member.host]}
        assert len(live) == len(self.members)
