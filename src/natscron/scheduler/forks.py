"""Schedulers and forks: stopped in the child, where they can be started on what is the child's own.

Before a process forks, each scheduler that runs in it is brought to a standstill: its storage has nothing open that a
child could not bear (SQLite's connections), and its loop stands between two steps, so that nothing is copied half done.
Afterwards it goes on. That is waited for at most :data:`STILL_S`; then, and where the loop itself forks, which cannot
wait for itself, the process forks all the same, and a child whose storage cannot bear that says so when it is started.
"""

import asyncio
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from natscron.errors import ConfigError
from natscron.storage.queue import QueueStorage

__all__ = ["STILL_S", "Forks", "follow_forks", "still", "storage_in_child"]

log = logging.getLogger("natscron.scheduler")

T = TypeVar("T")

STILL_S: Final = 5.0


class Forks(NamedTuple, Generic[T]):
    """What is called with whoever follows forks, in the thread that forks."""

    loop: Callable[[T], asyncio.AbstractEventLoop | None]
    """Before: the loop in which it goes on; None if nothing does."""
    still: Callable[[T], AbstractAsyncContextManager[None]]
    """Before, entered in that loop: while it lasts nothing is open that a child could not bear."""
    forget: Callable[[T], None]
    """In the child: put aside what is the parent's."""


def follow_forks(who: T, forks: Forks[T]) -> None:
    """Have that called at each fork, for as long as somebody else keeps ``who``."""
    with _GUARD:
        _FOLLOWERS[who] = forks


def still(storage: QueueStorage) -> AbstractAsyncContextManager[None]:
    """What :attr:`Forks.still` is for a storage that is open; many need nothing."""
    enter: Callable[[], AbstractAsyncContextManager[None]] = getattr(storage, "still", contextlib.nullcontext)
    return enter()


def storage_in_child(storage: QueueStorage) -> QueueStorage:
    """A storage for the same place, with nothing of ``storage``, which the parent used.

    Raises ConfigError if the storage does not offer that, or cannot after this fork.
    """
    renew = getattr(storage, "in_child", None)
    if renew is None:
        raise ConfigError(
            f"{type(storage).__name__} was used in the process that this one was forked off, and cannot be opened "
            "anew: give the scheduler a URL, or make scheduler and storage after the fork"
        )
    fresh: QueueStorage = renew()
    return fresh


class _Still:
    """One loop, and the schedulers in it, at a standstill."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stills: list[Callable[[], AbstractAsyncContextManager[None]]] = []
        self._loop = loop
        self._lock = threading.Lock()
        self._stands = threading.Event()
        self._go_on = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Ask for it."""
        try:
            self._loop.call_soon_threadsafe(self._spawn)
        except RuntimeError:  # the loop has ended meanwhile
            self._stands.set()

    def wait(self) -> bool:
        """Wait until it stands; False if it does not in time, and will not."""
        if self._stands.wait(STILL_S):
            return True
        with self._lock:
            self._go_on.set()
            return self._stands.is_set()

    def end(self) -> None:
        """Let it go on."""
        self._go_on.set()

    def _spawn(self) -> None:
        self._task = self._loop.create_task(self._stand())

    async def _stand(self) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                for still in self.stills:
                    await stack.enter_async_context(still())
                with self._lock:
                    if self._go_on.is_set():
                        return
                    self._stands.set()
                # On purpose: the loop shall not take another step.
                self._go_on.wait()
        except Exception:
            log.exception("a scheduler cannot be brought to a standstill for a fork")


def _before() -> None:
    _FORKING.acquire()
    with _GUARD:
        followers = list(_FOLLOWERS.items())
    loops: dict[asyncio.AbstractEventLoop, _Still] = {}
    for who, forks in followers:
        loop = forks.loop(who)
        if loop is not None and loop is not _own_loop():
            loops.setdefault(loop, _Still(loop)).stills.append(partial(forks.still, who))
    _STANDING.extend(loops.values())
    for one in _STANDING:
        one.begin()
    stood = [one.wait() for one in _STANDING]
    if not all(stood):
        log.warning("the process forks while a scheduler in it is busy: the child may not be able to start its own")


def _own_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that forks, which cannot wait for itself."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _after() -> None:
    for one in _STANDING:
        one.end()
    _STANDING.clear()
    _FORKING.release()


def _in_child() -> None:
    global _FORKING, _GUARD
    # The threads that may have had the old ones are not here.
    _FORKING, _GUARD = threading.RLock(), threading.RLock()
    _STANDING.clear()
    for who, forks in list(_FOLLOWERS.items()):
        try:
            forks.forget(who)
        except Exception:
            log.exception("a scheduler of the parent cannot be put aside")


_FOLLOWERS: Final["weakref.WeakKeyDictionary[Any, Forks[Any]]"] = weakref.WeakKeyDictionary()
_STANDING: Final[list[_Still]] = []
_GUARD = threading.RLock()
_FORKING = threading.RLock()
"""Held through a fork: there is one at a time."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)
