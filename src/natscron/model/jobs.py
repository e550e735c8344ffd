"""What shall happen: a job and its policies."""

from typing import Any

import msgspec

from natscron.model.schedules import ScheduleSpec, Stamp, Version
from natscron.model.words import CatchUpPolicy, Delivery, Ms, Overlap

__all__ = ["DEFAULT_CATCHUP", "DEFAULT_RETRY", "DEFAULT_TIMEOUT_MS", "CatchUp", "Job", "Retry", "Skip"]


class CatchUp(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to slots missed: those younger than ``grace_ms`` all run; ``policy`` decides about older ones."""

    policy: CatchUpPolicy = CatchUpPolicy.LATEST
    window_ms: Ms = 24 * 3_600_000
    limit: int = 100
    grace_ms: Ms = 10_000


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """``attempts`` counts every try, the first included; the n-th wait is backoff x factor^(n-1), at most the cap.

    ``only`` (empty: all) and ``never`` name errors: a reason (``timeout``), or the worker's own error code or exception
    name, with a last ``*`` for any ending (``5*``). ``never`` wins.
    """

    attempts: int = 1
    backoff_ms: Ms = 1_000
    factor: float = 2.0
    max_backoff_ms: Ms = 300_000
    jitter: float = 0.1
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


class Skip(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Slots later than ``from_ms``, up to and including ``until_ms``, are left out: the user said so."""

    from_ms: Ms
    until_ms: Ms


DEFAULT_CATCHUP = CatchUp()


DEFAULT_RETRY = Retry()


DEFAULT_TIMEOUT_MS: Ms = 30_000


class Job(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What shall happen: an id, a schedule, a target, and policies. NATS Cron's job id is its subject.

    The fields below ``invalid`` are the store's: ``generation`` (sequence of the creating write, 0 for rows of the Go
    version), ``revision`` (sequence of this row), ``created_at_ms``, ``updated_at_ms``, ``anchor_ms`` (what intervals
    count from), ``counts_from`` (the write that last changed the schedule or paused it) and ``previous`` (schedules
    before that one, oldest first, until the mark has passed them).

    The garbage collector looks at none of them: nothing that JSON can say leads back to its job, and there may be a
    million.
    """

    id: str
    schedule: ScheduleSpec | None = None
    payload: Any = msgspec.UNSET
    """The JSON value as given; :func:`natscron.codec.body_of` turns it into bytes. UNSET: none given. Jobs of the table
    may have it as text: :func:`natscron.codec.unpacked` gives the value of either."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    delivery: Delivery = Delivery.AUTO
    catchup: CatchUp = DEFAULT_CATCHUP
    overlap: Overlap = Overlap.ALLOW
    timeout_ms: Ms | None = None
    retry: Retry = DEFAULT_RETRY
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    paused: bool = False
    paused_until_ms: Ms | None = None
    """With ``paused``: from this instant on the schedule goes on by itself."""
    note: str = ""
    priority: int = 0
    """Of runs due at one instant the higher goes first; -100 to 100."""
    reports: bool = False
    """The job's workers tell how a run ended (``runs.report``), so a run lasts until then, or until its timeout."""
    pause_after_failures: int = 0
    """After so many failed runs in a row the job is paused; 0: never."""
    skip: Skip | None = None
    handler: str = ""
    """The library: the name of the handler that runs it; "" is the scheduler's global one."""
    concurrency: int = 0
    """The library: how many of its runs may go at once, over all processes; 0: one, or any number where the overlap
    policy is ALLOW."""
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    """Unknown fields, kept in the row."""
    old_format: bool = False
    """The row was written in the older form with ``target`` and is written back in it."""
    invalid: str | None = None
    """Why the row cannot be honoured; such a job is listed and never fires."""
    newer: bool = False
    """The row needs a later version of this code: an instance that sees it must not lead."""

    generation: int = 0
    revision: int = 0
    created_at_ms: Ms = 0
    updated_at_ms: Ms = 0
    anchor_ms: Ms = 0
    counts_from: Stamp = Stamp()
    previous: tuple[Version, ...] = ()
