"""Schedulers in a process that was forked off theirs: they are stopped there, and can be started on what is its own."""

import logging
import os
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from natscron.errors import ConfigError
from natscron.storage.queue import QueueStorage

__all__ = ["follow_forks", "storage_in_child"]

log = logging.getLogger("natscron.scheduler")

T = TypeVar("T")


def follow_forks(who: T, tell: Callable[[T], None]) -> None:
    """Have ``tell(who)`` called in each child, for as long as somebody else keeps ``who``."""
    _FOLLOWERS[who] = tell


def storage_in_child(storage: QueueStorage) -> QueueStorage:
    """A storage for the same place, with nothing of ``storage``, which the parent used.

    Raises ConfigError if the storage does not offer that.
    """
    renew = getattr(storage, "in_child", None)
    if renew is None:
        raise ConfigError(
            f"{type(storage).__name__} was used in the process that this one was forked off, and cannot be opened "
            "anew: give the scheduler a URL, or make scheduler and storage after the fork"
        )
    fresh: QueueStorage = renew()
    return fresh


def _in_child() -> None:
    for who, tell in tuple(_FOLLOWERS.items()):
        try:
            tell(who)
        except Exception:
            log.exception("a scheduler of the parent cannot be put aside")


_FOLLOWERS: Final["weakref.WeakKeyDictionary[Any, Callable[[Any], None]]"] = weakref.WeakKeyDictionary()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
