"""When: schedules as pure functions from an instant to the slots around it."""

from natscron.schedule.base import MAX_MS, Schedule
from natscron.schedule.builders import CronSpec, cron, daily_at, every, once, union
from natscron.schedule.compile import Compiled, compile_schedule
from natscron.schedule.describe import describe
from natscron.schedule.instants import format_instant, parse_instant
from natscron.schedule.kinds import UserSchedule, register_schedule, registered_spec
from natscron.schedule.preview import Slot, next_slots, preview
from natscron.schedule.reload import reload_zones
from natscron.schedule.resolve import resolve_spec

__all__ = [
    "MAX_MS",
    "Compiled",
    "CronSpec",
    "Schedule",
    "Slot",
    "UserSchedule",
    "compile_schedule",
    "cron",
    "daily_at",
    "describe",
    "every",
    "format_instant",
    "next_slots",
    "once",
    "parse_instant",
    "preview",
    "register_schedule",
    "registered_spec",
    "reload_zones",
    "resolve_spec",
    "union",
]
