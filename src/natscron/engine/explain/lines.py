"""What an explanation is made of: lines with a word for programs and a text for people."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from natscron.engine.table import Entry
from natscron.model import Delivery, Mark, Ms, Run, RunStatus

__all__ = ["GOING", "RAN", "Asked", "Explanation", "Line", "What", "Why"]

RAN: Final = frozenset({RunStatus.SENT, RunStatus.STORED, RunStatus.COMPLETED})
GOING: Final = frozenset({RunStatus.PENDING, RunStatus.RUNNING})


class What(StrEnum):
    """What happened to a slot, or will. A public contract."""

    RAN = "ran"
    """It ran; ``status`` says how far that is known."""
    FAILED = "failed"
    """It ran and failed, for ``reason``."""
    GOING = "going"
    """It is on its way: sent without an answer yet, or to be tried again."""
    NOT_RUN = "not_run"
    """It was not run, for ``reason``."""
    UNDECIDED = "undecided"
    """Its instant has passed and no leader has decided about it yet."""
    NO_RECORD = "no_record"
    """It was decided, and the history does not say how."""
    CUT = "cut"
    """More than is shown; ``count`` says how much more, as far as that was counted."""
    WILL_RUN = "will_run"
    """It runs, if nothing changes."""
    WILL_NOT_RUN = "will_not_run"
    """It does not run, for ``reason``, if nothing changes."""
    END = "end"
    """No slot follows."""
    INVALID = "invalid"
    """The stored job cannot be honoured; it has no slots."""
    POLICY = "policy"
    """A policy in force; ``reason`` names it."""


class Why(StrEnum):
    """Reasons beside those that records have (:class:`~natscron.model.Reason`). A public contract."""

    EXCLUDED = "excluded"
    """A calendar or schedule under ``except`` takes it away; ``source`` names it."""
    BEFORE_JOB = "before_job"
    """The job did not exist yet."""
    BEFORE_SCHEDULE = "before_schedule"
    """The present schedule did not count yet: it was changed, or the job was resumed, later."""
    AGED_OUT = "aged_out"
    """Older than the oldest record that the history still has."""
    LOST = "lost"
    """Older and newer records are there, this one is not."""
    NOT_WRITTEN = "not_written"
    """So young that its record may still be on its way."""
    NOT_READ = "not_read"
    """There are more records than are read for one explanation."""
    WAITS = "waits"
    """It was due while the job's previous run was going, and goes out when that has ended."""
    AFTER_MARK = "after_mark"
    """Later than the mark: up to the leader, or to the next one and to the catch-up policy."""
    LAST = "last"
    """The last slot that the schedule has."""
    MAX_RUNS = "max_runs"
    """The schedule ends with the last of its ``max_runs`` slots."""
    NOT_AFTER = "not_after"
    """The schedule ends with ``not_after``."""
    ONCE = "once"
    """The schedule has one slot."""
    LIMIT = "limit"
    """More lines than one explanation has room for."""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One slot, one run, a range of slots (``from_ms`` and ``to_ms``, both inclusive, and ``count``), or one policy.

    ``local`` is ``at_ms`` on the clock of the schedule's zone. ``due_ms`` is set where jitter delays the slot. ``mark``
    is ``moved`` or ``repeated`` if a clock change did that to it. ``earlier``: of a schedule that was replaced since.
    ``if_going``: what the overlap policy makes of it if the run going on now has not ended by then.
    """

    what: What
    text: str
    reason: str = ""
    at_ms: Ms | None = None
    local: str = ""
    due_ms: Ms | None = None
    from_ms: Ms | None = None
    to_ms: Ms | None = None
    count: int | None = None
    mark: str = ""
    source: str = ""
    earlier: bool = False
    if_going: str = ""
    run: Run | None = None

    @property
    def when_ms(self) -> Ms:
        """What lines are sorted by."""
        return self.at_ms if self.at_ms is not None else self.from_ms or 0


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A job's past and future. ``past`` and ``future`` are in time order."""

    description: str
    zone: str
    past: tuple[Line, ...]
    future: tuple[Line, ...]
    policies: tuple[Line, ...]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be explained, and what is known about it.

    ``runs``: the job's records about slots in [since, until), in any order; of records with one run id the one with
    the highest attempt, and of these the last, counts. ``read_from_ms``: if not all records could be read, how far back
    they were. ``waiting``: slots that wait for the run before them to end. ``mark`` None: there never was a leader.
    ``keeps``: what the history keeps, in words.
    """

    entry: Entry
    runs: Sequence[Run] = ()
    since_ms: Ms
    until_ms: Ms
    now_ms: Ms
    mark: Mark | None = None
    count: int = 5
    read_from_ms: Ms | None = None
    waiting: frozenset[Ms] = frozenset()
    delivery: Delivery | None = None
    grace_floor_ms: Ms = 0
    keeps: str = "as many records of a job, and for as long, as [history] in its configuration says"
