"""Running until a signal says that it is enough.

A process that is forked meanwhile has its signals as they were before: else it would not end when it is told to, and
would tell its parent instead, whose loop hears of signals through a socket that the child has too.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final

__all__ = ["SIGNALS", "give_back", "signals_taken", "until_signalled"]

log = logging.getLogger("natscron.scheduler")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals_taken() -> Iterator[dict[int, Any]]:
    """While this lasts a child gets back what was there for :data:`SIGNALS`, which are given: None: not from Python."""
    before = {int(number): signal.getsignal(number) for number in SIGNALS}
    _TAKEN.append(before)
    try:
        yield before
    finally:
        _TAKEN.remove(before)


def give_back(before: Mapping[int, Any]) -> None:
    """Handle the signals as before, in the main thread."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _before_fork() -> None:
    # A signal that comes to the child before it has given them back waits until then.
    _MASK.before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if _TAKEN else ())


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _MASK.before)


def _in_child() -> None:
    if _TAKEN:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)
            give_back(_TAKEN[0])
        _TAKEN.clear()
    _after_fork()


_TAKEN: Final[list[dict[int, Any]]] = []
_MASK: Final = threading.local()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


async def until_signalled(
    ended: asyncio.Event, stop: Callable[[], Coroutine[Any, Any, None]], cut: Callable[[], None]
) -> None:
    """Return when ``ended`` is set, or after a signal when ``stop`` is done; a second signal calls ``cut``.

    Where signals cannot be handled (outside of the main thread, on Windows) only ``ended`` counts.
    """
    with signals_taken():
        await _until_signalled(ended, stop, cut)


async def _until_signalled(
    ended: asyncio.Event, stop: Callable[[], Coroutine[Any, Any, None]], cut: Callable[[], None]
) -> None:
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
