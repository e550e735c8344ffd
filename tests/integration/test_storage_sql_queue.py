"""The run queue of the SQL storage where many use it at once: two engines on one database stand for two processes."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, update
from tests.support.sql import execute, scalars

from natscron.errors import LeadershipLostError, StorageError
from natscron.model import Claim, Ending, Job, Overlap, QueuedRun, Reason, RunStatus, ScheduleSpec, Trigger
from natscron.policy.overlap import BUFFER_MAX
from natscron.storage.protocol import RunQuery
from natscron.storage.sql.schema import executions
from natscron.storage.sql.storage import SQLStorage
from natscron.testing.conformance.driving import JOB, Driver, Sink, ending_of, later, worker_info

pytestmark = pytest.mark.anyio

CLAIMER = Path(__file__).parent.parent / "support" / "claimer.py"
OPEN = ("pending", "later", "running")


@pytest.fixture
async def pair(sql_url: str) -> AsyncIterator[tuple[SQLStorage, SQLStorage]]:
    """Two storages on one database."""
    async with AsyncExitStack() as stack:
        storages = []
        for _ in range(2):
            storage = SQLStorage(sql_url)
            stack.push_async_callback(storage.close)
            await storage.initialize()
            storages.append(storage)
        yield storages[0], storages[1]


async def make_jobs(storage: SQLStorage, ids: Sequence[str]) -> None:
    """Jobs have rows, as they do in life: what changes a job's runs locks its row."""
    await asyncio.gather(*(storage.put_job(Job(id=one, schedule=ScheduleSpec(every="1h"))) for one in ids))


async def test_no_try_is_claimed_twice_by_workers_of_two_processes(pair: tuple[SQLStorage, SQLStorage]) -> None:
    ids = [f"r{n:03}" for n in range(240)]
    await make_jobs(pair[0], ids[:40])
    driver = await Driver.begin(pair[0])
    claims: list[tuple[str, int]] = []
    over: set[str] = set()
    draw = random.Random(7)  # noqa: S311 - the same each time

    async def work(storage: SQLStorage, worker: str) -> None:
        while len(over) < len(ids):
            found = (await storage.claim(worker, ("",), draw.randint(1, 9))).runs
            claims.extend((claim.run_id, claim.attempt) for claim in found)
            endings = []
            for claim in found:
                again = claim.attempt < 3 and draw.random() < 0.3
                endings.append(ending_of(claim, RunStatus.FAILED, retry_in_ms=0) if again else ending_of(claim))
            stored = await storage.finish(worker, endings)
            assert all(stored)
            over.update(ending.run_id for ending in endings if ending.retry_in_ms is None)

    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        for n in range(6):
            group.create_task(work(pair[n % 2], f"w{n}"))
        for begin in range(0, len(ids), 30):
            part = ids[begin : begin + 30]
            await driver.queue(*(driver.run(one, job=f"r{n:03}", overlap=Overlap.ALLOW) for n, one in enumerate(part)))
    assert len(claims) == len(set(claims))
    assert {run_id for run_id, _ in claims} == set(ids)


class Watcher:
    """Looks at the rows, again and again, for what may never be."""

    def __init__(self, storage: SQLStorage, capacities: dict[str, int]) -> None:
        self._database = storage._parts.database  # type: ignore[union-attr]
        self._capacities = capacities
        self.looks = 0
        self._query = (
            select(executions.c.job_id, executions.c.status, func.count())
            .where(executions.c.status.in_((*OPEN, "held")))
            .group_by(executions.c.job_id, executions.c.status)
        )

    async def look(self) -> None:
        """Raise AssertionError for a job over its capacity, or that holds a run for which there is room."""
        async with self._database.reading() as connection:
            found = (await connection.execute(self._query)).all()
        going: Counter[str] = Counter()
        held: set[str] = set()
        for job_id, status, runs in found:
            if status == "held":
                held.add(job_id)
            else:
                going[job_id] += runs
        for job_id, capacity in self._capacities.items():
            assert going[job_id] <= capacity, f"{job_id} has {going[job_id]} going, more than {capacity}"
            assert job_id not in held or going[job_id] == capacity, f"{job_id} holds runs while {going[job_id]} go"
        self.looks += 1


