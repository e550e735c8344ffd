"""What every RunQueue does: queuing, claims and endings. A storage whose capabilities say ``queue`` has to pass."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: PLR2004, S101

import asyncio
from typing import Final

import msgspec

from natscron.model import Claim, Delivery, Ms, Reason, Run, RunStatus, Trigger
from natscron.storage.protocol import RunQuery
from natscron.storage.queue import QueueStorage
from natscron.testing.conformance.driving import JOB, Driver, Sink, ending_of, later, worker_info
from natscron.testing.conformance.imports import ImportChecks
from natscron.testing.conformance.queue_overlap import OverlapChecks
from natscron.testing.conformance.queue_upkeep import UpkeepChecks

__all__ = ["RunQueueChecks"]

_MINUTE: Final[Ms] = 60_000


class QueuingChecks:
    """Queuing and claiming."""

    async def test_a_queue_with_nothing_in_it_gives_nothing_and_its_time(self, storage: QueueStorage) -> None:
        claimed = await storage.claim("w", ("", "a"), 10)
        assert (claimed.runs, claimed.next_ms) == ((), None)
        assert claimed.now_ms > 0

    async def test_a_claim_says_everything_about_the_run(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        payload = {"n": [1, 2.5, None, "x"]}
        run = driver.run(
            "r1", due=-50, generation=7, handler="h", trigger=Trigger.CATCHUP, payload=payload, scheduled_at_ms=1_234
        )
        await driver.queue(run)
        claimed = await driver.claim("h", worker="me")
        assert claimed.runs == (
            Claim(
                run_id="r1",
                job=JOB,
                generation=7,
                scheduled_at_ms=1_234,
                due_ms=driver.now_ms - 50,
                trigger=Trigger.CATCHUP,
                attempt=1,
                handler="h",
                payload=payload,
                worker="me",
                started_ms=claimed.now_ms,
                last_completed_ms=None,
            ),
        )

    async def test_a_payload_of_none_is_not_one_that_was_not_given(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("none", payload=None), driver.run("unset"))
        none, unset = await driver.take("none", "unset")
        assert none.payload is None
        assert unset.payload is msgspec.UNSET

    async def test_a_run_is_queued_once_whoever_queues_it(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1"), driver.run("r1"))
        await driver.queue(driver.run("r1"), driver.run("r2"))
        successor = await Driver.begin(storage)
        await successor.queue(driver.run("r1"), driver.run("r2"), driver.run("r3"))
        claims = await driver.take("r1", "r2", "r3")
        await successor.queue(driver.run("r1"))
        await driver.take()
        for claim in claims:
            assert await driver.end(claim, RunStatus.FAILED, retry_in_ms=0 if claim.run_id == "r2" else None)
        await successor.queue(driver.run("r1"), driver.run("r2"), driver.run("r3"))
        await driver.take("r2")

    async def test_many_runs_are_queued_and_claimed_at_once(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        ids = [f"r{n:04}" for n in range(700)]
        await driver.queue(*(driver.run(one, job=f"jobs.{one}", concurrency=1) for one in ids))
        await driver.take(*ids)

    async def test_runs_of_higher_priority_go_first_and_then_those_due_first(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        order = [("a", 100, -10), ("b", 1, -500), ("c", 1, -20), ("d", 0, -9_000), ("e", 0, -30), ("f", -100, -99_000)]
        await driver.queue(*(driver.run(one, priority=rank, due=due) for one, rank, due in reversed(order)))
        found = [[claim.run_id for claim in (await driver.claim(limit=2)).runs] for _ in range(4)]
        assert found == [["a", "b"], ["c", "d"], ["e", "f"], []]

    async def test_no_more_are_claimed_than_asked_for(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(*(driver.run(f"r{n}") for n in range(5)))
        assert [len((await driver.claim(limit=2)).runs) for _ in range(4)] == [2, 2, 1, 0]

    async def test_only_runs_of_the_named_handlers_are_claimed(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        names = ("", "a", "A", "b", "a.b")
        await driver.queue(*(driver.run(f"r{n}", handler=name) for n, name in enumerate(names)))
        assert [claim.handler for claim in (await driver.claim("a")).runs] == ["a"]
        assert [claim.handler for claim in (await driver.claim("a", "b", "unknown", "b")).runs] == ["b"]
        assert (await storage.claim("w", (), 10)).runs == ()
        assert {claim.handler for claim in (await driver.claim(*names)).runs} == {"", "A", "a.b"}

    async def test_a_run_is_not_claimed_before_it_is_due(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("soon", due=60), driver.run("late", due=_MINUTE))
        first = await driver.claim()
        if first.now_ms < driver.now_ms + 60:
            assert (first.runs, first.next_ms) == ((), driver.now_ms + 60)
        got: list[Claim] = list(first.runs)

        async def claimed() -> bool:
            got.extend((await driver.claim()).runs)
            return bool(got)

        await later(claimed)
        assert [claim.run_id for claim in got] == ["soon"]
        assert got[0].started_ms >= driver.now_ms + 60

    async def test_the_next_instant_is_told_where_fewer_are_claimed_than_asked_for(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(
            driver.run("due"),
            driver.run("next", due=2 * _MINUTE),
            driver.run("first", due=_MINUTE, handler="other"),
            driver.run("last", due=3 * _MINUTE),
        )
        assert (await driver.claim("none")).next_ms is None
        assert (await driver.claim()).next_ms == driver.now_ms + 2 * _MINUTE
        assert (await driver.claim("other", "")).next_ms == driver.now_ms + _MINUTE

    async def test_no_run_is_claimed_by_two_workers(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        ids = {f"r{n:03}" for n in range(100)}
        await driver.queue(*(driver.run(one) for one in sorted(ids)))
        found = await asyncio.gather(*(driver.claim(worker=f"w{n}", limit=7) for n in range(20)))
        claims = [claim for claimed in found for claim in claimed.runs]
        assert len(claims) == len({claim.run_id for claim in claims})
        rest = await driver.claim()
        assert {claim.run_id for claim in (*claims, *rest.runs)} == ids

    async def test_a_claim_says_when_the_job_last_completed(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1"), driver.run("other", job="jobs.b"))
        claim, other = await driver.take("r1", "other")
        completed = claim.started_ms + 11
        await driver.end(claim, finished_ms=completed)
        await driver.end(other, RunStatus.FAILED)
        await driver.queue(driver.run("r2"), driver.run("r3", job="jobs.b"))
        claim, other = await driver.take("r2", "r3")
        assert (claim.last_completed_ms, other.last_completed_ms) == (completed, None)
        await driver.end(claim, RunStatus.FAILED)
        await driver.queue(driver.run("r4"))
        [claim] = await driver.take("r4")
        assert claim.last_completed_ms == completed

    async def test_those_who_watch_are_woken(self, storage: QueueStorage) -> None:
        driver, sink = await Driver.begin(storage), Sink()
        watch = storage.watch_queue(sink)
        await watch.ready()
        before = sink.wakes
        await driver.queue(driver.run("r1", concurrency=1), driver.run("r2", concurrency=1))
        await sink.until(lambda: sink.wakes > before)
        [claim] = await driver.take("r1")
        before = sink.wakes
        await storage.give_back("w", [claim])
        await sink.until(lambda: sink.wakes > before)
        [claim] = await driver.take("r1")
        before = sink.wakes
        await driver.end(claim, RunStatus.FAILED, retry_in_ms=0)
        await sink.until(lambda: sink.wakes > before)
        [claim] = await driver.take("r1")
        before = sink.wakes
        await driver.end(claim)
        await sink.until(lambda: sink.wakes > before)
        await driver.take("r2")
        await watch.close()
        await watch.close()

    async def test_a_closed_watch_is_told_nothing(self, storage: QueueStorage) -> None:
        driver, closed, open_ = await Driver.begin(storage), Sink(), Sink()
        watch, other = storage.watch_queue(closed), storage.watch_queue(open_)
        await watch.ready()
        await other.ready()
        await watch.close()
        told, before = closed.wakes, open_.wakes
        await driver.queue(driver.run("r1", concurrency=1), driver.run("r2", concurrency=1))
        await open_.until(lambda: open_.wakes > before)
        assert (closed.wakes, closed.runs) == (told, [])
        await other.close()


class EndingChecks:
    """Endings, retries and runs given back."""

    async def test_the_end_of_a_try_is_recorded(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await storage.beat(worker_info())
        await driver.queue(driver.run("r1", due=-200, trigger=Trigger.MANUAL, scheduled_at_ms=5_000))
        [claim] = await driver.take("r1")
        began = claim.started_ms + 3
        assert await driver.end(claim, started_ms=began, finished_ms=began + 40, result='"ok"')
        expected = Run(
            job=JOB,
            status=RunStatus.COMPLETED,
            run_id="r1",
            scheduled_at_ms=5_000,
            started_at_ms=began,
            finished_at_ms=began + 40,
            attempt=1,
            trigger=Trigger.MANUAL,
            delivery=Delivery.HANDLER,
            lateness_ms=began - (driver.now_ms - 200),
            duration_ms=40,
            instance="w-host",
            result='"ok"',
        )
        assert await driver.record("r1") == expected
        assert list(await storage.list_runs(RunQuery(job=JOB))) == [expected]

    async def test_a_failure_is_recorded_with_its_reason_and_error(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1"))
        [claim] = await driver.take("r1")
        error = "Traceback:\n" + "x" * 16_000 + "\nValueError: ä€😀"
        assert await driver.end(claim, RunStatus.DEAD, reason=Reason.HANDLER_ERROR, error=error)
        run = await driver.record("r1")
        assert (run.status, run.reason, run.error) == (RunStatus.DEAD, Reason.HANDLER_ERROR, error)

    async def test_an_error_with_characters_that_are_none_ends_the_try_all_the_same(
        self, storage: QueueStorage
    ) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1"))
        [claim] = await driver.take("r1")
        assert await driver.end(claim, RunStatus.FAILED, reason="odd", error="a\x00b\ud800c", result="\x00")
        run = await driver.record("r1")
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert (run.error[0], run.error[-1]) == ("a", "c")

    async def test_only_the_claimant_ends_a_try_and_only_once(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1"), driver.run("r2"))
        one, two = await driver.take("r1", "r2")
        ending = ending_of(one)
        wrong = msgspec.structs.replace
        assert list(await storage.finish("other", [ending])) == [False]
        assert list(await storage.finish("w", [wrong(ending, attempt=2), wrong(ending, run_id="r9")])) == [False, False]
        assert list(await storage.finish("w", [])) == []
        mixed = [wrong(ending, run_id="r9"), ending, ending, ending_of(two, RunStatus.FAILED)]
        assert list(await storage.finish("w", mixed)) == [False, True, False, True]
        assert list(await storage.finish("w", [ending, wrong(ending, status=RunStatus.FAILED)])) == [False, False]
        assert await driver.reason("r1") == (RunStatus.COMPLETED, None)

    async def test_what_waits_cannot_be_ended(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", concurrency=1), driver.run("r2", concurrency=1))
        for run_id in ("r1", "r2"):
            ending = ending_of(Claim(run_id=run_id, job=JOB, generation=1, scheduled_at_ms=0, due_ms=0))
            assert list(await storage.finish("", [ending])) == [False]
        await driver.take("r1")

    async def test_of_two_who_end_a_try_at_once_one_does(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", concurrency=1), driver.run("r2", concurrency=1))
        [claim] = await driver.take("r1")
        ending = ending_of(claim, RunStatus.FAILED, retry_in_ms=0)
        found = await asyncio.gather(*(storage.finish("w", [ending]) for _ in range(6)))
        assert sorted(stored for [stored] in found) == [False] * 5 + [True]
        assert len(await driver.tries("r1")) == 2

    async def test_a_retry_is_the_next_attempt_after_its_time(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", handler="h", priority=3, payload=[1], generation=4))
        [claim] = (await driver.claim("h")).runs
        before = (await driver.claim()).now_ms
        failed = {"reason": Reason.HANDLER_ERROR, "retry_in_ms": _MINUTE, "retry_reason": Reason.RETRY}
        assert await driver.end(claim, RunStatus.FAILED, **failed)
        claimed = await driver.claim("h")
        assert claimed.runs == ()
        assert claimed.next_ms is not None
        assert before <= claimed.next_ms - _MINUTE <= claimed.now_ms
        assert await driver.reason("r1", 1) == (RunStatus.FAILED, Reason.HANDLER_ERROR)
        waiting = await driver.record("r1", 2)
        assert (waiting.status, waiting.reason, waiting.started_at_ms) == (RunStatus.PENDING, Reason.RETRY, None)
        assert waiting.scheduled_at_ms == claim.scheduled_at_ms

    async def test_a_retry_is_claimed_as_the_try_before_was(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", handler="h", payload=[1], generation=4, trigger=Trigger.BACKFILL))
        for attempt in range(1, 13):
            claimed = await driver.claim("h", worker=f"w{attempt}")
            [claim] = claimed.runs
            assert claim == Claim(
                run_id="r1",
                job=JOB,
                generation=4,
                scheduled_at_ms=driver.now_ms - 1_000,
                due_ms=driver.now_ms - 1_000,
                trigger=Trigger.BACKFILL,
                attempt=attempt,
                handler="h",
                payload=[1],
                worker=f"w{attempt}",
                started_ms=claimed.now_ms,
            )
            assert await driver.end(claim, RunStatus.FAILED, retry_in_ms=0)
        assert [run.attempt for run in await driver.tries("r1")] == list(range(1, 14))

    async def test_what_is_given_back_is_claimable_as_if_it_had_never_been(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", due=-9), driver.run("r2"))
        one, two = await driver.take("r1", "r2")
        await storage.give_back("other", [one])
        await driver.take(worker="third")
        await storage.give_back("w", [one])
        run = await driver.record("r1")
        assert (run.status, run.started_at_ms, run.instance, run.attempt) == (RunStatus.PENDING, None, "", 1)
        assert not await driver.end(one)
        [again] = await driver.take("r1", worker="third")
        assert again.attempt == 1
        # What was ended, or is somebody else's now, is left alone.
        await driver.end(two)
        await storage.give_back("w", [one, two])
        await driver.take()
        assert await driver.end(again)


class RunQueueChecks(QueuingChecks, EndingChecks, OverlapChecks, UpkeepChecks, ImportChecks):
    """The RunQueue role, and what :meth:`LeaderLink.commit` does with queued runs."""
