"""Handlers: what they are given, how they are found, and what becomes of whatever they do."""

import asyncio
import contextvars
import datetime as dt
import functools
import inspect
import json
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.unit.scheduling import NEVER, Spy, Told, at, brief, cluster, member, outcome, play

from natscron import JobEvent, JobStatus, Trigger, ValidationError, every
from natscron.testing.scheduler import VirtualScheduler


async def test_an_event_says_everything_about_its_run(natscron_scheduler: VirtualScheduler) -> None:
    scheduler = natscron_scheduler
    spy = Spy(lasts_s=2)
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"), metadata={"k": "v"}, payload={"n": 1})
    await scheduler.advance("2m10s")
    first, second = spy.events
    assert (first.id, first.name, first.metadata, first.payload) == ("a", "a", {"k": "v"}, {"n": 1})
    assert (first.scheduled_at, first.started_at, first.delay) == (at(60), at(60), dt.timedelta())
    assert (first.attempt, first.is_catch_up, first.trigger) == (1, False, Trigger.SCHEDULE)
    assert first.schedule == every("1m")
    assert (first.job.id, first.job.next_run) == ("a", at(180))
    assert first.last_completed_at is None
    assert second.last_completed_at == at(62), "it is when the run ended, not when it began"
    runs = await scheduler.list_runs("a", descending=False)
    assert [run.run_id for run in runs] == [first.run_id, second.run_id]
    assert repr(first) == f"JobEvent(id='a', run_id={first.run_id!r}, attempt=1)"


async def test_a_failed_run_is_none_that_completed(natscron_scheduler: VirtualScheduler) -> None:
    events: list[JobEvent] = []

    async def fails_once(event: JobEvent) -> None:
        events.append(event)
        if len(events) == 2:
            raise ValueError

    natscron_scheduler.set_handler(fails_once)
    await natscron_scheduler.add_job("a", every("1m"))
    await natscron_scheduler.advance("4m")
    assert [event.last_completed_at for event in events] == [None, at(60), at(60), at(180)]


async def test_what_a_handler_is_given_is_its_own(natscron_scheduler: VirtualScheduler) -> None:
    seen: list[tuple[dict[str, str], Any]] = []

    async def greedy(event: JobEvent) -> None:
        seen.append((event.metadata, event.payload))
        event.metadata["k"] = "mine"
        event.payload["list"].append(1)
        event.payload["list"][0]["deep"] = "mine"
        event.job.payload["list"].clear()

    natscron_scheduler.set_handler(greedy)
    await natscron_scheduler.add_job("a", every("1m"), metadata={"k": "v"}, payload={"list": [{"deep": "x"}]})
    await natscron_scheduler.advance("3m")
    assert seen == [({"k": "v"}, {"list": [{"deep": "x"}]})] * 3


