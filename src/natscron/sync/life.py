"""The life of a synchronous scheduler: its loop, starts and stops from any thread, forks, and the interpreter's end.

Who is authoritative: the asynchronous scheduler inside, which does everything. Here is the thread with its loop, which
is there from a start to the stop that ends it. Before and after, calls are done at once in the caller's thread, since
none of them has to wait for anything. Two locks: ``life`` is held through a start or a stop, so that these come one
after the other; ``guard`` for a moment, by whoever looks which of the two it is. Both may be taken again by the thread
that has them, as a signal handler in the middle of a start may do.

Forks (:mod:`natscron.scheduler.forks` has its part first). The parent goes on. The child's scheduler is stopped; if the
parent's was running, the child starts its own at once, in a thread, and calls wait until that was tried; it is tried
again for some minutes if it fails. A child that only does a piece of work for its parent (:data:`_HELPERS`) starts
none. A start in the child that comes after this one is taken as asking for the same.

The interpreter's end: a scheduler that still runs is stopped, within its ``stop_timeout`` and :data:`_AT_EXIT_S`.
"""

import atexit
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from natscron.scheduler.values import Duration, seconds
from natscron.storage.forks import keep_forever
from natscron.sync.inside import Inside, driven
from natscron.sync.listeners import Listeners
from natscron.sync.loop import LoopThread

__all__ = ["Life"]

log = logging.getLogger("natscron.scheduler")

T = TypeVar("T")

_HELPERS: Final = frozenset(
    {"multiprocessing.popen_fork", "billiard.popen_fork", "subprocess", "socketserver", "http.server", "pty"}
)
"""Modules whose forks do a piece of work and end, or become another program."""
_RESTARTS_S: Final = (0.5, 1, 2, 4, 8, 15, 30, 30, 30, 30)
_SETTLING_S: Final = 60.0
_LISTENERS_S: Final = 5.0
_AT_EXIT_S: Final = 15.0


class Life:
    """What the synchronous scheduler is built on."""

    _inside: Inside

    def _set_up(self, inside: Inside) -> None:
        self._inside = inside
        self._loop: LoopThread | None = None
        self._listeners = Listeners()
        self._wanted = False
        """It was started, and nobody has stopped it."""
        self._restarted = False
        """It was started after a fork, and nobody has asked for it since."""
        self._new_locks()
        _ALL.add(self)

    def _new_locks(self) -> None:
        self._guard = threading.RLock()
        self._life = threading.RLock()
        self._started = threading.Condition()
        self._settled: threading.Event | None = None
        """Set when the start after a fork was tried; None: there is none."""

    # Calls.

    def _call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have a coroutine of the scheduler inside run; in this thread while there is no loop, and no need for one."""
        self._refuse_in_loop()
        if self._settled is not None:
            self._settled.wait(_SETTLING_S)
        with self._guard:
            loop = self._loop
            if loop is None:
                return driven(make())
        return loop.run(make)

    def _do(self, fn: Callable[[], T]) -> T:
        """Have a function called where the scheduler inside may be touched."""
        loop = self._loop
        if loop is not None and loop.is_current:
            return fn()

        async def called() -> T:
            return fn()

        return self._call(called)

    def _refuse_in_loop(self) -> None:
        loop = self._loop
        if loop is not None and loop.is_current:
            raise RuntimeError(
                "the scheduler was called in its own event loop, by an async handler or listener, and would wait for "
                "itself: make that a plain function, or call with 'await asyncio.to_thread(scheduler.METHOD, ...)'"
            )

    # Life.

    def _start(self) -> None:
        self._refuse_in_loop()
        with self._life:
            if self._restarted and self._inside.is_running:
                self._restarted = False
                return
            self._begin()
            self._wanted = True

    def _begin(self) -> None:
        with self._guard:
            if self._loop is None:
                self._loop = LoopThread("natscron scheduler")
                _ALIVE.add(self)
            loop = self._loop
        try:
            loop.run(self._inside.start)
        except BaseException:
            if not self._inside.is_running:
                self._end(loop)
            raise
        with self._started:
            self._started.notify_all()

    def _stop(self, timeout: Duration | None) -> None:
        self._refuse_in_loop()
        if timeout is not None:
            seconds(timeout, "timeout")
        self._wanted = False
        with self._started:
            self._started.notify_all()
        with self._life:
            loop = self._loop
            if loop is None:
                return
            try:
                loop.run(lambda: self._inside.stop(timeout), interrupted=self._inside.cut)
                loop.run(self._inside.close_storage)
            finally:
                # Interrupted twice, a stop may still go on.
                if self._inside.is_over:
                    self._end(loop)

    def _cut(self) -> None:
        """End the patience of a stop that goes on; from any point of any thread."""
        loop = self._loop
        if loop is not None:
            loop.post(self._inside.cut)

    def _when_over(self, fn: Callable[[], None]) -> None:
        """Call ``fn``, in the loop, when the scheduler has stopped, or its loop ends."""
        loop = self._loop
        if loop is None:
            fn()
        else:
            loop.watch(self._inside.over, fn)

    def _end(self, loop: LoopThread) -> None:
        with self._guard:
            if self._loop is loop:
                self._loop = None
            _ALIVE.discard(self)
        loop.end()
        self._listeners.close(_LISTENERS_S)

    def _at_exit(self) -> None:
        bound_s = self._inside.stop_timeout_s + _AT_EXIT_S
        self._wanted = False
        if not self._life.acquire(timeout=bound_s):
            return
        try:
            loop = self._loop
            if loop is not None:
                loop.run(self._inside.stop, timeout_s=bound_s)
                loop.run(self._inside.close_storage, timeout_s=_AT_EXIT_S)
                self._end(loop)
        except Exception as error:  # noqa: BLE001 - the interpreter ends, whatever it is
            log.warning("the scheduler was not stopped in order", extra={"error": repr(error)})
        finally:
            self._life.release()

    # Forks.

    def _in_child(self, *, helper: bool) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            keep_forever(loop)
        self._listeners.in_child()
        self._restarted = False
        self._wanted = self._wanted and not helper
        self._new_locks()
        if self._wanted:
            self._settled = threading.Event()
            threading.Thread(target=self._restart, args=(self._settled,), name="natscron start", daemon=True).start()

    def _restart(self, settled: threading.Event) -> None:
        for delay_s in _RESTARTS_S:
            with self._life:
                if not self._wanted or self._inside.is_running:
                    settled.set()
                    return
                try:
                    self._begin()
                except Exception as error:  # noqa: BLE001 - told, and tried again
                    log.warning("the scheduler cannot be started after the fork now", extra={"error": str(error)})
                else:
                    self._restarted = True
                finally:
                    settled.set()
            if self._restarted:
                return
            with self._started:
                self._started.wait(delay_s)
        log.error("the scheduler could not be started after the fork; start() tries again")


def _in_child() -> None:
    _ALIVE.clear()
    caller = sys._getframe().f_back  # noqa: SLF001 - who forked is told by nothing else
    helper = caller is not None and caller.f_globals.get("__name__") in _HELPERS
    for one in tuple(_ALL):
        try:
            one._in_child(helper=helper)  # noqa: SLF001 - this module's own
        except Exception:
            log.exception("a scheduler of the parent cannot be put aside")


def _at_exit() -> None:
    for one in tuple(_ALIVE):
        one._at_exit()  # noqa: SLF001 - this module's own


_ALL: Final["weakref.WeakSet[Life]"] = weakref.WeakSet()
_ALIVE: Final[set[Life]] = set()
"""Those whose loop goes; kept here while it does."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
