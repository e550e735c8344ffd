"""A worker, its outbox and the reaper: what goes astray between them and the store, and is found again."""

import asyncio
import logging
from typing import Any

import msgspec
import pytest
from tests.support.fickle import FickleStorage
from tests.unit.scheduling import Spy, cluster, play

from natscron.errors import MalformedInputError, StorageUncertainError
from natscron.model import Claim, Ending, Job, Ms, QueuedRun, Reason, Run, RunStatus, WorkerInfo
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.storage.protocol import RunQuery
from natscron.testing.virtual import VirtualClock
from natscron.worker.options import WorkerOptions
from natscron.worker.reaper import Reaper
from natscron.worker.registry import Registry
from natscron.worker.worker import Hooks, Worker

JOB = Job(id="a", generation=1)


class Shop:
    """A worker on its own, with a store that does what it is told."""

    def __init__(self, handler: Any, *, lease_ms: Ms = 10_000, concurrency: int = 10) -> None:  # noqa: ANN401 - any handler
        self.cluster: MemoryCluster = cluster()
        self.store = FickleStorage(self.cluster)
        self.jobs: dict[str, Job] = {"a": JOB}
        self.told: list[tuple[str, RunStatus, str | None]] = []
        self.clock = VirtualClock(asyncio.get_running_loop())
        self.registry = Registry()
        self.registry.set("", handler)
        hooks = Hooks(
            find_job=self.jobs.get,
            snapshot=lambda job: job,
            started=lambda *_: None,
            ended=self.ended,
        )
        options = WorkerOptions(id="me.1", instance="me", concurrency=concurrency, lease_ms=lease_ms)
        self.worker = Worker(self.store, self.registry, self.clock, options, hooks)

    def ended(self, _job: Job | None, claim: Claim, ending: Ending) -> None:
        """A hook of worker and reaper."""
        self.told.append((claim.run_id, ending.status, ending.reason))

    def queue(self, run_id: str, **more: Any) -> None:  # noqa: ANN401 - as QueuedRun
        """Queue a run of job a."""
        now = self.clock.now_ms()
        given = {"job": "a", "generation": 1, "scheduled_at_ms": now, "due_ms": now, "overlap": "allow"} | more
        self.cluster.queue.enter(msgspec.convert({"run_id": run_id, **given}, QueuedRun))

    def records(self) -> list[tuple[str | None, int, str, str | None]]:
        """What is recorded, in order."""
        runs = sorted((run for kept in self.cluster.runs.values() for run in kept), key=_by_attempt)
        return [(run.run_id, run.attempt, run.status.value, run.reason) for run in runs]

    def owned(self) -> dict[tuple[str, int], str]:
        """What the store takes for this worker's."""
        return {(run_id, one.attempt): one.cancel for run_id, one in self.cluster.queue._owned.get("me.1", {}).items()}


def _by_attempt(run: Run) -> tuple[str, int]:
    return run.run_id or "", run.attempt


def test_a_claim_whose_answer_was_lost_is_given_back_and_run(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        spy = Spy()
        shop = Shop(spy)
        await shop.worker.start()
        await asyncio.sleep(1)
        shop.store.next["claim"] = [StorageUncertainError("lost")]
        shop.queue("r")
        with caplog.at_level(logging.WARNING):
            await asyncio.sleep(8)
        assert [(event.run_id, event.attempt) for event in spy.events] == [("r", 1)]
        assert shop.records() == [("r", 1, "completed", None)]
        assert any("never arrived here" in record.message for record in caplog.records)
        await shop.worker.stop(1)

    play(story)


def test_what_is_being_claimed_or_stored_is_not_taken_for_astray() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=0.2)
        shop = Shop(spy, lease_ms=1_000)
        shop.store.latency_s = 0.15
        await shop.worker.start()
        for n in range(200):
            shop.queue(f"r{n:03}")
            await asyncio.sleep(0.05)
        await asyncio.sleep(5)
        assert sorted(event.run_id for event in spy.events) == [f"r{n:03}" for n in range(200)]
        assert {attempt for _, attempt, _, _ in shop.records()} == {1}
        await shop.worker.stop(1)

    play(story)


