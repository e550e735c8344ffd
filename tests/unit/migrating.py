"""What tests of migrations share: a storage with something of everything, and what is compared."""

from typing import Any

import msgspec

from natscron.clock import SystemClock
from natscron.model import (
    SERVICE_JOB,
    Calendar,
    CalendarSpec,
    CatchUp,
    CatchUpPolicy,
    Delivery,
    Holder,
    Job,
    Lease,
    Mark,
    Overlap,
    Retry,
    Run,
    RunStatus,
    ScheduleSpec,
    Skip,
    Stamp,
)
from natscron.storage.listing import list_jobs, list_records
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.storage.queue import QueueStorage, record_id

NOW = SystemClock().now_ms()
HOUR = 3_600_000
RICH = Job(
    id="rich/ä b",
    schedule=ScheduleSpec(every="5m", jitter="10s", except_=(ScheduleSpec(calendar="holidays"),)),
    payload={"n": [1, 2.5, None]},
    labels={"team": "billing"},
    catchup=CatchUp(policy=CatchUpPolicy.ALL, window_ms=HOUR, limit=7),
    overlap=Overlap.BUFFER_ONE,
    timeout_ms=9_000,
    retry=Retry(attempts=3, only=("timeout",)),
    paused=True,
    note="until the move is over",
    priority=-3,
    pause_after_failures=5,
    skip=Skip(NOW, NOW + HOUR),
    handler="work",
    concurrency=2,
    extra={"colour": "blue"},
)


def run(
    job: str, n: int, status: RunStatus = RunStatus.COMPLETED, *, attempt: int = 1, at_ms: int | None = None
) -> Run:
    at = NOW - HOUR + 1_000 * n if at_ms is None else at_ms
    return Run(
        job=job,
        status=status,
        run_id=f"{job}-{n}",
        scheduled_at_ms=at,
        started_at_ms=at + 5,
        finished_at_ms=at + 25,
        attempt=attempt,
        delivery=Delivery.HANDLER,
        lateness_ms=5,
        duration_ms=20,
        instance="host",
        error=None if status is RunStatus.COMPLETED else "ValueError: no",
        result="[1]",
    )


def left_out(job: str, n: int) -> Run:
    """Slots that were not run: a record without a run."""
    at = NOW - HOUR + 1_000 * n
    return Run(job=job, status=RunStatus.SKIPPED, reason="paused", from_ms=at, to_ms=at + 9, count=9, instance="host")


def store(**options: Any) -> MemoryStorage:  # noqa: ANN401 - a cluster's
    return MemoryStorage(MemoryCluster(SystemClock(), **{"runs_per_job": 1_000, **options}))


async def seed(storage: QueueStorage) -> None:
    """Jobs of several kinds, a calendar and some history, all of them decided up to now."""
    await storage.put_calendar(Calendar(name="holidays", spec=CalendarSpec(dates=("12-25",), note="off")))
    for job in (
        RICH,
        Job(id="hourly", schedule=ScheduleSpec(cron="0 * * * *", tz="Europe/Berlin")),
        Job(id="never-ran", schedule=ScheduleSpec(at="2100-01-01T00:00:00Z")),
    ):
        await storage.create_job(job)
    await storage.save_runs(
        [
            *(run(RICH.id, n) for n in range(3)),
            run("hourly", 1, RunStatus.FAILED),
            run("hourly", 1, RunStatus.COMPLETED, attempt=2, at_ms=NOW - 9_000),
            left_out("hourly", 2),
            run("removed", 1, RunStatus.DEAD),
            Run(job=SERVICE_JOB, status=RunStatus.COMPLETED, reason="leader_changed", finished_at_ms=NOW),
        ]
    )
    await lead(storage, Mark(instant_ms=NOW, jobs_seq=await storage.last_jobs_seq()))


async def lead(storage: QueueStorage, mark: Mark, holder: Holder | None = None) -> None:
    link = await storage.open_link(lambda _reply: None)
    await link.write_lease(Lease(epoch=3, mark=mark, holder=holder), 0)
    await link.close()


async def records(storage: QueueStorage) -> dict[str, Run]:
    found: list[Run] = []
    async for page in list_records(storage, None):
        found.extend(page)
    assert len({record_id(one) for one in found}) == len(found), "a record is there twice"
    return {record_id(one): one for one in found}


def content(job: Job) -> Job:
    """What is the same in both stores."""
    return msgspec.structs.replace(job, revision=0, updated_at_ms=0, counts_from=Stamp())


async def held(storage: QueueStorage) -> tuple[dict[str, Job], dict[str, CalendarSpec], dict[str, Run]]:
    found = await list_jobs(storage)
    jobs = {job.id: content(job) for job in found.jobs}
    return jobs, {one.name: one.spec for one in found.calendars}, await records(storage)


def everything(cluster: MemoryCluster) -> list[Any]:
    """All that a cluster holds."""
    queue = {name: value for name, value in vars(cluster.queue).items() if name != "watches"}
    kept = (
        cluster.jobs,
        cluster.jobs_seq,
        cluster.state_seq,
        cluster.lease,
        cluster.notes,
        cluster.rows,
        cluster.nodes,
    )
    runs = {job: list(found) for job, found in cluster.runs.items()}
    return [repr(one) for one in (*kept, runs, sorted(queue.items()))]
