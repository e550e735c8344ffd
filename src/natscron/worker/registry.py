"""Handlers by name."""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from natscron.errors import ValidationError
from natscron.worker.event import JobEvent

__all__ = ["GLOBAL", "Handler", "Registry", "check_name", "is_async"]

Handler: TypeAlias = Callable[[JobEvent], Awaitable[Any]] | Callable[[JobEvent], Any]

GLOBAL: Final = ""
"""The name of the handler of jobs that name none."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]+")
_MAX_NAME: Final = 255


def check_name(name: str) -> str:
    """A handler's name: 1 to 255 letters, digits and ``_ . : / -``. Raises ValidationError."""
    if not isinstance(name, str) or len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise ValidationError(
            f"handler name {name!r:.80} must be 1 to {_MAX_NAME} letters, digits and _ . : / -; choose another name"
        )
    return name


def is_async(handler: Handler) -> bool:
    """Whether calling it gives an awaitable: a coroutine function, or an object whose ``__call__`` is one."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        inspect.getattr_static(type(handler), "__call__", None)
    )


def _takes_event(handler: Handler) -> bool:
    """Whether it can be called with one argument, as far as can be seen."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return True  # one written in C may not say
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


class Registry:
    """What this process can run. Not thread-safe."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] | None = None
        """Called when a handler was registered."""
        self.takes_global = False
        """Runs for the global handler are taken without one too, and fail then with that reason."""
        self._handlers: dict[str, tuple[Handler, bool]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All names whose runs are taken, "" for the global handler."""
        if self.takes_global and GLOBAL not in self._handlers:
            return (GLOBAL, *self._handlers)
        return tuple(self._handlers)

    def set(self, name: str, handler: Handler) -> None:
        """Register a handler, in place of one of that name. Raises ValidationError for what cannot be called so."""
        if not callable(handler) or not _takes_event(handler):
            given = getattr(handler, "__qualname__", None) or repr(handler)
            raise ValidationError(
                f"a handler must be a function of one argument, the event, as in def work(event); got {given:.80}"
            )
        self._handlers[name] = (handler, is_async(handler))
        if self.on_change is not None:
            self.on_change()

    def find(self, name: str) -> tuple[Handler, bool] | None:
        """The handler and whether it is async; None if there is none of that name."""
        return self._handlers.get(name)

    def __len__(self) -> int:
        return len(self._handlers)
