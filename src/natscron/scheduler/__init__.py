"""The Scheduler: jobs that call Python handlers, inside a program."""

from natscron.scheduler.events import EVENTS, Problem
from natscron.scheduler.policies import Policies
from natscron.scheduler.scheduler import Scheduler
from natscron.scheduler.snapshot import Job, JobStatus

__all__ = ["EVENTS", "Job", "JobStatus", "Policies", "Problem", "Scheduler"]
