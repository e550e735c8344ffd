"""The asynchronous scheduler inside of a synchronous one."""

import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from natscron.errors import NatscronError
from natscron.model import Job as Row
from natscron.model import ScheduleSpec
from natscron.scheduler import Policies
from natscron.scheduler import Scheduler as AsyncScheduler
from natscron.scheduler.submitting import Insert, insert_of

__all__ = ["Inside", "driven"]

T = TypeVar("T")


def driven(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing; no loop is needed for it."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        coroutine.close()
    raise RuntimeError("this call waits for something, and there is no loop in which it could")


class Inside(AsyncScheduler):
    """What the synchronous scheduler asks of the asynchronous one besides what everybody may."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it goes on: it was not started, or its stop is done."""
        return self._ended.is_set()

    @property
    def stop_timeout_s(self) -> float:
        """How long a stop lets handlers go on, if it is not told."""
        return self._options.stop_timeout_ms / 1000

    def cut(self) -> None:
        """End the patience of a stop that goes on."""
        self._cut()

    async def over(self) -> None:
        """Wait until :attr:`is_over`."""
        await self._ended.wait()

    async def close_storage(self) -> None:
        """Close the storage, whoever made it: it was opened in a loop that is about to end."""
        with contextlib.suppress(NatscronError):
            await self._storage.close()

    def insert(self) -> Insert:
        """What inserts a job over a connection. Raises ValidationError."""
        return insert_of(self._storage)

    async def row(self, identity: str, schedule: ScheduleSpec, policies: Policies) -> Row:
        """A job as it is stored, checked."""
        return await self._admitted(self._new_job(identity, schedule, policies))
