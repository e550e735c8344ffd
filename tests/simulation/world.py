"""A small world on virtual time: a cluster, instances, jobs, and things that go wrong; and what must hold after."""

import asyncio
import contextvars
import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from natscron.codec import decode_row, successor, successor_calendar
from natscron.codec.calendar import calendar_name_of
from natscron.engine.engine import Engine
from natscron.engine.options import EngineOptions
from natscron.engine.target import Dispatch, Outcome, Refusal
from natscron.errors import JobNotFoundError, WrongRevisionError
from natscron.ids import RunIds
from natscron.model import (
    Calendar,
    CalendarSpec,
    CatchUp,
    CatchUpPolicy,
    Delivery,
    Job,
    NoteRef,
    Reason,
    Retry,
    RunStatus,
    ScheduleSpec,
    Stamp,
)
from natscron.schedule import compile_schedule
from natscron.storage.memory import MemoryCluster
from natscron.storage.protocol import Outgoing, Reply
from natscron.testing.faults import FaultyStorage
from natscron.testing.virtual import HOST, VirtualClock, VirtualLoop

NAMESPACE = "sim"
EVERYTHING = CatchUp(policy=CatchUpPolicy.ALL, window_ms=3_600_000, limit=10_000)
GRACE_MS = 12_000


class Arrival(NamedTuple):
    """A message that reached the cluster."""

    subject: str
    run_id: str
    slot_ms: int
    at_ms: int
    delivery: str
    attempt: int
    noted: bool
    """The journal had the run already when the message came."""


class Fault(NamedTuple):
    """Something that went wrong, and until when it had effects."""

    what: str
    from_ms: int
    to_ms: int


class SimTarget:
    """Encodes what the checks need; judges as the real one does."""

    def delivery_of(self, job: Job) -> Delivery:
        return Delivery.CORE if job.delivery is Delivery.AUTO else job.delivery

    def admits(self, job: Job) -> str | None:
        del job
        return None

    def encode(self, job: Job, dispatch: Dispatch, delivery: Delivery) -> Outgoing | Refusal:
        if "refused" in job.labels:
            return Refusal(Reason.RESERVED_SUBJECT, "refused by the test")
        token = "" if delivery is Delivery.CORE else f"{dispatch.run_id}.{dispatch.attempt}"
        headers = (
            ("run", dispatch.run_id),
            ("slot", str(dispatch.scheduled_at_ms)),
            ("delivery", delivery.value),
            ("attempt", str(dispatch.attempt)),
            ("message", f"{dispatch.run_id}.{dispatch.message}"),
        )
        return Outgoing(job.id, headers, b"", token)

    def judge(self, delivery: Delivery, reply: Reply) -> Outcome:
        if reply.status == "503":
            return Outcome(RunStatus.FAILED, Reason.NO_RESPONDERS, "nobody there", retry=True)
        return Outcome(RunStatus.STORED if delivery is Delivery.JETSTREAM else RunStatus.COMPLETED)


class Instance:
    """One process: an engine with its own clock and its own client of the cluster."""

    def __init__(self, world: "World", name: str, offset_s: float) -> None:
        self.world = world
        self.name = name
        self.clock = VirtualClock(world.loop, offset_s)
        self.host = ""
        self.engine: Engine | None = None
        self.storage: FaultyStorage | None = None
        self._lives = 0

    async def start(self) -> None:
        """A new process; its tasks carry its name, so that it can be suspended and killed."""
        self._lives += 1
        self.host = f"{self.name}#{self._lives}"
        context = contextvars.copy_context()
        context.run(HOST.set, self.host)
        await self.world.loop.create_task(self._start(), context=context)

    async def _start(self) -> None:
        self.storage = FaultyStorage(self.world.cluster)
        options = EngineOptions(namespace=NAMESPACE, instance=self.name)
        self.engine = Engine(self.storage, SimTarget(), self.clock, options)
        await self.engine.start()

    async def kill(self) -> None:
        """As SIGKILL: nothing of it runs any more, and what it had written arrives up to some point."""
        if self.engine is None or self.storage is None:
            return
        loop = self.world.loop
        loop.suspend(self.host)
        self.storage.cut(self.world.rng)
        for watch in self.storage.watches:
            watch.deaf = True
        self.world.graveyard.append(self.host)
        self.engine = self.storage = None

    async def stop(self) -> None:
        """A clean stop."""
        if self.engine is None or self.storage is None:
            return
        engine, storage = self.engine, self.storage
        self.engine = self.storage = None
        await engine.stop(1.0)
        await storage.close()