def test_an_ending_whose_answer_was_lost_is_stored_once_and_told_once() -> None:
    async def story() -> None:
        shop = Shop(Spy())
        await shop.worker.start()
        shop.store.next["finish"] = [StorageUncertainError("lost"), StorageUncertainError("lost")]
        shop.queue("r")
        await asyncio.sleep(5)
        assert shop.records() == [("r", 1, "completed", None)]
        assert shop.told == [("r", RunStatus.COMPLETED, None)]
        await shop.worker.stop(1)
        assert not shop.cluster.queue.workers()

    play(story)


def test_the_store_away_for_less_than_a_lease_interrupts_nothing() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=15)
        shop = Shop(spy)
        await shop.worker.start()
        shop.queue("r")
        await asyncio.sleep(4)
        shop.cluster.up = False
        await asyncio.sleep(8)
        shop.cluster.up = True
        await asyncio.sleep(10)
        assert shop.records() == [("r", 1, "completed", None)]
        assert not spy.cancelled
        await shop.worker.stop(1)

    play(story)


def test_the_store_away_for_longer_ends_handlers_and_none_of_their_runs_stays_open() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=30)
        shop = Shop(spy)
        await shop.worker.start()
        shop.queue("r")
        await asyncio.sleep(4)
        shop.cluster.up = False
        await asyncio.sleep(25)
        assert spy.cancelled == ["r"], "somebody else may have been given it"
        shop.cluster.up = True
        await asyncio.sleep(60)
        assert shop.records() == [("r", 1, "failed", "worker_lost"), ("r", 2, "completed", None)]
        assert not shop.owned()
        await shop.worker.stop(1)

    play(story)


@pytest.mark.parametrize("lease_ms", [1_000, 8_000, 60_000])
def test_a_handler_is_cancelled_before_its_run_can_be_given_to_anybody_else(lease_ms: Ms) -> None:
    """However long the store leaves the announcements without an answer."""

    async def story() -> None:
        spy = Spy(lasts_s=300)
        shop = Shop(spy, lease_ms=lease_ms)
        await shop.worker.start()
        shop.queue("r")
        await asyncio.sleep(lease_ms / 1000 * 1.4)
        shop.store.hangs = True
        cut_off_s = shop.clock.trust_s()
        while not spy.cancelled:
            assert not shop.cluster.queue.lost(10), "its run may be given to another, and its handler goes on"
            await asyncio.sleep(lease_ms / 100_000)
        assert shop.clock.trust_s() - cut_off_s > lease_ms / 1000 * 5 / 6 - 0.1, "too early"
        shop.store.hangs = False
        await shop.worker.stop(0)

    play(story)


def test_what_was_taken_over_meanwhile_is_ended_here_and_nothing_is_stored_of_it() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=30)
        shop = Shop(spy)
        await shop.worker.start()
        shop.queue("r", handler="")
        await asyncio.sleep(1)
        taken = Ending(
            run_id="r", attempt=1, status=RunStatus.FAILED, started_ms=1, finished_ms=2, reason=Reason.WORKER_LOST
        )
        assert shop.cluster.queue.finish("me.1", [taken]) == [True]
        await asyncio.sleep(5)
        assert spy.cancelled == ["r"]
        assert shop.records() == [("r", 1, "failed", "worker_lost")]
        assert shop.told == []
        await shop.worker.stop(1)

    play(story)


