"""One server, as the program that it lives in sees it.

Who is authoritative: the store for jobs and leadership; this object only for what it opened, and it closes exactly
that. States: *stopped*, *starting*, *running*, *stopping*, and *failed* (running no more, :attr:`Server.failure` says
why; :meth:`Server.wait` raises it).

* Start: connect, provision, look for Go instances, load the jobs, become a candidate, answer the API. NATS that is not
  there is waited for, for ever or ``connect_timeout_s``, and said in the log. A start that fails or is cancelled takes
  everything back before it raises.
* Stop: no new API requests; the engine lays down open runs and releases the lease while requests under way finish;
  then everything is closed. All within the shutdown time-out; what has not ended by then is cut off.
* An engine that fails, or a shared connection that its owner closes, ends the server: it stops and is *failed*. Nothing
  goes on half.
"""

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from natscron.clock import Clock, SystemClock
from natscron.errors import NatscronError, StorageUnavailableError
from natscron.server.calls import Calls
from natscron.server.options import ServerOptions
from natscron.server.parts import Parts

__all__ = ["Server"]

logger = logging.getLogger("natscron.server")

Data: TypeAlias = Mapping[str, Any] | bytes
_LOOK_EVERY_S: Final = 0.5
_CLOSE_S: Final = 5.0


