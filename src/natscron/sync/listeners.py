"""Listeners of the synchronous scheduler: called one after the other in a thread of their own, in the order of events.

So a listener may block, and may call the scheduler. The loop only puts what happened into a queue; when :data:`_MOST`
events wait there, further ones are not told, and the log says so.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from queue import Empty, Full, Queue
from typing import Any, Final, TypeAlias

__all__ = ["Listeners"]

log = logging.getLogger("natscron.scheduler")

_Told: TypeAlias = tuple[str, Callable[[Any], object], Any]
_MOST: Final = 10_000


class Listeners:
    """The thread; it is there from the first event on, until :meth:`close`."""

    def __init__(self) -> None:
        self._queue: Queue[_Told | None] = Queue(_MOST)
        self._thread: threading.Thread | None = None
        self._silent = False

    def telling(self, event: str, fn: Callable[[Any], object]) -> Callable[[Any], None]:
        """What to call in the loop, so that ``fn`` is called in the thread."""

        def tell(value: Any) -> None:  # noqa: ANN401 - what events are told with
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_work, args=(self._queue,), name="natscron listeners", daemon=True
                )
                self._thread.start()
            try:
                self._queue.put_nowait((event, fn, value))
            except Full:
                if not self._silent:
                    log.warning("listeners are too slow: events are not told", extra={"event": event})
                self._silent = True
            else:
                self._silent = False

        return tell

    def in_child(self) -> None:
        """In a process that was forked: the thread, and what waited for it, are the parent's."""
        self._thread = None
        self._queue = Queue(_MOST)

    def close(self, timeout_s: float) -> None:
        """Let it tell what waits, and end; the loop must have ended. After ``timeout_s`` it goes on by itself."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        told, self._queue = self._queue, Queue(_MOST)
        try:
            told.put(None, timeout=timeout_s)
        except Full:
            log.warning("listeners are too slow: the scheduler stops without them")
            with contextlib.suppress(Empty):
                told.get_nowait()
            told.put(None)
            return
        if thread is not threading.current_thread():
            thread.join(timeout_s)


def _work(queue: "Queue[_Told | None]") -> None:
    while (told := queue.get()) is not None:
        event, fn, value = told
        try:
            fn(value)
        except Exception:
            log.exception("a listener raised", extra={"event": event})
