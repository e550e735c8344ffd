"""Starting and stopping a scheduler."""

import asyncio
import logging
import os
import signal
from typing import Any

import pytest
from tests.unit.scheduling import NEVER, Spy, at, cluster, member, play

from natscron import (
    ConfigError,
    HandlerNotDefinedError,
    JobEvent,
    MemoryStorage,
    Scheduler,
    SchedulerAlreadyStartedError,
    SchedulerNotStartedError,
    StorageUnavailableError,
    every,
)
from natscron.storage.memory import MemoryCluster
from natscron.testing.virtual import VirtualClock


def test_it_runs_from_start_to_stop() -> None:
    async def story() -> None:
        one = member(cluster(), Spy())
        assert (one.is_running, one.is_leader) == (False, False)
        await one.start()
        with pytest.raises(SchedulerAlreadyStartedError, match="already started"):
            await one.start()
        await asyncio.sleep(0.5)
        assert (one.is_running, one.is_leader) == (True, True)
        await one.health_check()
        await one.stop()
        assert (one.is_running, one.is_leader) == (False, False)
        await one.stop()
        with pytest.raises(SchedulerNotStartedError):
            await one.health_check()

    play(story)


def test_it_needs_something_to_call_unless_it_only_plans() -> None:
    async def story() -> None:
        shared = cluster()
        with pytest.raises(HandlerNotDefinedError, match="handler not defined"):
            await member(shared).start()
        planner = member(shared, worker=False)
        async with planner:
            await planner.add_job("a", every("1s"))
            await asyncio.sleep(3.5)
            assert sorted(run.status for run in await planner.list_runs("a")) == ["pending", "skipped", "skipped"]
            named = member(shared, plan=False)
            named.handler("x")(Spy())
            async with named:
                await asyncio.sleep(1)
                assert not named.is_leader

    play(story)


def test_jobs_and_history_survive_a_stop() -> None:
    async def story() -> None:
        spy = Spy()
        clock = VirtualClock(asyncio.get_running_loop())
        one = Scheduler("memory://", spy, clock=clock)
        await one.add_job("a", every("10s"))
        for n in range(3):
            async with one:
                assert [job.id for job in await one.list_jobs()] == ["a"]
                assert len(await one.list_runs("a")) == n
                await asyncio.sleep(10.5)
                assert len(await one.list_runs("a", status="completed")) == n + 1
            await asyncio.sleep(0.01)
        assert spy.slots == [at(10), at(20), at(30)]

    play(story)


def test_slots_of_a_stop_are_caught_up_with_as_the_policy_says() -> None:
    async def story() -> None:
        spy = Spy()
        one = member(cluster(), spy)
        await one.add_job("latest", every("1m"))
        await one.add_job("all", every("1m"), catchup="all", overlap="allow")
        await one.add_job("none", every("1m"), catchup="none")
        async with one:
            await asyncio.sleep(60.5)
        assert sorted(event.id for event in spy.events) == ["all", "latest", "none"]
        spy.events.clear()
        await asyncio.sleep(240)
        async with one:
            await asyncio.sleep(1)
            caught = [(event.id, event.scheduled_at, event.is_catch_up) for event in spy.events]
            assert sorted(caught) == [
                *[("all", at(60 * n), True) for n in (2, 3, 4)],
                ("all", at(300), False),
                ("latest", at(300), False),
                ("none", at(300), False),
            ]
            left_out = await one.list_runs("latest", status="skipped")
            assert [(run.reason, run.count) for run in left_out] == [("catchup_latest", 3)]
            left_out = await one.list_runs("none", status="skipped")
            assert [(run.reason, run.count) for run in left_out] == [("catchup_none", 3)]

    play(story)


def test_waiting_for_it_to_run_has_a_bound() -> None:
    async def story() -> None:
        one = member(cluster(), Spy())
        with pytest.raises(TimeoutError):
            await one.wait_until_running("5s")
        waiting = asyncio.create_task(one.wait_until_running())
        await asyncio.sleep(1)
        assert not waiting.done()
        await one.start()
        await waiting
        await one.wait_until_running(0.001)
        await one.stop()
        with pytest.raises(TimeoutError):
            await one.wait_until_running(1)

    play(story)