async def test_lateness_is_told_as_a_delay(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy()
    await natscron_scheduler.add_job("a", every("1m"), handler="late")
    await natscron_scheduler.advance("70s")
    natscron_scheduler.handler("late")(spy)
    await natscron_scheduler.settle()
    assert [event.delay for event in spy.events] == [dt.timedelta(seconds=10)]
    [run] = await natscron_scheduler.list_runs("a")
    assert (run.lateness_ms, run.scheduled_at, run.started_at) == (10_000, at(60), at(70))


async def test_jobs_call_the_handler_that_they_name(natscron_scheduler: VirtualScheduler) -> None:
    calls: list[tuple[str, str]] = []
    for name in ("one", "two"):
        natscron_scheduler.handler(name)(lambda event, name=name: calls.append((name, event.id)))
    natscron_scheduler.set_handler(lambda event: calls.append(("global", event.id)))
    await natscron_scheduler.add_job("a", every("1m"), handler="one")
    await natscron_scheduler.add_job("b", every("1m"), handler="two")
    await natscron_scheduler.add_job("c", every("1m"))
    await natscron_scheduler.add_job("d", every("1m"), handler="one")
    await natscron_scheduler.advance("1m")
    assert sorted(calls) == [("global", "c"), ("one", "a"), ("one", "d"), ("two", "b")]


async def test_the_last_handler_set_counts(natscron_scheduler: VirtualScheduler) -> None:
    first, second = Spy(), Spy()
    natscron_scheduler.set_handler(first)
    await natscron_scheduler.add_job("a", every("1m"))
    await natscron_scheduler.advance("1m")
    natscron_scheduler.set_handler(second)
    await natscron_scheduler.advance("2m")
    assert (len(first.events), len(second.events)) == (1, 2)


def test_a_run_whose_handler_nobody_has_waits_visibly_and_runs_once_somebody_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        one = member(cluster(), Spy())
        async with one:
            await one.add_job("a", NEVER, handler="later")
            run_id = await one.trigger("a")
            with caplog.at_level(logging.WARNING):
                await asyncio.sleep(30)
            run = await one.get_run(run_id)
            assert (run.status, run.reason) == ("pending", "no_handler")
            assert (await one.get_job("a")).status is JobStatus.PENDING
            spy = Spy()
            one.handler("later")(spy)
            await asyncio.sleep(0.001)
            assert [event.run_id for event in spy.events] == [run_id]
            run = await one.get_run(run_id)
            assert (run.status, run.reason, run.lateness_ms) == ("completed", None, 30_000)

    play(story)
    assert len([r for r in caplog.records if "wait for a process that has their handler" in r.message]) == 1


def test_a_run_goes_to_a_process_that_has_its_handler() -> None:
    async def story() -> None:
        shared = cluster()
        spies = {name: Spy() for name in ("red", "blue")}
        members = []
        for name, spy in spies.items():
            one = member(shared, instance=name)
            one.handler(name)(spy)
            members.append(one)
            await one.start()
        for name in spies:
            await members[0].add_job(name, every("1s"), handler=name)
        await asyncio.sleep(5.5)
        for name, spy in spies.items():
            assert [event.id for event in spy.events] == [name] * 5
            assert {run.instance for run in await members[1].list_runs(name)} == {name}
        for one in members:
            await one.stop()

    play(story)


async def test_a_decorated_function_is_a_job_and_stays_a_function(natscron_scheduler: VirtualScheduler) -> None:
    scheduler = natscron_scheduler
    await scheduler.stop()
    calls: list[str] = []

    @scheduler.job("a", every("1m"), metadata={"k": "v"})
    async def one(event: JobEvent) -> None:
        calls.append(event.metadata["k"])

    @scheduler.every("2m")
    def two(event: JobEvent) -> None:
        calls.append(event.id)

    @scheduler.every(120, id="c", handler="three")
    def three(event: JobEvent) -> None:
        calls.append(event.id)

    await scheduler.start()
    await scheduler.advance("2m")
    name = "test_a_decorated_function_is_a_job_and_stays_a_function.locals.two"
    assert sorted(calls) == ["c", name, "v", "v"]
    assert {job.id: job.handler for job in await scheduler.list_jobs()} == {"a": "a", name: name, "c": "three"}
    assert inspect.iscoroutinefunction(one)


def test_two_functions_cannot_have_one_name_by_decoration() -> None:
    async def story() -> None:
        one = member(cluster(), Spy())

        @one.job("a", every("1m"))
        async def first(_event: JobEvent) -> None: ...

        one.job("a", every("2m"))(first)
        with pytest.raises(ValidationError, match="registered already"):
            one.job("a", every("1m"))(Spy())
        with pytest.raises(ValidationError, match="registered already"):
            one.job("b", every("1m"), handler="a")(Spy())

    play(story)


@pytest.mark.parametrize("handler", [None, 5, "name", object()])
def test_a_handler_is_something_to_call(handler: Any) -> None:  # noqa: ANN401 - anything but a handler
    async def story() -> None:
        one = member(cluster(), Spy())
        with pytest.raises(ValidationError, match="function"):
            one.set_handler(handler)
        with pytest.raises(ValidationError, match="function"):
            one.handler("x")(handler)
        for name in ("", "a b", "x" * 256, "ü"):
            with pytest.raises(ValidationError, match="handler name"):
                one.handler(name)

    play(story)


class Callable_:  # noqa: N801 - next to the typing name
    def __call__(self, event: JobEvent) -> str:
        return f"{event.id} {threading.current_thread() is threading.main_thread()}"


class AsyncCallable:
    async def __call__(self, event: JobEvent) -> str:
        return f"{event.id} {threading.current_thread() is threading.main_thread()}"

    async def method(self, event: JobEvent) -> str:
        return await self(event)

    def plain(self, event: JobEvent) -> str:
        return Callable_()(event)


async def with_more(more: str, event: JobEvent) -> str:
    return more + await AsyncCallable()(event)


def with_more_plain(more: str, event: JobEvent) -> str:
    return more + Callable_()(event)


def says_nothing_of_being_async(event: JobEvent) -> Coroutine[Any, Any, str]:
    return AsyncCallable()(event)


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (Callable_(), "a False"),
        (AsyncCallable(), "a True"),
        (AsyncCallable().method, "a True"),
        (AsyncCallable().plain, "a False"),
        (functools.partial(with_more, "x "), "x a True"),
        (functools.partial(with_more_plain, "x "), "x a False"),
        (functools.partial(functools.partial(with_more), "x "), "x a True"),
        # It says only when it is called that it is async: begun in a thread, awaited in the loop.
        (says_nothing_of_being_async, "a True"),
    ],
)
async def test_whatever_can_be_called_is_a_handler(
    natscron_scheduler: VirtualScheduler, handler: Callable[[JobEvent], Any], result: str
) -> None:
    run = await outcome(natscron_scheduler, handler)
    assert (run.status, json.loads(run.result or "")) == ("completed", result)


