"""The synchronous twin: the same scheduler, called from any thread."""

import asyncio
import datetime as dt
import inspect
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest

import natscron
from natscron import (
    HandlerNotDefinedError,
    JobAlreadyExistsError,
    JobEvent,
    JobNotFoundError,
    MemoryStorage,
    Run,
    SchedulerAlreadyStartedError,
    SchedulerNotStartedError,
    ValidationError,
    every,
)
from natscron.model import Job as Row
from natscron.sync import Scheduler

PATIENCE_S = 10.0
SELDOM = every("1h")


def happened(event: threading.Event) -> bool:
    return event.wait(PATIENCE_S)


def until(condition: Callable[[], bool]) -> threading.Event:
    """Set when it is so; looked at in another thread, for a while."""
    event = threading.Event()

    def look() -> None:
        for _ in range(1_000):
            if condition():
                event.set()
                return
            event.wait(0.01)

    threading.Thread(target=look, daemon=True).start()
    return event


def threads() -> list[str]:
    return sorted(one.name for one in threading.enumerate() if one.name.startswith("natscron s"))


def running(scheduler: Scheduler) -> bool:
    return scheduler.is_running


def nothing(_event: JobEvent) -> None:
    pass


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    one = Scheduler("memory://", nothing, stop_timeout="5s")
    yield one
    one.stop(0)
    assert threads() == []


# One implementation.


def public(kind: type[object]) -> dict[str, object]:
    return {name: inspect.getattr_static(kind, name) for name in dir(kind) if not name.startswith("_")}


def shown(member: object) -> object:
    """What a caller sees of a member: its parameters and what comes back."""
    if isinstance(member, property):
        return inspect.signature(member.fget or nothing).return_annotation
    function = member.__func__ if isinstance(member, classmethod) else member
    assert callable(function)
    signature = inspect.signature(function)
    # Each module has type variables of its own, of the same names.
    parameters = [(p.name, p.kind, p.default, str(p.annotation)) for p in signature.parameters.values()]
    return parameters, str(signature.return_annotation)


def test_both_schedulers_have_the_same_members_with_the_same_arguments() -> None:
    there, here = public(natscron.Scheduler), public(Scheduler)
    # An attribute there, which does not show in the class.
    assert isinstance(here.pop("failure"), property)
    assert there.keys() == here.keys()
    assert len(there) > 25
    for name, member in there.items():
        assert type(member) is type(here[name]), name
        assert shown(member) == shown(here[name]), name
        assert not inspect.iscoroutinefunction(here[name]), name
    assert shown(natscron.Scheduler.__init__) == shown(Scheduler.__init__)
    assert shown(natscron.Scheduler.__aenter__) == shown(Scheduler.__enter__)
    assert shown(natscron.Scheduler.__aexit__) == shown(Scheduler.__exit__)


# Before, while and after it runs.


def test_what_is_asked_for_before_the_start_is_kept_without_a_thread(scheduler: Scheduler) -> None:
    scheduler.add_job("a", SELDOM)
    scheduler.submit_job("b", SELDOM)
    assert scheduler.ensure_job("c", SELDOM) is False
    with pytest.raises(SchedulerNotStartedError):
        scheduler.get_job("a")
    with pytest.raises(SchedulerNotStartedError):
        scheduler.list_jobs()
    with pytest.raises(SchedulerNotStartedError):
        scheduler.health_check()
    assert threads() == []
    with scheduler:
        assert [job.id for job in scheduler.list_jobs()] == ["a", "b", "c"]
        assert threads() == ["natscron scheduler"]
        scheduler.health_check()


def test_it_can_be_started_and_stopped_again_and_again_on_one_storage() -> None:
    storage = MemoryStorage()
    scheduler = Scheduler(storage, nothing)
    for number in range(3):
        with scheduler:
            assert running(scheduler)
            with pytest.raises(SchedulerAlreadyStartedError):
                scheduler.start()
            scheduler.add_job(f"job{number}", SELDOM)
            assert len(scheduler.list_jobs()) == number + 1
        assert not running(scheduler)
        assert threads() == []
        scheduler.stop()


def test_a_start_that_fails_leaves_nothing_behind(scheduler: Scheduler) -> None:
    bare = Scheduler("memory://")
    with pytest.raises(HandlerNotDefinedError):
        bare.start()
    assert not running(bare)
    assert threads() == []
    bare.set_handler(nothing)
    with bare:
        assert running(bare)
    scheduler.add_job("a", SELDOM)
    scheduler.add_job("a", SELDOM)
    with scheduler:
        assert list(scheduler.failures) == ["a"]
        assert isinstance(scheduler.failures["a"], JobAlreadyExistsError)


def test_a_stop_ends_the_calls_of_other_threads_that_wait() -> None:
    class Silent(MemoryStorage):
        async def health_check(self) -> None:
            asked.set()
            await asyncio.Event().wait()

    asked, over = threading.Event(), threading.Event()
    raised: list[type[BaseException]] = []
    scheduler = Scheduler(Silent(), nothing)

    def check() -> None:
        try:
            scheduler.health_check()
        except BaseException as error:  # noqa: BLE001 - looked at below
            raised.append(type(error))
        over.set()

    scheduler.start()
    threading.Thread(target=check, daemon=True).start()
    assert happened(asked)
    scheduler.stop()
    assert happened(over)
    assert raised == [SchedulerNotStartedError]
    with pytest.raises(SchedulerNotStartedError):
        scheduler.list_jobs()


