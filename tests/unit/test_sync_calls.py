"""What handlers, listeners and transactions have of the synchronous twin."""

import asyncio
import datetime as dt
import logging
import threading
from collections.abc import Iterator
from typing import Self

import pytest
from tests.unit.syncing import PATIENCE_S, SELDOM, happened, nothing, running, threads, until

import natscron
from natscron import (
    JobEvent,
    JobNotFoundError,
    MemoryStorage,
    Run,
    SchedulerAlreadyStartedError,
    ValidationError,
    every,
)
from natscron.model import Job as Row
from natscron.sync import Scheduler


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    one = Scheduler("memory://", nothing, stop_timeout="5s")
    yield one
    one.stop(0)
    assert threads() == []


# Threads and handlers.


def test_many_threads_may_call_at_once(scheduler: Scheduler) -> None:
    def add(number: int) -> None:
        for i in range(5):
            scheduler.add_job(f"{number}.{i}", SELDOM)
            scheduler.get_job(f"{number}.{i}")

    with scheduler:
        workers = [threading.Thread(target=add, args=(number,), daemon=True) for number in range(20)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE_S)
        assert len(scheduler.list_jobs()) == 100


def test_a_handler_may_call_the_scheduler_and_remove_its_own_job(scheduler: Scheduler) -> None:
    removed, second = threading.Event(), threading.Event()

    @scheduler.job("first", every("10ms"))
    def first(event: JobEvent) -> None:
        assert scheduler.get_job(event.id).is_running
        scheduler.trigger("second")
        scheduler.remove_job(event.id, wait=True)
        removed.set()

    @scheduler.job("second", SELDOM)
    def then(_event: JobEvent) -> None:
        second.set()

    with scheduler:
        assert happened(removed)
        assert happened(second)
        assert [job.id for job in scheduler.list_jobs()] == ["second"]
        with pytest.raises(JobNotFoundError):
            scheduler.get_job("first")


def test_a_handler_that_waits_for_another_jobs_end_waits(scheduler: Scheduler) -> None:
    going, go_on, removed = threading.Event(), threading.Event(), threading.Event()

    @scheduler.job("long", SELDOM)
    def long(_event: JobEvent) -> None:
        going.set()
        assert happened(go_on)

    @scheduler.job("remover", SELDOM)
    def remover(_event: JobEvent) -> None:
        scheduler.remove_job("long", wait=True)
        removed.set()

    with scheduler:
        scheduler.trigger("long")
        assert happened(going)
        scheduler.trigger("remover")
        assert happened(until(lambda: [job.id for job in scheduler.list_jobs()] == ["remover"]))
        assert not removed.is_set()
        go_on.set()
        assert happened(removed)


def finished(scheduler: Scheduler, job: str) -> Run:
    """The job's first run that is over."""
    over = threading.Event()
    runs: list[Run] = []

    def note(run: Run) -> None:
        if run.job == job:
            runs.append(run)
            over.set()

    scheduler.on("run_finished", note)
    scheduler.on("run_failed", note)
    scheduler.trigger(job)
    assert happened(over)
    return runs[0]


def test_an_async_handler_that_calls_it_is_told_so_and_not_blocked(scheduler: Scheduler) -> None:
    @scheduler.job("async", SELDOM)
    async def handler(_event: JobEvent) -> None:
        scheduler.list_jobs()

    with scheduler:
        run = finished(scheduler, "async")
        assert run.status == "failed"
        assert "called in its own event loop" in (run.error or "")
        assert "asyncio.to_thread" in (run.error or "")


@pytest.mark.parametrize("name", ["start", "stop", "wait_until_running", "run_forever"])
def test_nor_can_it_be_started_or_stopped_from_its_own_loop(scheduler: Scheduler, name: str) -> None:
    @scheduler.job("async", SELDOM)
    async def handler(_event: JobEvent) -> None:
        getattr(scheduler, name)()

    with scheduler:
        assert "called in its own event loop" in (finished(scheduler, "async").error or "")
        assert running(scheduler)


def test_an_async_handler_may_call_it_through_a_thread(scheduler: Scheduler) -> None:
    removed = threading.Event()

    @scheduler.job("async", SELDOM)
    async def handler(event: JobEvent) -> None:
        await asyncio.to_thread(scheduler.remove_job, event.id, wait=True)
        removed.set()

    with scheduler:
        scheduler.trigger("async")
        assert happened(removed)


def test_an_async_handler_may_register_handlers(scheduler: Scheduler) -> None:
    called = threading.Event()

    @scheduler.job("async", SELDOM)
    async def handler(_event: JobEvent) -> str:
        scheduler.set_handler(lambda _event: called.set())
        return "set"

    with scheduler:
        assert finished(scheduler, "async").result == '"set"'
        scheduler.add_job("global", SELDOM)
        scheduler.trigger("global")
        assert happened(called)


def test_a_handler_that_is_registered_while_it_runs_gets_the_runs_that_waited(scheduler: Scheduler) -> None:
    called = threading.Event()
    with scheduler:
        scheduler.add_job("later", SELDOM, handler="later")
        scheduler.trigger("later")

        @scheduler.handler("later")
        def later(_event: JobEvent) -> None:
            called.set()

        assert happened(called)


def test_a_job_cannot_be_declared_while_it_runs(scheduler: Scheduler) -> None:
    with scheduler, pytest.raises(SchedulerAlreadyStartedError):
        scheduler.job("a", SELDOM)
    scheduler.every("1h", id="a")(nothing)
    with scheduler:
        assert scheduler.get_job("a").schedule == SELDOM


