"""Overlap, reports, backfills and failure counters, while leaders die: on virtual time, drawn by hypothesis."""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.simulation.world import Arrival, World, job

from natscron.errors import BackfillNotFoundError, LimitExceededError, NatscronError, ValidationError
from natscron.model import Job, OpenState, Overlap, Reason, Report, Retry, Run, RunStatus, ScheduleSpec, Trigger
from natscron.storage.memory import MemoryStorage
from natscron.storage.protocol import Outgoing, Reply, RunQuery
from natscron.testing.virtual import VirtualLoop

START = 1_800_000_000_000
SECONDS = ScheduleSpec(cron="* * * * * *")


class Workshop(World):
    """A world whose workers take their time and report through any instance that lives."""

    works_s = 0.0
    succeeds = True

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        super().__init__(loop, seed)
        self.spans: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        """From when to when a run was worked on, by run id."""
        self.in_stream: set[str] = set()
        """Messages that a stream would know again."""
        self.reported: dict[str, int] = {}
        """When a worker's word on a run was taken, by run id."""
        self._busy: set[asyncio.Task[None]] = set()

    def _arrived(self, message: Outgoing) -> Reply | None:
        reply = super()._arrived(message)
        headers = dict(message.headers)
        copy = headers["delivery"] == "jetstream" and headers["message"] in self.in_stream
        self.in_stream.add(headers["message"])
        if self.works_s and not copy:
            task = self.loop.create_task(self._work(self.arrivals[-1]))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        return reply

    async def _work(self, arrival: Arrival) -> None:
        begun = self.clock.now_ms()
        await asyncio.sleep(self.works_s)
        status = RunStatus.COMPLETED if self.succeeds else RunStatus.FAILED
        report = Report(status=status, attempt=arrival.attempt, finished_at_ms=self.clock.now_ms())
        self.spans[arrival.run_id].append((begun, self.clock.now_ms()))
        while True:
            instance = next((i for i in self.instances if i.engine is not None), None)
            if instance is not None and instance.engine is not None:
                try:
                    await instance.engine.report(arrival.run_id, arrival.subject, report)
                except NatscronError:
                    pass
                else:
                    self.reported[arrival.run_id] = self.clock.now_ms()
                    return
            await asyncio.sleep(0.05)

    async def records(self, job_id: str = "a") -> list[Run]:
        return list(await MemoryStorage(self.cluster).list_runs(RunQuery(job=job_id, limit=10_000, descending=False)))

    async def rest(self) -> None:
        """Everybody is up again, and the workers have nothing left to do."""
        await self.heal()
        while self._busy:
            await asyncio.wait(self._busy)
        await asyncio.sleep(5)


def play(story: Callable[[Workshop], Awaitable[None]], seed: int = 3) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        world = Workshop(loop, seed)
        try:
            await story(world)
        finally:
            await world.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


async def until(holds: Callable[[], bool]) -> None:
    """Wait, a hundredth of a virtual second at a time."""
    while True:
        if holds():
            return
        await asyncio.sleep(0.01)


async def begin(world: Workshop, *jobs: Job) -> None:
    for one in jobs:
        await world.create(one)
    for instance in world.instances:
        await instance.start()
    await until(lambda: world.leader is not None)


async def kill_leader(world: Workshop) -> None:
    await until(lambda: world.leader is not None)
    world.fault("kill leader", 3)
    leader = world.leader
    assert leader is not None
    await leader.kill()
    await leader.start()


def reporting(job_id: str = "a", **changes: object) -> Job:
    known = {"reports": True, "timeout_ms": 60_000, "retry": Retry(), **changes}
    return msgspec.structs.replace(job(job_id, SECONDS), **known)


DEATHS = st.lists(st.floats(0.05, 6.0), max_size=4)


# Overlap.


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    policy=st.sampled_from([Overlap.SKIP, Overlap.BUFFER_ONE, Overlap.BUFFER_ALL]),
    works_s=st.sampled_from([0.4, 1.7, 2.5]),
    deaths=DEATHS,
    seed=st.integers(0, 1_000),
)
def test_no_two_runs_of_a_job_are_worked_on_at_once_and_every_slot_is_accounted_for(
    policy: Overlap, works_s: float, deaths: list[float], seed: int
) -> None:
    async def story(world: Workshop) -> None:
        world.works_s = works_s
        await begin(world, reporting(overlap=policy))
        for pause in deaths:
            await asyncio.sleep(pause)
            await kill_leader(world)
        await asyncio.sleep(20)
        end = world.clock.now_ms()
        await world.edit("a", paused=True)
        await world.rest()
        spans = sorted((begun, ended, run_id) for run_id, some in world.spans.items() for begun, ended in some)
        for (_, ended, one), (begun, _, other) in itertools.pairwise(spans):
            # A copy under the same id, where a kill cut a write in two, is the same run.
            assert begun >= ended or one == other, f"{one} and {other} at once"
        records = await world.records()
        told: set[int] = {run.scheduled_at_ms or 0 for run in records if run.run_id}
        for run in records:
            if run.from_ms is not None and run.to_ms is not None:
                told |= set(range(run.from_ms, run.to_ms + 1, 1_000))
        missing = [slot for slot in range(START + 1_000, end - 1_000, 1_000) if slot not in told]
        assert not missing, f"nothing says what became of {missing[:5]}"
        assert not [row for row, _ in world.cluster.rows.values()], "open rows left behind"

    play(story, seed)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(deaths=DEATHS, seed=st.integers(0, 1_000))
