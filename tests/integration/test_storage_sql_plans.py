"""What the statements of the run queue and the history read: an index each, whatever lies in the table."""

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.support.sql import execute

from natscron.clock import SystemClock
from natscron.model import Job, Overlap, RunStatus, ScheduleSpec
from natscron.storage.protocol import RunQuery
from natscron.storage.sql.quick import QuickConnection
from natscron.storage.sql.runrows import RANKS
from natscron.storage.sql.schema import executions
from natscron.storage.sql.storage import SQLStorage
from natscron.testing.conformance.driving import Driver, ending_of, worker_info

pytestmark = pytest.mark.anyio

JOBS = 40
"""Of those that have a history."""
ROWS = 12_000
OWNERS = 400
AT = SystemClock().now_ms() - 20_000_000


def _history() -> list[dict[str, Any]]:
    """Runs that are over, nearly all of them completed."""
    found = []
    for n in range(ROWS):
        status = "failed" if n % 1_000 == 0 else "completed"
        at = AT + 1_000 * n
        given = {"execution_id": f"r{n}", "run_id": f"r{n}", "job_id": f"j{n % OWNERS}", "status": status}
        times = {"scheduled_ms": at, "started_ms": at, "finished_ms": at + 5, "recorded_ms": at, "queue_ms": at + 5}
        found.append(
            {**given, **times, "rank_order": RANKS[status], "handler": "", "overlap": "skip", "concurrency": 0}
        )
    return found


class Plans:
    """Catches what the storage executes, and asks the database how it does that."""

    def __init__(self, storage: SQLStorage) -> None:
        parts = storage._parts
        assert parts is not None
        self.storage = storage
        self.database = parts.database
        self._engine = parts._engine.sync_engine
        self._caught: list[tuple[str, Any]] = []

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        def catch(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:  # noqa: ANN401 - a listener
            if re.match(r"(SELECT|UPDATE|DELETE)", statement) and "scheduler_executions" in statement:
                one = parameters[0] if isinstance(parameters, list) else parameters
                self._caught.append((statement, one))

        self._caught.clear()
        if self.database.name == "sqlite":
            # Most statements do not pass SQLAlchemy there.
            visit = QuickConnection.visit

            async def caught(driver: QuickConnection, statement: str, parameters: Any, *, many: bool) -> Any:  # noqa: ANN401 - the driver's
                catch(None, None, statement, parameters)
                return await visit(driver, statement, parameters, many=many)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(QuickConnection, "visit", caught)
                yield
            return
        event.listen(self._engine, "before_cursor_execute", catch)
        try:
            yield
        finally:
            event.remove(self._engine, "before_cursor_execute", catch)

    async def indexes(self) -> set[str]:
        """The indexes that what was caught is read by. Raises AssertionError for a statement that reads the table."""
        found: set[str] = set()
        async with self.database.transaction() as connection:
            for statement, parameters in self._caught:
                plan = await self._explain(connection, statement, parameters)
                whole = [line for line in plan if self._reads_all(line)]
                assert not whole, f"{statement}\n{parameters}\n" + "\n".join(plan)
                found.update(name for line in plan for name in re.findall(r"ix_scheduler_executions_(\w+)", line))
        assert self._caught
        return found

    async def _explain(self, connection: AsyncConnection, statement: str, parameters: Any) -> list[str]:  # noqa: ANN401 - as the driver has them
        word = "EXPLAIN QUERY PLAN " if self.database.name == "sqlite" else "EXPLAIN "
        result = await connection.exec_driver_sql(word + statement, parameters)
        if self.database.name == "mysql":
            # The table, how it is read, and by which index.
            return [f"{row.table} {row.type} {row.key}" for row in result.all()]
        return [str(row[-1]) for row in result.all()]

    def _reads_all(self, line: str) -> bool:
        if self.database.name == "sqlite":
            return bool(re.match(r"SCAN (scheduler_executions|inner_e|done|newest_\w+)(?!.*USING)", line))
        if self.database.name == "mysql":
            return bool(re.match(r"(scheduler_executions|inner_e\w*|done\w*|newest_\w+) ALL", line))
        return "Seq Scan on scheduler_executions" in line


@pytest.fixture
async def plans(sql_url: str) -> Any:  # noqa: ANN401 - an async generator
    storage = SQLStorage(sql_url)
    await storage.initialize()
    for n in range(JOBS):
        await storage.put_job(Job(id=f"j{n}", schedule=ScheduleSpec(every="1h")))
    await execute(sql_url, insert(executions), _history())
    if sql_url.startswith("postgresql"):
        await execute(sql_url, text("ANALYZE"))
    elif sql_url.startswith("mysql"):
        await execute(sql_url, text("ANALYZE TABLE scheduler_executions"))
    yield Plans(storage)
    await storage.close()


async def test_the_history_is_read_from_its_end(plans: Plans) -> None:
    storage = plans.storage
    by_job = {"job_recorded", "job_status"}
    expected = {
        RunQuery(job="j1", limit=20): {"job_recorded"},
        # Where there is hardly anything else, both are as good.
        RunQuery(job="j1", limit=20, status=RunStatus.COMPLETED): by_job,
        RunQuery(job="j1", limit=20, status=RunStatus.FAILED): {"job_status"},
        RunQuery(job="j1", limit=20, status=RunStatus.PENDING): {"job_status"},
        RunQuery(limit=20): {"recorded"},
        RunQuery(limit=20, status=RunStatus.COMPLETED): {"recorded"},
        RunQuery(limit=20, status=RunStatus.RUNNING): {"queue"},
        RunQuery(limit=20, status=RunStatus.DEAD): {"queue"},
        RunQuery(run_id="r5"): {"run"},
    }
    for query, indexes in expected.items():
        with plans.caught():
            await storage.list_runs(query)
        found = await plans.indexes()
        assert found, query
        assert found <= indexes, query


async def test_the_queue_reads_what_it_needs(plans: Plans) -> None:
    storage = plans.storage
    driver = await Driver.begin(storage)
    await storage.beat(worker_info())
    runs = [driver.run(f"q{n}", job=f"j{n}", overlap=Overlap.BUFFER_ALL) for n in range(JOBS)]
    more = [driver.run(f"h{n}", job=f"j{n}", overlap=Overlap.BUFFER_ALL) for n in range(JOBS)]
    replacing = driver.run("c1", job="j1", overlap=Overlap.CANCEL_OTHER)
    with plans.caught():
        await driver.queue(*runs)
        await driver.queue(*more)
        claims = (await driver.claim()).runs
        await driver.queue(replacing)
    assert len(claims) == JOBS
    assert await plans.indexes() >= {"queue", "job_status", "run"}

    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: storage.give_back("w", claims[:3]),
        lambda: storage.finish("w", [ending_of(claim) for claim in claims[3:20]]),
        lambda: storage.finish("w", [ending_of(claim, RunStatus.FAILED, retry_in_ms=50_000) for claim in claims[20:]]),
        lambda: storage.beat(worker_info()),
        lambda: storage.lost(10),
        storage.mark_unhandled,
        lambda: storage.activity([f"j{n}" for n in range(JOBS)]),
        lambda: storage.last_runs([f"j{n}" for n in range(JOBS)]),
        lambda: storage.drop_runs("j5", 1),
        lambda: storage.redrive("r1000"),
        lambda: storage.delete_runs("j7", AT + 9_000),
    ]
    for call in calls:
        with plans.caught():
            await call()
        await plans.indexes()
