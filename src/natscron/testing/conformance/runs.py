"""What every ExecutionStore does."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, PLR2004, S101

import asyncio

from natscron.model import (
    SERVICE_JOB,
    Delivery,
    Ms,
    Run,
    RunStatus,
    Trigger,
)
from natscron.storage.protocol import RunOrder, RunQuery, Storage
from natscron.testing.conformance.sinks import Runs, a_job

__all__ = ["ExecutionStoreChecks", "SortedHistoryChecks"]


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

    async def test_records_about_the_service_itself_may_be_left_out(self, storage: Storage) -> None:
        runs = [_run(("a", SERVICE_JOB)[n % 2], n) for n in range(1, 7)]
        await storage.save_runs(runs)
        assert list(await storage.list_runs(RunQuery())) == runs[::-1]
        assert list(await storage.list_runs(RunQuery(service=False, limit=2, offset=1))) == [runs[3], runs[1]]
        assert list(await storage.list_runs(RunQuery(job=SERVICE_JOB, service=False))) == runs[-2::-2]

    async def test_records_that_are_saved_at_once_are_all_kept(self, storage: Storage) -> None:
        await asyncio.gather(*(storage.save_runs([_run("a", 2 * n), _run("a", 2 * n + 1)]) for n in range(1, 11)))
        runs = [_run("a", n) for n in range(2, 22)]
        assert list(await storage.list_runs(RunQuery(job="a", descending=False))) == runs

    async def test_saving_nothing_does_nothing(self, storage: Storage) -> None:
        await storage.save_runs([])
        assert list(await storage.list_runs(RunQuery())) == []

    async def test_ids_of_jobs_are_told_apart_as_they_are_written(self, storage: Storage) -> None:
        ids = ("a", "A", "a.b", "a%", "a_b", "ä", "a'b", "a b")
        await storage.save_runs([_run(job, 1) for job in ids])
        for job in ids:
            assert [run.job for run in await storage.list_runs(RunQuery(job=job))] == [job]
        assert dict(await storage.last_runs(ids)) == dict.fromkeys(ids, 1_000)

    async def test_changing_the_list_that_was_returned_changes_nothing(self, storage: Storage) -> None:
        runs = [_run("a", 1)]
        await storage.save_runs(runs)
        runs.clear()
        found = list(await storage.list_runs(RunQuery(job="a")))
        found.clear()
        assert list(await storage.list_runs(RunQuery(job="a"))) == [_run("a", 1)]

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


_AT: Ms = 1_000_000


def _handled(number: int, *, start: Ms | None, duration: Ms | None, status: RunStatus = RunStatus.COMPLETED) -> Run:
    """A record of a run that a handler executed; ``start`` in ms after an instant, None: it never began."""
    started_ms = None if start is None else _AT + start
    return Run(
        job="a",
        status=status,
        run_id=f"r{number}",
        scheduled_at_ms=_AT + 10 * number,
        started_at_ms=started_ms,
        finished_at_ms=None if started_ms is None or duration is None else started_ms + duration,
        trigger=Trigger.SCHEDULE,
        delivery=Delivery.HANDLER,
        duration_ms=duration,
        instance="me",
    )


class SortedHistoryChecks(ExecutionStoreChecks):
    """What a store of the library's history does besides: records of handlers, sorted as the query says."""

    async def test_records_are_sorted_by_start_end_or_duration_both_ways(self, storage: Storage) -> None:
        one, two, three = (
            _handled(1, start=300, duration=20),
            _handled(2, start=100, duration=500),
            _handled(3, start=200, duration=250),
        )
        await storage.save_runs([one, two, three])
        expected = {
            RunOrder.RECORDED: [two, three, one],
            RunOrder.START_TIME: [two, three, one],
            RunOrder.END_TIME: [one, three, two],
            RunOrder.DURATION: [one, three, two],
        }
        for order, runs in expected.items():
            found = await storage.list_runs(RunQuery(job="a", order=order, descending=False))
            assert list(found) == runs, order
            assert list(await storage.list_runs(RunQuery(order=order))) == runs[::-1], order

    async def test_limit_and_offset_are_taken_of_the_sorted_records(self, storage: Storage) -> None:
        runs = [_handled(n, start=100 * n, duration=100 - n) for n in range(1, 8)]
        await storage.save_runs(runs)
        query = RunQuery(job="a", order=RunOrder.DURATION, descending=False, limit=2, offset=3)
        assert list(await storage.list_runs(query)) == [runs[3], runs[2]]
        assert list(await storage.list_runs(RunQuery(job="a", order=RunOrder.END_TIME, offset=7))) == []

    async def test_records_without_what_is_sorted_by_come_first(self, storage: Storage) -> None:
        began, skipped = _handled(1, start=5, duration=1), _handled(9, start=None, duration=None)
        await storage.save_runs([began, skipped])
        for order in (RunOrder.START_TIME, RunOrder.END_TIME, RunOrder.DURATION):
            found = await storage.list_runs(RunQuery(job="a", order=order, descending=False))
            assert list(found) == [skipped, began], order
            assert list(await storage.list_runs(RunQuery(job="a", order=order))) == [began, skipped], order

    async def test_the_time_of_a_handlers_run_is_its_start(self, storage: Storage) -> None:
        runs = [_handled(n, start=1_000 * n, duration=50_000) for n in range(5)]
        await storage.save_runs(runs)
        since = await storage.list_runs(RunQuery(job="a", since_ms=_AT + 2_000, descending=False))
        assert list(since) == runs[2:]
        until = await storage.list_runs(RunQuery(job="a", until_ms=_AT + 3_000, descending=False))
        assert list(until) == runs[:3]
        both = RunQuery(since_ms=_AT + 1_000, until_ms=_AT + 3_000, order=RunOrder.START_TIME, descending=False)
        assert list(await storage.list_runs(both)) == runs[1:3]

    async def test_a_status_is_looked_for_among_the_sorted_records(self, storage: Storage) -> None:
        words = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.COMPLETED, RunStatus.DEAD, RunStatus.FAILED)
        runs = [_handled(n, start=100 * n, duration=10 - n, status=word) for n, word in enumerate(words)]
        await storage.save_runs(runs)
        for job in ("a", None):
            query = RunQuery(job=job, status=RunStatus.FAILED, order=RunOrder.DURATION, descending=False)
            assert list(await storage.list_runs(query)) == [runs[4], runs[1]]
            assert list(await storage.list_runs(RunQuery(job=job, status=RunStatus.DEAD))) == [runs[3]]
            assert list(await storage.list_runs(RunQuery(job=job, status=RunStatus.STORED))) == []

    async def test_every_field_of_a_record_is_kept(self, storage: Storage) -> None:
        whole = Run(
            job="a",
            status=RunStatus.DEAD,
            run_id="r1",
            scheduled_at_ms=_AT,
            started_at_ms=_AT + 7,
            finished_at_ms=_AT + 19,
            reason="handler_error",
            attempt=3,
            trigger=Trigger.BACKFILL,
            delivery=Delivery.HANDLER,
            lateness_ms=-3,
            duration_ms=12,
            instance="wörker",
            error="Error: 😀\n" + "x" * 70_000,
            result='{"a":[1,null]}',
        )
        await storage.save_runs([whole])
        assert list(await storage.list_runs(RunQuery(run_id="r1"))) == [whole]
