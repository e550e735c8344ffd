"""What the API needs of the engine, as a Protocol: tests put a small one in its place."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from natscron.engine.engine import EngineStatus
from natscron.engine.table import Entry, JobTable
from natscron.model import JobState, Mark, Ms, Run

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

    async def trigger(self, job_id: str, payload: Any = msgspec.UNSET, key: str | None = None) -> str:  # noqa: ANN401 - any JSON value
        """Ask for a run now; its id."""
        ...

    def record(self, run: Run) -> None:
        """Put a record into the history."""
        ...
