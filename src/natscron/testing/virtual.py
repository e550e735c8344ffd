"""Virtual time: an event loop whose clock jumps to the next timer when nothing else is left to do.

Weeks pass in milliseconds and nothing depends on the machine's speed. A loop with neither a ready callback nor a timer
would wait for ever; that is reported as :class:`DeadlockError` instead. Real sockets do not work on it.

Time stands still while a thread of :meth:`VirtualLoop.run_in_executor` runs, and the loop goes on meanwhile; a thread
that is to last for some virtual time says so by :meth:`VirtualLoop.block`. One that does not come back for
:data:`PATIENCE_S` of real time is a :class:`DeadlockError` too.
"""

import asyncio
import contextvars
import selectors
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

T = TypeVar("T")

HOST: contextvars.ContextVar[str] = contextvars.ContextVar("host", default="")
"""On whose behalf code runs; "" is nobody's, and is never suspended."""

EPOCH_S = 1_800_000_000.0
"""Wall time at the loop's time 0: 2027-01-15 08:00 UTC."""


class DeadlockError(RuntimeError):
    """Nothing is ready and no timer is set, or a thread does not come back: the test would wait for ever."""


class LivelockError(RuntimeError):
    """Callbacks keep each other busy and no time passes: a busy loop."""


TURNS_MAX = 200_000
"""Loop turns without any time passing, after which the loop is taken to be stuck."""
PATIENCE_S: Final = 30.0
"""Real seconds for which nothing but threads may be going."""
_AT_ONCE_S: Final = 1e-5
"""Timers that lie closer together than this are of one instant: sums of floats differ by less."""
_RESOLUTION_S: Final = 5e-7
"""How much before its instant a timer may go off; after a year a float can no longer tell nanoseconds apart."""


