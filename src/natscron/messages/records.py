"""What the message scheduler hands out."""

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from natscron.messages.subjects import Place
from natscron.messages.values import Body, Duration, Past, When

if TYPE_CHECKING:
    from natscron.messages.scheduler import MessageScheduler

__all__ = ["At", "Handle", "Kind", "Outcome", "Publication", "Scheduled"]

Kind: TypeAlias = Literal["at", "every", "cron", "sample"]


class Handle:
    """A schedule that was written. Its methods concern the schedule of this id, whichever revision is there by then."""

    __slots__ = ("_owner", "_place", "replaced", "sequence", "warnings")

    def __init__(
        self,
        owner: "MessageScheduler",
        place: Place,
        sequence: int,
        *,
        replaced: bool = False,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self._owner = owner
        self._place = place
        self.sequence = sequence
        """The stream's sequence of it."""
        self.replaced = replaced
        """Whether it took the place of one with the same id that had not fired yet (or fires again and again)."""
        self.warnings = warnings
        """What its author should know, such as the server's rules for clock changes."""

    @property
    def id(self) -> str:
        """Its id; made up if none was given."""
        return self._place.id

    @property
    def target(self) -> str:
        """Where its messages go."""
        return self._place.target

    @property
    def revision(self) -> str:
        """Which writing of this id it is; later ones sort behind it."""
        return self._place.revision

    @property
    def subject(self) -> str:
        """Where it stands in the stream, alone and never again."""
        return self._place.subject

    async def cancel(self, publish: "Publication | None" = None) -> bool:
        """See :meth:`MessageScheduler.cancel`."""
        return await self._owner.cancel(self, publish=publish)

    async def publish_now(self, *, keep: bool | None = None) -> int | None:
        """See :meth:`MessageScheduler.publish_now`."""
        return await self._owner.publish_now(self, keep=keep)

    async def get(self) -> "Scheduled | None":
        """What stands in the stream under this id."""
        return await self._owner.get(self)

    async def next_fire(self) -> dt.datetime | None:
        """When it fires next; None: it is not there any more."""
        return await self._owner.next_fire(self)

    def __repr__(self) -> str:
        return f"Handle(target={self.target!r}, id={self.id!r}, revision={self.revision}, sequence={self.sequence})"


class Scheduled(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it stands in the stream."""

    target: str
    id: str
    """Empty: it was written by another program, in another layout."""
    revision: str
    subject: str
    sequence: int
    kind: Kind
    text: str
    """The server's own words: ``@at ...``, ``@every ...``, an alias, or six cron fields."""
    tz: str
    """The zone of the fields; empty: UTC."""
    next_fire: dt.datetime | None
    """When it was going to fire next as it was read; None: that cannot be told.

    An interval counts from the whole second at which it was stored; after a crash of the server it may count from
    another one.
    """
    source: str
    """What is sampled; empty for the other kinds."""
    ttl: str
    """How long its messages live; empty: as the stream says."""
    rollup: bool
    """Whether a message of it replaces those before it on the target."""
    headers: Mapping[str, str]
    """The author's own."""
    body: bytes
    stored_at: dt.datetime
    attempt: int = 1
    """Which try its message is; more than 1 for what ``retry_later`` wrote."""


class Publication(msgspec.Struct, frozen=True):
    """A message to be published in the same step in which a schedule is cancelled."""

    subject: str
    body: Body = b""
    headers: Mapping[str, str] | None = None
    ttl: Duration | None = None
    """How long it lives; None: as the stream says."""


class At(msgspec.Struct, frozen=True):
    """One message of ``at_many``; the fields are the arguments of ``at``."""

    target: str
    when: When
    body: Body = b""
    id: str | None = None
    headers: Mapping[str, str] | None = None
    ttl: Duration | None = None
    rollup: bool = False
    past: Past = "fire"


class Outcome(msgspec.Struct, frozen=True):
    """What became of one message of ``at_many``: a handle, or an error."""

    index: int
    """The message's place in the iterable, from 0."""
    item: At
    handle: Handle | None = None
    error: Exception | None = None
    """Its ``may_have_happened`` says whether the message may be scheduled all the same."""
