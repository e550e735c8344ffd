"""Threads for handlers that are not async.

They are daemon threads: a handler that never ends keeps no process from ending, which with the threads of
:class:`~concurrent.futures.ThreadPoolExecutor` it would. Whoever ends in order waits for them before (a worker's stop
does), and what a process left behind in a thread is taken over by others when its lease is over.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

__all__ = ["Threads"]

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Executor):
    """Up to ``most`` threads, made when they are needed; what finds none free waits. All methods are thread-safe."""

    def __init__(self, most: int, name: str = "natscron") -> None:
        self._most = most
        self._name = name
        self._lock = threading.Lock()
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._free = 0
        """Threads that wait, less the calls that one of them is about to take; negative: calls that wait."""
        self._over = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call it in a thread. Raises RuntimeError after :meth:`shutdown`."""
        future: Future[T] = Future()
        with self._lock:
            if self._over:
                raise RuntimeError("the threads for handlers are shut down")
            if self._free <= 0 and len(self._threads) < self._most:
                thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)
                self._free += 1
            self._free -= 1
            self._calls.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base class has it so
        """Take no more calls. ``wait``: until those that were taken have ended."""
        with self._lock:
            self._over = True
            if cancel_futures:
                while not self._calls.empty():
                    if (call := self._calls.get()) is not None:
                        call[0].cancel()
            for _ in self._threads:
                self._calls.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, fn = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn())
                except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
                    future.set_exception(error)
            # Nothing of a call is kept while the thread waits for the next one.
            del call, future, fn
            with self._lock:
                self._free += 1
