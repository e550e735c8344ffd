"""What every ExecutionStore does."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, PLR2004, S101

from natscron.model import (
    Delivery,
    Run,
    RunStatus,
)
from natscron.storage.protocol import RunQuery, Storage
from natscron.testing.conformance.sinks import Runs, a_job


def _run(job: str, number: int, status: RunStatus = RunStatus.COMPLETED) -> Run:
    return Run(
        job=job,
        status=status,
        run_id=f"{job}-{number}",
        scheduled_at_ms=1_000 * number,
        finished_at_ms=1_000 * number + 5,
        delivery=Delivery.CORE,
        instance="me",
    )


class ExecutionStoreChecks:
    """The ExecutionStore role. Records of one job come back in the order of their time."""

    async def test_records_come_back_as_they_were_saved_newest_first(self, storage: Storage) -> None:
        runs = [_run("a", n) for n in range(1, 6)]
        await storage.save_runs(runs)
        assert list(await storage.list_runs(RunQuery(job="a"))) == runs[::-1]
        assert list(await storage.list_runs(RunQuery(job="a", descending=False))) == runs
        assert list(await storage.list_runs(RunQuery(job="unknown"))) == []

    async def test_a_range_record_is_kept_whole(self, storage: Storage) -> None:
        record = Run(job="a", status=RunStatus.SKIPPED, reason="catchup_latest", from_ms=1_000, to_ms=9_000, count=9)
        await storage.save_runs([record])
        assert list(await storage.list_runs(RunQuery(job="a"))) == [record]

    async def test_limit_and_offset_cut_out_of_the_sorted_records(self, storage: Storage) -> None:
        runs = [_run("a", n) for n in range(1, 8)]
        await storage.save_runs(runs)
        assert list(await storage.list_runs(RunQuery(job="a", limit=2))) == [runs[6], runs[5]]
        assert list(await storage.list_runs(RunQuery(job="a", limit=2, offset=2))) == [runs[4], runs[3]]
        assert list(await storage.list_runs(RunQuery(job="a", limit=2, offset=6, descending=False))) == [runs[6]]
        assert list(await storage.list_runs(RunQuery(job="a", offset=50))) == []

    async def test_since_is_inclusive_and_until_exclusive(self, storage: Storage) -> None:
        runs = [_run("a", n) for n in range(5)]
        await storage.save_runs(runs)
        since = await storage.list_runs(RunQuery(job="a", since_ms=2_005, descending=False))
        assert list(since) == runs[2:]
        until = await storage.list_runs(RunQuery(job="a", until_ms=3_005, descending=False))
        assert list(until) == runs[:3]

    async def test_records_are_found_by_status_and_by_run_id(self, storage: Storage) -> None:
        good, bad = _run("a", 1), _run("a", 2, RunStatus.FAILED)
        await storage.save_runs([good, bad, _run("b", 1)])
        assert list(await storage.list_runs(RunQuery(job="a", status=RunStatus.FAILED))) == [bad]
        assert list(await storage.list_runs(RunQuery(job="a", run_id="a-1"))) == [good]
        assert list(await storage.list_runs(RunQuery(job="b", run_id="a-1"))) == []

    async def test_without_a_job_the_records_of_all_are_listed(self, storage: Storage) -> None:
        runs = [_run("ab"[n % 2], n) for n in range(6)]
        await storage.save_runs(runs)
        assert list(await storage.list_runs(RunQuery())) == runs[::-1]
        assert list(await storage.list_runs(RunQuery(run_id="b-3"))) == [runs[3]]

    async def test_the_history_of_a_job_outlives_it(self, storage: Storage) -> None:
        await storage.create_job(a_job("a"))
        await storage.save_runs([_run("a", 1)])
        await storage.delete_job("a")
        assert len(await storage.list_runs(RunQuery(job="a"))) == 1

    async def test_the_last_record_of_a_run_and_attempt_is_its_end(self, storage: Storage) -> None:
        await storage.save_runs([_run("a", 1, RunStatus.RUNNING)])
        await storage.save_runs([_run("a", 1)])
        ends = [run.status for run in await storage.list_runs(RunQuery(job="a", descending=False))]
        # A store may keep both; the end is the last one.
        assert ends[-1] is RunStatus.COMPLETED

    async def test_new_records_are_followed_live_by_job_or_all(self, storage: Storage) -> None:
        await storage.save_runs([_run("a", 0)])
        one, every = Runs(), Runs()
        watches = [storage.follow_runs("a", one), storage.follow_runs(None, every)]
        for watch in watches:
            await watch.ready()
        await storage.save_runs([_run("a", 1), _run("b", 2), _run("a", 3)])
        await one.until(lambda: len(one.runs) == 2)
        await every.until(lambda: len(every.runs) == 3)
        assert [run.run_id for run in one.runs] == ["a-1", "a-3"]
        assert [run.run_id for run in every.runs] == ["a-1", "b-2", "a-3"]
        for watch in watches:
            await watch.close()