class Broken(MemoryStorage):
    """A storage that fails at one call, as often as is said."""

    def __init__(self, shared: MemoryCluster, what: str, times: int, error: Exception | None = None) -> None:
        super().__init__(shared)
        self.what = what
        self.times = times
        self.error = error or StorageUnavailableError("broken by the test")
        self.closed = 0

    def _fail(self, what: str) -> None:
        if what == self.what and self.times:
            self.times -= 1
            raise self.error

    async def initialize(self) -> None:
        self._fail("initialize")
        await super().initialize()

    async def beat(self, worker: Any) -> Any:  # noqa: ANN401 - as the base class
        self._fail("beat")
        return await super().beat(worker)

    async def close(self) -> None:
        self.closed += 1
        await super().close()


@pytest.mark.parametrize("what", ["initialize", "beat"])
def test_a_start_that_fails_takes_everything_back_and_may_be_repeated(what: str) -> None:
    async def story() -> None:
        shared = cluster()
        clock = VirtualClock(asyncio.get_running_loop())
        one = Scheduler(Broken(shared, what, 1), Spy(), clock=clock)
        await one.add_job("a", every("1s"))
        before = asyncio.all_tasks()
        with pytest.raises(StorageUnavailableError, match="broken"):
            await one.start()
        assert not one.is_running
        assert asyncio.all_tasks() == before
        await one.start()
        assert [job.id for job in await one.list_jobs()] == ["a"]
        await one.stop()

    play(story)


def test_a_start_that_is_cancelled_takes_everything_back() -> None:
    async def story() -> None:
        shared = cluster()
        for turns in range(40):
            one = member(shared, Spy())
            before = asyncio.all_tasks()
            starting = asyncio.create_task(one.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            if not starting.cancelled():
                assert one.is_running, f"done within {turns} turns"
                await one.stop()
            assert not one.is_running
            assert asyncio.all_tasks() == before, f"tasks are left after {turns} turns"
            assert not shared.job_watches
            assert not shared.state_watches
            assert not shared.queue.watches

    play(story)


def test_a_storage_that_was_given_is_not_closed_and_one_of_ours_is() -> None:
    async def story() -> None:
        storage = Broken(cluster(), "", 0)
        one = Scheduler(storage, Spy(), clock=VirtualClock(asyncio.get_running_loop()))
        async with one:
            await one.add_job("a", NEVER)
        assert storage.closed == 0

    play(story)


def test_a_storage_keeps_nothing_of_schedulers_that_were_stopped() -> None:
    async def story() -> None:
        shared = cluster()
        storage = MemoryStorage(shared)
        one = Scheduler(storage, Spy(), clock=VirtualClock(asyncio.get_running_loop()))
        holders: list[Any] = [storage, shared, shared.queue]
        sizes: list[dict[str, int]] = []
        for _ in range(20):
            async with one:
                await one.ensure_job("a", every("1s"))
                await asyncio.sleep(5)
            kept = {f"{type(one).__name__}.{name}": value for one in holders for name, value in vars(one).items()}
            sizes.append({name: len(value) for name, value in kept.items() if hasattr(value, "__len__")})
        # What is remembered of runs that are over may grow, to a bound.
        assert {name for name, size in sizes[-1].items() if size != sizes[9][name]} == {"MemoryQueue._over"}
        assert sizes[-1]["MemoryStorage.watches"] == 4

    play(story)


def test_nothing_is_left_running_after_a_stop() -> None:
    async def story() -> None:
        shared = cluster()
        spy = Spy(lasts_s=3)
        before = asyncio.all_tasks()
        one = member(shared, spy)
        one.on("run_finished", lambda _run: asyncio.sleep(100))
        async with one:
            for n in range(20):
                await one.add_job(f"j{n}", every("1s"), overlap="allow")
            await asyncio.sleep(5.2)
            assert spy.at_once
        assert asyncio.all_tasks() == before
        assert not shared.queue.watches
        assert not shared.job_watches
        assert not shared.state_watches
        assert spy.at_once == 0

    play(story)


def test_a_part_that_fails_by_a_defect_stops_the_whole_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Defective(MemoryStorage):
        async def claim(self, *_: Any) -> Any:  # noqa: ANN401 - as the base class
            raise ZeroDivisionError("a defect")

    async def story() -> None:
        one = Scheduler(Defective(cluster()), Spy(), clock=VirtualClock(asyncio.get_running_loop()))
        running = asyncio.create_task(one.run_forever())
        with caplog.at_level(logging.CRITICAL), pytest.raises(ZeroDivisionError, match="a defect"):
            await running
        assert not one.is_running
        assert isinstance(one.failure, ZeroDivisionError)
        with pytest.raises(StorageUnavailableError, match="a defect"):
            await one.health_check()
        await one.stop()

    play(story)
    assert any("the scheduler failed" in record.message for record in caplog.records)


def test_health_tells_whether_the_store_answers() -> None:
    async def story() -> None:
        shared = cluster()
        async with member(shared, Spy()) as one:
            await one.health_check()
            shared.up = False
            with pytest.raises(StorageUnavailableError):
                await one.health_check()
            shared.up = True
            await asyncio.sleep(10)
            await one.health_check()

    play(story)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(number: int) -> None:
    async def story() -> None:
        spy = Spy(lasts_s=5)
        one = member(cluster(), spy)
        await one.add_job("a", every("1s"))
        running = asyncio.create_task(one.run_forever())
        await asyncio.sleep(1.5)
        os.kill(os.getpid(), number)
        await running
        assert len(spy.ended) == 1
        assert not one.is_running

    play(story)


def test_a_second_signal_cuts_handlers_off() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=25)
        one = member(cluster(), spy)
        await one.add_job("a", every("1s"))
        running = asyncio.create_task(one.run_forever())
        await asyncio.sleep(1.5)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(1)
        assert not running.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await running
        assert asyncio.get_running_loop().time() < 10
        assert len(spy.cancelled) == 1

    play(story)