def test_several_threads_may_start_and_stop_it_at_once(scheduler: Scheduler) -> None:
    outcomes: list[str] = []

    def start_and_stop() -> None:
        for _ in range(5):
            try:
                scheduler.start()
            except SchedulerAlreadyStartedError:
                outcomes.append("already")
            else:
                outcomes.append("started")
            scheduler.stop()

    workers = [threading.Thread(target=start_and_stop, daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_S)
    assert len(outcomes) == 20
    assert "started" in outcomes
    assert not running(scheduler)


def test_another_thread_can_wait_until_it_runs(scheduler: Scheduler) -> None:
    with pytest.raises(TimeoutError):
        scheduler.wait_until_running("1ms")
    running, waits = threading.Event(), threading.Event()

    def wait() -> None:
        waits.set()
        scheduler.wait_until_running("10s")
        running.set()

    threading.Thread(target=wait, daemon=True).start()
    assert happened(waits)
    scheduler.start()
    assert happened(running)
    scheduler.wait_until_running()


def test_run_forever_outside_of_the_main_thread_ends_with_a_stop(scheduler: Scheduler) -> None:
    over = threading.Event()

    def run() -> None:
        scheduler.run_forever()
        over.set()

    threading.Thread(target=run, daemon=True).start()
    scheduler.wait_until_running("10s")
    scheduler.stop()
    assert happened(over)


def test_a_storage_that_was_given_is_closed_at_the_stop() -> None:
    class Noted(MemoryStorage):
        closed = 0

        async def close(self) -> None:
            self.closed += 1
            await super().close()

    storage = Noted()
    with Scheduler(storage, nothing):
        assert storage.closed == 0
    assert storage.closed == 1


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


# Interruptions.


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises KeyboardInterrupt in this thread, whatever the test runner does with it otherwise."""
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.get_ident()
    try:
        yield lambda: signal.pthread_kill(main, signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def soon(fn: Callable[[], None], after: threading.Event | None = None) -> None:
    """Call ``fn`` in another thread, once ``after`` is set."""

    def call() -> None:
        if after is None or happened(after):
            fn()

    threading.Thread(target=call, daemon=True).start()


def test_an_interrupted_call_is_cancelled_and_the_scheduler_goes_on(scheduler: Scheduler) -> None:
    going = threading.Event()

    @scheduler.job("long", SELDOM)
    async def handler(_event: JobEvent) -> None:
        going.set()
        await asyncio.Event().wait()

    with scheduler, interruptible() as interrupt:
        scheduler.trigger("long")
        assert happened(going)
        # Then the call waits for the handler.
        soon(interrupt, until(lambda: scheduler.list_jobs() == []))
        with pytest.raises(KeyboardInterrupt):
            scheduler.remove_job("long", wait=True)
        assert running(scheduler)
        scheduler.add_job("other", SELDOM)
        assert scheduler.get_job("other").id == "other"
        scheduler.stop(0)


class Slow(MemoryStorage):
    """Its initialization waits."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.patient = True

    async def initialize(self) -> None:
        self.asked.set()
        if self.patient:
            await asyncio.Event().wait()


def test_an_interrupted_start_takes_everything_back() -> None:
    storage = Slow()
    scheduler = Scheduler(storage, nothing)
    scheduler.add_job("a", SELDOM)
    with interruptible() as interrupt:
        soon(interrupt, storage.asked)
        with pytest.raises(KeyboardInterrupt):
            scheduler.start()
    assert not running(scheduler)
    assert threads() == []
    storage.patient = False
    with scheduler:
        assert [job.id for job in scheduler.list_jobs()] == ["a"]


def test_an_interrupted_stop_cuts_handlers_off_and_ends(scheduler: Scheduler) -> None:
    going = threading.Event()

    @scheduler.job("long", SELDOM)
    async def handler(_event: JobEvent) -> None:
        going.set()
        await asyncio.Event().wait()

    with interruptible() as interrupt:
        scheduler.start()
        scheduler.trigger("long")
        assert happened(going)
        # The leader's lease goes first: from then on the stop waits for the handler.
        soon(interrupt, until(lambda: not scheduler.is_running))
        with pytest.raises(KeyboardInterrupt):
            scheduler.stop("1h")
    assert not running(scheduler)
    assert threads() == []


def test_an_interruption_that_a_handler_raises_reaches_the_main_thread(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    @scheduler.job("rude", SELDOM)
    async def handler(_event: JobEvent) -> None:
        raise KeyboardInterrupt

    def wait_for_it() -> None:
        scheduler.trigger("rude")
        threading.Event().wait(PATIENCE_S)

    with scheduler, interruptible():
        with pytest.raises(KeyboardInterrupt):
            wait_for_it()
        # The loop goes on.
        scheduler.add_job("other", SELDOM)
        assert scheduler.get_job("other").id == "other"
    assert "the main thread is interrupted" in caplog.text


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


def test_it_says_why_it_stopped_by_itself(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = RuntimeError("a defect")
    stopped = threading.Event()
    with scheduler:
        inside: Any = scheduler._inside
        monkeypatch.setattr(inside._parts, "failure", lambda: broken)
        soon(stopped.set, until(lambda: not scheduler.is_running))
        assert happened(stopped)
        assert scheduler.failure is broken
        with pytest.raises(natscron.StorageUnavailableError, match="stopped by itself"):
            scheduler.health_check()
        with pytest.raises(SchedulerNotStartedError):
            scheduler.list_jobs()
    scheduler.start()
    assert scheduler.failure is None
