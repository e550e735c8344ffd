"""The library's face: a scheduler inside a program, whose jobs call the program's functions.

Who is authoritative: the store, for jobs, runs and leadership; this object for what it opened, and it closes just that.
States: *stopped*, *starting*, *running*, *stopping*, and *failed* (stopped by itself, :attr:`Scheduler.failure` says
why). A start that fails or is cancelled takes everything back before it raises. A part that fails by a defect stops the
whole; nothing goes on half. A process that was forked off a running scheduler has a stopped one.
"""

import asyncio
import datetime as dt
import logging
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from natscron.clock import Clock, SystemClock
from natscron.errors import (
    HandlerNotDefinedError,
    SchedulerAlreadyStartedError,
    SchedulerNotStartedError,
    StorageUnavailableError,
    ValidationError,
)
from natscron.model import Job as Row
from natscron.model import Overlap, Run, RunStatus, ScheduleSpec
from natscron.schedule import every as every_schedule
from natscron.scheduler.events import Events
from natscron.scheduler.forks import follow_forks, storage_in_child
from natscron.scheduler.options import SchedulerOptions
from natscron.scheduler.parts import Parts
from natscron.scheduler.pending import Pending
from natscron.scheduler.policies import Policies, new_job
from natscron.scheduler.signalled import until_signalled
from natscron.scheduler.snapshot import Job, JobStatus
from natscron.scheduler.storages import open_storage
from natscron.scheduler.submitting import admitted, insert_of
from natscron.scheduler.values import Duration, instant_ms, seconds
from natscron.storage.forks import keep_forever
from natscron.storage.queue import QueueStorage
from natscron.worker.registry import GLOBAL, Handler, Registry, check_name

__all__ = ["Scheduler"]

log = logging.getLogger("natscron.scheduler")

F = TypeVar("F", bound=Callable[..., Any])
_LOOK_EVERY_S: Final = 0.5