def test_every_call_gives_what_its_namesake_gives(scheduler: Scheduler) -> None:
    now = dt.datetime.now(dt.UTC)
    with scheduler:
        scheduler.add_job("a", SELDOM, metadata={"team": "x"})
        assert scheduler.ensure_job("a", SELDOM, metadata={"team": "y"}) is True
        assert scheduler.ensure_job("a", SELDOM, metadata={"team": "y"}) is False
        scheduler.update_job("a", note="n")
        scheduler.update_job_schedule("a", every("2h"))
        job = scheduler.get_job("a")
        assert (job.metadata, job.note, job.schedule) == ({"team": "y"}, "n", every("2h"))
        scheduler.pause("a", until=now + dt.timedelta(hours=1))
        assert [one.id for one in scheduler.list_jobs("disabled")] == ["a"]
        scheduler.resume("a")
        run = finished(scheduler, "a")
        assert run.run_id is not None
        assert scheduler.get_run(run.run_id).status == "completed"
        assert [one.run_id for one in scheduler.list_runs("a", status="completed", since=now)] == [run.run_id]
        with pytest.raises(ValidationError):
            scheduler.redrive(run.run_id)
        with pytest.raises(ValidationError):
            scheduler.backfill("a", now, now - dt.timedelta(hours=1))
        assert scheduler.delete_runs("a", dt.datetime.now(dt.UTC)) == 1
        scheduler.remove_job("a")
        assert scheduler.is_leader
        assert scheduler.failure is None


# Listeners.


def test_listeners_are_told_in_order_in_a_thread_of_their_own_and_may_call(scheduler: Scheduler) -> None:
    told: list[tuple[str, str]] = []
    over = threading.Event()

    def started(run: Run) -> None:
        assert scheduler.get_job(run.job).id == "a"
        told.append(("started", threading.current_thread().name))

    def ended(_run: Run) -> None:
        told.append(("finished", threading.current_thread().name))
        over.set()

    assert scheduler.on("run_started", started) is started
    scheduler.on("run_finished", ended)
    scheduler.add_job("a", SELDOM)
    with scheduler:
        scheduler.trigger("a")
        assert happened(over)
    assert told == [("started", "natscron listeners"), ("finished", "natscron listeners")]
    assert "natscron listeners" not in {one.name for one in threading.enumerate()}


def test_events_that_were_not_told_yet_are_told_before_a_stop_returns(scheduler: Scheduler) -> None:
    slow, told = threading.Event(), []

    def listener(run: Run) -> None:
        slow.wait(0.05)
        told.append(run.run_id)

    scheduler.on("run_finished", listener)
    scheduler.add_job("a", SELDOM, overlap="allow")
    with scheduler:
        runs = [scheduler.trigger("a") for _ in range(4)]
        assert happened(until(lambda: len(scheduler.list_runs("a", status="completed")) == 4))
    assert set(told) == set(runs)


def test_an_async_listener_is_called_in_the_loop(scheduler: Scheduler) -> None:
    told: list[str] = []
    over = threading.Event()

    async def listener(_run: Run) -> None:
        told.append(threading.current_thread().name)
        over.set()

    scheduler.on("run_finished", listener)
    scheduler.add_job("a", SELDOM)
    with scheduler:
        scheduler.trigger("a")
        assert happened(over)
    assert told == ["natscron scheduler"]


def test_a_listener_that_raises_is_logged_and_the_next_is_told(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    scheduler.on("run_finished", lambda _run: 1 / 0)
    scheduler.on("run_finished", lambda _run: over.set())
    scheduler.add_job("a", SELDOM)
    with caplog.at_level(logging.ERROR, "natscron.scheduler"), scheduler:
        scheduler.trigger("a")
        assert happened(over)
    assert "a listener raised" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    with pytest.raises(ValidationError, match="unknown event"):
        scheduler.on("nonsense", nothing)
    with pytest.raises(ValidationError, match="listener"):
        scheduler.on("run_finished", "text")  # type: ignore[type-var]  # what a caller without types may do


# Transactions of the caller's.


class Inserting(MemoryStorage):
    """Takes jobs over a connection, as a SQL storage does."""

    def __init__(self) -> None:
        super().__init__()
        self.inserted: list[tuple[object, Row, str]] = []

    async def insert_job(self, connection: object, job: Row) -> None:
        self.inserted.append((connection, job, threading.current_thread().name))


class AsyncConnection:
    """What tells one of SQLAlchemy's."""

    async def run_sync(self) -> Self:
        return self


def test_a_job_goes_into_the_callers_transaction_in_the_callers_thread() -> None:
    storage = Inserting()
    scheduler = Scheduler(storage, nothing)
    connection = object()
    scheduler.submit_job("before", SELDOM, connection=connection, note="n")
    with scheduler:
        scheduler.submit_job("while", SELDOM, connection=connection)
        assert scheduler.list_jobs() == []
    here = threading.current_thread().name
    assert [(one, job.id, job.note, thread) for one, job, thread in storage.inserted] == [
        (connection, "before", "n", here),
        (connection, "while", "", here),
    ]


def test_a_connection_needs_a_storage_that_takes_it(scheduler: Scheduler) -> None:
    with pytest.raises(ValidationError, match="needs a SQL storage"):
        scheduler.submit_job("a", SELDOM, connection=object())
    inserting = Scheduler(Inserting(), nothing)
    with pytest.raises(ValidationError, match="AsyncConnection belongs to an event loop"):
        inserting.submit_job("a", SELDOM, connection=AsyncConnection())
    with pytest.raises(ValidationError, match="calendars"):
        inserting.submit_job(
            "a",
            natscron.ScheduleSpec(every="1h", except_=(natscron.ScheduleSpec(calendar="closed"),)),
            connection=object(),
        )
