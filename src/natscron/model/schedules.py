"""When: schedules and calendars as data."""

import msgspec

from natscron.model.words import Ms

__all__ = [
    "SERVER_LAG_MS",
    "Calendar",
    "CalendarSpec",
    "CalendarVersion",
    "ScheduleSpec",
    "Solar",
    "Stamp",
    "Version",
    "Weekly",
]


SERVER_LAG_MS: Ms = 3_000
"""How far behind nats-server's timer the leader goes through the same slots, and runs those that were not fired."""


class Solar(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A daily event of the sun at a place.

    ``event``: ``dawn | sunrise | noon | sunset | dusk`` (dawn and dusk are civil). ``latitude`` -90 to 90 and
    ``longitude`` -180 to 180, in degrees, north and east positive. ``offset``: duration text, before the event if it
    begins with ``-``; at most 12 hours either way.
    """

    event: str
    latitude: float
    longitude: float
    offset: str | None = None


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """A schedule as data. Compiled by :mod:`natscron.schedule`.

    Exactly one of: ``every``, Go duration text; ``cron``, five or six fields, an alias, or either behind
    ``CRON_TZ=Zone ``; ``at``, an RFC 3339 instant with an offset (``in 5m`` is resolved when the job is saved);
    ``rrule``, an RFC 5545 recurrence rule; ``solar``; ``any``, the union of several; ``kind`` with ``config``, a class
    that the application registered; ``calendar``, the name of a stored calendar, within ``except`` only.

    ``tz`` is an IANA zone (default UTC). ``start_at`` anchors an interval and begins an rrule (default: the job's
    creation). ``run_at_start`` adds one slot at creation. ``dst_gap`` is ``run_after | skip | shift`` and ``dst_fold``
    ``first | last | both``; None means by class. ``except`` takes away the slots of these schedules and those that fall
    into these calendars; ``any`` and ``except`` have 1 to 8 entries each. ``not_before`` and ``not_after`` are
    instants, both inclusive. ``max_runs`` counts slots from the saving on; ``last_slot`` is what it came to, worked out
    when the schedule is saved. ``jitter`` is the longest delay that is added to a slot. ``timer`` is ``server`` if
    nats-server times the slots, see :class:`natscron.model.Timer`; None: the leader does.
    """

    every: str | None = None
    cron: str | None = None
    at: str | None = None
    tz: str | None = None
    start_at: str | None = None
    run_at_start: bool = False
    dst_gap: str | None = None
    dst_fold: str | None = None
    rrule: str | None = None
    solar: Solar | None = None
    any: tuple["ScheduleSpec", ...] = ()
    kind: str | None = None
    config: str | None = None
    calendar: str | None = None
    except_: tuple["ScheduleSpec", ...] = msgspec.field(name="except", default=())
    not_before: str | None = None
    not_after: str | None = None
    max_runs: int | None = None
    last_slot: str | None = None
    jitter: str | None = None
    timer: str | None = None


class Weekly(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A window of every week: ``days`` as in cron (``SAT,SUN``, ``MON-FRI``, ``*``), ``start`` inclusive, ``end`` not.

    Both ``HH:MM``; ``end`` may be ``24:00``, and one before ``start`` lies on the next day.
    """

    days: str = "*"
    start: str = "00:00"
    end: str = "24:00"


class CalendarSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Times at which jobs that refer to it do not run.

    ``dates``: ``2026-12-25``, ``2026-12-24/2027-01-01`` (both inclusive) or ``12-25`` (every year). ``weekly``:
    windows. ``ical``: the text of an iCalendar file, whose events count. ``tz``: the zone of all of them (default UTC;
    events that name a zone keep theirs).
    """

    dates: tuple[str, ...] = ()
    weekly: tuple[Weekly, ...] = ()
    ical: str | None = None
    tz: str | None = None
    note: str = ""


class Stamp(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """The store's own (timestamp, sequence) of one write: one clock for all writers."""

    at_ms: Ms = 0
    seq: int = 0


class Version(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An earlier schedule of a job, in force from ``since`` until the next version's; None while it was paused."""

    schedule: ScheduleSpec | None = None
    since: Stamp = Stamp()


class CalendarVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An earlier content of a calendar, in force from ``since`` until the next version's."""

    spec: CalendarSpec
    since: Stamp = Stamp()


class Calendar(msgspec.Struct, frozen=True, kw_only=True):
    """A named calendar, stored beside the jobs. A write to it is a schedule change of the jobs that refer to it.

    The fields below ``newer`` are the store's, as those of :class:`Job`.
    """

    name: str
    spec: CalendarSpec = CalendarSpec()
    invalid: str | None = None
    newer: bool = False

    revision: int = 0
    updated_at_ms: Ms = 0
    counts_from: Stamp = Stamp()
    previous: tuple[CalendarVersion, ...] = ()
