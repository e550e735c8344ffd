"""An event loop in a thread of its own, to which any thread hands calls over and waits for what comes of them.

States: *going*, and *ended*, from which there is no way back. A call is a task in the loop, with a copy of the caller's
context. Whoever waits for it in vain is told: when the loop ends, its calls are cancelled, and those that came too late
are refused, with SchedulerNotStartedError.

Interrupted while it waits (KeyboardInterrupt, SystemExit out of a signal handler), a caller cancels its call, or does
what it gave for that case, and waits until the call has ended, at most :data:`MENDING_S`, before the interruption goes
on; interrupted again, it goes at once, and the call ends by itself. An interruption that a handler raises in the loop
goes to the main thread, and the loop goes on.
"""

import _thread
import asyncio
import contextlib
import contextvars
import logging
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import wait as wait_for
from typing import Any, Final, Generic, TypeVar

from natscron.errors import SchedulerNotStartedError

__all__ = ["MENDING_S", "PULSE_S", "LoopThread"]

log = logging.getLogger("natscron.scheduler")

T = TypeVar("T")

MENDING_S: Final = 10.0
PULSE_S: Final = 0.5
"""How long a signal may go unnoticed at the worst."""
_ENDING_S: Final = 5.0


class LoopThread:
    """Going as soon as it is made. The thread is a daemon: it keeps no process from ending."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # Taken again by a signal handler, in the middle of anything.
        self._lock = threading.RLock()
        self._calls: set[_Call[Any]] = set()
        self._beside: set[asyncio.Task[None]] = set()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether the caller is in the loop."""
        return threading.get_ident() == self._thread.ident

    def run(
        self,
        make: Callable[[], Coroutine[Any, Any, T]],
        *,
        timeout_s: float | None = None,
        interrupted: Callable[[], None] | None = None,
    ) -> T:
        """Have a coroutine made and run in the loop; what it returns or raises.

        ``timeout_s``: how long to wait for it, after which it goes on and TimeoutError is raised. ``interrupted``: what
        to do in the loop when the wait is interrupted, instead of cancelling. Raises SchedulerNotStartedError when the
        loop has ended, or ends meanwhile.
        """
        call = _Call(make)
        self._hand_over(call)
        try:
            if not _done(call.outcome, timeout_s):
                raise TimeoutError  # noqa: TRY301 - as if the call had raised it
            return call.outcome.result()
        except CancelledError:
            raise _not_going() from None
        except BaseException:
            if not call.outcome.done() and timeout_s is None:
                self.post(call.cancel if interrupted is None else interrupted)
                wait_for([call.outcome], MENDING_S)
            raise

    def post(self, fn: Callable[[], object]) -> bool:
        """Have a function called in the loop soon, without waiting; False if the loop has ended."""
        with self._lock:
            if not self._ended:
                self._loop.call_soon_threadsafe(fn)
            return not self._ended

    def watch(self, make: Callable[[], Coroutine[Any, Any, None]], over: Callable[[], None]) -> None:
        """Have a coroutine run beside everything else, and ``over`` called in the loop when it or the loop ends."""

        def begin() -> None:
            task = self._loop.create_task(make())
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)
            task.add_done_callback(lambda _: over())

        if not self.post(begin):
            over()

    def end(self) -> None:
        """End the loop and what still runs in it. Idempotent; not to be called in the loop."""
        self.post(self._loop.stop)
        self._thread.join(_ENDING_S + 1)

    def _hand_over(self, call: "_Call[Any]") -> None:
        with self._lock:
            if self._ended:
                raise _not_going()
            self._calls.add(call)
            self._loop.call_soon_threadsafe(call.begin)
        call.outcome.add_done_callback(lambda _: self._forget(call))

    def _forget(self, call: "_Call[Any]") -> None:
        with self._lock:
            self._calls.discard(call)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            try:
                self._loop.run_forever()
                break
            except (KeyboardInterrupt, SystemExit):
                log.warning("a handler raised an interruption: the main thread is interrupted")
                _interrupt_main()
        with self._lock:
            self._ended = True
        try:
            self._loop.run_until_complete(_end_tasks())
        except BaseException:
            log.exception("the scheduler's loop did not end well")
        with self._lock:
            calls = tuple(self._calls)
        for call in calls:
            call.give_up()
        asyncio.set_event_loop(None)
        self._loop.close()


class _Call(Generic[T]):
    """One call. Everything but ``outcome`` is the loop's."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.outcome: Future[T] = Future()
        self._make = make
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> None:
        """Make the task."""
        try:
            coroutine = self._context.run(self._make)
        except Exception as error:  # noqa: BLE001 - whoever waits for it is told
            self.outcome.set_exception(error)
            return
        self._task = asyncio.get_running_loop().create_task(coroutine, context=self._context)
        self._task.add_done_callback(self._over)

    def cancel(self) -> None:
        """Cancel the task."""
        if self._task is not None:
            self._task.cancel()

    def give_up(self) -> None:
        """The loop has ended."""
        with contextlib.suppress(InvalidStateError):
            self.outcome.set_exception(_not_going())

    def _over(self, task: "asyncio.Task[T]") -> None:
        if task.cancelled():
            self.outcome.cancel()
            self.outcome.set_running_or_notify_cancel()
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


async def _end_tasks() -> None:
    # What was handed over a moment ago becomes a task first.
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_ENDING_S)
    await loop.shutdown_asyncgens()


def _interrupt_main() -> None:
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        # A signal of its own, which ends what the thread waits in.
        signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _done(outcome: "Future[Any]", timeout_s: float | None) -> bool:
    """Wait for it, or for so long; whether it is done."""
    left_s = timeout_s
    while left_s is None or left_s > 0:
        # A signal that comes just before a wait begins is noticed when it ends only.
        pulse_s = PULSE_S if left_s is None else min(PULSE_S, left_s)
        if wait_for([outcome], pulse_s).done:
            return True
        left_s = None if left_s is None else left_s - pulse_s
    return False


def _not_going() -> SchedulerNotStartedError:
    return SchedulerNotStartedError("scheduler not started: it was stopped before the call, or while it went on")
