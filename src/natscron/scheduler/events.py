"""What a program can be told of: functions by event, called in the scheduler's loop.

They are told after the fact and decide nothing. One that raises is logged, and the others are called all the same; one
that is async runs as a task beside what goes on, at most :data:`_AT_ONCE` of them, past which an event is not told to
async functions and that is logged.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from natscron.errors import ValidationError

__all__ = ["EVENTS", "Events", "Problem"]

log = logging.getLogger("natscron.scheduler")

Listener: TypeAlias = Callable[[Any], Awaitable[None] | None]
F = TypeVar("F", bound=Listener)

EVENTS: Final = (
    "run_started",
    "run_finished",
    "run_failed",
    "run_retrying",
    "run_skipped",
    "reschedule_failed",
    "job_invalid",
    "leader_changed",
)
"""``run_*``: called with the :class:`natscron.Run`. ``reschedule_failed``, ``job_invalid``: with a :class:`Problem`.
``leader_changed``: with the instance that leads, or None."""
_AT_ONCE: Final = 1_000


class Problem(NamedTuple):
    """A job that does not run, and why."""

    job: str
    error: str


class Events:
    """The listeners of one scheduler."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {name: [] for name in EVENTS}
        self._tasks: set[asyncio.Future[None]] = set()

    def on(self, event: str, fn: F) -> F:
        """Call ``fn`` at each such event. Raises ValidationError for an event that there is not."""
        if event not in self._listeners:
            raise ValidationError(f"unknown event {event!r:.80}: one of {', '.join(EVENTS)}")
        if not callable(fn):
            raise ValidationError(f"a listener must be a function of one argument; got {fn!r:.80}")
        self._listeners[event].append(fn)
        return fn

    def wants(self, event: str) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners[event])

    def listeners(self) -> list[tuple[str, Listener]]:
        """All of them, each with its event."""
        return [(event, fn) for event, some in self._listeners.items() for fn in some]

    def emit(self, event: str, value: object) -> None:
        """Tell of an event; never raises."""
        for fn in self._listeners[event]:
            try:
                answer = fn(value)
            except Exception:
                log.exception("a listener raised", extra={"event": event})
                continue
            if inspect.isawaitable(answer):
                self._spawn(event, answer)

    def _spawn(self, event: str, answer: Awaitable[None]) -> None:
        if len(self._tasks) >= _AT_ONCE:
            log.warning("listeners are too slow: an event is not told", extra={"event": event})
            if inspect.iscoroutine(answer):
                answer.close()
            return
        task = asyncio.ensure_future(answer)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(event, done))

    def _ended(self, event: str, task: "asyncio.Future[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a listener raised", extra={"event": event}, exc_info=error)

    async def close(self) -> None:
        """End what still runs."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