WORKERS = 4
POLICIES = {
    "skip": (Overlap.SKIP, 0, 1),
    "one": (Overlap.BUFFER_ONE, 0, 1),
    "all": (Overlap.BUFFER_ALL, 0, 1),
    "three": (Overlap.BUFFER_ALL, 3, 3),
    "other": (Overlap.CANCEL_OTHER, 0, 1),
    "two": (Overlap.ALLOW, 2, 2),
}


class Crowd:
    """A leader and workers that do all that can be done to runs, and work off what is left in the end."""

    def __init__(self, pair: tuple[SQLStorage, SQLStorage], driver: Driver, jobs: Sequence[str]) -> None:
        self.pair = pair
        self.driver = driver
        self.jobs = jobs
        self.draw = random.Random(3)  # noqa: S311 - the same each time
        self.queued: list[str] = []
        self.leading = True
        self.idle: set[str] = set()

    @property
    def over(self) -> bool:
        """Nothing is queued any more, and no worker found anything the last time it looked."""
        return not self.leading and len(self.idle) == WORKERS

    async def lead(self) -> None:
        for batch in range(40):
            runs: list[QueuedRun] = []
            for n in range(self.draw.randint(1, 12)):
                job = self.draw.choice(self.jobs)
                policy, concurrency, _ = POLICIES[job[:-1]]
                runs.append(self.driver.run(f"{batch}-{n}", job=job, overlap=policy, concurrency=concurrency))
            self.queued.extend(run.run_id for run in runs)
            await self.driver.queue(*runs)
        self.leading = False

    async def work(self, number: int) -> None:
        storage, worker, draw = self.pair[number % 2], f"w{number}", self.draw
        while not self.over:
            self.idle.discard(worker)
            found = (await storage.claim(worker, ("",), draw.randint(1, 6))).runs
            if not found:
                self.idle.add(worker)
                await asyncio.sleep(0.005)
                continue
            await storage.give_back(worker, [claim for claim in found if draw.random() < 0.15])
            await storage.finish(worker, [self._ending(claim) for claim in found])
            if draw.random() < 0.3 and self.leading:
                await storage.redrive(draw.choice(self.queued))

    def _ending(self, claim: Claim) -> Ending:
        fate = self.draw.random()
        if fate < 0.2 and claim.attempt < 4:
            return ending_of(claim, RunStatus.FAILED, retry_in_ms=0)
        return ending_of(claim, RunStatus.FAILED if fate > 0.9 else RunStatus.COMPLETED)


async def test_no_job_goes_over_its_capacity_and_nothing_stalls(
    pair: tuple[SQLStorage, SQLStorage], sql_url: str
) -> None:
    """A leader queues, workers claim, end, fail, give back and redrive at once; then what is left is worked off."""
    jobs = [f"{name}{n}" for name in POLICIES for n in range(2)]
    await make_jobs(pair[0], jobs)
    watcher = Watcher(pair[1], {job: POLICIES[job[:-1]][2] for job in jobs})
    crowd = Crowd(pair, await Driver.begin(pair[0]), jobs)

    async def watch() -> None:
        while not crowd.over:
            await watcher.look()

    async with asyncio.timeout(55), asyncio.TaskGroup() as group:
        group.create_task(crowd.lead())
        group.create_task(watch())
        for n in range(WORKERS):
            group.create_task(crowd.work(n))
    await watcher.look()
    assert watcher.looks > 10
    statuses = Counter(await scalars(sql_url, select(executions.c.status)))
    assert not set(statuses) & {*OPEN, "held"}, statuses
    assert {run.run_id for run in await pair[1].list_runs(RunQuery(limit=10_000))} == set(crowd.queued)


@asynccontextmanager
async def killed_in_the_end(url: str, worker: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CLAIMER), url, worker, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def heard(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"claimed")


