"""The synchronous twin of the Scheduler, for programs without asyncio."""

from natscron.sync.scheduler import Scheduler

__all__ = ["Scheduler"]
