"""The client's face."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from natscron.clock import Clock, SystemClock
from natscron.errors import ConfigError, InvalidScheduleError, ValidationError
from natscron.messages import changes, streamsetup, worker
from natscron.messages.bulk import Bulk, Items
from natscron.messages.drafts import Draft, recurring_draft, sample_draft, single_draft
from natscron.messages.fired import Fired
from natscron.messages.link import Link
from natscron.messages.reading import list_scheduled, scheduled_of
from natscron.messages.records import Handle, Publication, Scheduled
from natscron.messages.streamcheck import StreamReport
from natscron.messages.subjects import check_prefix, check_subject, same_id
from natscron.messages.values import Body, Duration, Past, When, due_ms, duration_ns, ttl_text
from natscron.schedule.serverwords import Timing, cron_timing, every_timing
from natscron.wire.failures import Message

__all__ = ["MessageScheduler"]

_NAME_REFUSED: Final = frozenset(".*> \t\r\n/\\")
_SECOND_NS: Final = 1_000_000_000
Which = Handle | Scheduled | str


class MessageScheduler:
    """Messages that nats-server itself holds back, repeats or samples; they come with no process of ours alive.

    ``nc``: a connected nats-py client, which stays yours and open, or a URL (``nats://``, ``tls://``, ``ws://``), to
    which a connection is made at the first call and closed by :meth:`close`. ``stream``: where schedules stand, and
    whose subjects the targets are; see :meth:`ensure_stream`. ``prefix``: the first tokens of the schedules' subjects.
    ``remember``: how long the trace of a schedule that was cancelled or replaced in the moment of firing is kept, by
    which workers drop what fired all the same (default 24 h). ``timeout``: for each answer of the server.

    Use it as an async context manager, or call :meth:`close`. Safe to share between tasks of one event loop.

    Every call may raise StorageUnavailableError (nothing happened), StorageUncertainError (it may have: call again
    with the same ``id``), ServerTooOldError, ConfigError for a stream in which it cannot work, and ValidationError and
    its kinds for a wrong argument, before anything is sent.
    """

    def __init__(  # noqa: PLR0913 - one argument an option
        self,
        nc: Any,  # noqa: ANN401 - nats-py's client is known in wire alone
        stream: str,
        prefix: str = "schedules",
        *,
        remember: Duration = "24h",
        timeout: Duration = "5s",
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(stream, str) or not stream or not _NAME_REFUSED.isdisjoint(stream):
            raise ConfigError(f"{stream!r:.80} is not the name of a stream")
        check_prefix(prefix)
        timeout_s = duration_ns(timeout, "timeout") / _SECOND_NS
        if not timeout_s > 0:
            raise ConfigError(f"timeout {timeout!r:.80}: must be above 0")
        self._remember = ttl_text(remember, "remember")
        if self._remember == "never":
            raise ConfigError("remember 'never': traces would pile up; give a duration")
        self._link = Link(nc, stream, prefix, timeout_s=timeout_s, clock=clock or SystemClock())

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._link.stream

    @property
    def prefix(self) -> str:
        """The first tokens of the schedules' subjects."""
        return self._link.prefix

    # The stream.

    async def ensure_stream(
        self,
        subjects: Iterable[str] = (),
        *,
        enable: bool = False,
        replicas: int | None = None,
        storage: str = "file",
        retention: str = "limits",
    ) -> StreamReport:
        """Make the stream with these subjects (targets and sources; the prefix is added), or check the one there is.

        One that is there is not changed, unless ``enable`` is given: then schedules and message time-to-live are
        turned on, which cannot be undone, and missing subjects are added. ``replicas``: default 3 in a cluster, else 1.
        ``retention``: ``limits`` or ``workqueue``. Raises ConfigError when schedules cannot work in it, with all
        reasons; what will be lost, and when, is in the report's ``warnings``.
        """
        return await streamsetup.ensure(
            self._link, subjects, enable=enable, replicas=replicas, storage=storage, retention=retention
        )

    async def check_stream(self) -> StreamReport:
        """What the stream and its consumers do to schedules; changes nothing."""
        return await streamsetup.check(self._link)

    # Schedules.

    async def at(  # noqa: PLR0913 - what a message consists of
        self,
        target: str,
        when: When,
        body: Body = b"",
        *,
        id: str | None = None,  # noqa: A002 - the field's name
        headers: Mapping[str, str] | None = None,
        ttl: Duration | None = None,
        rollup: bool = False,
        past: Past = "fire",
    ) -> Handle:
        """Publish ``body`` to ``target`` at an instant, once (twice if the server crashes in between).

        ``when``: an aware datetime, a timedelta from now, RFC 3339 text, or ``in 5m``; a millisecond is the finest, and
        the server looks every 250 ms. ``id``: of this schedule, for this target; one that is there under it is
        replaced. ``ttl``: how long the message lives once it is published. ``rollup``: it then removes all messages
        before it on the target. ``past``: an instant that is over fires at once, or is refused. Needs 2.12.
        """
        due = due_ms(when, self._link.clock.now_ms(), past)
        return await self._put(single_draft(target, due, body, id=id, headers=headers, ttl=ttl, rollup=rollup))

    async def every(  # noqa: PLR0913 - what a message consists of
        self,
        target: str,
        interval: Duration,
        body: Body = b"",
        *,
        id: str | None = None,  # noqa: A002 - the field's name
        headers: Mapping[str, str] | None = None,
        ttl: Duration | None = None,
        rollup: bool = False,
    ) -> Handle:
        """Publish again and again, ``interval`` apart (whole seconds, at least one), counted from now. Needs 2.14."""
        timing = every_timing(duration_ns(interval, "interval"))
        return await self._put(recurring_draft(target, timing, body, id=id, headers=headers, ttl=ttl, rollup=rollup))

    async def cron(  # noqa: PLR0913 - what a message consists of
        self,
        target: str,
        expression: str,
        body: Body = b"",
        *,
        tz: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's name
        headers: Mapping[str, str] | None = None,
        ttl: Duration | None = None,
        rollup: bool = False,
    ) -> Handle:
        """Publish by a cron expression; ``tz`` an IANA name, default UTC. Needs 2.14.

        Six fields (seconds first) and aliases such as ``@hourly`` go to the server as they are, by its rules; the
        handle's ``warnings`` say where these are not ours. Anything else of our dialect is translated if that is
        exact, and refused with InvalidCronExpressionError if not.
        """
        timing = await self._timing(expression, tz)
        return await self._put(recurring_draft(target, timing, body, id=id, headers=headers, ttl=ttl, rollup=rollup))

    async def sample(  # noqa: PLR0913 - what a sample consists of
        self,
        target: str,
        *,
        source: str,
        every: Duration | None = None,
        cron: str | None = None,
        tz: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's name
        ttl: Duration | None = None,
        rollup: bool = False,
    ) -> Handle:
        """Publish the last message of ``source`` to ``target`` again and again, changed or not. Needs 2.14.

        Give ``every`` or ``cron``. While the source has no message, an empty one comes, which ``receive`` tells
        (``empty_sample``).
        """
        if (every is None) == (cron is None):
            raise InvalidScheduleError("sample() takes either every= or cron=")
        if every is not None:
            if tz:
                raise InvalidScheduleError("tz= goes with cron=: an interval is the same in every zone")
            timing = every_timing(duration_ns(every, "interval"))
        else:
            timing = await self._timing(cron or "", tz)
        return await self._put(sample_draft(target, source, timing, id=id, ttl=ttl, rollup=rollup))

    def at_many(
        self, items: Items, *, window: int = 4_000, patience: Duration = "30s", max_failures: int = 1_000
    ) -> Bulk:
        """Many single messages: ``At(target, when, body, id=...)``, or tuples; from a list, a generator, an async one.

        ``await`` it for a :class:`BulkResult`, or go through the outcomes, in order, with ``async for``. ``window``:
        messages under way. ``patience``: how long to wait for a lost link. ``max_failures`` (awaited only): after so
        many the rest is not looked at.
        """
        return Bulk(
            self,
            self._link,
            items,
            window=window,
            patience_s=duration_ns(patience, "patience") / _SECOND_NS,
            max_failures=max_failures,
            remember=self._remember,
        )

    async def cancel(self, which: Which, id: str | None = None, *, publish: Publication | None = None) -> bool:  # noqa: A002 - the field's name
        """Cancel a schedule, by its handle or by target and id; False: it was not there (it has fired, say).

        ``publish``: a message to be stored in the same step, and only if the schedule was still there. Where it was due
        at this very moment it may fire all the same; ``receive`` drops that message.
        """
        target, found = self._named(which, id)
        return await changes.cancel(self._link, target, found, publish, self._remember)

    async def publish_now(self, which: Which, id: str | None = None, *, keep: bool | None = None) -> int | None:  # noqa: A002 - the field's name
        """Publish a schedule's message now; its sequence in the stream. None: the schedule is not there.

        ``keep``: whether the schedule stays; by default a recurring one does, and a single message comes now instead of
        later.
        """
        target, found = self._named(which, id)
        return await changes.publish_now(self._link, target, found, keep=keep, remember=self._remember)

    async def get(self, which: Which, id: str | None = None) -> Scheduled | None:  # noqa: A002 - the field's name
        """The schedule under a handle's id, or under target and id, as the stream's leader has it; None: none."""
        target, found = self._named(which, id)
        await self._link.facts()
        live = (await changes.current(self._link, same_id(self.prefix, target, found))).live
        return None if live is None else scheduled_of(live, self.prefix, self._link.clock.now_ms())

    async def next_fire(self, which: Which, id: str | None = None) -> dt.datetime | None:  # noqa: A002 - the field's name
        """When it fires next, in UTC; None: it is not there. For an interval see :attr:`Scheduled.next_fire`."""
        found = await self.get(which, id)
        return None if found is None else found.next_fire

    def list(self, target: str | None = None) -> AsyncIterator[Scheduled]:
        """All schedules, oldest first, or those for ``target``, which may hold wildcards (``orders.>``).

        They are read as they are asked for, some hundreds at once. On a replicated stream one that was made a moment
        ago may be missing.
        """
        return list_scheduled(self._link, target)

    # For workers.

    async def receive(self, message: Message) -> Fired | None:
        """What a message says of its schedule. None: it is stale, and was acknowledged: there is nothing to do.

        ``message``: as a nats-py consumer or subscription hands it over. Costs one request to the stream's leader for
        messages of schedules, none for others.
        """
        fired = await worker.receive(self._link, message)
        if not fired.stale:
            return fired
        await worker.acknowledge(self._link, message, surely=False)
        return None

    async def inspect(self, message: Message) -> Fired:
        """As :meth:`receive`, and leaves it to the caller what to do with a stale one."""
        return await worker.receive(self._link, message)

    async def retry_later(self, message: Message, delay: Duration) -> Handle:
        """Put a message off: schedule a copy back to its subject, its attempt counted, then acknowledge the message.

        A crash in between makes it come twice, never not at all; a redelivery that is put off again replaces the copy
        that waits. The subject has to be among the stream's.
        """
        written = await worker.retry_later(self._link, message, delay, self._remember)
        return Handle(self, written.place, written.seq, replaced=written.replaced)

    # Its life.

    async def close(self) -> None:
        """End what was opened here; a client that was given stays open. Idempotent, never raises."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        await self._link.connection()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"MessageScheduler(stream={self.stream!r}, prefix={self.prefix!r})"

    async def _put(self, draft: Draft) -> Handle:
        written = await changes.put(self._link, draft, self._remember)
        return Handle(self, written.place, written.seq, replaced=written.replaced, warnings=draft.warnings)

    async def _timing(self, expression: str, tz: str | None) -> Timing:
        if not isinstance(expression, str):
            raise InvalidScheduleError(f"a cron expression is text; got {expression!r:.80}")
        now_s = self._link.clock.now_ms() // 1000
        # The clock changes of a zone are looked through once a day and expression: tens of milliseconds.
        return await asyncio.to_thread(cron_timing, expression, tz, now_s)

    def _named(self, which: Which, id: str | None) -> tuple[str, str]:  # noqa: A002 - the field's name
        if isinstance(which, str):
            if id is None:
                raise ValidationError(f"the id is missing: give a handle, or the target {which!r:.80} and the id")
            check_subject(which)
            return which, id
        if id is not None:
            raise ValidationError("give a handle, or a target and an id; not both")
        if not which.id:
            raise ValidationError(f"the schedule on {which.subject} was written by another program: it has no id here")
        return which.target, which.id
