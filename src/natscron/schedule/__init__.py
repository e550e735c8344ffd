"""When: schedules as pure functions from an instant to the slots around it."""

from natscron.schedule.base import Schedule
from natscron.schedule.compile import Compiled, compile_schedule, resolve_spec

__all__ = ["Compiled", "Schedule", "compile_schedule", "resolve_spec"]