def test_buffer_all_loses_none_that_it_has_room_for(deaths: list[float], seed: int) -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 1.5
        await begin(world, reporting(overlap=Overlap.BUFFER_ALL))
        for pause in deaths:
            await asyncio.sleep(pause)
            await kill_leader(world)
        await asyncio.sleep(15)
        end = world.clock.now_ms()
        await world.edit("a", paused=True)
        await world.rest()
        worked = {arrival.slot_ms for arrival in world.arrivals}
        missing = [slot for slot in range(START + 1_000, end - 1_000, 1_000) if slot not in worked]
        assert not missing
        ends = Counter(run.run_id for run in await world.records() if run.status is RunStatus.COMPLETED)
        assert set(ends) == {arrival.run_id for arrival in world.arrivals}

    play(story, seed)


def test_a_report_made_while_nobody_leads_is_heard_by_the_next_leader() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 0.3
        await begin(world, reporting(schedule=ScheduleSpec(every="1h"), overlap=Overlap.SKIP))
        assert world.leader is not None
        assert world.leader.engine is not None
        run_id = await world.leader.engine.trigger("a")
        await until(lambda: bool(world.arrivals))
        for instance in world.instances[:]:
            if instance is world.leader:
                world.fault("kill leader", 3)
                await instance.kill()
        await asyncio.sleep(20)
        runs = [run for run in await world.records() if run.run_id == run_id]
        assert [run.status for run in runs][-1] is RunStatus.COMPLETED
        assert not [run for run in runs if run.reason is not None]
        assert not world.cluster.rows

    play(story)


def test_a_policy_is_asked_of_triggers_too_and_they_may_bring_their_own() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 5
        await begin(world, reporting(schedule=ScheduleSpec(every="1h"), overlap=Overlap.SKIP))
        assert world.leader is not None
        engine = world.leader.engine
        assert engine is not None
        first = await engine.trigger("a")
        await asyncio.sleep(0.5)
        second = await engine.trigger("a")
        third = await engine.trigger("a", overlap=Overlap.ALLOW)
        fourth = await engine.trigger("a", overlap=Overlap.BUFFER_ONE)
        await asyncio.sleep(1)
        assert {arrival.run_id for arrival in world.arrivals} == {first, third}
        await asyncio.sleep(20)
        assert {arrival.run_id for arrival in world.arrivals} == {first, third, fourth}
        skipped = [run for run in await world.records() if run.status is RunStatus.SKIPPED]
        assert [(run.run_id, run.reason) for run in skipped] == [(second, Reason.OVERLAP_SKIP)]

    play(story)


# Backfills.


@settings(max_examples=12, deadline=None, derandomize=True)
@given(deaths=DEATHS, seed=st.integers(0, 1_000), every_ms=st.sampled_from([5, 20, 100]))
def test_a_backfill_runs_each_slot_once_whoever_dies(deaths: list[float], seed: int, every_ms: int) -> None:
    async def story(world: Workshop) -> None:
        await begin(world, job("a", ScheduleSpec(cron="* * * * *")))
        assert world.leader is not None
        assert world.leader.engine is not None
        first, last = START - 7_200_000, START - 60_000
        row = await world.leader.engine.backfill("a", first, last, every_ms=every_ms, overlap=None, key="k")
        for pause in deaths:
            await asyncio.sleep(pause / 3)
            await kill_leader(world)
        await world.heal()
        arrived = [arrival for arrival in world.arrivals if arrival.slot_ms <= last]
        slots = Counter(arrival.slot_ms for arrival in arrived)
        assert set(slots) == set(range(first - first % 60_000, last + 1, 60_000)) - {first - 60_000}
        ids: defaultdict[int, set[str]] = defaultdict(set)
        for arrival in arrived:
            ids[arrival.slot_ms].add(arrival.run_id)
        assert all(len(some) == 1 for some in ids.values()), "a slot under two ids"
        assert sum(slots.values()) - len(slots) <= 64 * len(deaths), "copies where no fault fell"
        records = await world.records()
        ends = [run for run in records if run.reason == Reason.BACKFILL_DONE]
        # Told again by a successor that finds its row, where the leader died before it could delete it.
        assert 1 <= len(ends) <= 1 + len(deaths)
        end = ends[-1]
        assert (end.run_id, end.count, end.from_ms, end.to_ms) == (row.run_id, len(slots), first, last)
        told = {run.scheduled_at_ms for run in records if run.trigger is Trigger.BACKFILL and run.run_id != row.run_id}
        assert told <= set(slots)
        # A killed process takes with it the records that it had not written yet.
        assert len(told) >= len(slots) - 200 * len(deaths)
        assert not world.cluster.rows

    play(story, seed)


