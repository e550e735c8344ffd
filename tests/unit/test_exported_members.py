"""The public door: what is named there stays, and every list of it says the same."""

import ast
import importlib
from pathlib import Path

import natscron

PUBLIC = [
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


def homes_for_type_checkers() -> dict[str, str]:
    """What the door imports where only type checkers look: names and the modules they come from."""
    tree = ast.parse(Path(natscron.__file__).read_text())
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for one in node.body:
                assert isinstance(one, ast.ImportFrom)
                assert one.module is not None
                found |= {alias.asname or alias.name: one.module for alias in one.names}
    return found


def test_the_public_names_are_these() -> None:
    assert natscron.__all__ == PUBLIC
    assert sorted(set(PUBLIC)) == PUBLIC


def test_each_public_name_is_there_and_comes_from_where_type_checkers_see_it() -> None:
    homes = homes_for_type_checkers()
    assert sorted(homes) == PUBLIC
    for name, home in homes.items():
        assert getattr(natscron, name) is getattr(importlib.import_module(home), name), name
    assert set(PUBLIC) <= set(dir(natscron))


def test_every_error_is_public() -> None:
    errors = importlib.import_module("natscron.errors")
    assert set(errors.__all__) <= set(PUBLIC)


def test_the_twin_has_a_door_of_its_own() -> None:
    sync = importlib.import_module("natscron.sync")
    assert sync.__all__ == ["Scheduler"]
    assert sync.Scheduler.__module__.startswith("natscron.sync")
