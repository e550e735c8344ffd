"""How a scheduler stops while handlers run: time to end, cancellation, and what others take up."""

import asyncio
import datetime as dt
import logging
import threading
from collections.abc import Sequence

import pytest
from tests.unit.scheduling import NEVER, Spy, Told, at, brief, cluster, member, play

from natscron import JobEvent, MemoryStorage, SchedulerNotStartedError, ValidationError, every
from natscron.model import Claimed
from natscron.testing.virtual import VirtualLoop


def now() -> float:
    """Seconds of virtual time."""
    return asyncio.get_running_loop().time()


def test_handlers_get_time_to_end() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=10)
        one = member(cluster(), spy)
        await one.start()
        await one.add_job("a", NEVER)
        run_id = await one.trigger("a")
        await asyncio.sleep(1)
        await one.stop()
        assert 10 <= now() < 11
        assert spy.ended == [run_id]
        async with one:
            assert (await one.get_run(run_id)).status == "completed"

    play(story)


def test_nothing_new_begins_while_it_stops() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=10)
        one = member(cluster(), spy)
        await one.start()
        await one.add_job("a", every("2s"), overlap="allow")
        await asyncio.sleep(2.5)
        await one.stop()
        assert len(spy.events) == 1

    play(story)


def test_one_that_does_not_end_in_time_is_cancelled_and_tried_again_elsewhere_at_once() -> None:
    async def story() -> None:
        shared = cluster()
        spy = Spy(lasts_s=100)
        one = member(shared, spy, instance="one")
        other = member(shared, spy, instance="other")
        await one.start()
        await one.add_job("a", NEVER)
        run_id = await one.trigger("a")
        await asyncio.sleep(1)
        await other.start()
        stopped = now()
        await one.stop("5s")
        assert now() - stopped < 6
        assert spy.cancelled == [run_id]
        await asyncio.sleep(0.5)
        assert [(event.run_id, event.attempt) for event in spy.events] == [(run_id, 1), (run_id, 2)]
        assert brief(await other.list_runs("a", descending=False)) == [
            (1, "failed", "worker_stopped"),
            (2, "running", None),
        ]
        await asyncio.sleep(100)
        run = await other.get_run(run_id)
        assert (run.status, run.instance) == ("completed", "other")
        await other.stop()

    play(story)


def test_a_stop_without_patience_cancels_at_once() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=100)
        one = member(cluster(), spy)
        await one.start()
        await one.add_job("a", NEVER)
        await one.trigger("a")
        await asyncio.sleep(1)
        await one.stop(0)
        assert now() < 2
        assert len(spy.cancelled) == 1

    play(story)


@pytest.mark.parametrize("patience", ["-1s", "soon", None, True])
def test_patience_is_a_duration(patience: object) -> None:
    async def story() -> None:
        one = member(cluster(), Spy(), stop_timeout=7)
        await one.start()
        if patience is None:
            await one.stop(patience)
            assert not one.is_running
            return
        with pytest.raises(ValidationError, match="timeout"):
            await one.stop(patience)  # type: ignore[arg-type]
        assert one.is_running
        await one.stop()

    play(story)


def test_what_was_not_begun_stays_for_others_as_if_never_claimed() -> None:
    async def story() -> None:
        shared = cluster()
        spy = Spy(lasts_s=3)
        one, other = member(shared, spy, concurrency=1), member(shared, spy)
        await one.start()
        for n in range(4):
            await one.add_job(f"j{n}", NEVER)
            await one.trigger(f"j{n}")
        await asyncio.sleep(1)
        await one.stop()
        assert len(spy.events) == 1
        async with other:
            await asyncio.sleep(1)
            assert len(spy.events) == 4
            assert {event.attempt for event in spy.events} == {1}

    play(story)


def test_a_claim_that_comes_in_after_the_stop_is_given_back() -> None:
    class Slow(MemoryStorage):
        """Answers to claims come late."""

        async def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
            claimed = await super().claim(worker, handlers, limit)
            await asyncio.sleep(0.5)
            return claimed

    async def story() -> None:
        shared = cluster()
        spy = Spy()
        one = member(shared, spy)
        one._storage = Slow(shared)
        await one.start()
        await one.add_job("a", NEVER)
        await asyncio.sleep(10)
        run_id = await one.trigger("a")
        await asyncio.sleep(0.1)
        await one.stop()
        assert spy.events == []
        async with member(shared, spy) as other:
            await asyncio.sleep(1)
            assert [(event.run_id, event.attempt) for event in spy.events] == [(run_id, 1)]
            assert brief(await other.list_runs("a")) == [(1, "completed", None)]

    play(story)


def test_a_handler_that_swallows_its_cancellation_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        shared = cluster()
        free = asyncio.Event()

        async def stubborn(_event: JobEvent) -> None:
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    continue

        one = member(shared, stubborn)
        await one.start()
        await one.add_job("a", NEVER)
        run_id = await one.trigger("a")
        await asyncio.sleep(1)
        with caplog.at_level(logging.WARNING):
            await one.stop("1s")
        assert now() < 20
        told = [record for record in caplog.records if "handlers that did not end" in record.message]
        assert told[0].runs == [run_id]  # type: ignore[attr-defined]
        spy = Spy()
        async with member(shared, spy) as other:
            await asyncio.sleep(5)
            assert spy.events == [], "its lease is not over: it may still be going"
            await asyncio.sleep(20)
            assert [event.attempt for event in spy.events] == [2]
            assert brief(await other.list_runs("a", descending=False))[0] == (1, "failed", "worker_lost")
        free.set()

    play(story)


