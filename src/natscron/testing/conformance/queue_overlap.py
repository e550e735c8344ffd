"""What every RunQueue does with a run that is due while others of its job are going."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, PLR2004, S101

import asyncio

from natscron.model import Overlap, Reason, RunStatus, Trigger
from natscron.policy.overlap import BUFFER_MAX
from natscron.storage.protocol import RunQuery
from natscron.storage.queue import QueueStorage
from natscron.testing.conformance.driving import JOB, Driver, Sink, ending_of, worker_info
from natscron.testing.conformance.sinks import a_job

SKIPPED = RunStatus.SKIPPED


class OverlapChecks:
    """Overlap policies, as the run queue carries them out; and what ends lets what waits go."""

    async def test_skip_leaves_out_what_is_due_while_another_is_queued_or_going(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.SKIP), driver.run("r2", overlap=Overlap.SKIP))
        [claim] = await driver.take("r1")
        await driver.queue(driver.run("r3", overlap=Overlap.SKIP))
        for run_id in ("r2", "r3"):
            run = await driver.record(run_id)
            assert (run.status, run.reason, run.started_at_ms) == (SKIPPED, Reason.OVERLAP_SKIP, None)
            assert run.error
            assert (run.finished_at_ms or 0) >= driver.now_ms
        await driver.end(claim)
        await driver.queue(driver.run("r4", overlap=Overlap.SKIP))
        await driver.take("r4")

    async def test_a_run_left_out_is_told_to_the_process_that_queued_it(self, storage: QueueStorage) -> None:
        driver, sink = await Driver.begin(storage), Sink()
        watch = storage.watch_queue(sink)
        await watch.ready()
        await driver.queue(driver.run("r1", overlap=Overlap.SKIP), driver.run("r2", overlap=Overlap.SKIP))
        await sink.until(lambda: len(sink.runs) == 1)
        assert sink.runs == [await driver.record("r2")]
        await watch.close()

    async def test_a_run_left_out_is_not_queued_later_either(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.SKIP), driver.run("r2", overlap=Overlap.SKIP))
        [claim] = await driver.take("r1")
        await driver.end(claim)
        await driver.queue(driver.run("r2", overlap=Overlap.SKIP))
        await driver.take()
        assert len(await driver.tries("r2")) == 1

    async def test_buffer_one_keeps_one_that_waits_and_leaves_out_the_rest(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(*(driver.run(f"r{n}", overlap=Overlap.BUFFER_ONE, due=n) for n in range(-4, 0)))
        [claim] = await driver.take("r-4")
        assert await driver.reason("r-3") == (RunStatus.PENDING, Reason.OVERLAP_WAIT)
        assert await driver.reason("r-2") == (SKIPPED, Reason.BUFFER_FULL)
        assert await driver.reason("r-1") == (SKIPPED, Reason.BUFFER_FULL)
        await driver.end(claim)
        assert await driver.reason("r-3") == (RunStatus.PENDING, None)
        await driver.take("r-3")

    async def test_buffer_all_keeps_many_and_lets_them_go_one_by_one_the_oldest_first(
        self, storage: QueueStorage
    ) -> None:
        driver = await Driver.begin(storage)
        ids = [f"r{n:03}" for n in range(BUFFER_MAX + 3)]
        runs = [driver.run(run_id, overlap=Overlap.BUFFER_ALL, due=n - 1_000) for n, run_id in enumerate(ids)]
        await driver.queue(*runs[:60])
        await driver.queue(*runs[60:])
        for run_id in ids[:4]:
            [claim] = await driver.take(run_id)
            assert await driver.end(claim)
        for run_id in ids[-2:]:
            assert await driver.reason(run_id) == (SKIPPED, Reason.BUFFER_FULL)
        assert await driver.reason(ids[-3]) == (RunStatus.PENDING, Reason.OVERLAP_WAIT)

    async def test_cancel_other_ends_what_is_queued_and_marks_what_is_going(self, storage: QueueStorage) -> None:
        driver, sink = await Driver.begin(storage), Sink()
        await storage.beat(worker_info())
        watch = storage.watch_queue(sink)
        await watch.ready()
        await driver.queue(driver.run("r1", overlap=Overlap.CANCEL_OTHER))
        await driver.queue(driver.run("r2", overlap=Overlap.CANCEL_OTHER))
        assert await driver.reason("r1") == (SKIPPED, Reason.REPLACED)
        [claim] = await driver.take("r2")
        assert await driver.owned() == {("r2", 1): ""}
        await driver.queue(driver.run("r3", overlap=Overlap.CANCEL_OTHER))
        await sink.until(lambda: sink.cancels > 0)
        assert await driver.owned() == {("r2", 1): Reason.REPLACED}
        assert await driver.reason("r3") == (RunStatus.PENDING, Reason.OVERLAP_WAIT)
        await driver.take()
        await driver.queue(driver.run("r4", overlap=Overlap.CANCEL_OTHER))
        assert await driver.reason("r3") == (SKIPPED, Reason.REPLACED)
        await driver.take()
        await driver.end(claim, RunStatus.FAILED, reason=Reason.REPLACED)
        await driver.take("r4")
        await watch.close()

    async def test_what_is_to_end_in_favour_of_another_is_not_tried_again(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.CANCEL_OTHER))
        [claim] = await driver.take("r1")
        await driver.queue(driver.run("r2", overlap=Overlap.CANCEL_OTHER))
        # It failed by itself before it heard of it.
        assert await driver.end(claim, RunStatus.FAILED, reason=Reason.HANDLER_ERROR, retry_in_ms=0)
        assert [run.attempt for run in await driver.tries("r1")] == [1]
        await driver.take("r2")

    async def test_a_further_try_that_waits_makes_room_for_another(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        jobs = {"jobs.later": 60_000, "jobs.due": 0}
        for job, wait_ms in jobs.items():
            await driver.queue(driver.run(f"{job}-1", job=job, overlap=Overlap.CANCEL_OTHER))
            [claim] = await driver.take(f"{job}-1")
            again = {"reason": Reason.HANDLER_ERROR, "retry_reason": Reason.RETRY, "retry_in_ms": wait_ms}
            await driver.end(claim, RunStatus.FAILED, **again)
            assert await driver.reason(f"{job}-1", 2) == (RunStatus.PENDING, Reason.RETRY)
        await driver.queue(*(driver.run(f"{job}-2", job=job, overlap=Overlap.CANCEL_OTHER) for job in jobs))
        for job in jobs:
            assert await driver.reason(f"{job}-1", 2) == (SKIPPED, Reason.REPLACED)
        for claim in await driver.take(*(f"{job}-2" for job in jobs)):
            await driver.end(claim)
        # Nothing is left that would count as going, or be claimed.
        await driver.queue(*(driver.run(f"{job}-3", job=job, overlap=Overlap.SKIP) for job in jobs))
        await driver.take(*(f"{job}-3" for job in jobs))
        assert [run.attempt for job in jobs for run in await driver.tries(f"{job}-1")] == [1, 2, 1, 2]

    async def test_a_further_try_is_to_end_in_favour_of_another_like_the_first(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.CANCEL_OTHER))
        [claim] = await driver.take("r1")
        await driver.end(claim, RunStatus.FAILED, reason=Reason.HANDLER_ERROR, retry_in_ms=0)
        [claim] = await driver.take("r1")
        await driver.queue(driver.run("r2", overlap=Overlap.CANCEL_OTHER))
        assert await driver.owned() == {("r1", 2): Reason.REPLACED}
        await driver.take()
        await driver.end(claim, RunStatus.FAILED, reason=Reason.HANDLER_ERROR, retry_in_ms=0)
        await driver.take("r2")
        assert [run.attempt for run in await driver.tries("r1")] == [1, 2]

    async def test_what_was_replaced_and_is_redriven_is_a_run_like_any_other(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.CANCEL_OTHER))
        [claim] = await driver.take("r1")
        await driver.queue(driver.run("r2", overlap=Overlap.CANCEL_OTHER))
        await driver.end(claim, RunStatus.FAILED, reason=Reason.REPLACED)
        [claim] = await driver.take("r2")
        await driver.end(claim)
        assert await storage.redrive("r1")
        [claim] = await driver.take("r1")
        assert await driver.owned() == {("r1", 2): ""}
        await driver.end(claim, RunStatus.FAILED, reason=Reason.HANDLER_ERROR, retry_in_ms=0)
        await driver.take("r1")

    async def test_a_try_that_fails_while_another_comes_is_followed_by_that_one(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        jobs = [f"jobs.{n}" for n in range(10)]
        for job in jobs:  # a queue may go by them where several decide at once
            await storage.create_job(a_job(job))
        await driver.queue(*(driver.run(f"{job}-1", job=job, overlap=Overlap.CANCEL_OTHER) for job in jobs))
        claims = await driver.take(*(f"{job}-1" for job in jobs))
        await asyncio.gather(
            *(
                driver.end(claim, RunStatus.FAILED, reason=Reason.HANDLER_ERROR, retry_in_ms=0)
                for claim in claims[: len(claims) // 2]
            ),
            driver.queue(*(driver.run(f"{job}-2", job=job, overlap=Overlap.CANCEL_OTHER) for job in jobs)),
            *(
                driver.end(claim, RunStatus.FAILED, reason=Reason.HANDLER_ERROR, retry_in_ms=0)
                for claim in claims[len(claims) // 2 :]
            ),
        )
        await driver.take(*(f"{job}-2" for job in jobs))
        tries = [run for job in jobs for run in await driver.tries(f"{job}-1")]
        assert {(run.attempt, run.status) for run in tries} <= {(1, RunStatus.FAILED), (2, SKIPPED)}

    async def test_under_allow_any_number_go(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(*(driver.run(f"r{n}") for n in range(5)))
        await driver.queue(*(driver.run(f"r{n}") for n in range(5, 10)))
        await driver.take(*(f"r{n}" for n in range(10)))

    async def test_with_a_concurrency_as_many_go_and_the_rest_waits(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        ids = [f"r{n}" for n in range(8)]
        await driver.queue(*(driver.run(one, concurrency=3, due=n - 100) for n, one in enumerate(ids)))
        claims = await driver.take(*ids[:3])
        await driver.take()
        # Two ended in one call make room for two, and the third for one.
        endings = [ending_of(claim) for claim in claims[:2]]
        assert list(await storage.finish("w", endings)) == [True, True]
        await driver.take(*ids[3:5])
        await driver.end(claims[2])
        await driver.take(ids[5])

    async def test_the_policy_of_each_run_is_its_own(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.SKIP))
        await driver.queue(
            driver.run("skip", overlap=Overlap.SKIP),
            driver.run("wait", overlap=Overlap.BUFFER_ONE),
            driver.run("more", overlap=Overlap.ALLOW),
        )
        await driver.take("r1", "more")
        assert await driver.reason("skip") == (SKIPPED, Reason.OVERLAP_SKIP)
        assert await driver.reason("wait") == (RunStatus.PENDING, Reason.OVERLAP_WAIT)

    async def test_the_slots_of_a_backfill_wait_in_any_number(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        ids = [f"r{n:03}" for n in range(BUFFER_MAX + 10)]
        await driver.queue(
            *(
                driver.run(one, overlap=Overlap.BUFFER_ONE, trigger=Trigger.BACKFILL, due=n - 1_000)
                for n, one in enumerate(ids)
            )
        )
        waiting = await storage.list_runs(RunQuery(job=JOB, status=RunStatus.PENDING, limit=1_000))
        assert len(waiting) == len(ids)
        [claim] = await driver.take(ids[0])
        await driver.end(claim)
        await driver.take(ids[1])

    async def test_jobs_do_not_wait_for_each_other(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        ids = [f"r{n}" for n in range(5)]
        await driver.queue(*(driver.run(one, overlap=Overlap.SKIP, job=f"jobs.{one}") for one in ids))
        claims = await driver.take(*ids)
        await driver.queue(*(driver.run(f"{one}-next", overlap=Overlap.BUFFER_ONE, job=f"jobs.{one}") for one in ids))
        await driver.end(claims[2])
        await driver.take("r2-next")

    async def test_a_retry_counts_as_going_and_its_exhaustion_lets_the_next_go(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.BUFFER_ONE), driver.run("r2", overlap=Overlap.BUFFER_ONE))
        [claim] = await driver.take("r1")
        await driver.end(claim, RunStatus.FAILED, reason=Reason.HANDLER_ERROR, retry_in_ms=0, retry_reason=Reason.RETRY)
        [claim] = await driver.take("r1")
        assert claim.attempt == 2
        await driver.end(claim, RunStatus.DEAD, reason=Reason.HANDLER_ERROR)
        await driver.take("r2")

    async def test_what_is_given_back_goes_on_counting_as_going(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.SKIP))
        await storage.give_back("w", await driver.take("r1"))
        await driver.queue(driver.run("r2", overlap=Overlap.SKIP))
        assert await driver.reason("r2") == (SKIPPED, Reason.OVERLAP_SKIP)
        await driver.take("r1")

    async def test_what_is_given_back_after_it_was_to_end_is_over(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.CANCEL_OTHER))
        claims = await driver.take("r1")
        await driver.queue(driver.run("r2", overlap=Overlap.CANCEL_OTHER))
        await storage.give_back("w", claims)
        run = await driver.record("r1")
        assert (run.status, run.reason) == (SKIPPED, Reason.REPLACED)
        # Its handler did not begin.
        assert (run.started_at_ms, run.duration_ms) == (None, None)
        await driver.take("r2")

    async def test_removing_one_generation_lets_the_next_one_go(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("old", overlap=Overlap.BUFFER_ONE, generation=1))
        await driver.queue(driver.run("new", overlap=Overlap.BUFFER_ONE, generation=2))
        assert await driver.reason("new") == (RunStatus.PENDING, Reason.OVERLAP_WAIT)
        assert await storage.drop_runs(JOB, 1) == 0
        assert await driver.reason("old") == (SKIPPED, Reason.JOB_REMOVED)
        await driver.take("new")

    async def test_removing_what_is_held_lets_what_was_held_behind_it_go(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.BUFFER_ALL, generation=2))
        [claim] = await driver.take("r1")
        await driver.queue(
            driver.run("old", overlap=Overlap.BUFFER_ALL, generation=1),
            driver.run("new", overlap=Overlap.BUFFER_ALL, concurrency=2, generation=2),
        )
        await driver.take()
        assert await storage.drop_runs(JOB, 1) == 0
        await driver.take("new")
        await driver.end(claim)

    async def test_each_that_is_held_goes_by_its_own_concurrency(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.BUFFER_ALL))
        [claim] = await driver.take("r1")
        rooms = (1, 3, 2, 4)
        await driver.queue(
            *(
                driver.run(f"h{n}", overlap=Overlap.BUFFER_ALL, concurrency=room, due=n - 100)
                for n, room in enumerate(rooms)
            )
        )
        await driver.end(claim)
        # The third one has no room beside two others, and the fourth, which had, waits for its turn.
        _, second = await driver.take("h0", "h1")
        await driver.end(second)
        await driver.take("h2", "h3")

    async def test_the_first_of_two_that_are_queued_together_under_one_id_is_the_run(
        self, storage: QueueStorage
    ) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(
            driver.run("r1", overlap=Overlap.SKIP, payload=1),
            driver.run("r2", overlap=Overlap.SKIP),
            driver.run("r1", overlap=Overlap.SKIP, payload=2),
        )
        [claim] = await driver.take("r1")
        assert claim.payload == 1
        assert await driver.reason("r2") == (SKIPPED, Reason.OVERLAP_SKIP)

    async def test_a_run_that_is_redriven_waits_for_one_that_is_going(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.SKIP))
        [claim] = await driver.take("r1")
        await driver.end(claim, RunStatus.FAILED)
        await driver.queue(driver.run("r2", overlap=Overlap.SKIP))
        [claim] = await driver.take("r2")
        assert await storage.redrive("r1")
        await driver.take()
        assert await driver.reason("r1", 2) == (RunStatus.PENDING, Reason.OVERLAP_WAIT)
        await driver.end(claim)
        await driver.take("r1")
