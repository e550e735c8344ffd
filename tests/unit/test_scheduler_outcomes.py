"""What becomes of whatever a handler gives or raises."""

import asyncio
import logging
from typing import Any

import pytest
from tests.unit.scheduling import BEGIN, NEVER, Spy, outcome

from natscron import JobEvent, JobStatus
from natscron.testing.scheduler import VirtualScheduler
from natscron.worker.calls import ERROR_MAX, RESULT_MAX


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, None),
        (0, "0"),
        ("", '""'),
        ({"a": [1, None, True]}, '{"a":[1,null,true]}'),
        ((1, 2), "[1,2]"),
        (BEGIN, '"2027-01-15T08:00:00Z"'),
        (object, "\"<class 'object'>\""),
        ({1, 2}, "[1,2]"),
        ("\ud800", '"<str>"'),
    ],
)
async def test_what_a_handler_gives_is_stored_as_json(
    natscron_scheduler: VirtualScheduler,
    value: Any,  # noqa: ANN401 - whatever a handler gives
    result: str | None,
) -> None:
    async def gives(_event: JobEvent) -> Any:  # noqa: ANN401 - see above
        return value

    run = await outcome(natscron_scheduler, gives)
    assert (run.status, run.result, run.error) == ("completed", result, None)


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("value", ["x" * 100_000, [1] * 100_000, Unspeakable(), [Unspeakable()]])
async def test_what_is_too_much_or_cannot_be_said_is_cut_and_the_run_completes(
    natscron_scheduler: VirtualScheduler,
    value: Any,  # noqa: ANN401 - whatever a handler gives
) -> None:
    async def gives(_event: JobEvent) -> Any:  # noqa: ANN401 - see above
        return value

    run = await outcome(natscron_scheduler, gives)
    assert run.status == "completed"
    assert run.result
    assert len(run.result) <= RESULT_MAX


class OddError(BaseException):
    pass


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


ERRORS = [
    ValueError("why it failed"),
    SystemExit(3),
    StopIteration(5),
    StopAsyncIteration(),
    OddError("odd"),
    MuteError(),
    TimeoutError("its own"),
    asyncio.CancelledError("its own"),
    ExceptionGroup("several", [ValueError("one"), TypeError("two")]),
    BaseExceptionGroup("several", [OddError("one"), KeyError("two")]),
    ValueError("\x00 \ud800 in a text"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("threaded", [False, True])
async def test_whatever_a_handler_raises_ends_its_run_and_nothing_else(
    natscron_scheduler: VirtualScheduler, error: BaseException, *, threaded: bool
) -> None:
    def raises(_event: JobEvent) -> None:
        raise error

    async def raises_async(event: JobEvent) -> None:
        raises(event)

    run = await outcome(natscron_scheduler, raises if threaded else raises_async)
    assert run.status == "failed"
    if isinstance(error, asyncio.CancelledError) and not threaded:
        assert run.reason == "cancelled"
    else:
        assert run.reason == "handler_error"
        # What an async function raises as StopIteration, Python makes a RuntimeError of.
        assert type(error).__name__ in (run.error or "") or "RuntimeError" in (run.error or "")
        assert "in raises" in (run.error or ""), "the traceback tells where"
        (run.error or "").encode()
        assert "\x00" not in (run.error or "")
    assert natscron_scheduler.is_running
    assert natscron_scheduler.failure is None
    natscron_scheduler.set_handler(Spy())
    await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    assert (await natscron_scheduler.get_job("a")).status is JobStatus.COMPLETED


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_traceback_tells_of_the_handler_and_not_of_us_and_is_bounded(
    natscron_scheduler: VirtualScheduler, *, threaded: bool
) -> None:
    def fails(_event: JobEvent) -> None:
        try:
            nothing: dict[str, str] = {}
            nothing["missing"]
        except KeyError as error:
            raise ValueError("first " + "x" * 200_000 + " last") from error

    async def fails_async(event: JobEvent) -> None:
        fails(event)

    run = await outcome(natscron_scheduler, fails if threaded else fails_async)
    error = run.error or ""
    assert ERROR_MAX - 200 <= len(error) <= ERROR_MAX
    assert "KeyError: 'missing'" in error
    assert "ValueError: first" in error
    assert error.endswith(" last")
    assert "characters left out" in error
    assert "natscron/worker" not in error
    assert "concurrent/futures" not in error


async def test_a_failure_is_logged_with_job_and_run(
    natscron_scheduler: VirtualScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run = await outcome(natscron_scheduler, Spy(error=ValueError("first line\nlast line")), retry=2)
    told = [record for record in caplog.records if record.message == "a handler failed"]
    assert [(one.job, one.run, one.attempt, one.reason) for one in told] == [  # type: ignore[attr-defined]
        ("a", run.run_id, attempt, "handler_error") for attempt in (1, 2)
    ]
    assert {one.error for one in told} == {"last line"}  # type: ignore[attr-defined]
    assert {one.name for one in told} == {"natscron.worker"}


async def test_a_keyboard_interrupt_in_a_thread_ends_the_run_only(natscron_scheduler: VirtualScheduler) -> None:
    def interrupts(_event: JobEvent) -> None:
        raise KeyboardInterrupt

    run = await outcome(natscron_scheduler, interrupts)
    assert (run.status, run.reason) == ("failed", "handler_error")


@pytest.mark.parametrize("swallows", [1, 3])
async def test_a_handler_that_swallows_its_cancellation_goes_on_and_is_not_doubled(
    natscron_scheduler: VirtualScheduler, swallows: int
) -> None:
    spans: list[tuple[int, int]] = []

    async def stubborn(_event: JobEvent) -> str:
        began = natscron_scheduler.clock.now_ms()
        for _ in range(swallows + 1):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                continue
        spans.append((began, natscron_scheduler.clock.now_ms()))
        return "done all the same"

    natscron_scheduler.set_handler(stubborn)
    await natscron_scheduler.add_job("a", NEVER, overlap="cancel_other", timeout="10s")
    first = await natscron_scheduler.trigger("a")
    await natscron_scheduler.advance("20s")
    assert (await natscron_scheduler.get_run(first)).status == "running"
    await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    run = await natscron_scheduler.get_run(first)
    assert (run.status, run.result) == ("completed", '"done all the same"')
    assert len(spans) == 2
    assert spans[0][1] <= spans[1][0], "two of one job at once"


async def test_a_handler_that_leaves_tasks_behind_ends_when_it_returns(natscron_scheduler: VirtualScheduler) -> None:
    left: list[asyncio.Task[None]] = []

    async def spawns(_event: JobEvent) -> None:
        left.append(asyncio.create_task(asyncio.sleep(100)))

    run = await outcome(natscron_scheduler, spawns)
    assert (run.status, run.duration_ms) == ("completed", 0)
    assert not left[0].done()
