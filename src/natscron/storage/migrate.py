"""From one storage to another, whatever kinds they are: calendars, jobs and the history.

Who is authoritative: the destination, for what is there already. A job, a calendar or a record that it has is left as
it is and counted as skipped; so a second run changes nothing, and one after an abort does what is left. The source is
read only: nobody takes its lease, its queue or its upkeep. (Opening may bring a database's tables up to date.)

The order is what makes an abort harmless, and a destination that is in use: first the records, then the calendars, then
the jobs, each with what was decided about it at the source's mark (:mod:`natscron.storage.carrying`), which is read
last. So a job that is there has all it refers to, and a run whose record is there is not queued again under its id.
A destination that nobody ever led is given a released lease before the first job: what is due from then on is its first
leader's to decide about, and not passed over because nobody was there.

Stop the source's schedulers first. What they run after the mark was read is undecided for the destination; running this
once more takes the records of these runs along, but the jobs that are there stay. Runs that are not over stay with the
source and are counted, as are triggers and backfills. Failures in a row are counted anew.

What fails: the source or the destination raising ends the whole, with what was done so far in
:attr:`MigrationError.result`. A job or a record that the destination refuses by its rules, or that cannot be read, is
left out and told of, and stops nothing else. At most :data:`JOBS_AT_ONCE` jobs, or :data:`HISTORIES_AT_ONCE` pages of
:data:`~natscron.storage.listing.PAGE` records, are in memory besides the jobs themselves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from natscron.clock import Clock, SystemClock
from natscron.errors import (
    ConfigError,
    JobAlreadyExistsError,
    NatscronError,
    SchemaTooNewError,
    StorageError,
    ValidationError,
    WrongRevisionError,
)
from natscron.model import SERVICE_JOB, Calendar, Job, Lease, Mark, OpenState, Run, RunStatus
from natscron.storage.carrying import carried, carried_calendar
from natscron.storage.listing import Holdings, State, list_jobs, list_records, read_state
from natscron.storage.protocol import Reply, RunQuery
from natscron.storage.queue import QueueStorage

__all__ = ["MigrateProgress", "MigrateResult", "MigrateStage", "MigrationError", "migrate_storage"]

HISTORIES_AT_ONCE: Final = 4
JOBS_AT_ONCE: Final = 32
WARNINGS_MAX: Final = 20
_COUNT_MAX: Final = 10_000
_OPEN: Final = (RunStatus.PENDING, RunStatus.RUNNING)
_TRIGGERED: Final = frozenset({OpenState.PENDING, OpenState.RETRY, OpenState.BUFFERED})

T = TypeVar("T")


class MigrateStage(StrEnum):
    """What a migration is at, in this order."""

    HISTORY = "history"
    CALENDARS = "calendars"
    JOBS = "jobs"


class MigrateResult(msgspec.Struct, frozen=True):
    """What was done, or of a dry run, what would be.

    *Skipped*: the destination has it already, or of an execution, would not keep it. *Refused*: it cannot be taken
    over, ``warnings`` say why. ``runs_open``: runs of the source that are not over (up to 20,000), and stay there.
    """

    jobs_migrated: int = 0
    jobs_skipped: int = 0
    executions_migrated: int = 0
    executions_skipped: int = 0
    calendars_migrated: int = 0
    calendars_skipped: int = 0
    jobs_refused: int = 0
    executions_refused: int = 0
    calendars_refused: int = 0
    runs_open: int = 0
    warnings: tuple[str, ...] = ()


class MigrateProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a migration is: ``done`` of ``total`` jobs (or calendars) of this stage; None: it is not known."""

    stage: MigrateStage
    done: int
    total: int | None
    result: MigrateResult


class MigrationError(StorageError):
    """A migration stopped half-way; :attr:`__cause__` is why. What was done stays: run it again to go on."""

    def __init__(self, why: NatscronError, result: MigrateResult) -> None:
        """``result``: at least what was done so far."""
        done = f"{result.jobs_migrated} jobs and {result.executions_migrated} executions"
        super().__init__(f"migration stopped: {why} ({done} were migrated; run it again to go on)")
        self.result = result


