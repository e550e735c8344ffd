"""What happened: the record of a run, or of slots that were not run."""

import msgspec

from natscron.model.words import Delivery, Ms, RunStatus, Trigger

__all__ = ["Run"]


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