class _Selector(selectors.SelectSelector):
    """Never waits; tells the loop how long it was asked to."""

    def __init__(self, loop: "VirtualLoop") -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found:
            return found
        if timeout is not None and timeout <= 0:
            self._turn()
            return found
        self._turns = 0
        if self._loop.threads:
            return self._wait()
        if self._loop.settled(timeout):
            return found
        if timeout is None:
            raise DeadlockError("nothing is ready and no timer is set")
        self._loop.advance(timeout)
        return found

    def _turn(self) -> None:
        self._turns += 1
        if self._turns > TURNS_MAX and not self._loop.threads:
            self._turns = 0
            busy = [repr(task) for task in asyncio.all_tasks(self._loop)]
            raise LivelockError("no time passes; tasks: " + "; ".join(busy))

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing but threads is going: one that ends, or calls, wakes the loop."""
        found = super().select(PATIENCE_S)
        if not found:
            raise DeadlockError(
                f"{self._loop.threads} threads ran for {PATIENCE_S:.0f} s in which no virtual time passed: a function "
                "in a thread must not wait for virtual time to pass, but by block()"
            )
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._frozen: defaultdict[
            str, list[tuple[Callable[..., object], tuple[object, ...], contextvars.Context | None]]
        ]
        self._frozen = defaultdict(list)
        self._suspended: set[str] = set()
        self._hosts: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = weakref.WeakKeyDictionary()
        self.threads = 0
        """How many functions run in threads, those in :meth:`block` not counted."""
        self._blocked: set[threading.Event] = set()
        self._settling: list[asyncio.Future[None]] = []
        self._jumping: list[asyncio.Future[None]] = []
        super().__init__(_Selector(self))
        self._clock_resolution = _RESOLUTION_S

    # Waiting for the loop itself.

    async def settle(self) -> None:
        """Return when everything that could be done at this instant is done: the next timer is later."""
        future = self.create_future()
        self._settling.append(future)
        await future

    async def jump(self) -> None:
        """Return when time has passed: everything at this instant is done, and a timer has gone off."""
        future = self.create_future()
        self._jumping.append(future)
        await future

    def settled(self, timeout: float | None) -> bool:
        """Whether somebody waited for there being nothing to do for ``timeout`` (None: for ever)."""
        if not self._settling or (timeout is not None and timeout <= _AT_ONCE_S):
            return False
        _resolve(self._settling)
        return True

    # Threads.

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: object) -> "asyncio.Future[T]":
        """As the base class; time stands still until the function has ended."""
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        # On nobody's behalf: the thread of a suspended host ends all the same.
        future.add_done_callback(self._thread_ended, context=contextvars.Context())
        return future

    def _thread_ended(self, future: "asyncio.Future[Any]") -> None:
        del future
        self.threads -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as the base class
        """As the base class; a thread of its own waits for the others, without a bound."""
        del timeout
        self.threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self.threads -= 1

    def block(self, seconds: float) -> None:
        """In a thread of :meth:`run_in_executor`: sleep in virtual time."""
        over = threading.Event()
        self.call_soon_threadsafe(self._begin_block, seconds, over, context=contextvars.Context())
        over.wait()

    def _begin_block(self, seconds: float, over: threading.Event) -> None:
        self.threads -= 1
        self._blocked.add(over)
        self.call_later(seconds, self._end_block, over, context=contextvars.Context())

    def _end_block(self, over: threading.Event) -> None:
        self.threads += 1
        self._blocked.discard(over)
        over.set()

    def close(self) -> None:
        """As the base class; threads that sleep go on."""
        for over in self._blocked:
            over.set()
        super().close()

    # What runs on behalf of a suspended host waits until the host is resumed, in order: a stopped process.

    def suspend(self, host: str) -> None:
        """Stop everything that runs in a context whose :data:`HOST` is ``host``."""
        self._suspended.add(host)

    def resume(self, host: str) -> None:
        """Let it go on, late."""
        self._suspended.discard(host)
        for callback, args, context in self._frozen.pop(host, ()):
            self.call_soon(callback, *args, context=context)

    def tasks_of(self, host: str) -> list[asyncio.Task[Any]]:
        """The host's unfinished tasks."""
        return [task for task, owner in self._hosts.items() if owner == host and not task.done()]

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """As the base class; notes whose task it is."""
        task: asyncio.Task[T] = super().create_task(coro, name=name, context=context)
        self._hosts[task] = HOST.get() if context is None else context.get(HOST, "")
        return task

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As the base class; suspended hosts' callbacks wait."""
        return super().call_soon(self._gate(callback, context), *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As the base class; suspended hosts' callbacks wait."""
        return super().call_at(when, self._gate(callback, context), *args, context=context)

    def _gate(self, callback: Callable[..., object], context: contextvars.Context | None) -> Callable[..., object]:
        host = HOST.get() if context is None else context.get(HOST, "")
        if not host:
            return callback

        def gated(*args: object) -> None:
            if host in self._suspended:
                self._frozen[host].append((callback, args, context))
            else:
                callback(*args)

        return gated

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds
        _resolve(self._jumping)


def _resolve(waiting: "list[asyncio.Future[None]]") -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()


class VirtualClock:
    """One host's clocks on a virtual loop. ``offset_s`` is how far its wall clock is off; it may be changed.

    While ``suspended_s`` grows, trust time stands still against wall time, as on a system whose monotonic clock stops
    during suspension.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, offset_s: float = 0.0) -> None:
        self.offset_s = offset_s
        self.frozen_s = 0.0
        self._loop = loop

    @property
    def timer_slack_s(self) -> float:
        """Timers of a virtual loop go off at their instant."""
        return 0.0

    def now_s(self) -> float:
        """Wall time in seconds since 1970 UTC."""
        return EPOCH_S + self._loop.time() + self.offset_s

    def now_ms(self) -> int:
        """Wall time in whole milliseconds, rounded down; a timer's own instant counts as reached."""
        return int(self.now_s() * 1000 + 1e-3)

    def trust_s(self) -> float:
        """Trust time in seconds."""
        return self._loop.time() - self.frozen_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a virtual loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
