"""The Scheduler for programs without asyncio: the same thing, called from any thread.

In memory (``memory://``) a scheduler is one process: processes that are forked off it have a copy of its jobs each, and
all of them fire every job. Processes that shall share jobs need a database.

Each method does what its namesake of :class:`natscron.Scheduler` does, and raises the same; that one runs inside, in an
event loop in a thread of its own (:mod:`natscron.sync.life`). Interrupted in a call (Ctrl-C), what was asked for may
have happened.
"""

import contextlib
import datetime as dt
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar, Unpack

from natscron.clock import Clock
from natscron.errors import ValidationError
from natscron.model import Overlap, Run, RunStatus, ScheduleSpec, Timer
from natscron.scheduler import Job, JobStatus, Policies
from natscron.scheduler.signalled import give_back, signals_taken
from natscron.scheduler.values import Duration, seconds
from natscron.storage.queue import QueueStorage
from natscron.sync.inside import Inside, driven
from natscron.sync.life import Life
from natscron.sync.loop import PULSE_S
from natscron.worker.registry import Handler, is_async

__all__ = ["Scheduler"]

F = TypeVar("F", bound=Callable[..., Any])


class Scheduler(Life):
    """Plans jobs and runs their handlers. Use it as a context manager, or start and stop it; from any thread.

    The arguments are those of :class:`natscron.Scheduler`. A storage object that is given belongs to this scheduler,
    which closes it at each stop. Handlers that are not async run in threads and may call the scheduler; async ones run
    in its loop and may not. Listeners that are not async are called in a thread of their own.

    A process that is forked off one in which it runs (gunicorn with ``--preload``) starts its own right away, and the
    parent's goes on: over all of them each slot runs once, if they share a database. A scheduler that still runs when
    the interpreter ends is stopped.
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
        worker_lease: Duration = "8s",
        grace: Duration = "10s",
        stop_timeout: Duration = "30s",
        strict: bool = False,
        timer: Timer | str = Timer.LEADER,
        clock: Clock | None = None,
    ) -> None:
        self._set_up(
            Inside(
                storage,
                handler,
                worker=worker,
                plan=plan,
                name=name,
                instance=instance,
                concurrency=concurrency,
                lease=lease,
                worker_lease=worker_lease,
                grace=grace,
                stop_timeout=stop_timeout,
                strict=strict,
                timer=timer,
                clock=clock,
            )
        )

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
        """See :meth:`natscron.Scheduler.from_config`."""
        scheduler = cls(clock=clock)
        scheduler._set_up(
            Inside.from_config(source, scope, handler=handler, engine=engine, storage=storage, clock=clock)
        )
        return scheduler

    # Handlers.

    def set_handler(self, handler: Handler) -> None:
        """Set the global handler, at any time; the last one counts."""
        self._do(lambda: self._inside.set_handler(handler))

    def handler(self, name: str) -> Callable[[F], F]:
        """Register the decorated function under ``name``, for jobs with ``handler=name``; the last one counts."""
        return self._decorator(self._inside.handler(name))

    def job(self, id: str, schedule: ScheduleSpec, **policies: Unpack[Policies]) -> Callable[[F], F]:  # noqa: A002 - the field's name
        """Have a job that calls the decorated function, ensured at each start."""
        return self._decorator(self._inside.job(id, schedule, **policies))

    def every(self, interval: Duration, *, id: str | None = None, **policies: Unpack[Policies]) -> Callable[[F], F]:  # noqa: A002 - the field's name
        """:meth:`job` with an interval. ``id``: default the function's qualified name."""
        return self._decorator(self._inside.every(interval, id=id, **policies))

    def on(self, event: str, fn: F) -> F:
        """Call ``fn`` at an event: in the scheduler's loop if it is async, else in the listeners' thread."""
        told = fn if not callable(fn) or is_async(fn) else self._listeners.telling(event, fn)
        self._do(lambda: self._inside.on(event, told))
        return fn

    def _decorator(self, register: Callable[[F], F]) -> Callable[[F], F]:
        return lambda fn: self._do(lambda: register(fn))

    # Life.

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it was started in this process and has not ended."""
        return self._inside.is_running

    @property
    def is_leader(self) -> bool:
        """Whether this process plans now."""
        return self._inside.is_leader

    @property
    def failure(self) -> BaseException | None:
        """Why the scheduler stopped by itself; None if it did not."""
        return self._inside.failure

    @property
    def failures(self) -> dict[str, Exception]:
        """What was asked for before the start and could not be stored, by job id."""
        return self._inside.failures

    def start(self) -> None:
        """Start; returns when the jobs are loaded and what was asked for before is stored."""
        self._start()

    def stop(self, timeout: Duration | None = None) -> None:
        """Stop. Handlers get ``timeout`` to end. Idempotent. Interrupted (Ctrl-C), it gives them no more time."""
        self._stop(timeout)

    def run_forever(self) -> None:
        """Start, run until SIGINT, SIGTERM or :meth:`stop`, and stop; a second signal cuts handlers off.

        Outside of the main thread there are no signals, and only :meth:`stop` ends it. Raises what the scheduler failed
        of, if it stopped by itself.
        """
        self._refuse_in_loop()
        # A signal handler may put into it at any point.
        told: SimpleQueue[None] = SimpleQueue()
        signals: list[int] = []

        def signalled(number: int, frame: FrameType | None) -> None:
            del frame
            if signals:
                self._cut()
            signals.append(number)
            told.put(None)

        if not self.is_running:
            self.start()
        in_main = threading.current_thread() is threading.main_thread()
        with contextlib.ExitStack() as stack:
            before = stack.enter_context(signals_taken()) if in_main else {}
            for number in before:
                signal.signal(number, signalled)
            try:
                self._when_over(lambda: told.put(None))
                while not told.qsize():
                    with contextlib.suppress(Empty):
                        told.get(timeout=PULSE_S)
                        break
            finally:
                try:
                    self.stop()
                finally:
                    give_back(before)
        if self.failure is not None:
            raise self.failure

    def wait_until_running(self, timeout: Duration | None = None) -> None:
        """Wait until it runs. Raises TimeoutError after ``timeout``."""
        self._refuse_in_loop()
        bound_s = None if timeout is None else seconds(timeout, "timeout")
        with self._started:
            if not self._started.wait_for(lambda: self.is_running, bound_s):
                raise TimeoutError

    def health_check(self) -> None:
        """Raise StorageUnavailableError, or what the scheduler failed of, unless it runs and its store answers."""
        self._call(self._inside.health_check)

    # Jobs.

    def add_job(self, id: str, schedule: ScheduleSpec, **policies: Unpack[Policies]) -> None:  # noqa: A002 - the field's name
        """Store a job that is not there. Before the start it is kept, and stored at the start."""
        self._call(lambda: self._inside.add_job(id, schedule, **policies))

    def submit_job(
        self,
        id: str,  # noqa: A002 - the field's name
        schedule: ScheduleSpec,
        *,
        connection: Any = None,  # noqa: ANN401 - SQLAlchemy's, which not everybody has
        **policies: Unpack[Policies],
    ) -> None:
        """:meth:`add_job` under the name that the Go module gives it, and for the caller's own SQL transaction.

        ``connection``: SQLAlchemy's ``Connection`` to the storage's database, used in the caller's thread.
        """
        if connection is None:
            self.add_job(id, schedule, **policies)
            return
        if hasattr(connection, "run_sync"):
            raise ValidationError(
                "connection must be SQLAlchemy's Connection here; an AsyncConnection belongs to an event loop: use it "
                "with natscron.Scheduler"
            )
        insert = self._inside.insert()
        row = self._call(lambda: self._inside.row(id, schedule, policies))
        driven(insert(connection, row))

    def ensure_job(self, id: str, schedule: ScheduleSpec, **policies: Unpack[Policies]) -> bool:  # noqa: A002 - the field's name
        """Have a job as given; whether that changed anything (False before the start, where it is kept)."""
        return self._call(lambda: self._inside.ensure_job(id, schedule, **policies))

    def update_job_schedule(self, id: str, schedule: ScheduleSpec) -> None:  # noqa: A002 - the field's name
        """Change a job's schedule and nothing else."""
        self._call(lambda: self._inside.update_job_schedule(id, schedule))

    def update_job(self, id: str, schedule: ScheduleSpec | None = None, **policies: Unpack[Policies]) -> None:  # noqa: A002 - the field's name
        """Change what is given; None resets a policy."""
        self._call(lambda: self._inside.update_job(id, schedule, **policies))

    def remove_job(self, id: str, *, wait: bool = True) -> None:  # noqa: A002 - the field's name
        """Remove a job; its history stays. ``wait``: until its handlers have ended, but for the one that calls this."""
        self._call(lambda: self._inside.remove_job(id, wait=wait))

    def get_job(self, id: str) -> Job:  # noqa: A002 - the field's name
        """One job."""
        return self._call(lambda: self._inside.get_job(id))

    def list_jobs(self, status: JobStatus | str | None = None) -> list[Job]:
        """All jobs, or those with a status; oldest change first."""
        return self._call(lambda: self._inside.list_jobs(status))

    def pause(self, id: str, *, until: dt.datetime | None = None) -> None:  # noqa: A002 - the field's name
        """Let a job's schedule rest, for ever or until an instant; triggers go on."""
        self._call(lambda: self._inside.pause(id, until=until))

    def resume(self, id: str) -> None:  # noqa: A002 - the field's name
        """Let a paused job go on; slots of the pause are not made up for."""
        self._call(lambda: self._inside.resume(id))

    # Runs.

    def trigger(
        self,
        id: str,  # noqa: A002 - the field's name
        payload: Any = None,  # noqa: ANN401 - any JSON value
        *,
        key: str | None = None,
        overlap: Overlap | str | None = None,
    ) -> str:
        """Have a job run now, once; the run's id."""
        return self._call(lambda: self._inside.trigger(id, payload, key=key, overlap=overlap))

    def backfill(  # noqa: PLR0913 - what a backfill is
        self,
        id: str,  # noqa: A002 - the field's name
        since: dt.datetime,
        until: dt.datetime,
        *,
        every: Duration = "100ms",
        overlap: Overlap | str | None = Overlap.BUFFER_ALL,
        key: str | None = None,
    ) -> str:
        """Run every slot from ``since`` to ``until``, both inclusive and past; the backfill's id."""
        return self._call(lambda: self._inside.backfill(id, since, until, every=every, overlap=overlap, key=key))

    def list_runs(  # noqa: PLR0913 - what a query is
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
        """Records of runs, one for each try, the newest first; ``since`` inclusive, ``until`` exclusive, by start."""
        return self._call(
            lambda: self._inside.list_runs(
                job_id,
                status=status,
                since=since,
                until=until,
                sort_by=sort_by,
                descending=descending,
                limit=limit,
                offset=offset,
            )
        )

    def get_run(self, run_id: str) -> Run:
        """The newest try of a run."""
        return self._call(lambda: self._inside.get_run(run_id))

    def delete_runs(self, job_id: str, before: dt.datetime) -> int:
        """Delete a job's records of runs that started at or before an instant; how many."""
        return self._call(lambda: self._inside.delete_runs(job_id, before))

    def redrive(self, run_id: str) -> None:
        """Try a run again that failed for good."""
        self._call(lambda: self._inside.redrive(run_id))