def tell(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def test_what_killed_processes_had_is_taken_over_and_each_run_completes_once(
    pair: tuple[SQLStorage, SQLStorage], sql_url: str
) -> None:
    ids = {f"r{n:03}" for n in range(120)}
    await make_jobs(pair[0], sorted(ids))
    driver = await Driver.begin(pair[0])
    await driver.queue(*(driver.run(one, job=one, overlap=Overlap.SKIP) for one in sorted(ids)))
    # One dies before it ended anything, one while it ends what it has, one with its second lot.
    for number, told in enumerate((0, 1, 1)):
        async with killed_in_the_end(sql_url, f"dead{number}") as process:
            await heard(process)
            for _ in range(told):
                tell(process)
            if number == 2:
                await heard(process)
    over: Counter[str] = Counter()

    async def finished() -> bool:
        for claim in await pair[1].lost(500):
            ending = ending_of(claim, RunStatus.FAILED, retry_in_ms=0)
            assert await pair[0].finish(claim.worker, [ending]) == [True]
            over[claim.run_id] += 1
        await pair[0].finish("w", [ending_of(claim) for claim in (await pair[0].claim("w", ("",), 20)).runs])
        return set(await scalars(sql_url, select(executions.c.status))) == {"completed", "failed"}

    await pair[0].beat(worker_info())
    await later(finished)
    completed = await scalars(sql_url, select(executions.c.run_id).where(executions.c.status == "completed"))
    assert Counter(completed) == Counter(ids)
    failed = await scalars(sql_url, select(executions.c.run_id).where(executions.c.status == "failed"))
    assert Counter(failed) == over
    assert 14 <= over.total() <= 21


async def test_runs_that_end_while_others_are_queued_leave_none_held(
    pair: tuple[SQLStorage, SQLStorage], sql_url: str
) -> None:
    """The narrowest of these races, over and over: a job's only run ends at the moment at which another is queued."""
    await make_jobs(pair[0], [JOB])
    driver = await Driver.begin(pair[0])
    for n in range(25):
        await driver.queue(driver.run(f"a{n}", overlap=Overlap.BUFFER_ALL))
        [claim] = await driver.take(f"a{n}")
        await asyncio.gather(
            driver.queue(driver.run(f"b{n}", overlap=Overlap.BUFFER_ALL)),
            pair[1].finish("w", [ending_of(claim)]),
        )
        [claim] = await driver.take(f"b{n}")
        await driver.end(claim)
    assert await scalars(sql_url, select(executions.c.status).where(executions.c.status == "held")) == []


async def test_runs_that_end_at_once_each_let_one_go(pair: tuple[SQLStorage, SQLStorage]) -> None:
    await make_jobs(pair[0], [JOB])
    driver = await Driver.begin(pair[0])
    ids = [f"r{n:02}" for n in range(40)]
    await driver.queue(*(driver.run(one, concurrency=4, due=n - 100) for n, one in enumerate(ids)))
    done = 0
    while done < len(ids):
        claims = (await driver.claim()).runs
        assert len(claims) == 4
        found = await asyncio.gather(*(pair[n % 2].finish("w", [ending_of(claim)]) for n, claim in enumerate(claims)))
        assert found == [[True]] * 4
        done += 4


async def test_the_removal_of_a_job_while_its_runs_are_queued_leaves_none_behind(
    pair: tuple[SQLStorage, SQLStorage], sql_url: str
) -> None:
    await make_jobs(pair[0], [JOB])
    driver = await Driver.begin(pair[0])
    for n in range(10):
        await asyncio.gather(
            driver.queue(*(driver.run(f"{n}-{k}", overlap=Overlap.BUFFER_ALL, generation=1) for k in range(5))),
            pair[1].drop_runs(JOB, 1),
        )
        assert await pair[1].drop_runs(JOB, 1) == 0
    assert set(await scalars(sql_url, select(executions.c.status))) == {"skipped"}


async def test_what_is_held_of_a_job_that_is_gone_is_let_go_by_a_sweep(
    pair: tuple[SQLStorage, SQLStorage], sql_url: str
) -> None:
    driver = await Driver.begin(pair[0])
    await driver.queue(
        driver.run("r1", concurrency=1), driver.run("r2", concurrency=1), driver.run("r3", concurrency=1)
    )
    # As it is left by one who ended the run without knowing of the others.
    await execute(
        sql_url, update(executions).where(executions.c.run_id == "r1").values(status="failed", rank_order=2003)
    )
    await driver.take()
    await pair[1].sweep()
    await driver.take("r2")
    await pair[1].sweep()
    await driver.take()


async def test_thousands_that_become_due_at_once_are_all_claimed(pair: tuple[SQLStorage, SQLStorage]) -> None:
    driver = await Driver.begin(pair[0])
    ids = {f"r{n:04}" for n in range(2_500)}
    runs = [driver.run(one, job=one, due=300) for one in sorted(ids)]
    for begin in range(0, len(runs), 500):
        await driver.queue(*runs[begin : begin + 500])
    found: set[str] = set()

    async def claimed() -> bool:
        found.update(claim.run_id for claim in (await driver.claim(limit=700)).runs)
        return found == ids

    await later(claimed)


async def test_a_long_line_does_not_slow_each_end_down(pair: tuple[SQLStorage, SQLStorage]) -> None:
    await make_jobs(pair[0], [JOB])
    driver = await Driver.begin(pair[0])
    fields = {"overlap": Overlap.BUFFER_ONE, "trigger": Trigger.BACKFILL}
    runs = [driver.run(f"r{n:04}", due=n - 5_000, **fields) for n in range(2_000)]
    await driver.queue(*runs[:1_000])
    await driver.queue(*runs[1_000:])
    for n in range(5):
        [claim] = await driver.take(f"r{n:04}")
        await driver.end(claim)
    await driver.queue(driver.run("one", overlap=Overlap.BUFFER_ALL))
    assert await driver.reason("one") == (RunStatus.SKIPPED, Reason.BUFFER_FULL)
    waiting = await pair[1].activity([JOB])
    assert waiting[JOB].waiting == 2_000 - 5 > BUFFER_MAX


async def test_a_leader_that_lost_its_lease_queues_nothing(pair: tuple[SQLStorage, SQLStorage]) -> None:
    old = await Driver.begin(pair[0])
    new = await Driver.begin(pair[1])
    with pytest.raises((LeadershipLostError, StorageError)):
        await old.queue(old.run("r1"))
    await new.queue(new.run("r2"))
    await new.take("r2")


async def test_workers_of_another_process_are_woken_and_told_what_to_cancel(
    pair: tuple[SQLStorage, SQLStorage],
) -> None:
    await make_jobs(pair[0], [JOB])
    driver, sink = await Driver.begin(pair[0]), Sink()
    await pair[1].beat(worker_info())
    watch = pair[1].watch_queue(sink)
    await sink.until(lambda: sink.wakes > 0)
    before = sink.wakes
    await driver.queue(driver.run("r1", overlap=Overlap.CANCEL_OTHER))
    await sink.until(lambda: sink.wakes > before)
    claims = (await pair[1].claim("w", ("",), 5)).runs
    await driver.queue(driver.run("r2", overlap=Overlap.CANCEL_OTHER))
    await sink.until(lambda: sink.cancels > 0)
    assert await driver.owned() == {("r1", 1): Reason.REPLACED}
    # The end makes way for the next run, which wakes the other process's workers in turn.
    other = Sink()
    await pair[0].beat(worker_info("v"))
    second = pair[0].watch_queue(other)
    await other.until(lambda: other.wakes > 0)
    before = other.wakes
    await pair[1].finish("w", [ending_of(claims[0])])
    await other.until(lambda: other.wakes > before)
    await watch.close()
    await second.close()


async def test_rows_of_the_go_library_hold_nothing_up(pair: tuple[SQLStorage, SQLStorage], sql_url: str) -> None:
    for n, status in enumerate(("pending", "running", "running")):
        await execute(sql_url, insert(executions).values(execution_id=f"go{n}", job_id=JOB, status=status))
    await make_jobs(pair[0], [JOB])
    driver = await Driver.begin(pair[0])
    await driver.queue(driver.run("r1", overlap=Overlap.SKIP))
    [claim] = await driver.take("r1")
    assert list(await pair[0].lost(10)) == [claim]
    assert (await pair[0].activity([JOB]))[JOB].running == 1
    assert await pair[0].mark_unhandled() == 0


async def test_a_damaged_payload_keeps_no_other_run_from_being_claimed(
    pair: tuple[SQLStorage, SQLStorage], sql_url: str
) -> None:
    driver = await Driver.begin(pair[0])
    await driver.queue(driver.run("bad", payload=[1]), driver.run("good", payload=[2]))
    await execute(sql_url, update(executions).where(executions.c.run_id == "bad").values(payload=b"{not json"))
    _, good = await driver.take("bad", "good")
    assert good.payload == [2]


async def test_priorities_out_of_bounds_are_still_claimed_in_order(pair: tuple[SQLStorage, SQLStorage]) -> None:
    driver = await Driver.begin(pair[0])
    await driver.queue(*(driver.run(f"p{rank}", priority=rank) for rank in (-30_000, 0, 30_000)))
    claims = (await driver.claim()).runs
    assert [claim.run_id for claim in claims] == ["p30000", "p0", "p-30000"]
