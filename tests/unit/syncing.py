"""What the tests of the synchronous twin share."""

import threading
from collections.abc import Callable
from typing import Final

from natscron import JobEvent, ScheduleSpec, every
from natscron.sync import Scheduler

PATIENCE_S: Final = 10.0
SELDOM: Final[ScheduleSpec] = every("1h")
"""Not within any test: a job that is only triggered."""


def happened(event: threading.Event) -> bool:
    return event.wait(PATIENCE_S)


def until(condition: Callable[[], bool]) -> threading.Event:
    """Set when it is so; looked at in another thread, for a while."""
    event = threading.Event()

    def look() -> None:
        for _ in range(1_000):
            if condition():
                event.set()
                return
            event.wait(0.01)

    threading.Thread(target=look, daemon=True).start()
    return event


def threads() -> list[str]:
    return sorted(one.name for one in threading.enumerate() if one.name.startswith("natscron s"))


def running(scheduler: Scheduler) -> bool:
    return scheduler.is_running


def nothing(_event: JobEvent) -> None:
    pass


def soon(fn: Callable[[], None], after: threading.Event | None = None) -> None:
    """Call ``fn`` in another thread, once ``after`` is set."""

    def call() -> None:
        if after is None or happened(after):
            fn()

    threading.Thread(target=call, daemon=True).start()
