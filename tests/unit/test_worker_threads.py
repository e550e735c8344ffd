"""The threads in which handlers run that are not async."""

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from natscron.worker.threads import Threads

PATIENCE_S = 10.0


def test_calls_run_in_daemon_threads_up_to_the_limit_and_the_others_wait() -> None:
    threads, go_on, gate = Threads(2), threading.Event(), threading.Barrier(3)
    seen: list[bool] = []

    def call(number: int) -> int:
        seen.append(threading.current_thread().daemon)
        gate.wait(PATIENCE_S)
        assert go_on.wait(PATIENCE_S)
        return number

    first = [threads.submit(call, number) for number in range(2)]
    # Both of them run at once; a third one does not.
    gate.wait(PATIENCE_S)
    third = threads.submit(lambda: 3)
    assert len(seen) == 2
    assert not third.running()
    go_on.set()
    assert [future.result(PATIENCE_S) for future in first] == [0, 1]
    assert third.result(PATIENCE_S) == 3
    assert seen == [True, True]
    threads.shutdown()


def test_a_thread_that_is_free_is_used_again() -> None:
    threads = Threads(100)
    names = set()
    for _ in range(20):
        names.add(threads.submit(lambda: threading.current_thread().name).result(PATIENCE_S))
        # It is free once it has come back for another call.
        while threads._free < 1:
            pass
    assert names == {"natscron_0"}
    threads.shutdown()


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_what_a_call_raises_is_told_and_the_thread_goes_on(error: BaseException) -> None:
    threads = Threads(1)

    def call() -> None:
        raise error

    assert threads.submit(call).exception(PATIENCE_S) is error
    assert threads.submit(lambda: 1).result(PATIENCE_S) == 1
    threads.shutdown()


def test_after_a_shutdown_nothing_is_taken_and_what_waited_is_cancelled() -> None:
    threads, going, go_on = Threads(1), threading.Event(), threading.Event()

    def call() -> str:
        going.set()
        assert go_on.wait(PATIENCE_S)
        return "done"

    first, second = threads.submit(call), threads.submit(call)
    assert going.wait(PATIENCE_S)
    threads.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        second.result(PATIENCE_S)
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(call)
    go_on.set()
    assert first.result(PATIENCE_S) == "done"
    threads.shutdown()
    assert not [one for one in threading.enumerate() if one.name == "natscron_0"]


def test_a_call_that_is_cancelled_while_it_waits_is_not_made() -> None:
    threads, go_on = Threads(1), threading.Event()
    called: list[int] = []
    first = threads.submit(go_on.wait, PATIENCE_S)
    second = threads.submit(called.append, 2)
    assert second.cancel()
    third = threads.submit(called.append, 3)
    go_on.set()
    assert first.result(PATIENCE_S)
    third.result(PATIENCE_S)
    assert called == [3]
    threads.shutdown()


@pytest.mark.anyio
async def test_an_event_loop_takes_them_as_an_executor() -> None:
    threads = Threads(4)
    loop = asyncio.get_running_loop()
    results = await asyncio.gather(*(loop.run_in_executor(threads, str, number) for number in range(50)))
    assert results == [str(number) for number in range(50)]
    threads.shutdown()
