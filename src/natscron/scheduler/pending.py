"""What is asked of a scheduler before it is started, kept in order and applied at the start."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from natscron.errors import LimitExceededError, NatscronError
from natscron.model import Job
from natscron.scheduler.jobs import Jobs

__all__ = ["Pending"]

log = logging.getLogger("natscron.scheduler")

_MOST: Final = 1_000_000


class _Asked(msgspec.Struct, frozen=True):
    job: Job
    apply: Callable[[Jobs, bool], Awaitable[object]]
    again: bool
    """It is applied at every start, not at the first only."""


class Pending:
    """The queue. Jobs of decorators are ensured at every start; what was added by a call is added once."""

    def __init__(self) -> None:
        self._asked: list[_Asked] = []
        self.failures: dict[str, NatscronError] = {}
        """What failed at the last start, by job id."""

    def add(self, job: Job) -> None:
        """Add it once started; fails then if it exists."""
        self._keep(_Asked(job, lambda jobs, _loaded: jobs.add(job), again=False))

    def ensure(self, job: Job, *, again: bool = False) -> None:
        """Ensure it once started."""
        self._keep(_Asked(job, lambda jobs, loaded: jobs.ensure(job, loaded=loaded), again=again))

    def _keep(self, asked: _Asked) -> None:
        if len(self._asked) >= _MOST:
            raise LimitExceededError(f"{_MOST} jobs wait for the start already; start the scheduler first")
        self._asked.append(asked)

    def jobs(self) -> list[Job]:
        """What waits, in order."""
        return [one.job for one in self._asked]

    async def apply(self, jobs: Jobs, *, strict: bool) -> None:
        """Do everything, in order. One that fails is logged with its id and stops no other, unless ``strict``."""
        self.failures = {}
        left: list[_Asked] = []
        asked, self._asked = self._asked, left
        touched: set[str] = set()
        for i, one in enumerate(asked):
            loaded = one.job.id not in touched
            touched.add(one.job.id)
            try:
                await one.apply(jobs, loaded)
            except NatscronError as error:
                if strict:
                    # What was not tried yet is still to be done when the mistake is mended.
                    self._asked = [*left, *asked[i:]]
                    raise
                self.failures[one.job.id] = error
                log.error("a job could not be stored at the start", extra={"job": one.job.id, "error": str(error)})  # noqa: TRY400 - the text says it all
            if one.again:
                left.append(one)
