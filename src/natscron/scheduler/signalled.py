"""Running until a signal says that it is enough."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ["SIGNALS", "until_signalled"]

log = logging.getLogger("natscron.scheduler")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


async def until_signalled(
    ended: asyncio.Event, stop: Callable[[], Coroutine[Any, Any, None]], cut: Callable[[], None]
) -> None:
    """Return when ``ended`` is set, or after a signal when ``stop`` is done; a second signal calls ``cut``.

    Where signals cannot be handled (outside of the main thread, on Windows) only ``ended`` counts.
    """
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    for number in SIGNALS:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, signalled.set)
    try:
        await _first(signalled.wait(), ended.wait())
        if signalled.is_set():
            signalled.clear()
            stopping = asyncio.ensure_future(stop())
            await _first(asyncio.wait([stopping]), signalled.wait())
            if not stopping.done():
                log.warning("second signal: handlers are cut off")
                cut()
            await stopping
    finally:
        for number in SIGNALS:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(number)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
