"""The synchronous twin: the same scheduler, called from any thread."""

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.unit.syncing import PATIENCE_S, SELDOM, happened, nothing, running, soon, threads, until

import natscron
from natscron import (
    HandlerNotDefinedError,
    JobAlreadyExistsError,
    JobEvent,
    MemoryStorage,
    SchedulerAlreadyStartedError,
    SchedulerNotStartedError,
)
from natscron.sync import Scheduler


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