def test_an_ending_that_cannot_be_stored_is_stored_without_its_texts_and_takes_no_other_along() -> None:
    class Picky(MemoryStorage):
        """Takes no text with the word poison in it."""

        async def finish(self, worker: str, endings: Any) -> Any:  # noqa: ANN401 - as the base class
            if any("poison" in f"{ending.error}{ending.result}" for ending in endings):
                raise MalformedInputError("not this text")
            return await super().finish(worker, endings)

    async def story() -> None:
        async def handler(event: Any) -> str:  # noqa: ANN401 - a JobEvent
            if event.run_id == "bad":
                raise ValueError("poison")
            return "fine"

        shop = Shop(handler)
        shop.worker._store = shop.worker._outbox._store = Picky(shop.cluster)
        await shop.worker.start()
        for run_id in ("r1", "bad", "r2"):
            shop.queue(run_id)
        await asyncio.sleep(5)
        assert shop.records() == [
            ("bad", 1, "failed", "handler_error"),
            ("r1", 1, "completed", None),
            ("r2", 1, "completed", None),
        ]
        [bad] = [run for kept in shop.cluster.runs.values() for run in kept if run.run_id == "bad"]
        assert bad.error == "what the handler gave or raised cannot be stored"
        await shop.worker.stop(1)

    play(story)


def test_no_more_is_claimed_than_can_be_run_and_kept() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=1)
        shop = Shop(spy, concurrency=5)
        await shop.worker.start()
        shop.store.refuse["finish"] = 1.0
        for n in range(100):
            shop.queue(f"r{n:03}")
        await asyncio.sleep(60)
        assert (spy.most, len(spy.events)) == (5, 10), "endings that cannot be stored are bounded"
        shop.store.refuse.clear()
        await asyncio.sleep(60)
        assert len(shop.records()) == 100
        await shop.worker.stop(1)

    play(story)


def test_a_run_of_a_job_that_is_gone_or_new_is_skipped() -> None:
    async def story() -> None:
        spy = Spy()
        shop = Shop(spy)
        await shop.worker.start()
        shop.queue("gone", job="b")
        shop.queue("old", generation=7)
        await asyncio.sleep(1)
        assert spy.events == []
        assert shop.records() == [("gone", 1, "skipped", "job_removed"), ("old", 1, "skipped", "job_removed")]
        await shop.worker.stop(1)

    play(story)


def test_a_run_whose_job_is_not_known_yet_waits_for_the_store() -> None:
    async def story() -> None:
        spy = Spy()
        shop = Shop(spy)
        await shop.store.create_job(Job(id="b", overlap=JOB.overlap))
        generation = (await shop.store.fetch_job("b") or JOB).generation
        await shop.worker.start()
        shop.queue("r", job="b", generation=generation)
        await asyncio.sleep(1)
        assert [event.id for event in spy.events] == ["b"]
        await shop.worker.stop(1)

    play(story)


def test_what_is_to_be_cancelled_is_cancelled_with_the_next_announcement() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=30)
        shop = Shop(spy)
        await shop.worker.start()
        shop.queue("r1", overlap="cancel_other")
        await asyncio.sleep(1)
        shop.queue("r2", overlap="cancel_other")
        await asyncio.sleep(1)
        assert spy.cancelled == ["r1"]
        assert shop.records()[0] == ("r1", 1, "failed", "replaced")
        assert [event.run_id for event in spy.events] == ["r1", "r2"]
        assert (shop.worker.going, shop.worker.going_of("a"), shop.worker.going_of("b")) == (1, 1, 0)
        await shop.worker.stop(0)

    play(story)


def test_a_handler_set_later_is_announced_and_its_runs_are_taken_at_once() -> None:
    async def story() -> None:
        shop = Shop(Spy())
        await shop.worker.start()
        shop.queue("r", handler="later")
        await asyncio.sleep(1)
        late = Spy()
        shop.registry.set("later", late)
        await asyncio.sleep(0.01)
        assert [event.run_id for event in late.events] == ["r"]
        assert [info.handlers for info in shop.cluster.queue.workers()] == [("", "later")]
        await shop.worker.stop(1)

    play(story)


def test_a_suspended_worker_finds_its_runs_taken_over_when_it_wakes() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=3)
        shop = Shop(spy, lease_ms=3_000)
        await shop.worker.start()
        shop.queue("r")
        await asyncio.sleep(1)
        reaper = a_reaper(shop)
        shop.store.refuse.update(beat=1.0, finish=1.0)
        await asyncio.sleep(20)
        shop.store.refuse.clear()
        await asyncio.sleep(10)
        assert shop.records() == [("r", 1, "failed", "worker_lost"), ("r", 2, "completed", None)]
        reaper.cancel()
        await shop.worker.stop(1)

    play(story)


