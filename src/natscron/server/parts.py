"""The parts of one server, put together here and nowhere else; see :mod:`natscron.server.app` for their life."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from natscron import __version__
from natscron.clock import Clock
from natscron.config import HistorySettings, Settings
from natscron.durations import format_duration
from natscron.engine.engine import Engine
from natscron.engine.freshness import Freshness
from natscron.engine.history import HistoryWriter
from natscron.engine.options import EngineOptions
from natscron.engine.table import Entry
from natscron.errors import StorageError, StorageUnavailableError
from natscron.model import Delivery, Job, Run
from natscron.server.admission import Admission
from natscron.server.api import Endpoint, endpoints
from natscron.server.calls import Calls
from natscron.server.context import Context
from natscron.server.delivery import StreamMap, SubjectTarget
from natscron.server.foreign import IMPLEMENTATION, GoWatch
from natscron.server.limits import Limits
from natscron.server.options import ServerOptions
from natscron.server.stored import compile_stored
from natscron.server.streams import StreamKeeper
from natscron.server.subjects import API_SUBJECTS, SubjectPolicy
from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.nats.storage import NatsStorage
from natscron.wire.connection import Connection
from natscron.wire.micro import Handler, MicroError, MicroService, Request
from natscron.wire.options import ConnectOptions

__all__ = ["Parts", "connect_options", "engine_options", "history_in_words", "storage_options"]

logger = logging.getLogger("natscron.server")

_MICRO_VERSION: Final = "1.0.0"
_DESCRIPTION: Final = "NATS Cron Scheduler"
_RETRY_S: Final = 1.0
_PROVISION_S: Final = 4.0
"""After that long without success the log says what is missing; then it is tried again."""
_SAY_EVERY_S: Final = 10.0
_CLOSE_S: Final = 5.0


class Parts:
    """What one start opens. Every attribute is there as soon as it has to be closed."""

    def __init__(self, options: ServerOptions, clock: Clock) -> None:
        self._options = options
        self._settings = options.effective
        self._clock = clock
        self._closing: list[Callable[[], Awaitable[None]]] = []
        self._micro: MicroService | None = None
        self._engine_started = False
        self.engine: Engine
        self.calls: Calls

    def about(self) -> dict[str, Any]:
        """Fields for the log."""
        service = self._settings.service
        return {"instance_id": service.instance_id, "service": service.name, "version": __version__}

    def failure(self) -> BaseException | None:
        """What ended this server, if anything did."""
        if self.engine.failed is not None:
            return self.engine.failed
        if self._connection.is_closed:
            return StorageUnavailableError("the NATS connection was closed for good")
        return None

    async def start(self) -> None:
        """Connect and put everything together; what was begun is ended by :meth:`stop`, also after a failure."""
        deadline = self._options.connect_timeout_s
        try:
            async with asyncio.timeout(deadline):
                await self._connect()
                await self._assemble()
        except TimeoutError:
            raise StorageUnavailableError(f"NATS was not ready within {deadline} s; see the log for why") from None

    async def _connect(self) -> None:
        if self._options.connection is not None:
            self._connection = Connection.adopt(self._options.connection)
        else:
            self._connection = await Connection.connect(connect_options(self._settings))
        self._closing.append(self._connection.close)

    async def _assemble(self) -> None:
        settings, clock, connection = self._settings, self._clock, self._connection
        service = settings.service
        patience_s = min(_PROVISION_S, (self._options.connect_timeout_s or _PROVISION_S) / 2)
        wanted = msgspec.structs.replace(storage_options(settings), provision_timeout_s=patience_s)
        storage = NatsStorage(connection, wanted, clock=clock)
        self._closing.append(storage.close)
        streams = StreamMap()
        keeper = StreamKeeper(connection, streams)
        self._closing.append(keeper.stop)
        go = GoWatch(connection, clock, service.jobs_bucket)
        self._closing.append(go.stop)
        await _until_up(lambda: _all_at_once(storage.initialize(), keeper.start(), go.start()))

        policy = SubjectPolicy.for_service(
            service.prefix,
            log_prefix=storage.options.log_prefix,
            allow=settings.jobs.allow,
            deny=settings.jobs.deny,
        )
        target = SubjectTarget(policy, streams)
        engine = self.engine = Engine(
            storage,
            target,
            clock,
            engine_options(settings),
            may_lead=go.may_lead,
            covered_until=lambda: go.last_seen_ms,
        )

        if not settings.history.enabled:
            engine.history = _NoHistory(storage)

        def forget(job_id: str, entry: Entry | None) -> None:
            if entry is None:
                target.forget(job_id)

        def saved(job: Job) -> None:
            if job.delivery is Delivery.AUTO:
                keeper.poke()

        engine.table.listen(forget)
        fresh = Freshness(storage, engine.table)
        self._closing.append(fresh.close)
        context = Context(
            name=service.name,
            instance_id=service.instance_id,
            store=storage,
            engine=engine,
            target=target,
            admission=Admission(
                policy,
                Limits(
                    max_jobs=settings.jobs.max_jobs,
                    max_payload=settings.jobs.max_payload,
                    max_headers=settings.jobs.max_headers,
                    max_labels=settings.jobs.max_labels,
                ),
                streams,
                settings.jobs.min_interval_ms * 1_000_000,
            ),
            clock=clock,
            fresh=fresh,
            max_reply=lambda: connection.max_payload,
            on_saved=saved,
            notes=lambda: [*storage.warnings, *([keeper.problem] if keeper.problem else [])],
            keeps=history_in_words(settings.history),
        )
        self.calls = Calls(context)
        await compile_stored(storage)
        self._engine_started = True
        await engine.start()
        if service.micro:
            await self._answer(endpoints(self.calls))

    async def _answer(self, table: tuple[Endpoint, ...]) -> None:
        service = self._settings.service
        micro = self._micro = MicroService(
            self._connection,
            name=service.name,
            version=_MICRO_VERSION,
            description=_DESCRIPTION,
            clock=self._clock,
            metadata={"instance_id": service.instance_id, "implementation": IMPLEMENTATION},
        )
        for endpoint in table:
            micro.add_endpoint(
                endpoint.name,
                f"{service.prefix}.{endpoint.subject}",
                _handler(endpoint),
                metadata=endpoint.metadata or None,
            )
        await micro.start()

    async def stop(self, timeout_s: float) -> None:
        """End everything that was begun, in order; what takes longer than ``timeout_s`` is cut off."""
        try:
            async with asyncio.timeout(timeout_s):
                await _all_at_once(*self._handing_over(timeout_s))
        except TimeoutError:
            logger.warning("Cut off what had not ended within the shutdown time-out", extra={"timeout_s": timeout_s})
        except Exception:
            logger.exception("Stopping was not clean")
        while self._closing:
            close = self._closing.pop()
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await close()
            except TimeoutError:
                logger.warning("A part did not close in time")
            except Exception:
                logger.exception("A part did not close cleanly")

    def _handing_over(self, timeout_s: float) -> list[Awaitable[None]]:
        micro, self._micro = self._micro, None
        started, self._engine_started = self._engine_started, False
        found: list[Awaitable[None]] = []
        if micro is not None:
            found.append(micro.stop(timeout_s))
        if started:
            found.append(self.engine.stop(timeout_s))
        return found


def history_in_words(history: HistorySettings) -> str:
    """What the history keeps, in words."""
    if not history.enabled:
        return "nothing: it is switched off ([history] enabled)"
    records = "1 record" if history.per_job == 1 else f"{history.per_job:,} records"
    days, rest = divmod(history.max_age_ms, 86_400_000)
    age = format_duration(history.max_age_ms * 1_000_000, short=True)
    return f"{records} per job, {age if rest else '1 day' if days == 1 else f'{days} days'}"


class _NoHistory(HistoryWriter):
    """Keeps nothing, where the settings say so."""

    def record(self, run: Run) -> None:
        """Dropped."""

    def record_all(self, runs: Sequence[Run]) -> None:
        """Dropped."""

    def record_later(self, count: int, make: Callable[[], Sequence[Run]]) -> None:
        """Dropped."""


def _handler(endpoint: Endpoint) -> Handler:
    async def handle(request: Request) -> bytes:
        answer = await endpoint.answer(request.data)
        if answer.code:
            raise MicroError(answer.code, answer.description, answer.body)
        return answer.body

    return handle


async def _all_at_once(*work: Awaitable[None]) -> None:
    """Run them beside each other; the first failure is raised when all have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _until_up(attempt: Callable[[], Awaitable[None]]) -> None:
    """Try until NATS is ready, and say every ten seconds that it is not."""
    loop = asyncio.get_running_loop()
    said_s = float("-inf")
    while True:
        try:
            return await attempt()
        except StorageError as error:
            if loop.time() - said_s >= _SAY_EVERY_S:
                said_s = loop.time()
                logger.warning("NATS is not ready; trying again", extra={"error": str(error)})
        await asyncio.sleep(_RETRY_S)


