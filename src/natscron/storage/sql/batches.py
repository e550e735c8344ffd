"""Writes that wait are done together: one transaction, one flush of the disk, each its own outcome.

One task works while anything waits; whoever comes meanwhile is in the next batch, so a batch is as large as the load
and nobody waits for others to come. A caller that is cancelled before its batch began is left out; later, its write
happens. At most :data:`WAITING_MAX` wait.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from natscron.errors import StorageError, StorageNotInitializedError, StorageUnavailableError, StorageUncertainError

__all__ = ["WAITING_MAX", "Batches"]

log = logging.getLogger("natscron.storage")

WAITING_MAX: Final = 10_000

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches(Generic[Item, Result]):
    """``work`` does a batch of at most ``limit`` items and returns for each its result, or the error it ends with."""

    def __init__(
        self, work: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]], *, limit: int, name: str
    ) -> None:
        self._work = work
        self._limit = limit
        self._name = name
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def do(self, item: Item) -> Result:
        """Have it done; its result. Raises its error, and StorageUnavailableError when too many wait."""
        if self._closed:
            raise StorageNotInitializedError("the storage is closed")
        if len(self._waiting) >= WAITING_MAX:
            raise StorageUnavailableError(f"{len(self._waiting)} writes wait already; try again later")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)
        return await future

    async def close(self) -> None:
        """Do what waits, and take nothing more."""
        self._closed = True
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch: list[tuple[Item, asyncio.Future[Result]]] = []
                while self._waiting and len(batch) < self._limit:
                    item, future = self._waiting.popleft()
                    if not future.done():
                        batch.append((item, future))
                if batch:
                    await self._do(batch)
        finally:
            self._task = None
            # Only a cancellation leaves any.
            while self._waiting:
                _settle(self._waiting.popleft()[1], StorageUnavailableError("the write was broken off before it began"))

    async def _do(self, batch: list[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        outcomes: Sequence[Result | Exception]
        try:
            outcomes = await self._work([item for item, _ in batch])
        except StorageError as error:
            # One of their own, since each is raised in a place of its own.
            outcomes = [_twin(error) for _ in batch]
        except Exception as error:
            log.exception("writing failed")
            outcomes = [StorageUncertainError(f"the write failed: {type(error).__name__}") for _ in batch]
        except BaseException:
            for _, future in batch:
                _settle(future, StorageUncertainError("the write was broken off"))
            raise
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            _settle(future, outcome)


def _settle(future: "asyncio.Future[Result]", outcome: Result | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _twin(error: StorageError) -> StorageError:
    twin = type(error)(*error.args)
    twin.__cause__ = error.__cause__
    return twin
