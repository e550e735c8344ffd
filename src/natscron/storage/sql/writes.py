"""What writes to jobs and calendars do, decided in memory: pure.

A batch of writes is decided in its order against the rows that are there, under the lock of their counter, so nothing
moves meanwhile. Each write that goes through takes a number; what is refused takes none. Of several writes to one row
only the last is written, each with its own number, and each deletion leaves its mark for whoever follows.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from natscron.errors import CalendarNotFoundError, JobAlreadyExistsError, JobNotFoundError, WrongRevisionError
from natscron.model import Ms

__all__ = ["Kind", "Plan", "Write", "plan"]


class Kind(StrEnum):
    """What a row is; the word stands in ``scheduler_removed`` too."""

    JOB = "job"
    CALENDAR = "calendar"


Values = Callable[[Ms], dict[str, Any]]
"""A row's columns, for the database's time of the write."""


class Write(msgspec.Struct, frozen=True, eq=False):
    """One write. ``values`` None: delete. ``expected``: the revision, 0 for none, None for any; ``create``: as 0."""

    kind: Kind
    id: str
    values: Values | None
    expected: int | None = None
    create: bool = False


class Plan:
    """What a batch comes to."""

    def __init__(self, number: int) -> None:
        self.number = number
        """The counter after it."""
        self.outcomes: list[int | Exception] = []
        self.inserts: dict[tuple[Kind, str], dict[str, Any]] = {}
        self.updates: dict[tuple[Kind, str], dict[str, Any]] = {}
        self.deletes: set[tuple[Kind, str]] = set()
        self.removed: list[dict[str, Any]] = []
        """Rows of ``scheduler_removed``."""


_WHAT: Final = {Kind.JOB: "job", Kind.CALENDAR: "calendar"}


def plan(writes: Iterable[Write], there: Mapping[tuple[Kind, str], int], number: int, now_ms: Ms) -> Plan:
    """Decide ``writes`` upon the rows that are ``there``, by their revisions; ``number``: the counter before."""
    result = Plan(number)
    revisions = dict(there)
    for write in writes:
        key = (write.kind, write.id)
        error = _refusal(write, revisions.get(key, 0))
        if error is not None:
            result.outcomes.append(error)
            continue
        result.number += 1
        result.inserts.pop(key, None)
        result.updates.pop(key, None)
        result.deletes.discard(key)
        if write.values is None:
            revisions.pop(key)
            result.removed.append(
                {"revision": result.number, "kind": write.kind.value, "id": write.id, "stored_ms": now_ms}
            )
            if key in there:
                result.deletes.add(key)
        else:
            revisions[key] = result.number
            into = result.updates if key in there else result.inserts
            into[key] = {**write.values(now_ms), "revision": result.number}
        result.outcomes.append(result.number)
    return result


def _refusal(write: Write, current: int) -> Exception | None:
    what = f"{_WHAT[write.kind]} {write.id!r}"
    if write.create and current:
        return JobAlreadyExistsError(f"job with subject {write.id} already exists")
    if write.values is None and not current:
        kind = JobNotFoundError if write.kind is Kind.JOB else CalendarNotFoundError
        return kind(f"{what} not found")
    if write.expected is not None and write.expected != current:
        return WrongRevisionError(f"{what} is at revision {current}, not {write.expected}: read it again")
    return None
