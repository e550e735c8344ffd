"""How much work a composite schedule may be: what its parts cost is added up before anything is searched.

A unit is about a microsecond of a slow processor, a price what one search or one question costs at worst, so that a
search that stays within :data:`UNITS` takes about a millisecond once the zones are read. Jitter searches three times.
What reading the zones and the parts costs is bounded by how many there may be.
"""

from typing import Final

from natscron.codec.spec import MAX_MEMBERS
from natscron.errors import InvalidScheduleError
from natscron.model import ScheduleSpec
from natscron.schedule.base import Schedule
from natscron.schedule.cron import CronSchedule, ZonedCronSchedule
from natscron.schedule.days import day_set
from natscron.schedule.interval import IntervalSchedule
from natscron.schedule.once import OnceSchedule
from natscron.schedule.plain import MAX_EXPRESSION, UTC_NAMES, zone_of
from natscron.schedule.solar import SolarSchedule

__all__ = [
    "MAX_HEAVY",
    "MAX_MEMBERS",
    "MAX_TEXT",
    "MAX_ZONES",
    "UNITS",
    "Meter",
    "check_affordable",
    "check_parts",
    "price_of_question",
    "price_of_search",
]

MAX_ZONES: Final = 3
"""Different zones that the parts of one schedule follow, UTC left aside."""
MAX_HEAVY: Final = 3
"""Parts of one schedule that are rules, events of the sun or of the application's own kinds."""
MAX_TEXT: Final = MAX_EXPRESSION
"""Characters of all the expressions and rules of a composite together."""
UNITS: Final = 700
"""What one search of a whole schedule may cost."""


class Meter:
    """Units that may be used by many searches together."""

    __slots__ = ("left",)

    def __init__(self, units: int) -> None:
        self.left = units


def price_of_search(schedule: Schedule) -> int:
    """What a search of a member costs at worst."""
    if isinstance(schedule, CronSchedule):
        if not day_set(schedule.pattern.days).yearly:
            # Up to 50 years of months, and then another part of the zone.
            return 200 if isinstance(schedule, ZonedCronSchedule) else 80
        return 25 if isinstance(schedule, ZonedCronSchedule) else 8
    if isinstance(schedule, (IntervalSchedule, OnceSchedule)):
        return 2
    return 200 if isinstance(schedule, SolarSchedule) else 60


def price_of_question(schedule: Schedule) -> int:
    """What it costs at worst to find out whether an instant is a slot."""
    if isinstance(schedule, CronSchedule):
        return 4
    return price_of_search(schedule)


def check_affordable(members: list[Schedule]) -> None:
    """Raises InvalidScheduleError if one search of all members is too much."""
    cost = sum(map(price_of_search, members))
    if cost > UNITS:
        raise InvalidScheduleError(
            f"finding a slot of all {len(members)} schedules under 'any' takes too long: give fewer that match rarer "
            "than every year, and fewer events of the sun, or split them into several jobs"
        )


def check_parts(spec: ScheduleSpec) -> None:
    """Raises InvalidScheduleError if a composite has more parts, zones or text than are read within milliseconds."""
    for name, parts in (("any", spec.any), ("except", spec.except_)):
        if len(parts) > MAX_MEMBERS:
            raise InvalidScheduleError(f"'{name}' has {len(parts)} entries: at most {MAX_MEMBERS}")
    parts = (spec, *spec.any, *spec.except_)
    zones = {zone_of(part) or "" for part in parts} - UTC_NAMES
    if len(zones) > MAX_ZONES:
        raise InvalidScheduleError(
            f"its parts are in {len(zones)} different zones: at most {MAX_ZONES}; split it into several jobs"
        )
    heavy = sum(bool(part.rrule or part.solar or part.kind) for part in parts)
    if heavy > MAX_HEAVY:
        raise InvalidScheduleError(
            f"{heavy} of its parts are an 'rrule', 'solar' or 'kind': at most {MAX_HEAVY}; split it into several jobs"
        )
    length = sum(len(part.cron or "") + len(part.rrule or "") for part in parts)
    if length > MAX_TEXT:
        raise InvalidScheduleError(
            f"its expressions and rules are {length} characters together: at most {MAX_TEXT}; "
            "split it into several jobs"
        )
