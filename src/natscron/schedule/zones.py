"""Time zones as sorted lists of clock changes, so that a search needs integers only.

:mod:`zoneinfo` knows the offset at an instant but not when it next changes. :class:`Zone` asks it every few days of the
years that are really used, narrows every change down to its second, and keeps the result in an immutable
:class:`Table`. A zone's table is replaced as a whole, so readers in other threads see the old one or the new one. A
table grows only to what is near it: a question about another century gets one of its own, and costs a fraction
of a millisecond. The last few are kept.

:func:`clear_cache` drops what was read: call it daily, because a host's zone data is updated under running
processes. Schedules hold the :class:`Zone`, not the table, and so see the new data by their next call.
"""

import datetime as dt
import zoneinfo
from typing import Final, NamedTuple

from natscron.errors import ValidationError

__all__ = ["HORIZON", "MARGIN", "PERIOD", "REPEATS_FROM", "Table", "Zone", "clear_cache", "generation", "zone_named"]

_DAY: Final = 86_400
_CHUNK: Final = 244 * _DAY
"""Seconds that are read at once. Reading is what a first search costs, so little more is read than it needs."""
_STEP: Final = 4 * _DAY
"""Seconds between two looks. No zone has taken back a change within less than a week; a test holds them to it."""
_FAR: Final = 7 * _CHUNK
"""A table does not grow over a gap longer than this."""
_QUARTER: Final = 900
_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - on the wall
_KEPT: Final = 4
"""Tables of a zone that are kept."""
MARGIN: Final = 200 * _DAY
"""Seconds around an instant that a table covers at least, so that the changes next to it are known."""
PERIOD: Final = 146_097 * _DAY
"""Seconds after which calendar, weekdays and (from :data:`REPEATS_FROM`) every zone's rule repeat: 400 years."""
REPEATS_FROM: Final = 4_102_444_800
"""2100-01-01 in seconds. No zone has explicit changes after it, only its yearly rule."""
HORIZON: Final = REPEATS_FROM + PERIOD + 100 * 366 * _DAY
"""No table reaches further, in seconds: later instants are folded back by :data:`PERIOD`."""
_MAX_NAME: Final = 64


class Table(NamedTuple):
    """The changes of one zone between two instants (seconds since 1970 UTC)."""

    start: int
    end: int
    at: tuple[int, ...]
    """Instants in (start, end] at which the offset changes, sorted."""
    offset: tuple[int, ...]
    """Seconds east of UTC: ``offset[i]`` holds from ``at[i - 1]`` on and before ``at[i]``. One longer than ``at``."""
    safe_from: int
    """Searches that begin at or after this have their neighbourhood in the table ..."""
    safe_until: int
    """... if they also begin before this."""


_NOTHING: Final = Table(0, 0, (), (0,), 0, 0)