async def test_what_is_not_async_runs_in_threads_as_many_as_may_run_at_once(
    natscron_scheduler: VirtualScheduler,
) -> None:
    together = threading.Barrier(8, timeout=20)

    def meets_the_others(_event: JobEvent) -> int:
        return together.wait()

    natscron_scheduler.set_handler(meets_the_others)
    for n in range(8):
        await natscron_scheduler.add_job(f"j{n}", every("1m"))
    await natscron_scheduler.advance("1m")
    assert sorted(run.result or "" for run in await natscron_scheduler.list_runs()) == [str(n) for n in range(8)]


COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.mark.parametrize("threaded", [False, True])
async def test_what_a_handler_sets_in_its_context_is_its_own(
    natscron_scheduler: VirtualScheduler, *, threaded: bool
) -> None:
    seen: list[str] = []

    def paints(_event: JobEvent) -> None:
        seen.append(COLOUR.get())
        COLOUR.set("red")

    async def paints_async(event: JobEvent) -> None:
        paints(event)

    natscron_scheduler.set_handler(paints if threaded else paints_async)
    await natscron_scheduler.add_job("a", every("1m"))
    await natscron_scheduler.advance("3m")
    assert seen == ["none"] * 3
    assert COLOUR.get() == "none"


async def test_one_handler_is_as_good_as_many_at_once(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=1)
    natscron_scheduler.set_handler(spy)
    for n in range(50):
        await natscron_scheduler.add_job(f"j{n}", every("1m"))
    await natscron_scheduler.advance("1m")
    assert spy.at_once == 50
    await natscron_scheduler.advance("1s")
    assert len(spy.ended) == 50


async def test_handlers_may_use_the_scheduler(natscron_scheduler: VirtualScheduler) -> None:
    told = Told(natscron_scheduler, "run_finished")

    async def chains(event: JobEvent) -> None:
        if event.id == "a":
            await natscron_scheduler.ensure_job("b", NEVER, payload={"from": event.run_id})
            await natscron_scheduler.trigger("b")
        else:
            await natscron_scheduler.remove_job("a")

    natscron_scheduler.set_handler(chains)
    await natscron_scheduler.add_job("a", every("1m"))
    await natscron_scheduler.advance("5m")
    assert [run.job for run in told.of("run_finished")] == ["a", "b"]
    assert [job.id for job in await natscron_scheduler.list_jobs()] == ["b"]
    assert brief(await natscron_scheduler.list_runs()) == [(1, "completed", None)] * 2
