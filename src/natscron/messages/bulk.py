"""Many single messages at once, through a window of unacknowledged ones.

Order: outcomes come in the order of the messages, each as soon as it and all before it are known. A message with an id
is first written as if the id were new; if it is not, it takes the place of the old one beside the others (as
:func:`~natscron.messages.changes.put`), and messages after it are not held up.

Bounds: at most ``window`` messages are taken from the iterable and not yet handed out as outcomes, so an endless one
is fine. At most :data:`REPLACING` replacements run at once.

What fails: a message that is wrong, or refused, has its error as its outcome, and the rest goes on. When the link is
lost, what was under way ends as StorageUncertainError; the next message waits for the link, up to ``patience_s``, and
if it does not come back its outcome says so and nothing more is taken. What a stream without a leader did not take is
sent again, for as long. Then the iteration raises StorageUnavailableError after the last outcome; awaited, the result
says ``stopped``. Cancelled, or left early, it gives up what is under way: that was sent and may be stored; no task
stays.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from natscron.errors import LimitExceededError, NatscronError, StorageUnavailableError, ValidationError
from natscron.messages.changes import Written, put
from natscron.messages.drafts import Draft, guard_lines, header_block, plain_block, single_draft
from natscron.messages.link import Link
from natscron.messages.records import At, Handle, Outcome
from natscron.messages.subjects import Place, Revisions, check_outside, check_subject, same_id
from natscron.messages.values import due_ms
from natscron.wire import scheduleheaders as h
from natscron.wire.failures import NoRespondersError
from natscron.wire.kv import is_wrong_sequence
from natscron.wire.levels import Needs
from natscron.wire.window import SMALL, PublishWindow

if TYPE_CHECKING:
    from natscron.messages.scheduler import MessageScheduler
    from natscron.wire.replies import PubAck

__all__ = ["Bulk", "BulkResult", "Items"]

Items: TypeAlias = Iterable[At | tuple[Any, ...]] | AsyncIterable[At | tuple[Any, ...]]
"""Messages, or tuples of their fields in order; from an iterable that may wait (async) and need not end."""

REPLACING: Final = 32
_RETRY_S: Final = 0.1
_BREATH: Final = 64
"""Messages between two looks at what else the loop has to do."""


class BulkResult(msgspec.Struct, frozen=True):
    """What became of all messages of a call."""

    scheduled: int
    """How many are stored."""
    failed: tuple[Outcome, ...]
    """Those that are not, or of which that is not known, each with its error."""
    stopped: bool = False
    """The rest of the iterable was not looked at: too many had failed, or NATS stayed away."""


class _Flight:
    """A message that was taken and not handed out."""

    __slots__ = ("again", "block", "body", "due", "error", "future", "index", "item", "place", "subject")

    def __init__(self, index: int, item: Any) -> None:  # noqa: ANN401 - it may not be one
        self.index = index
        self.item = item
        self.due = 0
        self.place: Place | None = None
        self.subject = ""
        self.block = b""
        self.body = b""
        self.future: asyncio.Future[PubAck] | None = None
        self.again: asyncio.Task[Written] | None = None
        self.error: Exception | None = None

    def draft(self) -> Draft:
        """It, to be written by other means."""
        item = self.item
        return single_draft(
            item.target, self.due, item.body, id=item.id, headers=item.headers, ttl=item.ttl, rollup=item.rollup
        )


class Bulk:
    """A call of ``at_many``: await it for the :class:`BulkResult`, or go through its outcomes with ``async for``."""

    def __init__(  # noqa: PLR0913 - what a call consists of
        self,
        owner: "MessageScheduler",
        link: Link,
        items: Items,
        *,
        window: int,
        patience_s: float,
        max_failures: int,
        remember: str,
    ) -> None:
        if not 1 <= window <= 100_000:  # noqa: PLR2004 - more is queued by no server
            raise ValidationError(f"window is 1 to 100,000 messages; got {window!r:.80}")
        self._owner = owner
        self._link = link
        self._items = items
        self._size = window
        self._patience_s = patience_s
        self._max_failures = max_failures
        self._remember = remember

    def __aiter__(self) -> AsyncGenerator[Outcome]:
        return _Run(self._owner, self._link, self._items, self._size, self._patience_s, self._remember).outcomes()

    def __await__(self) -> Generator[Any, None, BulkResult]:
        return self._all().__await__()

    async def _all(self) -> BulkResult:
        run = _Run(self._owner, self._link, self._items, self._size, self._patience_s, self._remember)
        scheduled = 0
        failed: list[Outcome] = []
        async with contextlib.aclosing(run.outcomes()) as outcomes:
            try:
                async for outcome in outcomes:
                    if outcome.error is None:
                        scheduled += 1
                        continue
                    failed.append(outcome)
                    if len(failed) >= self._max_failures:
                        run.enough()
            except StorageUnavailableError:
                if run.gave_up is None:
                    raise
        return BulkResult(scheduled, tuple(failed), run.stopped)


def _message(item: object) -> At:
    """A message that was given as a tuple. Raises ValidationError."""
    if not isinstance(item, tuple):
        raise ValidationError(f"not a message: {item!r:.80}: give At(target, when, body), or such a tuple")
    try:
        return At(*item)
    except TypeError as error:
        raise ValidationError(f"not a message: {item!r:.80}: {error}") from None


class _Run:
    """One run over the messages."""

    def __init__(  # noqa: PLR0913, PLR0917 - see Bulk
        self,
        owner: "MessageScheduler",
        link: Link,
        items: Items,
        size: int,
        patience_s: float,
        remember: str,
    ) -> None:
        self._owner = owner
        self._link = link
        self._items = items
        self._size = size
        self._patience_s = patience_s
        self._remember = remember
        self._flying: deque[_Flight] = deque()
        self._count = 0
        self._changed = asyncio.Event()
        """Something was taken, or the end is reached."""
        self._room = asyncio.Event()
        self._up = asyncio.Event()
        self._replacing = asyncio.Semaphore(REPLACING)
        self._last: dict[tuple[str, str], asyncio.Task[Written]] = {}
        """The last replacement under way for a target and id: the next one waits for it."""
        self._window: PublishWindow
        self._limit = 0
        self._revisions = Revisions()
        self._guard = guard_lines(h.expect(link.stream))
        self._away_since: float | None = None
        """Since when nobody has taken a message."""
        self.stopped = False
        self.gave_up: StorageUnavailableError | None = None
        """NATS, or the stream's leader, stayed away too long."""

    def enough(self) -> None:
        """Take no more."""
        self.stopped = True

    def on_down(self) -> None:
        """The link is lost."""
        self._up.clear()

    def on_up(self) -> None:
        """The link is back."""
        self._up.set()

    async def outcomes(self) -> AsyncGenerator[Outcome]:
        """All outcomes, in the order of the messages."""
        await self._link.facts()
        connection = await self._link.connection()
        self._limit = connection.max_payload
        self._window = PublishWindow(connection, size=self._size, timeout_s=self._link.timeout_s)
        remove = connection.add_listener(self)
        feeder = asyncio.get_running_loop().create_task(self._feed())
        try:
            while True:
                if self._flying:
                    outcome = await self._outcome(self._flying[0])
                    self._flying.popleft()
                    self._room.set()
                    yield outcome
                elif feeder.done():
                    break
                else:
                    self._changed.clear()
                    await self._changed.wait()
            feeder.result()
            if self.gave_up is not None:
                raise self.gave_up
        finally:
            remove()
            feeder.cancel()
            tasks = [flight.again for flight in self._flying if flight.again is not None]
            for task in tasks:
                task.cancel()
            await self._window.close()
            await asyncio.gather(feeder, *tasks, return_exceptions=True)

    async def _feed(self) -> None:
        """Take messages and send them; ends with the iterable, with its error, or with a link that stays away."""
        try:
            if isinstance(self._items, AsyncIterable):
                async for item in self._items:
                    await self._take(item)
                    if self.stopped:
                        break
            else:
                for item in self._items:
                    await self._take(item)
                    if self.stopped:
                        break
                    if self._count % _BREATH == 0:
                        await asyncio.sleep(0)
        finally:
            self._changed.set()

    async def _take(self, item: Any) -> None:  # noqa: ANN401 - it may not be a message
        while len(self._flying) >= self._size:
            self._room.clear()
            await self._room.wait()
        flight = _Flight(self._count, item)
        self._count += 1
        lost: StorageUnavailableError | None = None
        try:
            self._prepare(flight)
            if flight.item.rollup:
                await self._link.facts(Needs.FULL)
            await self._send(flight)
        except NatscronError as error:
            flight.error = error
            lost = error if isinstance(error, StorageUnavailableError) else None
        self._flying.append(flight)
        self._changed.set()
        if lost is not None:
            self._give_up(lost)

    def _give_up(self, why: StorageUnavailableError) -> None:
        self.gave_up, self.stopped = why, True

    def _prepare(self, flight: _Flight) -> None:
        """Make of it what will be sent. Raises ValidationError."""
        item = flight.item
        if type(item) is not At:
            item = flight.item = _message(item)
        link = self._link
        now_ms = link.clock.now_ms()
        target, name = item.target, item.id
        flight.due = due_ms(item.when, now_ms, item.past)
        check_subject(target)
        check_outside(target, link.prefix)
        revision = self._revisions.next(now_ms)
        guard = (
            self._guard if name is None else guard_lines(h.expect(link.stream, 0, same_id(link.prefix, target, name)))
        )
        flight.place = place = Place(link.prefix, target, revision if name is None else name, revision)
        flight.subject = place.subject
        if item.headers is None and item.ttl is None and not item.rollup and type(item.body) is bytes:
            flight.body, flight.block = item.body, plain_block(target, flight.due, guard)
        else:
            draft = flight.draft()
            flight.body, flight.block = draft.body, header_block(draft.headers, guard)
        size = len(flight.body) + len(flight.block)
        if size > self._limit:
            raise LimitExceededError(f"the message has {size} bytes with its headers; the server takes {self._limit}")

    async def _send(self, flight: _Flight) -> None:
        """Send it, waiting for the link if it is down. Raises StorageUnavailableError if that stays away."""
        named = flight.item.id is not None
        if named and (flight.item.target, flight.item.id) in self._last:
            self._replace_in_turn(flight)
            return
        while flight.future is None:
            try:
                if len(flight.body) > SMALL:  # waits for room in the client's own buffer
                    flight.future = await self._window.publish(flight.subject, flight.body, self._headers(flight))
                else:
                    flight.future = await self._window.publish_block(flight.subject, flight.block, flight.body)
            except StorageUnavailableError:
                await self._wait_for_link()
        if named:
            flight.future.add_done_callback(lambda _: self._again(flight))

    def _headers(self, flight: _Flight) -> dict[str, str]:
        """What its block says, for a message that goes the long way."""
        link, item = self._link, flight.item
        if item.id is None:
            return flight.draft().headers | h.expect(link.stream)
        return flight.draft().headers | h.expect(link.stream, 0, same_id(link.prefix, item.target, item.id))

    async def _wait_for_link(self) -> None:
        connection = await self._link.connection()
        self._up.clear()
        try:
            async with asyncio.timeout(self._patience_s):
                while not connection.is_connected and not connection.is_closed:
                    await self._up.wait()
        except TimeoutError:
            raise StorageUnavailableError(
                f"the connection to NATS did not come back within {self._patience_s} s"
            ) from None
        if connection.is_closed:
            raise StorageUnavailableError("the connection to NATS was closed")

    def _again(self, flight: _Flight) -> None:
        """If its id was taken: begin to replace what is there."""
        future = flight.future
        if flight.again is None and future is not None and not future.cancelled():
            error = future.exception()
            if error is not None and is_wrong_sequence(error):
                self._replace_in_turn(flight)

    def _replace_in_turn(self, flight: _Flight) -> None:
        """Replace what stands under the id, after those before it for the same id."""
        key = (flight.item.target, flight.item.id)
        task = asyncio.get_running_loop().create_task(self._replace(flight.draft(), self._last.get(key)))
        flight.again = self._last[key] = task

        def done(_: object) -> None:
            if self._last.get(key) is task:
                del self._last[key]
            if not task.cancelled():
                task.exception()  # marks it retrieved: the caller may have stopped going through the outcomes

        task.add_done_callback(done)

    async def _replace(self, draft: Draft, before: "asyncio.Task[Written] | None") -> Written:
        if before is not None:
            await asyncio.wait([before])
        async with self._replacing:
            return await put(self._link, draft, self._remember)

    async def _outcome(self, flight: _Flight) -> Outcome:
        if flight.error is not None:
            return Outcome(flight.index, flight.item, error=flight.error)
        try:
            return await self._stored(flight)
        except NatscronError as error:
            return Outcome(flight.index, flight.item, error=self._link.refused(error, flight.subject))

    async def _stored(self, flight: _Flight) -> Outcome:
        """Wait for its acknowledgement, or for that of the replacement. Raises as these do."""
        pause_s = 0.0
        while flight.future is not None and flight.place is not None and flight.again is None:
            try:
                ack = await flight.future
            except NoRespondersError as error:
                # The stream has no leader (one is elected within 4 to 9 seconds): it is stored nowhere.
                now = asyncio.get_running_loop().time()
                self._away_since = self._away_since or now
                if now - self._away_since >= self._patience_s:
                    self._give_up(error)
                    raise
                await asyncio.sleep(pause_s)  # the first time at once: the message before it may have waited already
                pause_s = _RETRY_S
                flight.future = None
                await self._send(flight)
            except NatscronError:
                self._again(flight)
                if flight.again is None:
                    raise
            else:
                self._away_since = None
                return Outcome(flight.index, flight.item, Handle(self._owner, flight.place, ack.seq))
        if flight.again is None:
            raise StorageUnavailableError("it was not sent")
        written = await flight.again
        handle = Handle(self._owner, written.place, written.seq, replaced=written.replaced)
        return Outcome(flight.index, flight.item, handle)
