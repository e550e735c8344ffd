"""Every error that natscron raises, as one tree.

::

    NatscronError
    ├── ConfigError                    an option, file or variable is wrong; says which source it came from
    │   └── ModeNotConfiguredError     a mode's dependency was not given
    ├── MalformedInputError            not readable as JSON, or of the wrong JSON type             (400)
    ├── ValidationError                readable, but a value breaks a rule                         (422)
    │   ├── InvalidScheduleError       a schedule that cannot be honoured
    │   │   ├── InvalidIntervalError           not a duration, zero, negative, or under the minimum
    │   │   ├── InvalidCronExpressionError     a field, a zone, or an expression that never matches
    │   │   ├── InvalidScheduleTimeError       an instant that is not one
    │   │   ├── UnknownCalendarError           it names a calendar that is not stored
    │   │   └── UnknownScheduleKindError       its class is not registered in this process
    │   ├── InvalidCalendarError       a calendar that cannot be read
    │   ├── InvalidSubjectError        reserved, wildcard, malformed or not allowed
    │   ├── EmptyJobIDError            a job without an id
    │   └── LimitExceededError         over a configured size or count                             (413)
    ├── JobNotFoundError               no job under that id                                        (404)
    ├── RunNotFoundError               no run under that id                                        (404)
    ├── CalendarNotFoundError          no calendar of that name                                    (404)
    ├── BackfillNotFoundError          no backfill under that id is going on                       (404)
    ├── CalendarInUseError             jobs refer to it, so it cannot be deleted                   (409)
    ├── JobAlreadyExistsError          create of an id that is taken                               (409)
    ├── WrongRevisionError             the row changed since the caller read it                    (409)
    ├── SchedulerNotStartedError       the scheduler has to be started for that
    ├── SchedulerAlreadyStartedError   it runs already
    ├── HandlerNotDefinedError         a scheduler that works was given nothing to call
    ├── StorageError                   the store did not do what it was asked
    │   ├── StorageNotInitializedError it was not initialized, or is closed: nothing happened
    │   ├── SchemaTooNewError          its tables need a later version of this code: nothing happened
    │   ├── StorageUnavailableError    it could not be reached: nothing happened                   (503)
    │   ├── StorageUncertainError      the answer is missing: it may have happened                 (503)
    │   └── MigrationError             of natscron.storage.migrate: it stopped half-way, and says how far it got
    ├── LeadershipLostError            the lease, its trust or its connection ended
    └── ServerTooOldError              the NATS server lacks a feature that was asked for

Each class says two things a caller has to know before trying again: ``may_have_happened`` (the action may have
taken effect although it failed) and ``retry_helps`` (the same call may succeed later).
"""

from typing import ClassVar

__all__ = [
    "BackfillNotFoundError",
    "CalendarInUseError",
    "CalendarNotFoundError",
    "ConfigError",
    "EmptyJobIDError",
    "HandlerNotDefinedError",
    "InvalidCalendarError",
    "InvalidCronExpressionError",
    "InvalidIntervalError",
    "InvalidScheduleError",
    "InvalidScheduleTimeError",
    "InvalidSubjectError",
    "JobAlreadyExistsError",
    "JobNotFoundError",
    "LeadershipLostError",
    "LimitExceededError",
    "MalformedInputError",
    "ModeNotConfiguredError",
    "NatscronError",
    "RunNotFoundError",
    "SchedulerAlreadyStartedError",
    "SchedulerNotStartedError",
    "SchemaTooNewError",
    "ServerTooOldError",
    "StorageError",
    "StorageNotInitializedError",
    "StorageUnavailableError",
    "StorageUncertainError",
    "UnknownCalendarError",
    "UnknownScheduleKindError",
    "ValidationError",
    "WrongRevisionError",
]


class NatscronError(Exception):
    """Root of the tree. ``code`` is the API's error code (an HTTP status), 500 where none fits better."""

    code: ClassVar[int] = 500
    may_have_happened: ClassVar[bool] = False
    retry_helps: ClassVar[bool] = False


class ConfigError(NatscronError):
    """An option is wrong. The text names the option, the value, the rule, and the source of the value."""


class ModeNotConfiguredError(ConfigError):
    """The configuration names a mode, and what that mode needs was not given."""


class MalformedInputError(NatscronError):
    """The input cannot be read: broken JSON, wrong JSON type, text that is not UTF-8."""

    code = 400


class ValidationError(NatscronError):
    """The input was read and a value in it breaks a rule."""

    code = 422


class InvalidScheduleError(ValidationError):
    """The schedule cannot be honoured."""


class InvalidIntervalError(InvalidScheduleError):
    """The interval is not a duration, is zero or negative, or is below the configured minimum."""


class InvalidCronExpressionError(InvalidScheduleError):
    """The expression is malformed, out of range, names an unknown zone, or can never match."""


class InvalidScheduleTimeError(InvalidScheduleError):
    """The instant is not RFC 3339 with an offset, or lies outside the years 1970 to 9999."""


class UnknownCalendarError(InvalidScheduleError):
    """The schedule refers to a calendar that is not stored."""


class UnknownScheduleKindError(InvalidScheduleError):
    """The schedule is of a kind that the application has not registered in this process."""


class InvalidCalendarError(ValidationError):
    """A calendar's name, date, window or iCalendar text cannot be read."""


class InvalidSubjectError(ValidationError):
    """The subject is malformed, a wildcard, reserved, or not allowed by configuration."""


class EmptyJobIDError(ValidationError):
    """A job's id is empty."""


class LimitExceededError(ValidationError):
    """A size or a count is over its configured limit."""

    code = 413


class JobNotFoundError(NatscronError):
    """There is no job under that id."""

    code = 404


class RunNotFoundError(NatscronError):
    """There is no run under that id, or its record has aged out."""

    code = 404


class CalendarNotFoundError(NatscronError):
    """There is no calendar of that name."""

    code = 404


class BackfillNotFoundError(NatscronError):
    """No backfill under that id is going on: there never was one, or it is over."""

    code = 404


class CalendarInUseError(NatscronError):
    """Jobs refer to the calendar: change these first."""

    code = 409


class JobAlreadyExistsError(NatscronError):
    """A job under that id exists already."""

    code = 409


class WrongRevisionError(NatscronError):
    """The row is not at the expected revision: read it again and decide anew."""

    code = 409


class SchedulerNotStartedError(NatscronError):
    """The call needs a scheduler that runs."""


class SchedulerAlreadyStartedError(NatscronError):
    """The scheduler runs already, or the call has to come before it is started."""


class HandlerNotDefinedError(NatscronError):
    """A scheduler that is to run jobs has no handler at all."""


class StorageError(NatscronError):
    """The store failed. See the subclasses for whether the write may have happened."""

    code = 503
    may_have_happened = True
    retry_helps = True


class StorageNotInitializedError(StorageError):
    """The storage was not initialized, or is closed."""

    may_have_happened = False
    retry_helps = False


class SchemaTooNewError(StorageError):
    """The tables were made by a later version, which says that this one cannot honour them."""

    may_have_happened = False
    retry_helps = False


class StorageUnavailableError(StorageError):
    """The store could not be reached, or refused: nothing was written."""

    may_have_happened = False


class StorageUncertainError(StorageError):
    """The store's answer did not arrive: the write may or may not have happened. Read before writing again."""


class LeadershipLostError(NatscronError):
    """The lease was refused, its trust ran out, or the leader's connection ended."""

    code = 503
    may_have_happened = True
    retry_helps = True


class ServerTooOldError(NatscronError):
    """The NATS server lacks the feature. The text names the version that is there and the one that is needed."""