async def migrate_storage(  # noqa: PLR0913 - what may be asked of it
    src: QueueStorage,
    dst: QueueStorage,
    *,
    executions: bool = True,
    removed_jobs: bool = False,
    dry_run: bool = False,
    progress: Callable[[MigrateProgress], None] | None = None,
    clock: Clock | None = None,
) -> MigrateResult:
    """Copy calendars, jobs and the history of ``src`` into ``dst``; both are initialized, and neither is closed.

    ``executions`` False: without the history. ``removed_jobs``: also the history of jobs that are not there any more.
    ``dry_run``: nothing is written, and the result is what would be done. ``progress``: called in the event loop, after
    each step. ``clock``: the host's clocks by default. See the module for what is kept, and what to mind.

    Raises MigrationError, and ConfigError where ``src`` is ``dst``.
    """
    if src is dst:
        raise ConfigError("a storage cannot be migrated into itself: give two storages")
    migration = _Migration(src, dst, dry_run=dry_run, progress=progress, clock=clock or SystemClock())
    try:
        await src.initialize()
        await dst.initialize()
        await src.health_check()
        await dst.health_check()
        if executions:
            await migration.history(removed_jobs=removed_jobs)
        await migration.jobs()
    except NatscronError as error:
        raise MigrationError(error, migration.result()) from error
    return migration.result()


