"""The sun's daily events at a place, by PyEphem.

A solar day runs from one mean midnight at the place's longitude to the next. It has each event at most once, so days
can be numbered, and a search goes from day to day. Near the poles the sun may not rise or set for half a year; on such
days a look at how high and how low it gets spares the search for the instant.
"""

import math
from typing import Final

from natscron.durations import parse_duration
from natscron.errors import InvalidScheduleError, ValidationError
from natscron.model import Solar
from natscron.schedule.base import MAX_MS, Schedule, ScheduleBase

__all__ = ["EVENTS", "compile_solar"]

EVENTS: Final = ("dawn", "sunrise", "noon", "sunset", "dusk")
"""From the first of a day to the last."""

_DAY: Final = 86_400
_SEARCH_DAYS: Final = 370
_MAX_KNOWN: Final = 1_024
_MAX_OFFSET_S: Final = 12 * 3_600
_SECOND_NS: Final = 1_000_000_000
_MAX_DAY: Final = MAX_MS // 1000 // _DAY - 2
_PROBES: Final = (19_723, 20_089)  # the first days of 2024 and 2025
_ZERO: Final = 25_567.5
"""1970 as PyEphem counts days, from noon of the last day of 1899."""
_HORIZON: Final = {"dawn": -6.0, "dusk": -6.0, "sunrise": -34 / 60, "sunset": -34 / 60}
"""Degrees. Refraction lifts what is at the horizon by 34 minutes of arc."""
_MARGIN: Final = 3.0
"""Degrees: the sun's radius, what it moves north or south within a day, and the error of :func:`_declination`."""
_TILT: Final = 23.44
_YEAR: Final = 365.2422
_SOLSTICE: Final = -10  # the days from 1970 to a winter solstice


def _declination(day: int) -> float:
    """How far north of the equator the sun stands, in degrees, within about one."""
    return -_TILT * math.cos(2 * math.pi * (day - _SOLSTICE) / _YEAR)


class SolarSchedule(ScheduleBase):
    """One event of each solar day, moved by an offset."""

    __slots__ = ("_event", "_known", "_latitude", "_longitude", "_offset", "_west")

    def __init__(self, event: str, latitude: float, longitude: float, offset: int) -> None:
        self._event = event
        self._latitude = latitude
        self._longitude = longitude
        self._offset = offset
        self._west = round(-longitude * 240)
        self._known: dict[int, int | None] = {}

    def _of(self, day: int) -> int | None:
        """The event's second on a solar day, without the offset."""
        found = self._known.get(day, 0)
        if found == 0:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            found = self._known[day] = self._found(day)
        return found

    def _found(self, day: int) -> int | None:
        import ephem  # noqa: PLC0415 - an extra, loaded by those who use it

        horizon = _HORIZON.get(self._event, 0.0)
        if self._event != "noon":
            declination = _declination(day)
            highest = 90 - abs(self._latitude - declination)
            lowest = abs(self._latitude + declination) - 90
            if not lowest - _MARGIN <= horizon <= highest + _MARGIN:
                return None
        begin = day * _DAY + self._west
        sun = ephem.Sun()
        place = ephem.Observer()  # holds the instant of its last search, so each search has its own
        place.lat, place.lon = math.radians(self._latitude), math.radians(self._longitude)
        place.pressure = 0
        place.date = begin / _DAY + _ZERO
        if self._event == "noon":
            return self._within(begin, place.next_transit(sun))
        place.horizon = math.radians(horizon)
        search = place.next_rising if self._event in {"dawn", "sunrise"} else place.next_setting
        try:
            return self._within(begin, search(sun, use_center=horizon == _HORIZON["dawn"]))
        except ephem.CircumpolarError:
            return None

    @staticmethod
    def _within(begin: int, found: float) -> int | None:
        """The second, rounded, of an instant of PyEphem's; None if it lies behind the solar day."""
        second = round((found - _ZERO) * _DAY)
        return second if begin <= second < begin + _DAY else None

    def _around(self, t_ms: int) -> int:
        """The solar day of an instant."""
        return (t_ms // 1000 - self._offset - self._west) // _DAY

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None if there is none within a year."""
        t_ms = max(t_ms, -1)
        first = self._around(t_ms)
        for day in range(max(first, -1), min(first + _SEARCH_DAYS, _MAX_DAY)):
            found = self._of(day)
            if found is not None:
                slot = (found + self._offset) * 1000
                if slot > t_ms:
                    return slot if slot <= MAX_MS else None
        return None

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None if there is none within a year."""
        if t_ms < 0:
            return None
        last = min(self._around(min(t_ms, MAX_MS)), _MAX_DAY - 1)
        for day in range(last, max(last - _SEARCH_DAYS, -2), -1):
            found = self._of(day)
            if found is not None:
                slot = (found + self._offset) * 1000
                if slot <= t_ms:
                    return slot if slot >= 0 else None
        return None


def _degrees(name: str, value: float, most: int) -> float:
    if not (math.isfinite(value) and -most <= value <= most):
        raise InvalidScheduleError(f"solar {name} {value} is not an angle: give degrees from -{most} to {most}")
    return float(value)


def _offset(text: str | None) -> int:
    """The offset in seconds."""
    if not text:
        return 0
    try:
        seconds = parse_duration(text.strip()) // _SECOND_NS
    except ValidationError as error:
        raise InvalidScheduleError(f"invalid solar offset: {error} (such as 30m, or -1h30m for before)") from None
    if not -_MAX_OFFSET_S <= seconds <= _MAX_OFFSET_S:
        raise InvalidScheduleError(f"solar offset '{text}' is over 12h: use the event that is nearer")
    return seconds


def compile_solar(spec: Solar) -> Schedule:
    """Compile an event of the sun: slots in whole seconds, on each solar day that has it.

    Dawn and dusk are civil, the sun's centre 6 degrees below the horizon; sunrise and sunset are those of its upper
    edge, with the usual refraction at sea level. Raises :class:`~natscron.errors.InvalidScheduleError`: an unknown
    event, angles out of range, an offset over 12 hours, an event that does not come within two years at that latitude,
    or PyEphem is not installed.
    """
    if spec.event not in EVENTS:
        raise InvalidScheduleError(f"solar event '{spec.event[:64]}' is not known: use one of {', '.join(EVENTS)}")
    latitude, longitude = _degrees("latitude", spec.latitude, 90), _degrees("longitude", spec.longitude, 180)
    offset = _offset(spec.offset)
    try:
        import ephem  # noqa: F401, PLC0415 - an extra: said now if it is missing
    except ImportError:
        raise InvalidScheduleError("solar needs ephem, which is not installed: pip install 'natscron[solar]'") from None
    schedule = SolarSchedule(spec.event, latitude, longitude, offset)
    if all(schedule.next_after_ms(day * _DAY * 1000) is None for day in _PROBES):
        raise InvalidScheduleError(f"solar event '{spec.event}' does not come within two years at latitude {latitude}")
    return schedule