class World:
    """Everything, and a record of what happened."""

    def __init__(self, loop: VirtualLoop, seed: int, instances: int = 3, offsets: tuple[float, ...] = ()) -> None:
        self.loop = loop
        self.rng = random.Random(seed)  # noqa: S311 - a simulation, seeded on purpose
        self.clock = VirtualClock(loop)
        self.cluster = MemoryCluster(self.clock, self._arrived, runs_per_job=1_000_000)
        self.arrivals: list[Arrival] = []
        self.faults: list[Fault] = []
        self.writes: defaultdict[str, list[Job | Stamp]] = defaultdict(list)
        """Each job's rows as written, a bare stamp for a deletion."""
        self.silent_workers = False
        self.stored: dict[str, int] = {}
        self.graveyard: list[str] = []
        """Killed processes, whose tasks are ended with the world."""
        padded = [*offsets, *([0.0] * instances)]
        self.instances = [Instance(self, f"i{n}", padded[n]) for n in range(instances)]
        put_row = self.cluster.put_row

        def noted(key: str, row: bytes | None) -> int:
            seq = put_row(key, row)
            stamp = self.cluster.jobs[key][1]
            if calendar_name_of(key) is not None:
                return seq
            self.writes[key].append(stamp if row is None else decode_row(key, row, stamp))
            return seq

        self.noted: set[str] = set()
        """Every run id that ever stood in a stored note."""
        put_note = self.cluster.put_note

        def note_kept(ref: NoteRef, run_ids: Sequence[str]) -> None:
            put_note(ref, run_ids)
            self.noted.update(run_ids)

        self.cluster.put_note = note_kept  # type: ignore[method-assign]
        self.cluster.put_row = noted  # type: ignore[method-assign]

    def _arrived(self, message: Outgoing) -> Reply | None:
        headers = dict(message.headers)
        delivery = headers["delivery"]
        run_id = headers["run"]
        self.arrivals.append(
            Arrival(
                message.subject,
                run_id,
                int(headers["slot"]),
                self.clock.now_ms(),
                delivery,
                int(headers["attempt"]),
                run_id in self.noted,
            )
        )
        if delivery == "jetstream":
            self.stored[run_id] = self.stored.get(run_id, 0) or 1
        if not message.token or (delivery == "request" and self.silent_workers):
            return None
        return Reply(message.token, "", {}, b"")

    def fault(self, what: str, lasts_s: float = 0.0) -> None:
        """Note that something goes wrong now."""
        now = self.clock.now_ms()
        self.faults.append(Fault(what, now, now + int(lasts_s * 1000)))

    @property
    def leader(self) -> Instance | None:
        """The instance that leads, if one does."""
        return next((i for i in self.instances if i.engine is not None and i.engine.is_leader), None)

    # What an API instance does; it needs no leader.

    async def create(self, job: Job) -> None:
        """Create a job."""
        await FaultyStorage(self.cluster).create_job(job)

    async def edit(self, job_id: str, **changes: object) -> None:
        """Edit a job, as the API does: read, take over what the store owns, write at the read revision."""
        storage = FaultyStorage(self.cluster)
        for _ in range(5):
            old = await storage.fetch_job(job_id)
            if old is None:
                return
            mark = self.cluster.lease.lease.mark if self.cluster.lease is not None else None
            try:
                new = successor(old, msgspec.structs.replace(old, **changes), mark)
                await storage.put_job(new, old.revision)
            except WrongRevisionError:
                continue
            return

    async def delete(self, job_id: str) -> None:
        """Delete a job."""
        try:
            await FaultyStorage(self.cluster).delete_job(job_id)
        except JobNotFoundError:
            return

    async def put_calendar(self, name: str, spec: CalendarSpec) -> None:
        """Write a calendar, as the API does."""
        storage = FaultyStorage(self.cluster)
        old = await storage.fetch_calendar(name)
        mark = self.cluster.lease.lease.mark if self.cluster.lease is not None else None
        new = Calendar(name=name, spec=spec)
        await storage.put_calendar(new if old is None else successor_calendar(old, new, mark, 86_400_000))

    # The end.

    async def heal(self) -> None:
        """Everything works again; everybody is up; and time for all that is owed to be done."""
        self.cluster.up = True
        for instance in self.instances:
            if instance.engine is None:
                await instance.start()
        await asyncio.sleep(75)

    async def stop(self) -> None:
        """Stop everything in order and let the killed rest."""
        for instance in self.instances:
            await instance.stop()
        for host in self.graveyard:
            tasks = self.loop.tasks_of(host)
            for task in tasks:
                task.cancel()
            self.loop.resume(host)
            await asyncio.gather(*tasks, return_exceptions=True)

    # What must hold.

    def check(self, *, until_ms: int | None = None) -> None:
        """Assert the promise over everything that happened up to ``until_ms`` (default: 70 s ago)."""
        end = self.clock.now_ms() - 70_000 if until_ms is None else until_ms
        by_job: defaultdict[str, list[Arrival]] = defaultdict(list)
        for arrival in self.arrivals:
            by_job[arrival.subject].append(arrival)
        for job_id in self.writes:
            self._check_job(job_id, by_job[job_id], end)
        assert len(self.cluster.notes) <= 2000, "notes grow"
        open_ids = [r for r, (row, _) in self.cluster.rows.items() if row.deadline_ms < self.clock.now_ms() - 40_000]
        assert not open_ids, f"open rows left behind: {open_ids[:3]}"

    def _check_job(self, job_id: str, arrivals: list[Arrival], end_ms: int) -> None:
        expected, tolerated = self._owed(job_id, end_ms)
        got: defaultdict[str, list[Arrival]] = defaultdict(list)
        for arrival in arrivals:
            got[arrival.run_id].append(arrival)
        seen_slots: dict[tuple[str, int], str] = {}
        for run_id, copies in got.items():
            first = copies[0]
            slot = expected.get(run_id, tolerated.get(run_id))
            assert slot is not None or first.slot_ms > end_ms, (
                f"{job_id}: a run that nothing asked for: {first} ({self._story()})"
            )
            assert first.at_ms >= first.slot_ms - self._skew_ms(), f"{job_id}: early: {first}"
            assert all(c.slot_ms == first.slot_ms for c in copies), f"{job_id}: one id, two slots: {copies}"
            seen_slots[run_id, first.slot_ms] = run_id
            self._check_copies(job_id, copies)
        missing = [(run_id, slot) for run_id, slot in expected.items() if run_id not in got]
        assert not missing, (
            f"{job_id}: {len(missing)} of {len(expected)} slots lost, first {missing[0]} "
            f"(+{(missing[0][1] - 1_800_000_000_000) / 1000} s) ({self._story()})"
        )

    def _check_copies(self, job_id: str, copies: list[Arrival]) -> None:
        tries: defaultdict[int, list[int]] = defaultdict(list)
        for copy in copies:
            tries[copy.attempt].append(copy.at_ms)
        assert not any(c.noted and c.delivery == "core" for c in copies), (
            f"{job_id}: sent again although the journal had it: {copies} ({self._story()})"
        )
        for times in tries.values():
            for earlier, later in itertools.pairwise(sorted(times)):
                assert any(f.from_ms <= later and f.to_ms >= earlier - 1000 for f in self.faults), (
                    f"{job_id}: sent twice where no fault fell: {copies} ({self._story()})"
                )

    def _skew_ms(self) -> int:
        return int(max(abs(i.clock.offset_s) for i in self.instances) * 1000) + 1

    def _owed(self, job_id: str, end_ms: int) -> tuple[dict[str, int], dict[str, int]]:
        """Run ids that must have arrived, and those that may have, each with its slot."""
        expected: dict[str, int] = {}
        tolerated: dict[str, int] = {}
        writes = self.writes[job_id]
        known_from = self.cluster_start_ms
        for i, write in enumerate(writes):
            assert isinstance(write, Stamp) or write.invalid is None, write.invalid
            if isinstance(write, Stamp) or write.schedule is None:
                continue
            ids = RunIds(NAMESPACE, job_id, write.generation)
            following = writes[i + 1] if i + 1 < len(writes) else None
            # A job that is removed takes with it what was due and, for want of a leader, not yet run.
            removed_ms = next((w.at_ms for w in writes[i + 1 :] if isinstance(w, Stamp)), end_ms + 60_000)
            until = end_ms
            if following is not None:
                until = following.at_ms if isinstance(following, Stamp) else following.updated_at_ms
            schedule = compile_schedule(write.schedule, anchor_ms=write.anchor_ms, seed=job_id).schedule
            floor = max(write.updated_at_ms, known_from)
            if write.generation == write.revision and write.schedule.run_at_start:
                floor = write.anchor_ms - 1
            # Decided by a leader that did not yet know the next write, or whose view was deaf, or whose clock is off.
            slack = until + 4_000 + self._skew_ms()
            slot = schedule.next_after_ms(floor)
            while slot is not None and slot <= slack:
                run_id = ids.at(slot)
                if write.paused:
                    pass
                elif slot <= min(until, end_ms) and slot < removed_ms - GRACE_MS - 15_000:
                    expected[run_id] = slot
                else:
                    tolerated[run_id] = slot
                slot = schedule.next_after_ms(slot)
        return expected, tolerated

    cluster_start_ms = 1_800_000_000_000

    def _story(self) -> str:
        return "; ".join(
            f"{f.what} at +{(f.from_ms - 1_800_000_000_000) / 1000}..{(f.to_ms - 1_800_000_000_000) / 1000} s"
            for f in self.faults
        )


def job(job_id: str, schedule: ScheduleSpec, delivery: Delivery = Delivery.CORE) -> Job:
    """A job that wants all of its slots, however late."""
    return Job(
        id=job_id,
        schedule=schedule,
        delivery=delivery,
        catchup=EVERYTHING,
        timeout_ms=5_000,
        retry=Retry(attempts=3, backoff_ms=500),
    )
