"""What the API needs of the engine, as a Protocol: tests put a small one in its place."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from natscron.engine.engine import EngineStatus
from natscron.engine.table import Entry, JobTable
from natscron.model import JobState, Mark, Ms, OpenRow, Overlap, Report, Run

__all__ = ["Deciding"]


class Deciding(Protocol):
    """The engine, as the API sees it."""

    @property
    def table(self) -> JobTable:
        """The hot table."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether this instance leads."""
        ...

    @property
    def mark(self) -> Mark | None:
        """The last mark seen; None while there is none."""
        ...

    def status(self) -> EngineStatus:
        """The state now."""
        ...

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, Ms]:
        """The slots of the jobs' newest runs, as far as it is known; never fails."""
        ...

    def next_run_ms(self, job_id: str) -> Ms | None:
        """When the job runs next."""
        ...

    def state_of(self, entry: Entry) -> JobState:
        """What the job is doing."""
        ...

    async def trigger(
        self,
        job_id: str,
        payload: Any = msgspec.UNSET,  # noqa: ANN401 - any JSON value
        key: str | None = None,
        overlap: Overlap | None = None,
    ) -> str:
        """Ask for a run now, under its own overlap policy or the job's; its id."""
        ...

    async def asked_for(self, run_id: str) -> Run | None:
        """A run or backfill as its open row tells of it; None: no row does. Ask the history afterwards."""
        ...

    async def report(self, run_id: str, job_id: str, report: Report) -> None:
        """Hand a worker's word on how a run ended to the leader; for jobs whose workers report."""
        ...

    async def backfill(  # noqa: PLR0913 - what a backfill is
        self, job_id: str, from_ms: Ms, to_ms: Ms, *, every_ms: Ms, overlap: Overlap | None, key: str | None
    ) -> OpenRow:
        """Begin to run every slot in [from, to]; the backfill's row, the present one if ``key`` was used before."""
        ...

    def waiting(self, job_id: str) -> Sequence[OpenRow]:
        """The job's runs that wait for the one before to end."""
        ...

    def backfills(self) -> Sequence[OpenRow]:
        """Those going on."""
        ...

    async def cancel_backfill(self, backfill_id: str) -> None:
        """End one. Raises BackfillNotFoundError."""
        ...

    def record(self, run: Run) -> None:
        """Put a record into the history."""
        ...
