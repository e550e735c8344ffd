"""What a handler is given."""

import datetime as dt
from collections.abc import Callable
from typing import Any, Final

import msgspec

from natscron.codec import unpacked
from natscron.model import Claim, Job, ScheduleSpec, Trigger

__all__ = ["JobEvent", "copied"]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)


class JobEvent:
    """One try of one run. Read-only; instants are aware datetimes in UTC.

    ``id`` and ``name``: the job's id. ``run_id``: the same in every try, and after a crash. ``attempt``: 1 for the
    first try.
    """

    __slots__ = ("_claim", "_job", "_snapshot", "_started_ms")

    def __init__(self, claim: Claim, job: Job, started_ms: int, snapshot: Callable[[Job], Any]) -> None:
        self._claim = claim
        self._job = job
        self._started_ms = started_ms
        self._snapshot = snapshot

    def __repr__(self) -> str:
        return f"JobEvent(id={self.id!r}, run_id={self.run_id!r}, attempt={self.attempt})"

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def name(self) -> str:
        """The job's id, under the name that the Go library gives it too."""
        return self._job.id

    @property
    def job(self) -> Any:  # noqa: ANN401 - natscron.Job, which a layer above this one makes
        """The job as it was when the run began, a :class:`natscron.Job`."""
        return self._snapshot(self._job)

    @property
    def metadata(self) -> dict[str, str]:
        """A copy of the job's metadata."""
        return dict(self._job.labels)

    @property
    def payload(self) -> Any:  # noqa: ANN401 - any JSON value
        """A copy of the run's own payload (of a trigger), else of the job's; None if there is none."""
        payload = self._claim.payload if self._claim.payload is not msgspec.UNSET else self._job.payload
        return None if payload is msgspec.UNSET else copied(unpacked(payload))

    @property
    def schedule(self) -> ScheduleSpec | None:
        """The job's schedule."""
        return self._job.schedule

    @property
    def run_id(self) -> str:
        """A ULID; of a scheduled run its time part is the slot."""
        return self._claim.run_id

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._claim.attempt

    @property
    def scheduled_at(self) -> dt.datetime:
        """The slot; of a trigger the instant at which it was asked for."""
        return _instant(self._claim.scheduled_at_ms)

    @property
    def started_at(self) -> dt.datetime:
        """When this try began."""
        return _instant(self._started_ms)

    @property
    def delay(self) -> dt.timedelta:
        """How much later than its due instant (the slot, and its jitter) this try began; never negative."""
        return max(self._started_ms - self._claim.due_ms, 0) * _MS

    @property
    def last_completed_at(self) -> dt.datetime | None:
        """When a run of this job last completed; None if none is known."""
        last = self._claim.last_completed_ms
        return None if last is None else _instant(last)

    @property
    def is_catch_up(self) -> bool:
        """Whether the run makes up for a slot that was missed."""
        return self._claim.trigger is Trigger.CATCHUP

    @property
    def trigger(self) -> Trigger:
        """Why the run exists: schedule, catchup, manual or backfill."""
        return self._claim.trigger


def copied(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON value that can be changed without anybody else seeing it."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def _instant(ms: int) -> dt.datetime:
    return _EPOCH + ms * _MS