def test_a_backfill_keeps_its_rate_and_can_be_cancelled_while_nobody_leads() -> None:
    async def story(world: Workshop) -> None:
        await begin(world, job("a", ScheduleSpec(cron="* * * * *")))
        assert world.leader is not None
        engine = world.leader.engine
        assert engine is not None
        row = await engine.backfill("a", START - 36_000_000, START, every_ms=100, overlap=None, key=None)
        await asyncio.sleep(3)
        going = len(world.arrivals)
        assert 25 <= going <= 32
        [seen] = engine.backfills()
        assert seen.backfill is not None
        assert seen.backfill.total == 601
        assert abs(seen.backfill.done - going) <= 1
        other = next(i for i in world.instances if i is not world.leader)
        leader = world.leader
        world.fault("kill leader", 3)
        await leader.kill()
        assert other.engine is not None
        await other.engine.cancel_backfill(row.run_id)
        await asyncio.sleep(10)
        assert len([a for a in world.arrivals if a.slot_ms <= START]) <= going + 20
        ends = [run for run in await world.records() if run.reason == Reason.BACKFILL_CANCELLED]
        assert [run.run_id for run in ends] == [row.run_id]
        assert not [r for r, _ in world.cluster.rows.values() if r.state in {OpenState.BACKFILL, OpenState.CANCEL}]
        with pytest.raises(BackfillNotFoundError, match=row.run_id):
            await other.engine.cancel_backfill(row.run_id)

    play(story)


def test_a_backfill_that_must_not_overlap_waits_for_each_run() -> None:
    async def story(world: Workshop) -> None:
        world.works_s = 0.5
        await begin(world, reporting(schedule=ScheduleSpec(cron="0 * * * *")))
        assert world.leader is not None
        assert world.leader.engine is not None
        await world.leader.engine.backfill(
            "a", START - 36_000_000, START - 1, every_ms=1, overlap=Overlap.BUFFER_ALL, key=None
        )
        await asyncio.sleep(20)
        spans = sorted(span for some in world.spans.values() for span in some)
        assert len(spans) == 10
        assert all(begun >= ended for (_, ended), (begun, _) in itertools.pairwise(spans))

    play(story)


def test_the_same_key_is_the_same_backfill_also_when_it_is_over() -> None:
    async def story(world: Workshop) -> None:
        await begin(world, job("a", ScheduleSpec(cron="0 * * * *")))
        assert world.leader is not None
        engine = world.leader.engine
        assert engine is not None

        async def once() -> str:
            return (await engine.backfill("a", START - 36_000_000, START, every_ms=1, overlap=None, key="k")).run_id

        first = await once()
        assert await once() == first
        await asyncio.sleep(75)
        assert await once() == first
        await asyncio.sleep(10)
        assert len([arrival for arrival in world.arrivals if arrival.slot_ms <= START]) == 11

    play(story)


def test_a_backfill_of_nothing_of_the_future_or_of_too_much_is_refused() -> None:
    async def story(world: Workshop) -> None:
        await begin(world, job("a", SECONDS), job("daily", ScheduleSpec(cron="0 3 * * *")))
        assert world.leader is not None
        engine = world.leader.engine
        assert engine is not None
        with pytest.raises(ValidationError, match="no slot"):
            await engine.backfill("daily", START - 60_000, START, every_ms=1, overlap=None, key=None)
        with pytest.raises(ValidationError, match="past range"):
            await engine.backfill("a", START, START + 3_600_000, every_ms=1, overlap=None, key=None)
        with pytest.raises(LimitExceededError, match="100000"):
            await engine.backfill("a", START - 2 * 86_400_000, START, every_ms=1, overlap=None, key=None)

    play(story)


# Failures.


@settings(max_examples=8, deadline=None, derandomize=True)
@given(deaths=st.lists(st.floats(0.3, 3.0), max_size=3), seed=st.integers(0, 1_000))
# A leader that died between its pause and the record of it.
@example(deaths=[2.47, 2.623, 1.674], seed=380)
@example(deaths=[2.847, 2.27, 1.937], seed=927)
@example(deaths=[2.979, 2.124, 0.721], seed=289)
def test_a_job_that_keeps_failing_is_paused_whoever_counts(deaths: list[float], seed: int) -> None:
    async def story(world: Workshop) -> None:
        world.works_s, world.succeeds = 0.1, False
        await begin(world, reporting(pause_after_failures=4, overlap=Overlap.SKIP))
        for pause in deaths:
            await asyncio.sleep(pause)
            await kill_leader(world)
        await world.rest()
        stored = await MemoryStorage(world.cluster).fetch_job("a")
        assert stored is not None
        assert stored.paused
        assert "failures in a row" in stored.note
        failed = [run for run in await world.records() if run.status is RunStatus.FAILED]
        # A death between a run's end and the laying down of its count may cost a count, never the pause.
        assert 4 <= len({run.run_id for run in failed}) <= 4 + 4 * (len(deaths) + 1)
        assert [run for run in await world.records() if run.reason == Reason.FAILURES_PAUSED]
        sent = len(world.arrivals)
        await asyncio.sleep(30)
        assert len(world.arrivals) == sent
        assert not world.cluster.rows

    play(story, seed)
