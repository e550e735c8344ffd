"""When a job is due next. Pure, and never stored."""

from natscron.engine.table import Entry
from natscron.engine.timed import timed_by_server
from natscron.model import Ms

__all__ = ["next_due"]


def next_due(entry: Entry, now_ms: Ms) -> Ms | None:
    """The job's next due instant after ``now_ms``, its pause and the slots to be skipped left out; None: none."""
    job, schedule = entry.job, entry.schedule
    if schedule is None or (job.paused and job.paused_until_ms is None):
        return None
    at = max(now_ms, entry.counts_from.at_ms, job.paused_until_ms or 0 if job.paused else 0)
    # The leader's own look at a slot that the server times is no due instant.
    dues = schedule if timed_by_server(job) else schedule.dues
    due = dues.next_after_ms(at)
    if due is not None and job.skip is not None and job.skip.from_ms < dues.slot_of(due) <= job.skip.until_ms:
        slot = schedule.next_after_ms(job.skip.until_ms)
        due = None if slot is None else dues.due_of(slot)
    return due
