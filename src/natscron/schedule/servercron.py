"""How nats-server reads six cron fields, and when it fires next by them: its rules, not ours.

The server walks from field to field, in wall-clock steps for months and days and in absolute ones for hours, minutes
and seconds, and gives up after five years. Around clock changes this walk does things that nobody would ask for: it may
skip a day, or fire on one that does not match. They are followed here step by step, because this module answers
two questions: does the server's text mean what our schedule means (:mod:`~natscron.schedule.serverwords`), and when
does a schedule that stands in the stream fire. Pure: no clock, no I/O; instants are whole seconds since 1970 UTC.
"""

import datetime as dt
from bisect import bisect_right
from typing import Final, NamedTuple

from natscron.errors import InvalidCronExpressionError
from natscron.schedule.zones import Zone

__all__ = ["ServerCron", "parse_server_cron"]

_DAY: Final = 86_400
_HOUR: Final = 3_600
_MINUTE: Final = 60
_EPOCH: Final = dt.date(1970, 1, 1).toordinal()
_YEARS: Final = 5
"""How far the server looks."""
_LAST_YEAR: Final = 9_990
_MONTHS: Final = 12
_SPAN: Final = _YEARS * 366 * _DAY
_MAX_DIGITS: Final = 18
_FIELDS: Final = 6