def a_reaper(shop: Shop, *, leads: bool = True) -> "asyncio.Task[None]":
    reaper = Reaper(
        shop.store,
        shop.clock,
        every_s=1,
        leads=lambda: leads,
        find_job=shop.jobs.get,
        ended=shop.ended,
    )
    return asyncio.create_task(reaper.run())


async def dead_worker(shop: Shop, runs: int) -> list[Claim]:
    """Somebody claims runs and is never heard of again."""
    shop.cluster.queue.beat(WorkerInfo(id="dead.1", instance="dead", lease_ms=2_000))
    for n in range(runs):
        shop.queue(f"r{n:04}", handler="x")
    return list(shop.cluster.queue.claim("dead.1", ["x"], runs).runs)


def test_the_runs_of_a_dead_worker_are_taken_over_after_its_lease_however_many() -> None:
    async def story() -> None:
        shop = Shop(Spy())
        claims = await dead_worker(shop, 1_700)
        reaper = a_reaper(shop)
        await asyncio.sleep(1.5)
        assert shop.records() == [], "its lease is not over"
        await asyncio.sleep(2)
        assert len(shop.records()) == len(claims) == 1_700, "not one batch a look"
        assert {record[1:] for record in shop.records()} == {(1, "failed", "worker_lost")}
        assert len(shop.told) == 1_700
        reaper.cancel()

    play(story)


def test_everybody_takes_runs_over_and_several_at_once_do_no_harm() -> None:
    """The dead worker may have led as well, and nobody else leads yet."""

    async def story() -> None:
        shop = Shop(Spy())
        await dead_worker(shop, 20)
        reapers = [a_reaper(shop, leads=False) for _ in range(3)]
        await asyncio.sleep(3.5)
        assert len(shop.records()) == len(shop.told) == 20
        for task in reapers:
            task.cancel()

    play(story)


@pytest.mark.parametrize("leads", [True, False])
def test_who_leads_shows_which_runs_wait_for_a_handler(*, leads: bool) -> None:
    async def story() -> None:
        shop = Shop(Spy())
        shop.queue("r", handler="elsewhere")
        reaper = a_reaper(shop, leads=leads)
        await asyncio.sleep(2.5)
        [run] = await shop.store.list_runs(RunQuery())
        assert run.reason == (Reason.NO_HANDLER if leads else None)
        reaper.cancel()

    play(story)


def test_a_run_that_brings_every_worker_down_is_dead_in_the_end() -> None:
    async def story() -> None:
        shop = Shop(Spy())
        reaper = a_reaper(shop)
        shop.queue("r", handler="x")
        for n in range(1, 9):
            shop.cluster.queue.beat(WorkerInfo(id=f"w{n}", instance="w", lease_ms=2_000))
            if not shop.cluster.queue.claim(f"w{n}", ["x"], 1).runs:
                break
            await asyncio.sleep(5)
        assert [record[1:] for record in shop.records()] == [
            *[(n, "failed", "worker_lost") for n in range(1, 5)],
            (5, "dead", "worker_lost"),
        ]
        reaper.cancel()

    play(story)


def test_a_reaper_outlives_a_store_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        shop = Shop(Spy())
        await dead_worker(shop, 3)
        reaper = a_reaper(shop)
        shop.cluster.up = False
        with caplog.at_level(logging.WARNING):
            await asyncio.sleep(10)
        shop.cluster.up = True
        await asyncio.sleep(2)
        assert len(shop.records()) == 3
        reaper.cancel()

    play(story)


def test_records_of_what_is_open_are_shown_too() -> None:
    async def story() -> None:
        shop = Shop(Spy(lasts_s=10))
        await shop.worker.start()
        shop.queue("r")
        await asyncio.sleep(1)
        [run] = await shop.store.list_runs(RunQuery(job="a"))
        assert (run.status, run.instance) == (RunStatus.RUNNING, "me")
        await shop.worker.stop(0)

    play(story)
