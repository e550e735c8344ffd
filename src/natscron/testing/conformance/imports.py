"""What every RunQueue does with records that come from another store."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, PLR2004, S101

from typing import Any

import msgspec

from natscron.model import Activity, Delivery, Ms, Reason, Run, RunStatus
from natscron.storage.listing import PAGE, list_records
from natscron.storage.protocol import RunQuery
from natscron.storage.queue import QueueStorage
from natscron.testing.conformance.driving import JOB, Driver

__all__ = ["ImportChecks"]

_SECOND: Ms = 1_000


def _over(at_ms: Ms, run_id: str = "r1", **fields: Any) -> Run:  # noqa: ANN401 - any of a record's fields
    """A run that began at an instant, and was over 20 ms later."""
    given: dict[str, Any] = {
        "job": JOB,
        "status": RunStatus.COMPLETED,
        "scheduled_at_ms": at_ms - 5,
        "started_at_ms": at_ms,
        "finished_at_ms": at_ms + 20,
        "delivery": Delivery.HANDLER,
        "lateness_ms": 5,
        "duration_ms": 20,
        "instance": "elsewhere",
    }
    return Run(run_id=run_id, **(given | fields))


class ImportChecks:
    """Records from another store."""

    async def test_imported_records_come_back_as_they_were(self, storage: QueueStorage) -> None:
        at = (await Driver.begin(storage)).now_ms - 60 * _SECOND
        runs = [
            _over(at, status=RunStatus.FAILED, reason=Reason.HANDLER_ERROR, error="ValueError: ä"),
            _over(at + _SECOND, attempt=2, result='["x"]'),
            _over(at + 2 * _SECOND, "r2", job="jobs.b", status=RunStatus.DEAD),
            Run(job=JOB, status=RunStatus.SKIPPED, reason=Reason.PAUSED, from_ms=at, to_ms=at + 4 * _SECOND, count=5),
        ]
        assert list(await storage.import_runs(runs)) == [True] * 4
        assert list(await storage.list_runs(RunQuery(descending=False))) == runs
        assert list(await storage.list_runs(RunQuery(job="jobs.b"))) == [runs[2]]
        assert await storage.delete_runs(JOB, at) == 1

    async def test_what_is_there_already_stays_as_it_is(self, storage: QueueStorage) -> None:
        at = (await Driver.begin(storage)).now_ms - 60 * _SECOND
        first = [_over(at), Run(job=JOB, status=RunStatus.SKIPPED, from_ms=at, to_ms=at + 9, count=2, instance="i")]
        assert list(await storage.import_runs(first)) == [True, True]
        again = [
            _over(at, status=RunStatus.FAILED),
            first[1],
            _over(at, attempt=2),
            msgspec.structs.replace(first[1], count=3),
            _over(at, "r2"),
            _over(at, "r2"),
        ]
        assert list(await storage.import_runs(again)) == [False, False, True, True, True, False]
        found = await storage.list_runs(RunQuery(job=JOB))
        assert len(found) == 5
        assert first[0] in found
        assert list(await storage.import_runs([*first, *again])) == [False] * 8
        assert list(await storage.import_runs([])) == []

    async def test_a_dry_run_tells_what_would_be_stored(self, storage: QueueStorage) -> None:
        at = (await Driver.begin(storage)).now_ms - 60 * _SECOND
        await storage.import_runs([_over(at)])
        both = [_over(at), _over(at, "r2")]
        for _ in range(2):
            assert list(await storage.import_runs(both, dry_run=True)) == [False, True]
        assert len(await storage.list_runs(RunQuery())) == 1

    async def test_a_run_that_the_queue_has_is_not_touched_by_its_record(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        at = driver.now_ms - 60 * _SECOND
        await driver.queue(driver.run("waits", due=60 * _SECOND), driver.run("going"), driver.run("over"))
        claims = {claim.run_id: claim for claim in (await driver.claim()).runs}
        await driver.end(claims["over"])
        ids = ("waits", "going", "over")
        before = await storage.list_runs(RunQuery(job=JOB))
        assert list(await storage.import_runs([_over(at, run_id) for run_id in ids])) == [False] * 3
        assert sorted(await storage.list_runs(RunQuery(job=JOB)), key=str) == sorted(before, key=str)
        assert await driver.end(claims["going"])

    async def test_an_imported_run_is_not_queued_again_and_cannot_be_redriven(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        at = driver.now_ms - 60 * _SECOND
        dead = _over(at, "dead", status=RunStatus.DEAD, error="no")
        await storage.import_runs([_over(at), dead, _over(at, "tried", attempt=3, status=RunStatus.FAILED)])
        assert not await storage.redrive("dead")
        assert not await storage.redrive("tried")
        await driver.queue(driver.run("r1"), driver.run("dead"), driver.run("new"))
        await driver.take("new")
        assert await driver.record("dead") == dead

    async def test_imported_runs_are_a_jobs_last_ones_only_if_they_are(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        at = driver.now_ms - 60 * _SECOND
        skipped = _over(at + 9 * _SECOND, "s", status=RunStatus.SKIPPED)
        await storage.import_runs([_over(at, status=RunStatus.FAILED), _over(at - _SECOND, "r0"), skipped])
        assert dict(await storage.activity([JOB])) == {
            JOB: Activity(status=RunStatus.FAILED, started_ms=at, finished_ms=at + 20)
        }
        assert dict(await storage.last_runs([JOB])) == {JOB: at - 5}
        await driver.queue(driver.run("here"))
        [claim] = await driver.take("here")
        assert claim.last_completed_ms == at - _SECOND + 20
        await driver.end(claim)
        activity = (await storage.activity([JOB]))[JOB]
        assert (activity.status, activity.started_ms) == (RunStatus.COMPLETED, claim.started_ms)
        await storage.import_runs([_over(at + 2 * _SECOND, "r2", status=RunStatus.DEAD)])
        assert (await storage.activity([JOB]))[JOB] == activity

    async def test_all_records_are_read_page_by_page_each_once(self, storage: QueueStorage) -> None:
        at = (await Driver.begin(storage)).now_ms - 60 * _SECOND
        total = PAGE + 200
        runs = [
            _over(at + min(n, 300), f"r{n:04}", job=f"jobs.{n % 20}", scheduled_at_ms=at, lateness_ms=None)
            for n in range(total)
        ]
        for begin in range(0, total, 500):
            await storage.import_runs(runs[begin : begin + 500])
        for job in (None, "jobs.1"):
            found = [run async for page in list_records(storage, job) for run in page]
            wanted = [run for run in runs if job in {None, run.job}]
            assert sorted(found, key=lambda run: run.run_id or "") == wanted
