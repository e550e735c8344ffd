"""Why a job ran, did not run, and will or will not: its schedule joined with its records and its policies. Pure.

The schedule says which slots there are, the records what was made of them, the mark up to where everything is decided:
:mod:`natscron.engine.explain.past`. What comes follows from schedule and policies alone:
:mod:`natscron.engine.explain.future`. Both are bounded, whatever is asked.
"""

from natscron.engine.explain.future import foretell
from natscron.engine.explain.lines import GOING, Asked, Explanation, Line, What, Why
from natscron.engine.explain.past import MAX_LINES, MAX_SLOTS, Past, latest
from natscron.engine.explain.slots import Wall, stretches_of
from natscron.engine.explain.words import policies_of
from natscron.errors import NatscronError
from natscron.model import ScheduleSpec
from natscron.schedule import describe

__all__ = ["MAX_LINES", "MAX_SLOTS", "Asked", "Explanation", "Line", "What", "Why", "explain"]


def explain(asked: Asked) -> Explanation:
    """The past of the window, the next ``count`` slots, and one sentence for each policy in force. Never raises."""
    entry = asked.entry
    job = entry.job
    stretches = stretches_of(entry)
    spec = job.schedule or ScheduleSpec()
    wall = stretches[-1].wall if stretches else Wall(spec)
    newest = latest(asked.runs)
    past = Past(asked, stretches, wall, newest).lines()
    future = foretell(
        entry,
        stretches,
        now_ms=asked.now_ms,
        count=asked.count,
        going=sum(run.status in GOING for run in newest.values()),
    )
    try:
        text = describe(spec, seed=job.id, lenient=True)
    except NatscronError as error:
        text = f"no schedule that can be honoured: {job.invalid or error}"
    return Explanation(
        description=text,
        zone=wall.zone,
        past=tuple(past),
        future=tuple(future),
        policies=policies_of(job, delivery=asked.delivery, grace_floor_ms=asked.grace_floor_ms),
    )