def test_run_forever_ends_with_a_stop_and_with_a_cancellation() -> None:
    async def story() -> None:
        one = member(cluster(), Spy())
        running = asyncio.create_task(one.run_forever())
        await one.wait_until_running()
        await one.stop()
        await running
        running = asyncio.create_task(one.run_forever())
        await one.wait_until_running()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
        assert not one.is_running

    play(story)


def test_a_scheduler_may_go_from_one_loop_to_the_next() -> None:
    one = Scheduler("memory://", lambda _event: None)

    async def once_more() -> None:
        async with one:
            await one.wait_until_running(1)
            await one.ensure_job("a", NEVER)
            assert [job.id for job in await one.list_jobs()] == ["a"]

    for _ in range(3):
        asyncio.run(once_more())


def test_a_handler_that_begins_while_the_start_goes_on_can_call_the_scheduler() -> None:
    async def story() -> None:
        shared = cluster()
        first = member(shared, Spy())
        async with first:
            await first.add_job("early", every("1m"))
        await asyncio.sleep(65)
        heard: list[str] = []

        async def asks(event: JobEvent) -> None:
            heard.append((await one.get_job(event.id)).id)

        one = member(shared, asks)
        for n in range(300):
            await one.add_job(f"j{n}", NEVER)
        await one.start()
        await asyncio.sleep(1)
        assert heard == ["early"]
        assert len(await one.list_jobs()) == 301
        await one.stop()

    play(story)


@pytest.mark.parametrize("storage", [None, 5, object()])
def test_what_is_no_storage_is_refused_with_what_would_be_one(storage: object) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///jobs\.db, or a storage such as SQLStorage\(engine\); got \w+$"):
        Scheduler(storage, Spy())  # type: ignore[arg-type]


def test_a_durations_error_names_the_option_and_shows_one() -> None:
    with pytest.raises(ConfigError, match=r'grace: .*"soon" \(such as 30s, 5m or 1h30m\)'):
        Scheduler("memory://", Spy(), grace="soon")
