"""What every RunQueue does about workers, removed jobs, failed runs and the history."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, PLR2004, S101

from natscron.model import Activity, Overlap, Reason, RunStatus
from natscron.storage.protocol import RunQuery
from natscron.storage.queue import QueueStorage
from natscron.testing.conformance.driving import JOB, Driver, ending_of, later, worker_info


class WorkerChecks:
    """Announcements, and what becomes of the runs of those who are silent."""

    async def test_a_worker_that_announced_itself_is_alive_until_it_retires(self, storage: QueueStorage) -> None:
        assert list(await storage.workers()) == []
        one, two = worker_info("one", "", "a", "ä.b"), worker_info("two")
        for info in (one, two, one):
            assert dict(await storage.beat(info)) == {}
        assert sorted(await storage.workers(), key=lambda info: info.id) == [one, two]
        await storage.retire("one")
        await storage.retire("one")
        await storage.retire("unknown")
        assert list(await storage.workers()) == [two]

    async def test_an_announcement_takes_the_place_of_the_one_before(self, storage: QueueStorage) -> None:
        await storage.beat(worker_info("w", "a"))
        await storage.beat(worker_info("w", "a", "b", lease_ms=90_000))
        assert list(await storage.workers()) == [worker_info("w", "a", "b", lease_ms=90_000)]

    async def test_a_worker_is_told_which_tries_are_its_own(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1"), driver.run("r2"), driver.run("r3"))
        claims = (await driver.claim(limit=2)).runs
        await driver.take("r3", worker="other")
        assert await driver.owned() == {("r1", 1): "", ("r2", 1): ""}
        await driver.end(claims[0], RunStatus.FAILED, retry_in_ms=0)
        assert await driver.owned() == {(claims[1].run_id, 1): ""}
        await storage.give_back("w", claims)
        assert await driver.owned() == {}
        assert await driver.owned("other") == {("r3", 1): ""}

    async def test_a_worker_that_is_silent_for_its_lease_is_not_alive(self, storage: QueueStorage) -> None:
        await storage.beat(worker_info("short", lease_ms=30))
        await storage.beat(worker_info("long"))

        async def gone() -> bool:
            return [info.id for info in await storage.workers()] == ["long"]

        await later(gone)
        await storage.beat(worker_info("short"))
        assert len(await storage.workers()) == 2

    async def test_the_runs_of_a_dead_worker_are_lost_and_ended_in_its_name(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await storage.beat(worker_info("dead"))
        await storage.beat(worker_info("alive"))
        await driver.queue(*(driver.run(f"r{n}", concurrency=3, due=n - 9) for n in range(4)))
        mine = (await driver.claim(worker="dead", limit=2)).runs
        await driver.claim(worker="alive", limit=1)
        assert list(await storage.lost(10)) == []
        await storage.retire("dead")
        assert len(await storage.lost(1)) == 1
        lost = sorted(await storage.lost(10), key=lambda claim: claim.run_id)
        assert lost == list(mine)
        again, over = ending_of(mine[0], RunStatus.FAILED, retry_in_ms=0), ending_of(mine[1], RunStatus.DEAD)
        assert list(await storage.finish("dead", [again, over])) == [True, True]
        assert list(await storage.lost(10)) == []
        # It was not dead after all, and what it says of them is refused.
        assert list(await storage.finish("dead", [ending_of(claim) for claim in mine])) == [False, False]
        assert await driver.owned("dead") == {}
        claims = (await driver.claim(worker="alive")).runs
        assert sorted((claim.run_id, claim.attempt) for claim in claims) == [("r0", 2), ("r3", 1)]

    async def test_the_runs_of_a_worker_that_never_announced_itself_are_lost(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1"))
        claims = await driver.take("r1")
        assert list(await storage.lost(10)) == claims
        await storage.beat(worker_info())
        assert list(await storage.lost(10)) == []

    async def test_due_runs_whose_handler_nobody_has_are_shown_so(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await storage.beat(worker_info("w", "a"))
        await driver.queue(
            driver.run("a", handler="a"),
            driver.run("b", handler="b"),
            driver.run("b2", handler="b"),
            driver.run("later", handler="b", due=60_000),
        )
        assert await storage.mark_unhandled() == 2
        assert await storage.mark_unhandled() == 2
        no_handler, waits = (RunStatus.PENDING, Reason.NO_HANDLER), (RunStatus.PENDING, None)
        assert [await driver.reason(run_id) for run_id in ("a", "b", "b2", "later")] == [
            waits,
            no_handler,
            no_handler,
            waits,
        ]
        await storage.beat(worker_info("other", "b"))
        assert await storage.mark_unhandled() == 0
        assert await driver.reason("b") == waits
        await storage.retire("other")
        assert await storage.mark_unhandled() == 2
        [claim, _] = (await driver.claim("b")).runs
        assert await driver.reason(claim.run_id) == (RunStatus.RUNNING, None)

    async def test_a_run_that_becomes_due_while_nobody_claims_is_shown_too(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", due=40))

        async def marked() -> bool:
            return await storage.mark_unhandled() == 1

        await later(marked)
        assert await driver.reason("r1") == (RunStatus.PENDING, Reason.NO_HANDLER)


class RemovalChecks:
    """Removed jobs, and runs that are tried once more."""

    async def test_what_waits_of_a_removed_job_is_ended_and_what_is_going_is_counted(
        self, storage: QueueStorage
    ) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("going", concurrency=2), driver.run("again", concurrency=2, due=-900))
        going, again = await driver.take("going", "again")
        await driver.queue(driver.run("held", concurrency=2), driver.run("other", job="jobs.b"))
        await driver.end(again, RunStatus.FAILED, retry_in_ms=60_000)
        await driver.queue(driver.run("newer", generation=2, overlap=Overlap.ALLOW))
        assert await storage.drop_runs(JOB, 1) == 1
        removed = (RunStatus.SKIPPED, Reason.JOB_REMOVED)
        assert await driver.reason("held") == removed
        assert await driver.reason("again", 2) == removed
        assert await driver.reason("going") == (RunStatus.RUNNING, None)
        assert await driver.end(going)
        assert await storage.drop_runs(JOB, 1) == 0
        assert await storage.drop_runs("unknown", 1) == 0
        await driver.take("newer", "other")

    async def test_a_run_that_failed_for_good_is_tried_once_more_on_demand(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        ids = ("failed", "dead", "good", "again")
        await driver.queue(*(driver.run(one, payload=[one]) for one in (*ids, "waits")))
        claims = {claim.run_id: claim for claim in (await driver.claim()).runs}
        assert not await storage.redrive("good")
        await storage.give_back("w", [claims["waits"]])
        await driver.end(claims["failed"], RunStatus.FAILED)
        await driver.end(claims["dead"], RunStatus.DEAD)
        await driver.end(claims["good"])
        await driver.end(claims["again"], RunStatus.FAILED, retry_in_ms=60_000)
        for run_id in ("good", "again", "waits", "unknown", ""):
            assert not await storage.redrive(run_id), run_id
        assert await storage.redrive("failed")
        assert not await storage.redrive("failed")
        assert await storage.redrive("dead")
        assert await driver.reason("dead", 2) == (RunStatus.PENDING, Reason.REDRIVEN)
        failed, dead, _ = await driver.take("failed", "dead", "waits")
        assert [(claim.attempt, claim.payload) for claim in (failed, dead)] == [(2, ["failed"]), (2, ["dead"])]
        await driver.end(failed)
        await driver.end(dead, RunStatus.DEAD)
        assert not await storage.redrive("failed")
        assert await storage.redrive("dead")
        [dead] = await driver.take("dead")
        assert dead.attempt == 3

    async def test_a_run_that_was_left_out_cannot_be_redriven(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", overlap=Overlap.SKIP), driver.run("r2", overlap=Overlap.SKIP))
        assert not await storage.redrive("r2")


class HistoryChecks:
    """What the queue's runs look like in the history."""

    async def test_runs_that_are_not_over_are_listed_as_they_stand(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await storage.beat(worker_info())
        await driver.queue(driver.run("going", concurrency=1, due=-30), driver.run("held", concurrency=1, due=-20))
        [claim] = await driver.take("going")
        await driver.queue(driver.run("due", due=-10), driver.run("later", due=60_000))
        runs = {run.run_id: run for run in await storage.list_runs(RunQuery(job=JOB))}
        assert {run_id: (run.status, run.reason) for run_id, run in runs.items()} == {
            "going": (RunStatus.RUNNING, None),
            "held": (RunStatus.PENDING, Reason.OVERLAP_WAIT),
            "due": (RunStatus.PENDING, None),
            "later": (RunStatus.PENDING, None),
        }
        going, due = runs["going"], runs["due"]
        assert (going.started_at_ms, going.instance) == (claim.started_ms, "w-host")
        assert going.lateness_ms == claim.started_ms - claim.due_ms
        assert (due.started_at_ms, due.instance, due.lateness_ms) == (None, "", None)
        assert all((run.finished_at_ms, run.duration_ms) == (None, None) for run in runs.values())
        pending = await storage.list_runs(RunQuery(status=RunStatus.PENDING))
        assert {run.run_id for run in pending} == {"held", "due", "later"}
        running = await storage.list_runs(RunQuery(job=JOB, status=RunStatus.RUNNING))
        assert [run.run_id for run in running] == ["going"]

    async def test_a_run_is_listed_once_before_while_and_after_it_goes(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)

        async def listed() -> list[RunStatus]:
            return [run.status for run in await storage.list_runs(RunQuery(job=JOB))]

        await driver.queue(driver.run("r1"))
        assert await listed() == [RunStatus.PENDING]
        [claim] = await driver.take("r1")
        assert await listed() == [RunStatus.RUNNING]
        await driver.end(claim)
        assert await listed() == [RunStatus.COMPLETED]

    async def test_all_tries_of_a_run_are_found_by_its_id(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1"), driver.run("r11"))
        [claim, _] = await driver.take("r1", "r11")
        await driver.end(claim, RunStatus.FAILED, retry_in_ms=0)
        [claim] = await driver.take("r1")
        await driver.end(claim, RunStatus.FAILED, retry_in_ms=60_000, retry_reason=Reason.RETRY)
        found = [(run.attempt, run.status, run.reason) for run in await driver.tries("r1")]
        assert found == [
            (1, RunStatus.FAILED, None),
            (2, RunStatus.FAILED, None),
            (3, RunStatus.PENDING, Reason.RETRY),
        ]

    async def test_what_a_jobs_runs_are_doing(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        assert dict(await storage.activity([JOB])) == {}
        await driver.queue(driver.run("r1", concurrency=2, due=-9), driver.run("r2", concurrency=2, due=-8))
        await driver.queue(driver.run("r3", concurrency=2), driver.run("later", job="jobs.b", due=60_000))
        assert dict(await storage.activity([JOB, "unknown", "jobs.b"])) == {
            JOB: Activity(waiting=3),
            "jobs.b": Activity(waiting=1),
        }
        one, two = await driver.take("r1", "r2")
        assert dict(await storage.activity([JOB])) == {JOB: Activity(running=2, waiting=1)}
        await driver.end(one, RunStatus.FAILED, finished_ms=one.started_ms + 5)
        failed = Activity(
            running=1,
            waiting=1,
            status=RunStatus.FAILED,
            started_ms=one.started_ms,
            finished_ms=one.started_ms + 5,
        )
        assert dict(await storage.activity([JOB])) == {JOB: failed}
        await driver.end(two, finished_ms=two.started_ms + 6)
        [three] = await driver.take("r3")
        await driver.end(three, RunStatus.DEAD, started_ms=two.started_ms + 7, finished_ms=two.started_ms + 9)
        await driver.queue(driver.run("r4", overlap=Overlap.SKIP), driver.run("r5", overlap=Overlap.SKIP))
        # A run that was left out is not one that is over.
        assert await driver.reason("r5") == (RunStatus.SKIPPED, Reason.OVERLAP_SKIP)
        dead = Activity(waiting=1, status=RunStatus.DEAD, started_ms=two.started_ms + 7, finished_ms=two.started_ms + 9)
        assert dict(await storage.activity([JOB])) == {JOB: dead}

    async def test_the_slot_of_a_jobs_newest_run_is_known(self, storage: QueueStorage) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(driver.run("r1", due=-900), driver.run("r2", job="jobs.b", due=-800))
        one, two = await driver.take("r1", "r2")
        await driver.end(one)
        await driver.end(two, RunStatus.FAILED)
        assert dict(await storage.last_runs([JOB, "jobs.b", "unknown"])) == {
            JOB: driver.now_ms - 900,
            "jobs.b": driver.now_ms - 800,
        }

    async def test_deleting_takes_a_jobs_records_up_to_an_instant_and_nothing_that_is_not_over(
        self, storage: QueueStorage
    ) -> None:
        driver = await Driver.begin(storage)
        await driver.queue(
            *(driver.run(f"r{n}") for n in range(4)), driver.run("other", job="jobs.b"), driver.run("again")
        )
        claims = {claim.run_id: claim for claim in (await driver.claim()).runs}
        at = claims["r0"].started_ms
        for n in range(3):
            await driver.end(claims[f"r{n}"], started_ms=at + 10 * n, finished_ms=at + 50)
        await driver.end(claims["other"])
        await driver.end(claims["again"], RunStatus.FAILED, started_ms=at + 1, retry_in_ms=60_000)
        await driver.queue(driver.run("held", concurrency=1), driver.run("due", due=-50_000))
        assert await storage.delete_runs(JOB, at - 1) == 0
        # The time of a run is its start; one that began at the instant is gone too.
        assert await storage.delete_runs(JOB, at + 10) == 3
        left = {(run.run_id, run.attempt) for run in await storage.list_runs(RunQuery(job=JOB))}
        assert left == {("r2", 1), ("r3", 1), ("again", 2), ("held", 1), ("due", 1)}
        assert await storage.delete_runs("unknown", at + 10) == 0
        assert len(await storage.list_runs(RunQuery(job="jobs.b"))) == 1
        assert await driver.end(claims["r3"])
        await driver.take("due")


class UpkeepChecks(WorkerChecks, RemovalChecks, HistoryChecks):
    """All of these."""
