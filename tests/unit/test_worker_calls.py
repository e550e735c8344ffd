"""One call of one handler."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import msgspec
import pytest

from natscron.model import Claim, Job, Reason
from natscron.testing import virtual
from natscron.worker.calls import ERROR_MAX, RESULT_MAX, Call, Called, call
from natscron.worker.event import JobEvent, copied
from natscron.worker.threads import Threads


def event() -> JobEvent:
    claim = Claim(run_id="r", job="a", generation=1, scheduled_at_ms=5_000, due_ms=6_000, payload={"n": [1]})
    return JobEvent(claim, Job(id="a", labels={"k": "v"}), 6_500, lambda job: job.id)


def made(
    handler: Callable[[JobEvent], Any],
    timeout_ms: int | None = None,
    *,
    threaded: bool = False,
    cancel_s: float | None = None,
) -> Called:
    """What came of a call on virtual time."""
    pool = Threads(4)

    async def main() -> Called:
        task = asyncio.ensure_future(
            call(handler, event(), timeout_ms=timeout_ms, threaded=Call() if threaded else None, pool=lambda: pool)
        )
        if cancel_s is not None:
            await asyncio.sleep(cancel_s)
            task.cancel()
        return await task

    try:
        return virtual.run(main())
    finally:
        pool.shutdown()


def test_what_it_gives_is_its_result() -> None:
    async def gives(seen: JobEvent) -> dict[str, str]:
        return {"job": seen.id}

    assert made(gives) == Called(result='{"job":"a"}')
    assert made(lambda seen: seen.id, threaded=True) == Called(result='"a"')


def test_a_cancellation_from_outside_is_told_as_such() -> None:
    async def waits(_event: JobEvent) -> None:
        await asyncio.sleep(60)

    assert made(waits, cancel_s=1) == Called(reason=Reason.CANCELLED, interrupted=True)


def test_a_cancellation_that_comes_with_the_timeout_is_one_of_both() -> None:
    async def waits(_event: JobEvent) -> None:
        await asyncio.sleep(60)

    assert made(waits, 1_000, cancel_s=1).reason in {Reason.CANCELLED, Reason.TIMEOUT}


def test_a_timeout_is_told_with_its_length_and_a_code_for_the_policy() -> None:
    async def waits(_event: JobEvent) -> None:
        await asyncio.sleep(60)

    assert made(waits, 1_500) == Called(Reason.TIMEOUT, "the handler did not end within 1500 ms", "timeout")


def test_what_ends_in_time_has_not_timed_out() -> None:
    async def waits(_event: JobEvent) -> int:
        await asyncio.sleep(1.4)
        return 5

    assert made(waits, 1_500) == Called(result="5")


def test_what_swallows_its_timeout_and_returns_has_returned() -> None:
    async def swallows(_event: JobEvent) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return 5

    assert made(swallows, 1_500) == Called(result="5")


def test_an_exception_is_told_with_its_class_as_the_code() -> None:
    async def fails(_event: JobEvent) -> None:
        raise LookupError("nothing there")

    called = made(fails)
    assert (called.reason, called.code) == (Reason.HANDLER_ERROR, "LookupError")
    assert (called.error or "").startswith("Traceback")
    assert (called.error or "").endswith("LookupError: nothing there")


@pytest.mark.parametrize("size", [ERROR_MAX - 100, ERROR_MAX, ERROR_MAX + 1, 3 * ERROR_MAX])
@pytest.mark.parametrize("character", ["x", "\x00", "\ud800"])
def test_an_error_of_any_length_and_make_is_kept_within_its_bound(size: int, character: str) -> None:
    def fails(_event: JobEvent) -> None:
        raise ValueError("begin " + character * size + " end")

    error = made(fails, threaded=True).error or ""
    assert len(error) <= ERROR_MAX
    assert "ValueError: begin" in error
    assert error.endswith(" end")
    error.encode()
    assert "\x00" not in error


def test_a_recursion_without_end_is_an_error_like_others() -> None:
    def deeper(_event: object) -> None:
        deeper(_event)

    called = made(deeper, threaded=True)
    assert called.code == "RecursionError"
    assert len(called.error or "") <= ERROR_MAX


@pytest.mark.parametrize("size", [RESULT_MAX - 2, RESULT_MAX - 1, 10 * RESULT_MAX])
def test_a_result_is_cut_at_its_bound(size: int) -> None:
    result = made(lambda _event: "x" * size, threaded=True).result or ""
    assert len(result) == min(size + 2, RESULT_MAX)
    assert result.endswith('"' if size + 2 <= RESULT_MAX else "...")


def test_a_thread_that_goes_on_after_its_timeout_is_known_to() -> None:
    pool = Threads(1)

    async def main() -> None:
        threaded = Call()
        seen = [threaded.threaded]
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual.VirtualLoop)

        def slow(_event: JobEvent) -> None:
            loop.block(10)
            raise ValueError("told to nobody any more")

        called = await call(slow, event(), timeout_ms=1_000, threaded=threaded, pool=lambda: pool)
        assert called.reason == Reason.TIMEOUT
        seen.append(threaded.threaded)
        await threaded.over()
        assert loop.time() == pytest.approx(10)
        assert [*seen, threaded.threaded] == [False, True, False]

    virtual.run(main())
    pool.shutdown()


def test_what_a_thread_gives_to_be_awaited_can_be_cancelled() -> None:
    async def waits() -> None:
        await asyncio.sleep(60)

    assert made(lambda _event: waits(), 1_000, threaded=True).reason == Reason.TIMEOUT
    assert made(lambda _event: waits(), threaded=True, cancel_s=1).interrupted


def test_a_pool_that_is_shut_down_ends_the_run_and_not_the_worker() -> None:
    def pool() -> Executor:
        threads = Threads(1)
        threads.shutdown()
        return threads

    async def main() -> Called:
        return await call(lambda _event: 5, event(), timeout_ms=None, threaded=Call(), pool=pool)

    called = virtual.run(main())
    assert called.reason == Reason.HANDLER_ERROR


@pytest.mark.parametrize("raised", [KeyboardInterrupt, GeneratorExit])
def test_what_is_meant_for_the_whole_program_goes_on_to_it(raised: type[BaseException]) -> None:
    async def interrupts(_event: JobEvent) -> None:
        raise raised

    async def main() -> None:
        with pytest.raises(raised):
            await call(interrupts, event(), timeout_ms=None, threaded=None, pool=lambda: Threads(1))

    virtual.run(main())


def test_an_event_gives_copies() -> None:
    one = event()
    one.metadata["k"] = "mine"
    one.payload["n"].append(2)
    assert (one.metadata, one.payload) == ({"k": "v"}, {"n": [1]})
    assert (one.job, one.delay.total_seconds()) == ("a", 0.5)
    with pytest.raises(AttributeError):
        one.payload = 5  # type: ignore[misc]
    with pytest.raises(AttributeError):
        one.extra = 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [None, 5, "x", True, 1.5, [], {}, {"a": [{"b": []}]}])
def test_a_copy_is_equal_and_shares_nothing_that_can_change(value: object) -> None:
    twin = copied(value)
    assert twin == value
    assert type(twin) is type(value)
    if isinstance(value, dict | list) and value:
        assert twin is not value
    assert msgspec.json.encode(twin) == msgspec.json.encode(value)


def test_a_delay_is_never_negative() -> None:
    claim = Claim(run_id="r", job="a", generation=1, scheduled_at_ms=5_000, due_ms=6_000)
    early = JobEvent(claim, Job(id="a"), 5_500, lambda job: job)
    assert early.delay.total_seconds() == 0
    assert early.payload is None


def run_in(threads: Threads, fn: Callable[[], int]) -> int:
    return threads.submit(fn).result(20)


def test_threads_are_made_as_needed_reused_and_never_more_than_said() -> None:
    threads = Threads(3)
    idents = {run_in(threads, threading.get_ident) for _ in range(50)}
    assert len(idents) <= 3
    together = threading.Barrier(3, timeout=20)
    futures = [threads.submit(together.wait) for _ in range(9)]
    assert sorted(future.result(20) for future in futures) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    threads.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(threading.get_ident)


def test_threads_for_handlers_keep_no_process_from_ending() -> None:
    threads = Threads(1)
    assert threads.submit(lambda: threading.current_thread().daemon).result(20)
    threads.shutdown()
