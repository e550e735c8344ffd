"""A migration that is aborted at any point, and what a second run makes of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.migrating import RICH, everything, held, seed, store

from natscron.clock import SystemClock
from natscron.errors import StorageUnavailableError, StorageUncertainError
from natscron.model import Job
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.storage.migrate import MigrateResult, MigrationError, migrate_storage

pytestmark = pytest.mark.anyio

CALLS = ("initialize", "health_check", "list_runs", "import_runs", "put_calendar", "create_job", "last_jobs_seq")
LINK_CALLS = ("read_lease", "write_lease", "close")
Ending = Callable[[], BaseException]


class Breaking(MemoryStorage):
    """Ends the n-th of all calls, before it has done anything or after it has done all."""

    def __init__(self, cluster: MemoryCluster, plan: "Plan") -> None:
        super().__init__(cluster)
        for name in CALLS:
            setattr(self, name, plan.around(getattr(self, name)))
        opened = plan.around(super().open_link)

        async def open_link(on_reply: Any) -> Any:  # noqa: ANN401 - as the base class
            link = await opened(on_reply)
            for name in LINK_CALLS:
                setattr(link, name, plan.around(getattr(link, name)))
            return link

        self.open_link = open_link  # type: ignore[method-assign]


class Plan:
    def __init__(self, at: int, ending: Ending, *, after: bool) -> None:
        self.calls = 0
        self._at = at
        self._ending = ending
        self._after = after

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def broken(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any call
            self.calls += 1
            mine = self.calls == self._at
            if mine and not self._after:
                raise self._ending()
            found = await call(*args, **kwargs)
            if mine:
                raise self._ending()
            return found

        return broken


@pytest.mark.parametrize(
    ("ending", "after"),
    [
        (lambda: StorageUnavailableError("away"), False),
        (lambda: StorageUncertainError("no answer"), True),
        (asyncio.CancelledError, False),
        (asyncio.CancelledError, True),
        (lambda: OSError("a defect"), True),
    ],
    ids=["refused", "unanswered", "cancelled before", "cancelled after", "defect"],
)
async def test_an_abort_at_any_call_leaves_nothing_half_and_a_second_run_completes_it(
    ending: Ending,
    after: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    src, whole = store(), store()
    await seed(src)
    await migrate_storage(src, whole, removed_jobs=True)
    expected = await held(whole)
    points = 0
    while True:
        points += 1
        cluster = store().cluster
        plan = Plan(points, ending, after=after)
        before = everything(src.cluster)
        counted = MigrateResult()
        done = True
        try:
            await migrate_storage(Breaking(src.cluster, plan), Breaking(cluster, plan))
        except MigrationError as error:
            done, counted = False, error.result
        except (asyncio.CancelledError, OSError):
            done = False
        jobs, calendars, history = await held(MemoryStorage(cluster))
        assert jobs.items() <= expected[0].items(), "a job is half"
        assert calendars.items() <= expected[1].items(), "a calendar is half"
        assert history.items() <= expected[2].items(), "a record is half"
        assert counted.jobs_migrated <= len(jobs)
        assert counted.executions_migrated <= len(history)
        if jobs:
            assert calendars == expected[1]
            assert {one.job for one in history.values()} >= {RICH.id, "hourly"}, "a job without its history"
            assert cluster.lease is not None
        again = await migrate_storage(MemoryStorage(src.cluster), MemoryStorage(cluster), removed_jobs=True)
        assert again.jobs_skipped == len(jobs)
        assert again.executions_skipped == len(history)
        assert await held(MemoryStorage(cluster)) == expected
        assert everything(src.cluster) == before
        assert not cluster.job_watches
        if done:
            break
    assert points > 20


async def test_a_cancelled_migration_leaves_no_task_behind() -> None:
    class Slow(MemoryStorage):
        entered = asyncio.Event()

        async def create_job(self, job: Job) -> int:
            self.entered.set()
            await asyncio.Event().wait()
            return await super().create_job(job)

    src, dst = store(), Slow(MemoryCluster(SystemClock()))
    await seed(src)
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(migrate_storage(src, dst))
    async with asyncio.timeout(10):
        await dst.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
