"""The library's face: a scheduler inside a program, whose jobs call the program's functions.

Who is authoritative: the store, for jobs, runs and leadership; this object for what it opened, and it closes just that.
States: *stopped*, *starting*, *running*, *stopping*, and *failed* (stopped by itself, :attr:`Scheduler.failure` says
why). A start that fails or is cancelled takes everything back before it raises. A part that fails by a defect stops the
whole; nothing goes on half. A process that was forked off a running scheduler has a stopped one.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

import msgspec

from natscron.clock import Clock, SystemClock
from natscron.errors import (
    ConfigError,
    HandlerNotDefinedError,
    SchedulerAlreadyStartedError,
    SchedulerNotStartedError,
    StorageUnavailableError,
    ValidationError,
)
from natscron.model import Job as Row
from natscron.model import ScheduleSpec, Timer
from natscron.schedule import every as every_schedule
from natscron.scheduler.events import Events
from natscron.scheduler.forks import Forks, follow_forks, still, storage_in_child
from natscron.scheduler.module import configured
from natscron.scheduler.options import SchedulerOptions
from natscron.scheduler.parts import Parts
from natscron.scheduler.pending import Pending
from natscron.scheduler.policies import Policies, new_job
from natscron.scheduler.signalled import until_signalled
from natscron.scheduler.storages import given_storage
from natscron.scheduler.submitting import admitted
from natscron.scheduler.timing import check_timer
from natscron.scheduler.values import Duration, seconds
from natscron.storage.forks import keep_forever
from natscron.storage.queue import QueueStorage
from natscron.worker.registry import GLOBAL, Handler, Registry, check_name

__all__ = ["Life"]

log = logging.getLogger("natscron.scheduler")

F = TypeVar("F", bound=Callable[..., Any])
_LOOK_EVERY_S: Final = 0.5


class Life:
    """What the scheduler is built on: its options, handlers, starts, stops and forks."""

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
        worker_lease: Duration = "8s",
        grace: Duration = "10s",
        stop_timeout: Duration = "30s",
        strict: bool = False,
        timer: Timer | str = Timer.LEADER,
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
            timer=timer,
        )
        self._clock = clock or SystemClock()
        self._owned = isinstance(storage, str)
        self._storage = given_storage(storage, self._clock)
        if self._options.timer is Timer.SERVER and not self._storage.capabilities.timers:
            raise ConfigError("timer='server' needs nats-server: give the scheduler a nats:// URL, or timer='leader'")
        self._used = self._stale = False
        """Whether the storage was opened, and whether that was in the process that this one was forked off."""
        self._registry = Registry()
        self._events = Events()
        self._pending = Pending()
        self._parts: Parts | None = None
        self._leaving: Parts | None = None
        self._hurried = False
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renew()
        self._supervisor: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None
        """Why the scheduler stopped by itself; None if it did not."""
        if handler is not None:
            self.set_handler(handler)
        follow_forks(self, _FORKS)

    @classmethod
    def from_config(  # noqa: PLR0913 - one argument an option
        cls,
        source: Mapping[str, Any] | str | Path,
        scope: str = "scheduler",
        *,
        handler: Handler | None = None,
        engine: Any = None,  # noqa: ANN401 - SQLAlchemy's, which not everybody has
        storage: QueueStorage | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """A scheduler from a mapping, or a TOML or JSON file, with the keys of the Go module or the arguments' names.

        ``scope``: the table to read. ``storage``, or ``engine`` (an ``AsyncEngine``, never closed), go before the
        ``url`` that it names. Without a handler it starts all the same, and its runs fail with the reason
        ``no_handler`` until one is set. Raises ConfigError, and ModeNotConfiguredError for what a mode lacks.
        """
        found = configured(source, scope, engine=engine, storage=storage, clock=clock)
        try:
            scheduler = cls(found.storage, handler, clock=clock, **found.options)
        except ConfigError as error:
            raise ConfigError(f"{found.source}: {error}") from None
        scheduler._owned = found.owned
        scheduler._options = msgspec.structs.replace(scheduler._options, needs_handler=False)
        scheduler._registry.takes_global = True
        return scheduler

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
        job = self._new_job(id, schedule, {**policies, "handler": name})
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
        parts = self._parts
        return parts is not None and self.is_running and parts.engine.is_leader

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
            self._hurried = False
            if self._stale:
                self._storage, self._stale = storage_in_child(self._storage), False
            self._used = True
            parts = Parts(self._storage, self._clock, options, self._registry, self._events)
            try:
                await parts.start()
                # Handlers may begin at once, and call the scheduler.
                self._parts = parts
                await self._pending.apply(parts.jobs, strict=options.strict)
            except BaseException:
                self._parts = None
                # Shielded: a cancelled start still takes everything back.
                await asyncio.shield(parts.stop(1.0, close=self._owned))
                raise
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
                if self._hurried:
                    parts.cut()
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
        """End the patience of a stop that goes on, or is about to begin."""
        self._hurried = True
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

    def _forking_loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop if self._used and self._loop is not None and self._loop.is_running() else None

    @asynccontextmanager
    async def _still(self) -> AsyncIterator[None]:
        # A start or a stop first comes to its end.
        async with self._changing, still(self._storage):
            yield

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

    def _new_job(self, identity: str, schedule: object, policies: Policies) -> Row:
        job = new_job(identity, schedule, policies, self._options.timer)
        check_timer(job, self._storage, self._clock)
        return job

    async def _admitted(self, job: Row) -> Row:
        return await admitted(job, self._running_parts().jobs if self.is_running else None, self._clock)


_FORKS: Final[Forks[Life]] = Forks(Life._forking_loop, Life._still, Life._forget_parent)  # noqa: SLF001 - this module's own