def test_a_thread_that_does_not_end_keeps_its_run_until_the_lease_is_over(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        shared = cluster()
        ended: list[float] = []

        def slow(_event: JobEvent) -> None:
            loop.block(60)
            ended.append(loop.time())

        one = member(shared, slow)
        await one.start()
        await one.add_job("a", NEVER)
        await one.trigger("a")
        await asyncio.sleep(1)
        tasks = asyncio.all_tasks()
        with caplog.at_level(logging.WARNING):
            await one.stop("2s")
        assert now() < 5
        assert not [task for task in asyncio.all_tasks() & tasks if "natscron" in task.get_name()]
        assert any("cannot be cancelled" in record.message for record in caplog.records)
        spy = Spy()
        async with member(shared, spy):
            await asyncio.sleep(30)
            assert [event.attempt for event in spy.events] == [2]
        await asyncio.sleep(60)
        assert ended == [60.0]

    play(story)


def test_a_thread_that_ends_within_the_time_given_is_told_as_it_ended() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        shared = cluster()
        one = member(shared, lambda _event: loop.block(5))
        await one.start()
        await one.add_job("a", NEVER)
        run_id = await one.trigger("a")
        await asyncio.sleep(1)
        await one.stop()
        assert now() == pytest.approx(5, abs=0.1)
        async with one:
            assert (await one.get_run(run_id)).status == "completed"

    play(story)


def test_no_thread_is_left_after_a_stop() -> None:
    async def story() -> None:
        before = set(threading.enumerate())
        one = member(cluster(), lambda _event: None)
        async with one:
            for n in range(20):
                await one.add_job(f"j{n}", every("1s"))
            await asyncio.sleep(3.5)
        for thread in set(threading.enumerate()) - before:
            thread.join(20)
            assert not thread.is_alive(), thread

    play(story)


def test_a_stop_that_is_cancelled_goes_on_to_its_end() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=5)
        one = member(cluster(), spy)
        before = asyncio.all_tasks()
        await one.start()
        await one.add_job("a", NEVER)
        await one.trigger("a")
        await asyncio.sleep(1)
        stopping = asyncio.create_task(one.stop())
        await asyncio.sleep(1)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await asyncio.sleep(10)
        assert len(spy.ended) == 1
        assert asyncio.all_tasks() == before

    play(story)


def test_the_store_away_does_not_keep_it_from_stopping(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        shared = cluster()
        spy = Spy(lasts_s=3)
        one = member(shared, spy)
        await one.start()
        await one.add_job("a", NEVER)
        run_id = await one.trigger("a")
        await asyncio.sleep(1)
        shared.up = False
        with caplog.at_level(logging.ERROR):
            await one.stop("10s")
        assert now() < 40
        shared.up = True
        async with member(shared, spy) as other:
            await asyncio.sleep(20)
            run = await other.get_run(run_id)
            assert (run.status, run.attempt) == ("completed", 2), "its end could not be stored"

    play(story)


def test_a_handler_that_stops_its_own_scheduler_is_cancelled_when_patience_ends() -> None:
    async def story() -> None:
        shared = cluster()
        one = member(shared, stop_timeout="5s")

        async def stops(_event: JobEvent) -> None:
            await one.stop()

        one.set_handler(stops)
        await one.start()
        await one.add_job("a", NEVER)
        await one.trigger("a")
        await asyncio.sleep(20)
        assert not one.is_running

    play(story)


def test_calls_during_a_stop_say_that_it_is_not_started() -> None:
    async def story() -> None:
        one = member(cluster(), Spy(lasts_s=5))
        told = Told(one, "run_finished")
        await one.start()
        await one.add_job("a", NEVER)
        await one.trigger("a")
        await asyncio.sleep(1)
        stopping = asyncio.create_task(one.stop())
        await asyncio.sleep(1)
        with pytest.raises(SchedulerNotStartedError):
            await one.list_jobs()
        await stopping
        assert len(told.all) == 1, "what ends during a stop is told"

    play(story)


def test_a_successor_plans_on_while_handlers_end() -> None:
    async def story() -> None:
        shared = cluster()
        spy, other_spy = Spy(lasts_s=10), Spy()
        one, other = member(shared, spy), member(shared, other_spy, plan=True)
        await one.start()
        await one.add_job("slow", every("1s"), overlap="allow", handler="slow")
        one.handler("slow")(spy)
        other.handler("slow")(other_spy)
        await asyncio.sleep(1.5)
        await other.start()
        await one.stop()
        begun = sorted(event.scheduled_at for event in [*spy.events, *other_spy.events])
        assert begun == [at(n) for n in range(1, len(begun) + 1)]
        assert len(begun) >= 10
        assert max(event.delay for event in other_spy.events) < dt.timedelta(seconds=1)
        await other.stop()

    play(story)
