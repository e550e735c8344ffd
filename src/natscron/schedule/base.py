"""What every schedule offers: the protocol, and the parts of it that are the same for all."""

import datetime as dt
from typing import Final, Protocol

from natscron.errors import InvalidScheduleTimeError

__all__ = ["MAX_MS", "DelayedSchedule", "Schedule", "ScheduleBase", "Wrapper", "instant_of", "ms_of"]

MAX_MS: Final = 253_402_300_799_999
"""The last instant that exists here: 9999-12-31T23:59:59.999Z, in milliseconds since 1970. The first one is 0."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)


def ms_of(moment: dt.datetime) -> int:
    """Milliseconds since 1970 UTC, rounded down. Raises InvalidScheduleTimeError if ``moment`` has no zone."""
    if moment.utcoffset() is None:
        raise InvalidScheduleTimeError(
            f"{moment.isoformat()} has no time zone: pass an aware datetime, such as datetime.now(UTC)"
        )
    return (moment - _EPOCH) // _MILLISECOND


def instant_of(ms: int) -> dt.datetime:
    """The aware datetime, in UTC, of an instant in milliseconds since 1970 UTC, from 0 to :data:`MAX_MS`."""
    return _EPOCH + dt.timedelta(milliseconds=ms)


class Schedule(Protocol):
    """When: pure functions from an instant to the slots around it. Immutable, knows no clock, never raises.

    Instants are milliseconds since 1970 UTC. Slots lie between 1970 and 9999; there is none outside, and any integer
    may be asked about.
    """

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None: there is none within 50 years."""
        ...

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None."""
        ...

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms]; counting stops at ``cap``."""
        ...

    @property
    def dues(self) -> "Schedule":
        """The same slots as the instants at which they are due: a schedule of these; itself unless they are delayed.

        A due instant is never before its slot, and both are in the same order.
        """
        ...

    def due_of(self, slot_ms: int) -> int:
        """When a slot is due; asked of :attr:`dues`."""
        ...

    def slot_of(self, due_ms: int) -> int:
        """The slot that is due at ``due_ms``; asked of :attr:`dues`."""
        ...

    def mark(self, slot_ms: int) -> str:
        """What a clock change did to a slot: ``moved``, ``repeated`` (its second pass), or nothing: empty."""
        ...

    @property
    def failure(self) -> str | None:
        """Why the last search found nothing although there may be slots: what a user's class did wrong; else None."""
        ...

    @property
    def zone_name(self) -> str | None:
        """The IANA name of the zone whose wall clock the slots follow; None if they follow none, or several."""
        ...

    def next_after(self, t: dt.datetime) -> dt.datetime | None:
        """As :meth:`next_after_ms`, in UTC. Raises InvalidScheduleTimeError if ``t`` has no time zone."""
        ...

    def last_at_or_before(self, t: dt.datetime) -> dt.datetime | None:
        """As :meth:`last_at_or_before_ms`, in UTC. Raises InvalidScheduleTimeError if ``t`` has no time zone."""
        ...

    @property
    def expression(self) -> str | None:
        """The cron expression, without its zone prefix; None if the schedule has none."""
        ...

    @property
    def interval(self) -> dt.timedelta | None:
        """The interval; None if the schedule has none."""
        ...

    @property
    def run_at(self) -> dt.datetime | None:
        """The instant of a schedule that fires once; None for others."""
        ...

    @property
    def start_at(self) -> dt.datetime | None:
        """The explicit start of an interval; None if it counts from the job's creation."""
        ...


class ScheduleBase:
    """The parts of :class:`Schedule` that follow from the two searches."""

    __slots__ = ()

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None."""
        raise NotImplementedError

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None."""
        raise NotImplementedError

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms], at most ``cap``; as many searches."""
        found = 0
        slot = self.next_after_ms(after_ms)
        while found < cap and slot is not None and slot <= until_ms:
            found += 1
            slot = self.next_after_ms(slot)
        return found

    @property
    def dues(self) -> Schedule:
        """Itself: nothing is delayed here."""
        return self

    def due_of(self, slot_ms: int) -> int:
        """The same instant."""
        return slot_ms

    def slot_of(self, due_ms: int) -> int:
        """The same instant."""
        return due_ms

    def mark(self, slot_ms: int) -> str:  # noqa: ARG002 - for those that follow a wall clock
        """Empty: no wall clock is followed here."""
        return ""

    @property
    def failure(self) -> str | None:
        """None: nothing fails here."""
        return None

    @property
    def zone_name(self) -> str | None:
        """None: no wall clock is followed here."""
        return None

    def next_after(self, t: dt.datetime) -> dt.datetime | None:
        """The first slot strictly later than ``t``, in UTC, or None."""
        slot = self.next_after_ms(ms_of(t))
        return None if slot is None else instant_of(slot)

    def last_at_or_before(self, t: dt.datetime) -> dt.datetime | None:
        """The last slot not later than ``t``, in UTC, or None."""
        slot = self.last_at_or_before_ms(ms_of(t))
        return None if slot is None else instant_of(slot)

    @property
    def expression(self) -> str | None:
        """None here."""
        return None

    @property
    def interval(self) -> dt.timedelta | None:
        """None here."""
        return None

    @property
    def run_at(self) -> dt.datetime | None:
        """None here."""
        return None

    @property
    def start_at(self) -> dt.datetime | None:
        """None here."""
        return None


class Wrapper(ScheduleBase):
    """A schedule around another one, which says everything that the wrapper does not change."""

    __slots__ = ("inner",)

    def __init__(self, inner: Schedule) -> None:
        self.inner = inner

    def mark(self, slot_ms: int) -> str:
        """The inner schedule's."""
        return self.inner.mark(slot_ms)

    @property
    def failure(self) -> str | None:
        """The inner schedule's."""
        return self.inner.failure

    @property
    def zone_name(self) -> str | None:
        """The inner schedule's."""
        return self.inner.zone_name

    @property
    def expression(self) -> str | None:
        """The inner schedule's."""
        return self.inner.expression

    @property
    def interval(self) -> dt.timedelta | None:
        """The inner schedule's."""
        return self.inner.interval

    @property
    def run_at(self) -> dt.datetime | None:
        """The inner schedule's."""
        return self.inner.run_at

    @property
    def start_at(self) -> dt.datetime | None:
        """The inner schedule's."""
        return self.inner.start_at


class DelayedSchedule(Wrapper):
    """The slots of ``inner``, unchanged, and a schedule of the instants at which they are due, none before its slot."""

    __slots__ = ("_dues",)

    def __init__(self, inner: Schedule, dues: Schedule) -> None:
        super().__init__(inner)
        self._dues = dues

    def next_after_ms(self, t_ms: int) -> int | None:
        """The inner schedule's."""
        return self.inner.next_after_ms(t_ms)

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The inner schedule's."""
        return self.inner.last_at_or_before_ms(t_ms)

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """The inner schedule's."""
        return self.inner.count(after_ms, until_ms, cap)

    @property
    def dues(self) -> Schedule:
        """The due instants."""
        return self._dues
