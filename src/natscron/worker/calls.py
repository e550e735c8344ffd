"""Calls one handler once: with its timeout, in a thread if it is not async, and what it gave or raised as text."""

import asyncio
import contextvars
import inspect
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

import msgspec

from natscron.model import Ms, Reason
from natscron.worker.event import JobEvent
from natscron.worker.registry import Handler

__all__ = ["CURRENT", "ERROR_MAX", "RESULT_MAX", "Call", "Called", "call"]

CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar("natscron_job", default="")
"""The id of the job whose handler runs in this context; "" outside of handlers."""

RESULT_MAX: Final = 8_192
"""Characters of a result's JSON that are stored."""
ERROR_MAX: Final = 16_384
"""Characters of an error with its traceback that are stored: the first part and the last."""
_HEAD: Final = 4_096
_GAP: Final = 64
"""Room for the line that tells how much was left out."""


class Called(msgspec.Struct, frozen=True):
    """What came of it. ``reason`` None: it returned. ``interrupted``: it was cancelled from outside.

    ``code``: the name of the exception's class, which a retry policy may name.
    """

    reason: str | None = None
    error: str | None = None
    code: str | None = None
    result: str | None = None
    interrupted: bool = False


class Call:
    """A call in a thread, which goes on whatever its caller does."""

    def __init__(self) -> None:
        self._future: asyncio.Future[Any] | None = None

    @property
    def threaded(self) -> bool:
        """Whether the thread is going."""
        return self._future is not None and not self._future.done()

    def began(self, future: "asyncio.Future[Any]") -> None:
        """The thread was given the handler."""
        self._future = future

    async def over(self) -> None:
        """Wait until the thread has ended."""
        while self.threaded and self._future is not None:
            await asyncio.wait([self._future])


async def call(
    handler: Handler,
    event: JobEvent,
    *,
    timeout_ms: Ms | None,
    threaded: Call | None,
    pool: Callable[[], Executor],
) -> Called:
    """Run the handler; what it raises does not come out. ``threaded``: it is not async.

    Only KeyboardInterrupt of an async handler does: it is meant for the whole program.
    """
    timer = asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000)
    try:
        async with timer:
            if threaded is None:
                value = await handler(event)
            else:
                value, error = await _in_thread(handler, event, threaded, pool)
                if error is not None:
                    return _raised(error)
                if inspect.isawaitable(value):
                    value = await value
        return Called(result=_result(value))
    except asyncio.CancelledError:
        return Called(reason=Reason.CANCELLED, interrupted=True)
    except TimeoutError as error:
        if timer.expired():
            return Called(
                reason=Reason.TIMEOUT, error=f"the handler did not end within {timeout_ms} ms", code="timeout"
            )
        return _raised(error)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its run's end, not ours
        return _raised(error)


async def _in_thread(
    handler: Handler, event: JobEvent, threaded: Call, pool: Callable[[], Executor]
) -> tuple[Any, BaseException | None]:
    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(pool(), context.run, _guarded, handler, event)
    threaded.began(future)
    # Shielded: a cancelled wait must not mark the thread as over.
    return await asyncio.shield(future)


def _guarded(handler: Handler, event: JobEvent) -> tuple[Any, BaseException | None]:
    """What the handler gave, or raised: a future cannot carry everything, StopIteration for one."""
    try:
        return handler(event), None
    except BaseException as error:  # noqa: BLE001 - see above
        return None, error


def _raised(error: BaseException) -> Called:
    return Called(reason=Reason.HANDLER_ERROR, error=_told(error), code=type(error).__name__)


def _told(error: BaseException) -> str:
    """The exception with its traceback, without our own frames, cut in the middle."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") == __name__:
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    except Exception:  # noqa: BLE001 - an exception whose text cannot be made is still told
        text = type(error).__name__
    # No store takes halves of surrogate pairs, and some no NUL.
    text = text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()
    if len(text) > ERROR_MAX:
        tail = text[_HEAD + _GAP - ERROR_MAX :]
        text = f"{text[:_HEAD]}\n... {len(text) - _HEAD - len(tail)} characters left out ...\n{tail}"
    return text


def _result(value: Any) -> str | None:  # noqa: ANN401 - whatever a handler returns
    """The value as JSON, None for None; cut off at :data:`RESULT_MAX`. What JSON cannot say is told by its ``repr``."""
    if value is None:
        return None
    try:
        text = msgspec.json.encode(value, enc_hook=repr).decode()
    except Exception:  # noqa: BLE001 - what a handler returns must not turn its run into a failure
        text = msgspec.json.encode(f"<{type(value).__name__}>").decode()
    return text if len(text) <= RESULT_MAX else text[: RESULT_MAX - 3] + "..."
