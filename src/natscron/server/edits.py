"""Changes to stored jobs, each decided on the row that it replaces.

Who is authoritative: the store. A change is written over the revision that it was decided on. A caller that named no
revision has it decided again on the row as the store has it, at most five times; what raises StorageUncertainError may
have happened.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from natscron.codec import successor
from natscron.errors import JobNotFoundError, UnknownCalendarError, WrongRevisionError
from natscron.model import Job
from natscron.server.context import Context
from natscron.server.subjects import go_accepts

__all__ = ["TRIES", "Edits", "unknown"]

T = TypeVar("T")
TRIES: Final = 5


class Edits:
    """Writes over rows."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._engine = context.engine
        self._fresh = context.fresh

    async def edit(self, subject: str, expected: int | None, change: Callable[[Job], Job]) -> int:
        """Write ``change`` of the present row over it, provided that nobody else wrote meanwhile; its revision."""
        entry = self._engine.table.get(subject)
        old = entry.job if entry is not None else None
        # The table may be a moment behind; what it says is only believed where the store then confirms it.
        if old is None or (expected is not None and old.revision != expected):
            old = await self._store.fetch_job(subject)
        for attempt in range(TRIES):
            if old is None:
                raise unknown(subject)
            if expected is not None and old.revision != expected:
                raise WrongRevisionError(
                    f"job {subject!r} is at revision {old.revision}, and expected_revision is {expected}; "
                    "read it and decide again"
                )
            new = successor(old, change(old), self._engine.mark)
            try:
                return await self._store.put_job(new, old.revision)
            except WrongRevisionError:
                if attempt == TRIES - 1:
                    raise
            old = await self._store.fetch_job(subject)
        raise AssertionError("unreachable")

    async def knowing_calendars(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work``; if it does not know a calendar, do it once more when the table has all that was ever written.

        A calendar may have been put a moment ago, through another instance.
        """
        try:
            return await work()
        except UnknownCalendarError:
            await self._fresh.catch_up()
        return await work()


def unknown(subject: str) -> JobNotFoundError:
    """There is no such job, in the words that the Go version uses."""
    go = "nats: key not found" if go_accepts(subject) else "nats: invalid key"
    return JobNotFoundError(f"{go}: there is no job {subject[:200]!r}")
