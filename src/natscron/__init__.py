"""A distributed, highly available job scheduler on NATS JetStream, and a scheduler library for Python programs.

This is the public door: what is named here stays; anything else may change. The names are loaded when they are first
asked for, so that the command line, and a program that needs one of them, do not pay for all.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from natscron.errors import (
        BackfillNotFoundError,
        CalendarInUseError,
        CalendarNotFoundError,
        ConfigError,
        EmptyJobIDError,
        HandlerNotDefinedError,
        InvalidCalendarError,
        InvalidCronExpressionError,
        InvalidIntervalError,
        InvalidScheduleError,
        InvalidScheduleTimeError,
        InvalidSubjectError,
        JobAlreadyExistsError,
        JobNotFoundError,
        LeadershipLostError,
        LimitExceededError,
        MalformedInputError,
        ModeNotConfiguredError,
        NatscronError,
        RunNotFoundError,
        SchedulerAlreadyStartedError,
        SchedulerNotStartedError,
        SchemaTooNewError,
        ServerTooOldError,
        StorageError,
        StorageNotInitializedError,
        StorageUnavailableError,
        StorageUncertainError,
        UnknownCalendarError,
        UnknownScheduleKindError,
        ValidationError,
        WrongRevisionError,
    )
    from natscron.messages import (
        MessageScheduler,
    )
    from natscron.model import (
        CatchUp,
        CatchUpPolicy,
        Overlap,
        Retry,
        Run,
        RunStatus,
        ScheduleSpec,
        Trigger,
    )
    from natscron.schedule import (
        CronSpec,
        Schedule,
        UserSchedule,
        cron,
        daily_at,
        every,
        next_slots,
        once,
        register_schedule,
        union,
    )
    from natscron.scheduler import (
        Job,
        JobStatus,
        Problem,
        Scheduler,
    )
    from natscron.scheduler.lifespan import (
        lifespan,
        with_lifespan,
    )
    from natscron.storage.memory import (
        MemoryStorage,
    )
    from natscron.storage.migrate import (
        MigrateProgress,
        MigrateResult,
        MigrationError,
        migrate_storage,
    )
    from natscron.storage.nats import (
        NATSStorage,
    )
    from natscron.storage.sql import (
        SQLStorage,
    )
    from natscron.worker.event import (
        JobEvent,
    )

__all__ = [
    "BackfillNotFoundError",
    "CalendarInUseError",
    "CalendarNotFoundError",
    "CatchUp",
    "CatchUpPolicy",
    "ConfigError",
    "CronSpec",
    "EmptyJobIDError",
    "HandlerNotDefinedError",
    "InvalidCalendarError",
    "InvalidCronExpressionError",
    "InvalidIntervalError",
    "InvalidScheduleError",
    "InvalidScheduleTimeError",
    "InvalidSubjectError",
    "Job",
    "JobAlreadyExistsError",
    "JobEvent",
    "JobNotFoundError",
    "JobStatus",
    "LeadershipLostError",
    "LimitExceededError",
    "MalformedInputError",
    "MemoryStorage",
    "MessageScheduler",
    "MigrateProgress",
    "MigrateResult",
    "MigrationError",
    "ModeNotConfiguredError",
    "NATSStorage",
    "NatscronError",
    "Overlap",
    "Problem",
    "Retry",
    "Run",
    "RunNotFoundError",
    "RunStatus",
    "SQLStorage",
    "Schedule",
    "ScheduleSpec",
    "Scheduler",
    "SchedulerAlreadyStartedError",
    "SchedulerNotStartedError",
    "SchemaTooNewError",
    "ServerTooOldError",
    "StorageError",
    "StorageNotInitializedError",
    "StorageUnavailableError",
    "StorageUncertainError",
    "Trigger",
    "UnknownCalendarError",
    "UnknownScheduleKindError",
    "UserSchedule",
    "ValidationError",
    "WrongRevisionError",
    "cron",
    "daily_at",
    "every",
    "lifespan",
    "migrate_storage",
    "next_slots",
    "once",
    "register_schedule",
    "union",
    "with_lifespan",
]

__version__ = "0.1.0"

_HOMES: Final = {
    "BackfillNotFoundError": "natscron.errors",
    "CalendarInUseError": "natscron.errors",
    "CalendarNotFoundError": "natscron.errors",
    "ConfigError": "natscron.errors",
    "EmptyJobIDError": "natscron.errors",
    "HandlerNotDefinedError": "natscron.errors",
    "InvalidCalendarError": "natscron.errors",
    "InvalidCronExpressionError": "natscron.errors",
    "InvalidIntervalError": "natscron.errors",
    "InvalidScheduleError": "natscron.errors",
    "InvalidScheduleTimeError": "natscron.errors",
    "InvalidSubjectError": "natscron.errors",
    "JobAlreadyExistsError": "natscron.errors",
    "JobNotFoundError": "natscron.errors",
    "LeadershipLostError": "natscron.errors",
    "LimitExceededError": "natscron.errors",
    "MalformedInputError": "natscron.errors",
    "ModeNotConfiguredError": "natscron.errors",
    "NatscronError": "natscron.errors",
    "RunNotFoundError": "natscron.errors",
    "SchedulerAlreadyStartedError": "natscron.errors",
    "SchedulerNotStartedError": "natscron.errors",
    "SchemaTooNewError": "natscron.errors",
    "ServerTooOldError": "natscron.errors",
    "StorageError": "natscron.errors",
    "StorageNotInitializedError": "natscron.errors",
    "StorageUnavailableError": "natscron.errors",
    "StorageUncertainError": "natscron.errors",
    "UnknownCalendarError": "natscron.errors",
    "UnknownScheduleKindError": "natscron.errors",
    "ValidationError": "natscron.errors",
    "WrongRevisionError": "natscron.errors",
    "MessageScheduler": "natscron.messages",
    "CatchUp": "natscron.model",
    "CatchUpPolicy": "natscron.model",
    "Overlap": "natscron.model",
    "Retry": "natscron.model",
    "Run": "natscron.model",
    "RunStatus": "natscron.model",
    "ScheduleSpec": "natscron.model",
    "Trigger": "natscron.model",
    "CronSpec": "natscron.schedule",
    "Schedule": "natscron.schedule",
    "UserSchedule": "natscron.schedule",
    "cron": "natscron.schedule",
    "daily_at": "natscron.schedule",
    "every": "natscron.schedule",
    "next_slots": "natscron.schedule",
    "once": "natscron.schedule",
    "register_schedule": "natscron.schedule",
    "union": "natscron.schedule",
    "Job": "natscron.scheduler",
    "JobStatus": "natscron.scheduler",
    "Problem": "natscron.scheduler",
    "Scheduler": "natscron.scheduler",
    "lifespan": "natscron.scheduler.lifespan",
    "with_lifespan": "natscron.scheduler.lifespan",
    "MemoryStorage": "natscron.storage.memory",
    "MigrateProgress": "natscron.storage.migrate",
    "MigrateResult": "natscron.storage.migrate",
    "MigrationError": "natscron.storage.migrate",
    "migrate_storage": "natscron.storage.migrate",
    "NATSStorage": "natscron.storage.nats",
    "SQLStorage": "natscron.storage.sql",
    "JobEvent": "natscron.worker.event",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's names are of any type
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(home), name)
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
