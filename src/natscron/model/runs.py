"""What happened: the record of a run, or of slots that were not run."""

import datetime as dt
from typing import Final

import msgspec

from natscron.model.words import Delivery, Ms, RunStatus, Trigger

__all__ = ["Run"]


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run's record, as the API, the CLI, the log stream and the library show it.

    A range record stands for many slots that were not run: it has ``from_ms``, ``to_ms`` (both inclusive) and
    ``count`` instead of ``run_id`` and ``scheduled_at_ms``.
    """

    job: str
    status: RunStatus
    run_id: str | None = None
    scheduled_at_ms: Ms | None = None
    started_at_ms: Ms | None = None
    finished_at_ms: Ms | None = None
    reason: str | None = None
    attempt: int = 1
    trigger: Trigger = Trigger.SCHEDULE
    delivery: Delivery | None = None
    lateness_ms: Ms | None = None
    duration_ms: Ms | None = None
    instance: str = ""
    error: str | None = None
    result: str | None = None
    from_ms: Ms | None = None
    to_ms: Ms | None = None
    count: int | None = None

    @property
    def scheduled_at(self) -> dt.datetime | None:
        """The slot as an aware datetime in UTC; of a trigger when it was asked for."""
        return _moment(self.scheduled_at_ms)

    @property
    def started_at(self) -> dt.datetime | None:
        """When the try began; None if it did not."""
        return _moment(self.started_at_ms)

    @property
    def finished_at(self) -> dt.datetime | None:
        """When the try ended; None if it did not."""
        return _moment(self.finished_at_ms)

    @property
    def duration(self) -> dt.timedelta | None:
        """How long the try took; None if it is not over, or never began."""
        return None if self.duration_ms is None else self.duration_ms * _MS


def _moment(ms: Ms | None) -> dt.datetime | None:
    return None if ms is None else _EPOCH + ms * _MS