class _Bounds(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int:
        """A value, by number or name. Raises ValueError with the reason."""
        if text.lower() in self.names:
            return self.names.index(text.lower()) + self.low
        digits = text.removeprefix("+")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > _MAX_DIGITS:
            raise ValueError(f"'{text}' is not a number" + (" or a three-letter name" if self.names else ""))
        return int(digits)


_SECONDS: Final = _Bounds("second", 0, 59)
_MINUTES: Final = _Bounds("minute", 0, 59)
_HOURS: Final = _Bounds("hour", 0, 23)
_DOM: Final = _Bounds("day of month", 1, 31)
_MONTH: Final = _Bounds(
    "month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
)
_DOW: Final = _Bounds("day of week", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat"))


def _item(text: str, bounds: _Bounds) -> tuple[int, bool]:
    """The values of one list item as a bit mask, and whether it counts as a star. Raises ValueError."""
    base, *steps = text.split("/")
    low_text, *highs = base.split("-")
    star = low_text in {"*", "?"}
    if star:
        low, high = bounds.low, bounds.high
    else:
        if len(highs) > 1:
            raise ValueError(f"'{text}' has too many hyphens")
        low = bounds.number(low_text)
        high = bounds.number(highs[0]) if highs else low
    step = 1
    if steps:
        if len(steps) > 1:
            raise ValueError(f"'{text}' has too many slashes")
        step = bounds._replace(names=()).number(steps[0])
        if not highs:
            high = bounds.high
    if step == 0:
        raise ValueError(f"'{text}' has the step 0")
    if low < bounds.low or high > bounds.high or low > high:
        raise ValueError(f"'{text}' is not within {bounds.low}-{bounds.high}, from low to high")
    return sum(1 << value for value in range(low, high + 1, step)), star and step == 1


def _field(text: str, bounds: _Bounds) -> tuple[int, bool]:
    mask, starred = 0, False
    try:
        for item in filter(None, text.split(",")):
            bits, star = _item(item, bounds)
            mask |= bits
            starred = starred or star
        if not mask:
            raise ValueError(f"'{text}' never matches")  # noqa: TRY301 - gets its place with the others
    except ValueError as error:
        raise InvalidCronExpressionError(f"nats-server does not take the field {bounds.name}: {error}") from None
    return mask, starred


class _Walk:
    """A point in time that is moved about, in absolute steps or on the wall of a zone."""

    __slots__ = ("_known", "at", "zone")

    def __init__(self, at: int, zone: Zone | None) -> None:
        self.at = at
        self.zone = zone
        self._known = (0, -_SPAN, 1 << 62) if zone is None else (0, 0, 0)

    def _stretch(self, at: int) -> tuple[int, int, int]:
        """The offset at an instant, and from when until when (exclusive) it holds, as far as is known."""
        known = self._known
        if self.zone is None or known[1] <= at < known[2]:
            return known
        table = self.zone.table
        if not table.safe_from <= at < table.safe_until:
            table = self.zone.around(at)
        i = bisect_right(table.at, at)
        start = table.at[i - 1] if i else table.start
        known = self._known = (table.offset[i], start, table.at[i] if i < len(table.at) else table.end)
        return known

    @property
    def wall(self) -> int:
        """What the wall shows, in seconds since 1970 on the wall."""
        return self.at + self._stretch(self.at)[0]

    @property
    def date(self) -> dt.date:
        return dt.date.fromordinal(self.wall // _DAY + _EPOCH)

    @property
    def hour(self) -> int:
        return self.wall % _DAY // _HOUR

    @property
    def minute(self) -> int:
        return self.wall % _HOUR // _MINUTE

    def show(self, wall: int) -> None:
        """Go to where the wall shows this, as Go's time.Date finds it; in a gap or a fold that is one of several."""
        offset, start, end = self._stretch(wall)
        if offset:
            at = wall - offset
            if not start <= at < end:
                offset = self._stretch(at)[0]
        self.at = wall - offset

    def to_month(self, year: int, month: int, day: int) -> None:
        """Go to this day at the same time of day; days too many run on into the next month."""
        first = dt.date(year, month, 1).toordinal() - _EPOCH
        self.show((first + day - 1) * _DAY + self.wall % _DAY)


class ServerCron(NamedTuple):
    """Six fields as the server has read them: masks with bit n for value n."""

    seconds: int
    minutes: int
    hours: int
    dom: int
    months: int
    dow: int
    both: bool
    """Both day fields have to match (one has a star); else either does."""
    zone: Zone | None
    """None: UTC."""

    def _day(self, date: dt.date) -> bool:
        dom = bool(self.dom >> date.day & 1)
        dow = bool(self.dow >> date.isoweekday() % 7 & 1)
        return (dom and dow) if self.both else (dom or dow)

    def next_after(self, second: int) -> int | None:  # noqa: C901 - one branch a field, in the server's order
        """When the server fires next if it looks in this second; None: not within five years, it gives up."""
        walk = _Walk(second + 1, self.zone)
        limit = min(walk.date.year + _YEARS, _LAST_YEAR)
        cut = False  # whether the finer fields were set to their start
        while walk.date.year <= limit:
            if not self.months >> walk.date.month & 1:
                cut, again = True, self._to_month(walk, cut=cut)
                if again:
                    continue
            if not self._day(walk.date):
                cut, again = True, self._to_day(walk, cut=cut)
                if again:
                    continue
            if not self.hours >> walk.hour & 1:
                cut, again = True, self._to_hour(walk, cut=cut)
                if again:
                    continue
            if not self.minutes >> walk.minute & 1:
                cut, again = True, self._to_minute(walk, cut=cut)
                if again:
                    continue
            if not self.seconds >> walk.wall % _MINUTE & 1:
                cut = True
                if self._to_second(walk):
                    continue
            return walk.at
        return None

    # Each of these goes on from a value that does not match, by one step at least: what the cut comes to (in a gap it
    # may be the day before) is not looked at. They say whether the coarser field wrapped around, so that all is to be
    # looked at again.

    def _to_month(self, walk: _Walk, *, cut: bool) -> bool:
        if not cut:
            walk.show((walk.date.replace(day=1).toordinal() - _EPOCH) * _DAY)
        while True:
            date = walk.date
            following = date.month % _MONTHS + 1
            walk.to_month(date.year + (following == 1), following, date.day)
            if walk.date.month == 1:
                return True
            if self.months >> walk.date.month & 1:
                return False

    def _to_day(self, walk: _Walk, *, cut: bool) -> bool:
        if not cut:
            walk.show(walk.wall // _DAY * _DAY)
        while True:
            walk.show(walk.wall + _DAY)
            if walk.date.day == 1:
                return True
            if self._day(walk.date):
                return False

    def _to_hour(self, walk: _Walk, *, cut: bool) -> bool:
        if not cut:
            walk.show(walk.wall // _HOUR * _HOUR)
        while True:
            walk.at += _HOUR
            if walk.hour == 0:
                return True
            if self.hours >> walk.hour & 1:
                return False

    def _to_minute(self, walk: _Walk, *, cut: bool) -> bool:
        if not cut:
            walk.at -= walk.at % _MINUTE
        while True:
            walk.at += _MINUTE
            if walk.minute == 0:
                return True
            if self.minutes >> walk.minute & 1:
                return False

    def _to_second(self, walk: _Walk) -> bool:
        while True:
            walk.at += 1
            if walk.wall % _MINUTE == 0:
                return True
            if self.seconds >> walk.wall % _MINUTE & 1:
                return False

    def last_before(self, second: int) -> int | None:
        """The last instant before this one at which the server fires; None: none within five years."""
        low, high = second - _SPAN, second - 1  # from low on something fires before `second`, from high on nothing
        found = self.next_after(low)
        if found is None or found >= second:
            return None
        while low < high:
            middle = (low + high) // 2
            found = self.next_after(middle)
            if found is not None and found < second:
                low = middle + 1
            else:
                high = middle
        return low


def parse_server_cron(text: str, zone: Zone | None) -> ServerCron:
    """Read six fields, the second first. Raises InvalidCronExpressionError for what the server would refuse."""
    fields = text.split()
    if len(fields) != _FIELDS:
        raise InvalidCronExpressionError(
            f"nats-server takes six cron fields, the seconds first; '{text[:64]}' has {len(fields)}"
        )
    second, minute, hour, dom, month, dow = (
        _field(field, bounds)
        for field, bounds in zip(fields, (_SECONDS, _MINUTES, _HOURS, _DOM, _MONTH, _DOW), strict=True)
    )
    return ServerCron(second[0], minute[0], hour[0], dom[0], month[0], dow[0], dom[1] or dow[1], zone)