class _Migration:
    """One migration under way, and what it did so far."""

    def __init__(
        self,
        src: QueueStorage,
        dst: QueueStorage,
        *,
        dry_run: bool,
        progress: Callable[[MigrateProgress], None] | None,
        clock: Clock,
    ) -> None:
        self._src = src
        self._dst = dst
        self._dry_run = dry_run
        self._progress = progress
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._warnings: list[str] = []
        self._unsaid = 0

    def result(self) -> MigrateResult:
        """What was done so far."""
        more = [f"and {self._unsaid} more of this kind"] if self._unsaid else []
        return MigrateResult(**self._counts, warnings=(*self._warnings, *more))

    def _count(self, what: str, n: int = 1) -> None:
        self._counts[what] = self._counts.get(what, 0) + n

    def _warn(self, text: str) -> None:
        if len(self._warnings) < WARNINGS_MAX:
            self._warnings.append(text)
        else:
            self._unsaid += 1

    def _tell(self, stage: MigrateStage, done: int, total: int | None) -> None:
        if self._progress is not None:
            self._progress(MigrateProgress(stage=stage, done=done, total=total, result=self.result()))

    # The history.

    async def history(self, *, removed_jobs: bool) -> None:
        """Copy the records."""
        if removed_jobs:
            self._tell(MigrateStage.HISTORY, 0, None)
            async with aclosing(list_records(self._src, None)) as pages:
                async for page in pages:
                    await self._import(page)
                    self._tell(MigrateStage.HISTORY, 0, None)
            return
        ids = [job.id for job in (await list_jobs(self._src)).jobs]
        done = 0
        self._tell(MigrateStage.HISTORY, done, len(ids))

        async def copy(job_id: str) -> None:
            nonlocal done
            async with aclosing(list_records(self._src, job_id)) as pages:
                async for page in pages:
                    await self._import(page)
                    self._tell(MigrateStage.HISTORY, done, len(ids))
            done += 1
            self._tell(MigrateStage.HISTORY, done, len(ids))

        await _each(ids, copy, HISTORIES_AT_ONCE)

    async def _import(self, page: Sequence[Run]) -> None:
        # Records of the source's own life, such as who led it, are no part of what is moved.
        over = [run for run in page if run.status not in _OPEN and run.job != SERVICE_JOB]
        if not over:
            return
        try:
            stored = await self._dst.import_runs(over, dry_run=self._dry_run)
        except ValidationError as error:
            if len(over) > 1:
                # One of them is the cause; the others shall not suffer from it.
                await self._import(over[: len(over) // 2])
                await self._import(over[len(over) // 2 :])
                return
            self._count("executions_refused")
            self._warn(f"an execution of job {over[0].job!r:.200} is refused: {error}")
            return
        self._count("executions_migrated", sum(stored))
        self._count("executions_skipped", len(stored) - sum(stored))

    # Jobs and calendars.

    async def jobs(self) -> None:
        """Copy the calendars, then the jobs."""
        # The mark before the jobs: whatever is written in between is newer than the mark, and undecided.
        state = await read_state(self._src)
        if state.newer is not None:
            raise SchemaTooNewError(f"the lease of the source cannot be read: {state.newer}")
        holdings = await list_jobs(self._src)
        there = await list_jobs(self._dst)
        await self._look_around(state)
        mark = None if state.lease is None else state.lease.lease.mark
        await self._copy_calendars(holdings, there, mark)
        await self._copy_jobs(holdings, there, mark)

    async def _look_around(self, state: State) -> None:
        """Say what stays behind, and who is still at work."""
        holder = None if state.lease is None else state.lease.lease.holder
        alive = sorted({node.instance for node in state.nodes} | ({holder.instance} if holder else set()))
        if alive:
            self._warn(
                f"the source seems to be in use by {', '.join(alive)[:200]}: stop its schedulers, then migrate again; "
                "what they run from now on may run in the destination as well"
            )
        going = 0
        for status in _OPEN:
            going += len(await self._src.list_runs(RunQuery(status=status, limit=_COUNT_MAX)))
        going += sum(row.state in _TRIGGERED for row in state.rows)
        if going:
            self._counts["runs_open"] = going
            self._warn(
                f"{going} runs are not over and stay in the source; let its workers end them, then migrate again for "
                "their records"
            )
        backfills = sum(row.state is OpenState.BACKFILL for row in state.rows)
        if backfills:
            self._warn(f"{backfills} backfills are going on and stay in the source")

    async def _copy_calendars(self, holdings: Holdings, there: Holdings, mark: Mark | None) -> None:
        known = {calendar.name: calendar for calendar in there.calendars}
        for done, calendar in enumerate(holdings.calendars):
            self._tell(MigrateStage.CALENDARS, done, len(holdings.calendars))
            here = known.get(calendar.name)
            if here is not None:
                self._count("calendars_skipped")
                if here.spec != calendar.spec or here.invalid is not None:
                    self._warn(
                        f"calendar {calendar.name!r} is another one in the destination, and jobs go by that: compare "
                        "the two"
                    )
            elif calendar.invalid is not None:
                self._count("calendars_refused")
                self._warn(f"calendar {calendar.name!r:.200} cannot be read: {calendar.invalid:.500}")
            else:
                await self._copy_calendar(calendar, mark)
        if holdings.calendars:
            self._tell(MigrateStage.CALENDARS, len(holdings.calendars), len(holdings.calendars))

    async def _copy_calendar(self, calendar: Calendar, mark: Mark | None) -> None:
        try:
            if not self._dry_run:
                await self._dst.put_calendar(carried_calendar(calendar, mark), expected_revision=0)
        except WrongRevisionError:
            self._count("calendars_skipped")
        except ValidationError as error:
            self._count("calendars_refused")
            self._warn(f"calendar {calendar.name!r:.200} is refused: {error}")
        else:
            self._count("calendars_migrated")

    async def _copy_jobs(self, holdings: Holdings, there: Holdings, mark: Mark | None) -> None:
        known = {job.id for job in there.jobs}
        calendars = {calendar.name: calendar.spec for calendar in holdings.calendars if calendar.invalid is None}
        total, done = len(holdings.jobs), 0
        self._tell(MigrateStage.JOBS, done, total)
        if not self._dry_run and any(job.id not in known for job in holdings.jobs):
            await self._lay_down_lease()

        async def copy(job: Job) -> None:
            nonlocal done
            if job.id in known:
                self._count("jobs_skipped")
            elif job.invalid is not None:
                self._count("jobs_refused")
                self._warn(f"job {job.id!r:.200} cannot be read: {job.invalid:.500}")
            else:
                try:
                    if not self._dry_run:
                        timers = self._dst.capabilities.timers
                        await self._dst.create_job(carried(job, mark, calendars, timers=timers))
                except JobAlreadyExistsError:
                    self._count("jobs_skipped")
                except ValidationError as error:
                    self._count("jobs_refused")
                    self._warn(f"job {job.id!r:.200} is refused: {error}")
                else:
                    self._count("jobs_migrated")
            done += 1
            self._tell(MigrateStage.JOBS, done, total)

        await _each(holdings.jobs, copy, JOBS_AT_ONCE)

    async def _lay_down_lease(self) -> None:
        """Begin the destination's time, if nothing was ever decided there: by a lease that nobody holds."""
        link = await self._dst.open_link(_unasked)
        try:
            if await link.read_lease() is not None:
                return
            mark = Mark(instant_ms=self._clock.now_ms(), jobs_seq=await self._dst.last_jobs_seq())
            try:
                await link.write_lease(Lease(epoch=1, mark=mark), 0)
            except WrongRevisionError:
                return  # somebody began to lead
        finally:
            await link.close()


def _unasked(_reply: Reply) -> None:
    """Nothing that asks for replies is sent."""


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[None]], at_once: int) -> None:
    """Do the work for each, so many at once, begun in order. The first error ends the others and is raised."""
    waiting = iter(items)

    async def take() -> None:
        for item in waiting:
            await work(item)

    tasks = [asyncio.ensure_future(take()) for _ in range(at_once)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