def connect_options(settings: Settings) -> ConnectOptions:
    """How to connect, from the settings."""
    return ConnectOptions.of(settings.nats, f"{settings.service.name} {settings.service.instance_id}")


def storage_options(settings: Settings) -> NatsStorageOptions:
    """Names and limits of the NATS objects, from the settings."""
    service = settings.service
    return NatsStorageOptions(
        name=service.name,
        jobs_bucket=service.jobs_bucket,
        state_bucket=service.state_bucket,
        log_stream=service.log_stream,
        log_prefix=f"{service.prefix}.log",
        replicas=settings.nats.replicas,
        log_per_job=settings.history.per_job,
        log_max_age_ms=settings.history.max_age_ms,
        api_subjects=tuple(f"{service.prefix}.{part}" for part in API_SUBJECTS),
    )


def engine_options(settings: Settings) -> EngineOptions:
    """The engine's options, from the settings."""
    return EngineOptions(
        namespace=settings.service.name,
        instance=settings.service.instance_id,
        lease_ms=settings.lease.duration_ms,
        grace_ms=settings.lease.grace_ms,
        max_skew_ms=settings.lease.max_skew_ms,
        min_interval_ns=settings.jobs.min_interval_ms * 1_000_000,
        keep_done_ms=settings.jobs.keep_done_ms,
        plan=settings.service.leader_election,
        version=__version__,
    )
