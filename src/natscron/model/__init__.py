"""The vocabulary: frozen records and enums that every layer shares. No behaviour beyond derivation, no I/O.

Instants are ``int`` milliseconds since 1970 UTC (``*_ms`` or the alias :data:`Ms`); durations are ``int`` milliseconds
too. Text forms (RFC 3339, ``30s``) exist at the edges only, in :mod:`natscron.codec`.
"""

from natscron.model.jobs import DEFAULT_CATCHUP, DEFAULT_RETRY, DEFAULT_TIMEOUT_MS, CatchUp, Job, Retry, Skip
from natscron.model.queue import Activity, Claim, Claimed, Ending, QueuedRun, WorkerInfo
from natscron.model.runs import Run
from natscron.model.schedules import (
    SERVER_LAG_MS,
    Calendar,
    CalendarSpec,
    CalendarVersion,
    ScheduleSpec,
    Solar,
    Stamp,
    Version,
    Weekly,
)
from natscron.model.state import Backfill, Holder, Lease, LeaseRecord, Mark, Node, Note, NoteRef, OpenRow, Report
from natscron.model.words import (
    ANSWERED,
    SERVICE_JOB,
    CatchUpPolicy,
    Delivery,
    JobState,
    Ms,
    OpenState,
    Overlap,
    Reason,
    RunStatus,
    Timer,
    Trigger,
)

__all__ = [
    "ANSWERED",
    "DEFAULT_CATCHUP",
    "DEFAULT_RETRY",
    "DEFAULT_TIMEOUT_MS",
    "SERVER_LAG_MS",
    "SERVICE_JOB",
    "Activity",
    "Backfill",
    "Calendar",
    "CalendarSpec",
    "CalendarVersion",
    "CatchUp",
    "CatchUpPolicy",
    "Claim",
    "Claimed",
    "Delivery",
    "Ending",
    "Holder",
    "Job",
    "JobState",
    "Lease",
    "LeaseRecord",
    "Mark",
    "Ms",
    "Node",
    "Note",
    "NoteRef",
    "OpenRow",
    "OpenState",
    "Overlap",
    "QueuedRun",
    "Reason",
    "Report",
    "Retry",
    "Run",
    "RunStatus",
    "ScheduleSpec",
    "Skip",
    "Solar",
    "Stamp",
    "Timer",
    "Trigger",
    "Version",
    "Weekly",
    "WorkerInfo",
]
