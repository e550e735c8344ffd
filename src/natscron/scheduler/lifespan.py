"""A scheduler that lives as long as an ASGI application does.

The application's own resources come first and go last, since handlers may use them. A scheduler that cannot start fails
the application's start; one that was started before is left running, and stopped at the end all the same.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from natscron.scheduler.scheduler import Scheduler

__all__ = ["Lifespan", "lifespan", "with_lifespan"]

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]
"""What Starlette and FastAPI take as ``lifespan=``: called with the application."""
_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
_App: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]


def lifespan(scheduler: Scheduler, inner: Lifespan | None = None) -> Lifespan:
    """``FastAPI(lifespan=lifespan(scheduler))``; ``inner``: the application's own lifespan, around the scheduler's."""

    @asynccontextmanager
    async def living(app: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - whatever framework's application it is
        if inner is None:
            async with _running(scheduler):
                yield None
        else:
            async with inner(app) as state, _running(scheduler):
                yield state

    return living


def with_lifespan(app: _App, scheduler: Scheduler) -> _App:
    """``app``, an ASGI application that has no lifespan of its own (Django's), with the scheduler's."""

    async def wrapped(scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        await receive()
        try:
            if not scheduler.is_running:
                await scheduler.start()
        except Exception as error:  # noqa: BLE001 - the server is told, and ends
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            await scheduler.stop()
        await send({"type": "lifespan.shutdown.complete"})

    return wrapped


@asynccontextmanager
async def _running(scheduler: Scheduler) -> AsyncIterator[None]:
    if not scheduler.is_running:
        await scheduler.start()
    try:
        yield
    finally:
        await scheduler.stop()