class Scheduler:
    """Plans jobs and runs their handlers. Use it as an async context manager, or start and stop it.

    ``storage``: a URL (``memory://``, ``sqlite:///jobs.db``, ``postgresql://...``, ``mysql://...``, ``mariadb://...``)
    or a storage object, which is then not closed. ``handler``: the global one, called for jobs that name none. Each
    handler is a function of one argument, a :class:`JobEvent`; async ones run in the loop, others in threads.

    ``worker`` False: this process runs nothing; ``plan`` False: it never leads. ``name``: the same in all processes of
    one scheduler. ``instance``: this process, for people (default host and pid). ``concurrency``: handlers at once
    here. ``lease``: how long a leader may be silent (default 10 s where other processes share the storage).
    ``worker_lease``: the same for workers, after which their runs are taken over. ``grace``: slots younger than this
    always run. ``stop_timeout``: how long a stop lets handlers go on. ``strict``: a job asked for before the start that
    cannot be stored makes the start fail. Raises ConfigError for an option that cannot work.
    """

    def __init__(  # noqa: PLR0913 - one argument an option
        self,
        storage: str | QueueStorage = "memory://",
        handler: Handler | None = None,
        *,
        worker: bool = True,
        plan: bool = True,
        name: str = "scheduler",
        instance: str | None = None,
        concurrency: int = 100,
        lease: Duration | None = None,
        worker_lease: Duration = "10s",
        grace: Duration = "10s",
        stop_timeout: Duration = "30s",
        strict: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._options = SchedulerOptions.make(
            name=name,
            instance=instance,
            worker=worker,
            plan=plan,
            concurrency=concurrency,
            lease=lease,
            worker_lease=worker_lease,
            grace=grace,
            stop_timeout=stop_timeout,
            strict=strict,
        )
        self._clock = clock or SystemClock()
        self._owned = isinstance(storage, str)
        self._storage = open_storage(storage, self._clock) if isinstance(storage, str) else storage
        self._used = self._stale = False
        """Whether the storage was opened, and whether that was in the process that this one was forked off."""
        self._registry = Registry()
        self._events = Events()
        self._pending = Pending()
        self._parts: Parts | None = None
        self._leaving: Parts | None = None
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renew()
        self._supervisor: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None
        """Why the scheduler stopped by itself; None if it did not."""
        if handler is not None:
            self.set_handler(handler)
        follow_forks(self, Scheduler._forget_parent)

    # Handlers.

    def set_handler(self, handler: Handler) -> None:
        """Set the global handler, at any time; the last one counts."""
        self._registry.set(GLOBAL, handler)

    def handler(self, name: str) -> Callable[[F], F]:
        """Register the decorated function under ``name``, for jobs with ``handler=name``; the last one counts."""
        check_name(name)

        def register(fn: F) -> F:
            self._registry.set(name, fn)
            return fn

        return register

    def job(self, id: str, schedule: ScheduleSpec, **policies: Unpack[Policies]) -> Callable[[F], F]:  # noqa: A002 - the field's name
        """Have a job that calls the decorated function, ensured at each start; see :meth:`ensure_job`.

        The handler's name is the job's id, or ``handler``. Raises SchedulerAlreadyStartedError while it runs.
        """
        name = policies.get("handler") or id
        job = new_job(id, schedule, {**policies, "handler": name})
        if self.is_running:
            raise SchedulerAlreadyStartedError(
                f"job {id!r}: decorate before the start; of a running scheduler use handler() and await ensure_job()"
            )

        def register(fn: F) -> F:
            known = self._registry.find(name)
            if known is not None and known[0] is not fn:
                raise ValidationError(f"handler {name!r} is registered already; give the job another id, or a handler=")
            self._registry.set(name, fn)
            self._pending.ensure(job, again=True)
            return fn

        return register

    def every(self, interval: Duration, *, id: str | None = None, **policies: Unpack[Policies]) -> Callable[[F], F]:  # noqa: A002 - the field's name
        """:meth:`job` with an interval. ``id``: default the function's qualified name."""
        schedule = every_schedule(interval)

        def register(fn: F) -> F:
            return self.job(id or fn.__qualname__.replace("<locals>", "locals"), schedule, **policies)(fn)

        return register

    def on(self, event: str, fn: F) -> F:
        """Call ``fn`` at an event, in the scheduler's loop; see :data:`natscron.scheduler.events.EVENTS`."""
        return self._events.on(event, fn)

    # Life.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it was started in this process and has not ended."""
        return self._parts is not None and self._pid == os.getpid()

    @property
    def is_leader(self) -> bool:
        """Whether this process plans now."""
        return self.is_running and self._parts is not None and self._parts.engine.is_leader

    @property
    def failures(self) -> dict[str, Exception]:
        """What was asked for before the start and could not be stored, by job id."""
        return dict(self._pending.failures)

    async def start(self) -> None:
        """Start; returns when the jobs are loaded and what was asked for before is stored.

        Raises SchedulerAlreadyStartedError, HandlerNotDefinedError (a worker without any handler), StorageError.
        """
        self._come_to_loop()
        async with self._changing:
            if self._parts is not None:
                raise SchedulerAlreadyStartedError("scheduler already started; stop it before you start it again")
            options = self._options
            if options.worker and options.needs_handler and not len(self._registry):
                raise HandlerNotDefinedError(
                    "scheduler handler not defined: give one to the constructor, use @scheduler.job or set_handler(), "
                    "or worker=False in a process that only plans"
                )
            self.failure = None
            if self._stale:
                self._storage, self._stale = storage_in_child(self._storage), False
            self._used = True
            parts = Parts(self._storage, self._clock, options, self._registry, self._events)
            try:
                await parts.start()
                await self._pending.apply(parts.jobs, strict=options.strict)
            except BaseException:
                # Shielded: a cancelled start still takes everything back.
                await asyncio.shield(parts.stop(1.0, close=self._owned))
                raise
            self._parts = parts
            self._ended.clear()
            self._running.set()
            self._supervisor = asyncio.create_task(self._supervise(parts), name="natscron supervisor")
            log.info("scheduler started", extra={"instance": options.instance, "scheduler": options.name})

    async def stop(self, timeout: Duration | None = None) -> None:  # noqa: ASYNC109 - how long handlers are given
        """Stop. Handlers get ``timeout`` (default ``stop_timeout``) to end, then they are cancelled. Idempotent."""
        timeout_s = self._options.stop_timeout_ms / 1000 if timeout is None else seconds(timeout, "timeout")
        self._forget_parent()
        async with self._changing:
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is not None and supervisor is not asyncio.current_task():
                supervisor.cancel()
                await asyncio.gather(supervisor, return_exceptions=True)
            parts, self._parts = self._parts, None
            if parts is not None:
                self._leaving = parts
                self._running.clear()
                await asyncio.shield(parts.stop(timeout_s, close=self._owned))
                log.info("scheduler stopped", extra={"instance": self._options.instance})
            self._ended.set()

    async def run_forever(self) -> None:
        """Start, run until SIGINT, SIGTERM or :meth:`stop`, and stop; a second signal cuts handlers off.

        Raises what the scheduler failed of, if it stopped by itself.
        """
        if not self.is_running:
            await self.start()
        try:
            await until_signalled(self._ended, self.stop, self._cut)
        finally:
            await self.stop()
        if self.failure is not None:
            raise self.failure

    def _cut(self) -> None:
        """End the patience of a stop that goes on."""
        if self._leaving is not None:
            self._leaving.cut()

    async def wait_until_running(self, timeout: Duration | None = None) -> None:  # noqa: ASYNC109 - the call's own
        """Wait until it runs. Raises TimeoutError after ``timeout``."""
        self._come_to_loop()
        async with asyncio.timeout(None if timeout is None else seconds(timeout, "timeout")):
            await self._running.wait()

    async def _supervise(self, parts: Parts) -> None:
        while (failure := parts.failure()) is None:  # noqa: ASYNC110 - several kinds of ends, none of them urgent
            await asyncio.sleep(_LOOK_EVERY_S * self._options.calm)
        self.failure = failure
        log.critical("the scheduler failed and stops", exc_info=failure)
        await self.stop()

    def _forget_parent(self) -> None:
        """In a process that was forked: what the parent opened is the parent's, and is neither used nor closed here."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._options = self._options.in_this_process()
        if self._used:
            keep_forever(dict(vars(self)))
            self._used, self._stale = False, True
        listeners = self._events.listeners()
        self._events = Events()
        for event, fn in listeners:
            self._events.on(event, fn)
        self._registry.on_change = None
        self._parts = self._leaving = self._supervisor = self.failure = self._loop = None
        self._renew()

    def _come_to_loop(self) -> None:
        """What belongs to an event loop is made anew for another one, as long as it does not run."""
        self._forget_parent()
        loop = asyncio.get_running_loop()
        if self._loop is not loop and self._parts is None:
            if self._loop is not None:
                self._renew()
            self._loop = loop

    def _renew(self) -> None:
        self._changing = asyncio.Lock()
        self._running = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    def _running_parts(self) -> Parts:
        if self._parts is None or self._pid != os.getpid():
            raise SchedulerNotStartedError("scheduler not started: start it first, in this process")
        return self._parts

    async def health_check(self) -> None:
        """Raise StorageUnavailableError, or what the scheduler failed of, unless it runs and its store answers."""
        if self.failure is not None:
            raise StorageUnavailableError(f"the scheduler stopped by itself: {self.failure}") from self.failure
        self._running_parts()
        await self._storage.health_check()

    # Jobs.

    async def add_job(self, id: str, schedule: ScheduleSpec, **policies: Unpack[Policies]) -> None:  # noqa: A002 - the field's name
        """Store a job that is not there. Before the start it is kept, and stored at the start.

        Raises EmptyJobIDError, InvalidScheduleError, ValidationError, JobAlreadyExistsError.
        """
        job = new_job(id, schedule, policies)
        self._forget_parent()
        if self._parts is None:
            self._pending.add(job)
        else:
            await self._running_parts().jobs.add(job)

    async def submit_job(
        self,
        id: str,  # noqa: A002 - the field's name
        schedule: ScheduleSpec,
        *,
        connection: Any = None,  # noqa: ANN401 - SQLAlchemy's, which not everybody has
        **policies: Unpack[Policies],
    ) -> None:
        """:meth:`add_job` under the name that the Go module gives it, and for the caller's own SQL transaction.

        ``connection``: SQLAlchemy's ``AsyncConnection`` to the storage's database. The job is there for everybody when
        its transaction is committed, and never if it is not; nothing is kept until the start. Raises as
        :meth:`add_job`, and ValidationError for a storage that is no SQL database.
        """
        if connection is None:
            await self.add_job(id, schedule, **policies)
            return
        insert = insert_of(self._storage)
        await insert(connection, await self._admitted(new_job(id, schedule, policies)))

    async def _admitted(self, job: Row) -> Row:
        return await admitted(job, self._running_parts().jobs if self.is_running else None, self._clock)

    async def ensure_job(self, id: str, schedule: ScheduleSpec, **policies: Unpack[Policies]) -> bool:  # noqa: A002 - the field's name
        """Have a job as given; whether that changed anything (False before the start, where it is kept).

        An unchanged job is left alone, a changed one updated, metadata and policies too; what people set at run time
        (paused, skipped) stays. Any number of processes may call it at once.
        """
        job = new_job(id, schedule, policies)
        self._forget_parent()
        if self._parts is None:
            self._pending.ensure(job)
            return False
        return await self._running_parts().jobs.ensure(job)

    async def update_job_schedule(self, id: str, schedule: ScheduleSpec) -> None:  # noqa: A002 - the field's name
        """Change a job's schedule and nothing else. Raises JobNotFoundError and InvalidScheduleError."""
        await self._running_parts().jobs.update(id, {}, schedule)

    async def update_job(self, id: str, schedule: ScheduleSpec | None = None, **policies: Unpack[Policies]) -> None:  # noqa: A002 - the field's name
        """Change what is given; None resets a policy. Raises JobNotFoundError and ValidationError."""
        await self._running_parts().jobs.update(id, policies, schedule)

    async def remove_job(self, id: str, *, wait: bool = True) -> None:  # noqa: A002 - the field's name
        """Remove a job; its history stays. ``wait``: until its handlers have ended, but for the one that calls this.

        Raises JobNotFoundError.
        """
        await self._running_parts().jobs.remove(id, wait=wait)

    async def get_job(self, id: str) -> Job:  # noqa: A002 - the field's name
        """One job. Raises JobNotFoundError."""
        return await self._running_parts().jobs.get(id)

    async def list_jobs(self, status: JobStatus | str | None = None) -> list[Job]:
        """All jobs, or those with a status; oldest change first."""
        try:
            wanted = None if status is None else JobStatus(status)
        except ValueError:
            raise ValidationError(f"status must be one of {', '.join(JobStatus)}; got {status!r:.80}") from None
        return await self._running_parts().jobs.all(wanted)

    async def pause(self, id: str, *, until: dt.datetime | None = None) -> None:  # noqa: A002 - the field's name
        """Let a job's schedule rest, for ever or until an instant; triggers go on. Raises JobNotFoundError."""
        until_ms = None if until is None else instant_ms(until, "until")
        await self._running_parts().jobs.rest(id, paused=True, until_ms=until_ms)

    async def resume(self, id: str) -> None:  # noqa: A002 - the field's name
        """Let a paused job go on; slots of the pause are not made up for. Raises JobNotFoundError."""
        await self._running_parts().jobs.rest(id, paused=False, until_ms=None)

    # Runs.

    async def trigger(
        self,
        id: str,  # noqa: A002 - the field's name
        payload: Any = None,  # noqa: ANN401 - any JSON value
        *,
        key: str | None = None,
        overlap: Overlap | str | None = None,
    ) -> str:
        """Have a job run now, once; the run's id. Works in any process, also while nobody leads.

        ``payload``: instead of the job's. ``key``: the same key gives the same run. ``overlap``: instead of the job's.
        Raises JobNotFoundError, and LimitExceededError while 10,000 are asked for already.
        """
        return await self._running_parts().runs.trigger(id, payload, key, overlap)

    async def backfill(  # noqa: PLR0913 - what a backfill is
        self,
        id: str,  # noqa: A002 - the field's name
        since: dt.datetime,
        until: dt.datetime,
        *,
        every: Duration = "100ms",
        overlap: Overlap | str | None = Overlap.BUFFER_ALL,
        key: str | None = None,
    ) -> str:
        """Run every slot from ``since`` to ``until``, both inclusive and past; the backfill's id.

        ``every``: at most one slot is queued in this time. ``overlap``: instead of the job's; None: the job's. Raises
        JobNotFoundError, ValidationError, and LimitExceededError over 100,000 slots.
        """
        return await self._running_parts().runs.backfill(id, since, until, every=every, overlap=overlap, key=key)

    async def list_runs(  # noqa: PLR0913 - what a query is
        self,
        job_id: str | None = None,
        *,
        status: RunStatus | str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        sort_by: str | None = None,
        descending: bool = True,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[Run]:
        """Records of runs, one for each try, the newest first. ``since`` is inclusive, ``until`` exclusive, by start.

        ``sort_by``: ``start_time``, ``end_time`` or ``duration``. ``limit``: 1 to 10,000. Raises ValidationError.
        """
        return await self._running_parts().runs.find(
            job_id,
            status=status,
            since=since,
            until=until,
            sort_by=sort_by,
            descending=descending,
            limit=limit,
            offset=offset,
        )

    async def get_run(self, run_id: str) -> Run:
        """The newest try of a run. Raises RunNotFoundError."""
        return await self._running_parts().runs.get(run_id)

    async def delete_runs(self, job_id: str, before: dt.datetime) -> int:
        """Delete a job's records of runs that started at or before an instant; how many."""
        return await self._running_parts().runs.delete(job_id, before)

    async def redrive(self, run_id: str) -> None:
        """Try a run again that failed for good. Raises RunNotFoundError, and ValidationError if it did not fail."""
        await self._running_parts().runs.redrive(run_id)
