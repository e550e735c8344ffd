"""Zone data that changed under a running process."""

from natscron.schedule.calendar import compile_calendar
from natscron.schedule.compile import forget_composites
from natscron.schedule.zones import clear_cache

__all__ = ["reload_zones"]


def reload_zones() -> None:
    """Forget all zone data and what was worked out from it; call it daily.

    Schedules compiled before see the new data where they ask the zone at each search, which crons do. A recurrence
    rule, a calendar and an exclusion are worked out when they are compiled: compile them anew.
    """
    clear_cache()
    compile_calendar.cache_clear()
    forget_composites()