def _wall(second: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(seconds=second)


class Zone:
    """One IANA zone; there is one object per name."""

    __slots__ = ("_info", "_kept", "name", "table")

    def __init__(self, name: str, info: zoneinfo.ZoneInfo) -> None:
        self.name = name
        self._info = info
        self.table = _NOTHING
        self._kept: tuple[Table, ...] = ()

    def _offset(self, second: int) -> int:
        offset = dt.datetime.fromtimestamp(second, self._info).utcoffset()
        return 0 if offset is None else offset // dt.timedelta(seconds=1)

    def _changes(self, start: int, end: int) -> tuple[list[int], list[int]]:
        """The changes in (start, end] and the offsets from each of them on.

        Two changes between two looks are found unless the second undoes the first.
        """
        at: list[int] = []
        offsets: list[int] = []
        known, offset = start, self._offset(start)
        look = self._info.utcoffset
        step = dt.timedelta(seconds=_STEP)
        wall, shown = _wall(start + offset), dt.timedelta(seconds=offset)
        for probe in [*range(start + _STEP, end, _STEP), end]:
            # Wall times are asked about because that is much quicker. Those in a gap or a first pass show the offset
            # before the change, so it is noticed late, by the length of a gap, and never early.
            wall += step
            if probe != end and look(wall) == shown:
                known = max(known, probe - _DAY)
                continue
            after = self._offset(probe)
            while offset != after:
                known = self._first_other(known, probe, offset)
                offset = self._offset(known)
                at.append(known)
                offsets.append(offset)
            known = probe
            wall, shown = _wall(probe + offset), dt.timedelta(seconds=offset)
        return at, offsets

    def _first_other(self, low: int, high: int, offset: int) -> int:
        """The first second after ``low``, which has ``offset``, that has another one, as ``high`` has."""
        while high - low > 1:
            middle = (low + high) // 2
            quarter = middle - middle % _QUARTER  # where nearly all changes are
            if low < quarter:
                middle = quarter
            elif high % _QUARTER == 0:
                middle = high - 1
            if self._offset(middle) == offset:
                low = middle
            else:
                high = middle
        return high

    def cover(self, start: int, end: int) -> Table:
        """A table that reaches from ``start`` to ``end`` (seconds), cut to 1970 and :data:`HORIZON`; keeps this one."""
        start = max(start // _CHUNK * _CHUNK, 0)
        end = min(-(-end // _CHUNK) * _CHUNK, HORIZON)
        kept = self._kept
        for table in kept:
            if table.start <= start and end <= table.end:
                self.table = table
                return table
        near = [one for one in kept if one.start - _FAR <= end and start <= one.end + _FAR]
        table = near[0] if near else Table(start, start, (), (self._offset(start),), 0, 0)
        others = tuple(one for one in kept if one is not table)
        if start < table.start:
            at, offsets = self._changes(start, table.start)
            at_all = (*at, *table.at)
            table = table._replace(start=start, at=at_all, offset=(self._offset(start), *offsets, *table.offset[1:]))
        if end > table.end:
            at, offsets = self._changes(table.end, end)
            table = table._replace(end=end, at=(*table.at, *at), offset=(*table.offset, *offsets))
        safe_from = -1 if table.start == 0 else table.start + MARGIN
        table = table._replace(safe_from=safe_from, safe_until=table.end - MARGIN)
        self._kept = (table, *others[: _KEPT - 1])
        self.table = table
        return table

    def around(self, second: int) -> Table:
        """A table that covers :data:`MARGIN` on both sides of ``second``."""
        return self.cover(second - MARGIN, second + MARGIN)

    @property
    def info(self) -> zoneinfo.ZoneInfo:
        """The zone for datetimes, as last read."""
        return self._info

    def reload(self) -> None:
        """Read the zone's data again. A zone that is gone keeps what was known of it."""
        info = _load(self.name)
        if info is not None:
            self._info = info
        self._kept = ()
        self.table = _NOTHING


_zones: dict[str, Zone] = {}


def _load(name: str) -> zoneinfo.ZoneInfo | None:
    try:
        return zoneinfo.ZoneInfo.no_cache(name)
    except (KeyError, ValueError, OSError):  # unknown; malformed, or a path outside; a folder, or an unreadable file
        return None


def zone_named(name: str) -> Zone:
    """The zone of an IANA name; the same object each time, so memory is bounded by the number of real zones.

    Raises :class:`~natscron.errors.ValidationError` with Go's text if it is not known. ``right/*`` (which counts leap
    seconds) and ``localtime`` (which differs from host to host) are not zones here.
    """
    zone = _zones.get(name)
    if zone is not None:
        return zone
    usable = name and len(name) <= _MAX_NAME and name.isascii() and name != "localtime"
    info = _load(name) if usable and not name.startswith("right/") else None
    if info is None:
        shown = name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "..."
        raise ValidationError(f"unknown time zone {shown}")
    return _zones.setdefault(name, Zone(name, info))


_generation = [0]


def generation() -> int:
    """Another number after each :func:`clear_cache`: what was worked out under the one before may be wrong now."""
    return _generation[0]


def clear_cache() -> None:
    """Forget all zone data, so that it is read again when next needed. Compiled schedules follow."""
    _generation[0] += 1
    for zone in list(_zones.values()):
        zone.reload()