class Server:
    """A NATS Cron instance inside this process. Use it as an async context manager, or start and stop it.

    It may be started again after it was stopped. Jobs are given as a mapping or as JSON bytes and go through the same
    checks as over the API, without the network in between; errors are raised as :mod:`natscron.errors`.
    """

    def __init__(self, options: ServerOptions | None = None, *, clock: Clock | None = None) -> None:
        self.options = options or ServerOptions()
        self.failure: BaseException | None = None
        """Why the server ended by itself; None if it did not."""
        self._clock = clock or SystemClock()
        self._parts: Parts | None = None
        self._changing = asyncio.Lock()
        self._ended = asyncio.Event()
        self._ended.set()
        self._supervisor: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._parts is not None

    @property
    def is_leader(self) -> bool:
        """Whether this instance leads now."""
        return self._parts is not None and self._parts.engine.is_leader

    async def start(self) -> None:
        """Start; returns when the jobs are loaded and the API answers.

        Raises ConfigError for options that cannot work, StorageUnavailableError after ``connect_timeout_s``, and
        NatscronError when it runs already.
        """
        async with self._changing:
            if self._parts is not None:
                raise NatscronError("server is already running; stop it before you start it again")
            self.failure = None
            self._ended.clear()
            parts = Parts(self.options, self._clock)
            try:
                await parts.start()
            except BaseException:
                # Shielded: a cancelled start still takes everything back.
                self._ended.set()
                await asyncio.shield(parts.stop(_CLOSE_S))
                raise
            self._parts = parts
            self._supervisor = asyncio.create_task(self._supervise(parts), name="natscron supervisor")
            logger.info("NATS Cron server started", extra=parts.about())

    async def stop(self) -> None:
        """Stop, within the shutdown time-out. Idempotent; leaves nothing on a shared connection."""
        async with self._changing:
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is not None and supervisor is not asyncio.current_task():
                supervisor.cancel()
                await asyncio.gather(supervisor, return_exceptions=True)
            parts, self._parts = self._parts, None
            if parts is not None:
                timeout_s = self.options.effective.service.shutdown_timeout_ms / 1000
                await asyncio.shield(parts.stop(timeout_s))
                logger.info("NATS Cron server stopped", extra=parts.about())
            self._ended.set()

    async def wait(self) -> None:
        """Wait until the server has ended; at once if it does not run.

        Raises what it failed of, if it did not end by :meth:`stop`.
        """
        await self._ended.wait()
        if self.failure is not None:
            raise self.failure

    async def _supervise(self, parts: "Parts") -> None:
        while (failure := parts.failure()) is None:  # noqa: ASYNC110 - several kinds of ends, none of them urgent
            await asyncio.sleep(_LOOK_EVERY_S)
        self.failure = failure
        logger.critical("NATS Cron server failed", extra={**parts.about(), "error": str(failure)})
        await self.stop()

    # Jobs.

    async def create_job(self, job: Data) -> dict[str, Any]:
        """Store a job that must not exist. The reply's values are strings: ``status``, ``revision``, ``next_run``."""
        return await self._calls().jobs.create(job)

    async def update_job(self, job: Data) -> dict[str, Any]:
        """Change the given fields of a job; null resets one. JobNotFoundError if there is none."""
        return await self._calls().jobs.update(job)

    async def put_job(self, job: Data) -> dict[str, Any]:
        """Store a job, in place of one that is there."""
        return await self._calls().jobs.put(job)

    async def delete_job(self, job: str | Data) -> dict[str, Any]:
        """Delete a job, by its subject or by a request. JobNotFoundError if there is none."""
        return await self._calls().jobs.delete(_about(job, "subject"))

    async def delete_jobs(self, pattern: str | Data) -> dict[str, Any]:
        """Delete the jobs that match: ``{"count": 2, "deleted": ["a.b", "a.c"]}``, None for no names."""
        return await self._calls().jobs.delete_pattern(_about(pattern, "pattern"))

    async def get_job(self, job: str | Data) -> dict[str, Any]:
        """One job as the API shows it."""
        return await self._calls().lookups.get(_about(job, "subject"))

    async def list_jobs(self, request: Data = b"") -> list[dict[str, Any]]:
        """The jobs, oldest change first; ``request`` filters as over the API, without its paging by size."""
        reply = await self._calls().lookups.page(request, bounded=False)
        return reply["jobs"] or []

    async def pause_job(self, job: str | Data) -> dict[str, Any]:
        """Stop a job's schedule until it is resumed, or until ``{"subject", "until": "in 2h"}``."""
        return await self._calls().policies.pause(_about(job, "subject"))

    async def resume_job(self, job: str | Data) -> dict[str, Any]:
        """Let a paused job's schedule go on."""
        return await self._calls().policies.resume(_about(job, "subject"))

    async def trigger_job(self, job: str | Data) -> dict[str, Any]:
        """Run a job now; the reply has its ``run_id``."""
        return await self._calls().runs.trigger(_about(job, "subject"))

    async def skip_job(self, job: str | Data) -> dict[str, Any]:
        """Leave out a job's next slot, or ``{"subject", "count": 3}``; a count of 0 takes that back."""
        return await self._calls().policies.skip(_about(job, "subject"))

    async def explain_job(self, job: str | Data) -> dict[str, Any]:
        """Why a job ran, or did not, and what comes next: ``{"subject", "since", "until", "next"}``."""
        return await self._calls().explain.explain(_about(job, "subject"))

    # Runs and backfills.

    async def report_run(self, report: Data) -> dict[str, Any]:
        """Say how a run ended: ``{"run_id", "job", "status": "completed", "result": ...}``."""
        return await self._calls().runs.report(report)

    async def backfill_job(self, backfill: Data) -> dict[str, Any]:
        """Run every slot of a past range: ``{"subject", "from", "to", "rate": "10/s"}``; ``dry_run`` counts only."""
        return await self._calls().backfills.start(backfill)

    async def list_backfills(self, request: Data = b"") -> list[dict[str, Any]]:
        """The backfills going on."""
        reply = await self._calls().backfills.page(request)
        found: list[dict[str, Any]] = reply["backfills"]
        return found

    async def cancel_backfill(self, backfill: str | Data) -> dict[str, Any]:
        """End a backfill, by its id. BackfillNotFoundError if it is not going on."""
        return await self._calls().backfills.cancel(_about(backfill, "id"))

    # Calendars.

    async def put_calendar(self, calendar: Data) -> dict[str, Any]:
        """Store a calendar, in place of one that is there: ``{"name", "dates": [...], "weekly": [...]}``."""
        return await self._calls().calendars.put(calendar)

    async def get_calendar(self, calendar: str | Data) -> dict[str, Any]:
        """One calendar as the API shows it. CalendarNotFoundError if there is none."""
        return await self._calls().calendars.get(_about(calendar, "name"))

    async def list_calendars(self) -> list[dict[str, Any]]:
        """The calendars by name."""
        reply = await self._calls().calendars.page(b"", bounded=False)
        found: list[dict[str, Any]] = reply["calendars"]
        return found

    async def delete_calendar(self, calendar: str | Data) -> dict[str, Any]:
        """Delete a calendar. CalendarInUseError while jobs refer to it."""
        return await self._calls().calendars.delete(_about(calendar, "name"))

    async def status(self) -> dict[str, Any]:
        """What the API's ``status`` says."""
        return await self._calls().info.status()

    def _calls(self) -> Calls:
        if self._parts is None:
            raise StorageUnavailableError("the server is not running; start it first")
        return self._parts.calls


def _about(what: str | Data, field: str) -> Data:
    return {field: what} if isinstance(what, str) else what
