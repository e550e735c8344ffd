"""What a cron expression means, said a second time and as plainly as possible: the oracle of the brute-force tests.

It shares no code with the product, the reading of fields included. Every wall second of every day that may matter is
looked at by itself: at which instants do the zone's clocks show it? None is a gap, two are a fold, and the two rules
are applied to that one second. Clock changes come from :mod:`zoneinfo`, by looking every few hours.
"""

import calendar
import datetime as dt
import hashlib
from bisect import bisect_left, bisect_right
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAY = 86_400
HOUR = 3_600
EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
LAST_DAY = dt.date.max.toordinal() - EPOCH_DAY
FIFTY_YEARS = 50 * 366
TABLE_ENDS = int(dt.datetime(2100, 1, 1, tzinfo=dt.UTC).timestamp())
PROBE = 4 * HOUR
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMES = ("second", "minute", "hour", "day of month", "month", "day of week")
LOWS = (0, 0, 0, 1, 1, 0)
HIGHS = (59, 59, 23, 31, 12, 6)
GAPS = (None, "run_after", "skip", "shift")
FOLDS = (None, "first", "last", "both")


class Change(NamedTuple):
    """The clocks change at this instant, from this offset to that one, in seconds."""

    at: int
    before: int
    after: int


class Clocks:
    """The clocks of a zone from 1970 to 2100; UTC, without an end, if there is no name."""

    def __init__(self, name: str | None) -> None:
        self.changes = [] if name is None else _changes(ZoneInfo(name))
        self._at = [change.at for change in self.changes]
        self._first = _offset(ZoneInfo(name), 0) if name is not None else 0

    def offset_at(self, instant: int) -> int:
        """The offset that holds at an instant."""
        index = bisect_right(self._at, instant)
        return self.changes[index - 1].after if index else self._first

    def near(self, day: int) -> list[Change]:
        """The changes that may have to do with a local day."""
        start = day * DAY
        return self.changes[bisect_left(self._at, start - 40 * HOUR) : bisect_right(self._at, start + 64 * HOUR)]


def _offset(zone: ZoneInfo, instant: int) -> int:
    offset = dt.datetime.fromtimestamp(instant, zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())


def _changes(zone: ZoneInfo) -> list[Change]:
    found = []
    before = _offset(zone, 0)
    for probe in range(PROBE, TABLE_ENDS, PROBE):
        after = _offset(zone, probe)
        if after != before:
            low, high = probe - PROBE, probe
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
            found.append(Change(high, before, after))
            before = after
    return found


@cache
def clocks_of(name: str | None) -> Clocks:
    """The clocks of a zone, looked up once."""
    return Clocks(name)


class Field:
    """One field of an expression."""

    def __init__(self, index: int, text: str, seed: str) -> None:
        self.low, self.high = LOWS[index], HIGHS[index]
        self.index, self.seed = index, seed
        self.values: set[int] = set()
        self.before_last: set[int] = set()
        self.weekday_near: set[int | None] = set()
        self.nth: set[tuple[int, int | None]] = set()
        self.free = self.star = False
        for item in text.upper().split(","):
            self._item(item)

    def _item(self, item: str) -> None:
        dom, dow = self.index == 3, self.index == 5
        if dom and item.endswith("W"):
            self.weekday_near.add(None if item == "LW" else int(item[:-1]))
        elif dom and item.startswith("L"):
            self.before_last.add(int(item[2:] or 0))
        elif dow and "#" in item:
            weekday, k = item.split("#")
            self.nth.add((self._value(weekday) % 7, int(k)))
        elif dow and item.endswith("L"):
            self.nth.add((self._value(item[:-1]) % 7, None))
        else:
            base, _, step = item.partition("/")
            self._plain(base, int(step or 1), stepped=bool(step))

    def _plain(self, base: str, step: int, *, stepped: bool) -> None:
        span = self.high - self.low + 1
        if base in {"*", "?"}:
            self.star = True
            self.free = self.free or step == 1
            self.values |= set(range(self.low, self.high + 1, step))
        elif "~" in base or (base.startswith("H") and base[1:2] in {"", "("}):
            ends = base.split("~") if "~" in base else base[2:-1].split("-") if "(" in base else ["", ""]
            first = int(ends[0] or self.low)
            last = int(ends[1] or (28 if self.index == 3 else self.high))
            width = last - first + 1
            drawn = first + self._hash() % (min(step, width) if stepped else width)
            self.values |= set(range(drawn, last + 1, step)) if stepped else {drawn}
        else:
            low, _, high = base.partition("-")
            first = self._value(low)
            last = self._value(high) if high else self.high if stepped else first
            if self.index == 5 and first == 7 and last < 7:
                first = 0  # both are Sunday
            if last < first:
                last += span
            self.values |= {(value - self.low) % span + self.low for value in range(first, last + 1, step)}

    def _value(self, text: str) -> int:
        names = MONTHS if self.index == 4 else WEEKDAYS if self.index == 5 else ()
        return names.index(text.lower()) + self.low if text.lower() in names else int(text)

    def _hash(self) -> int:
        """Part of the format: instances of different versions have to agree on a job's slots."""
        hashed = b""
        for part in (self.seed, NAMES[self.index]):
            hashed += len(part.encode()).to_bytes(4, "big") + part.encode()
        return int.from_bytes(hashlib.blake2b(hashed, digest_size=8).digest(), "big")


class Plan(NamedTuple):
    """What becomes of one local day's wall seconds, whatever the rules."""

    plain: list[int]
    """Shown once: the instants."""
    lost: list[tuple[int, int]]
    """Never shown: the end of the gap, and the instant by the offset before it."""
    twice: list[tuple[int, int]]
    """Shown twice: both instants."""


class Oracle:
    """The slots of one expression in one zone, in seconds since 1970 UTC."""

    def __init__(self, text: str, zone: str | None, seed: str = "") -> None:
        texts = text.split()
        fields = [Field(i, one, seed) for i, one in enumerate(texts if len(texts) == 6 else ["0", *texts])]
        second, minute, hour, self._dom, self._month, self._dow = fields
        self.by_instant = minute.star or hour.star
        self._clocks = clocks_of(zone)
        self.times = [
            h * HOUR + m * 60 + s
            for h in sorted(hour.values)
            for m in sorted(minute.values)
            for s in sorted(second.values)
        ]
        self._plans: dict[int, Plan] = {}
        self._dates: dict[int, bool] = {}

    def on(self, day: int) -> bool:
        """Whether a day (counted from 1970-01-01) matches."""
        known = self._dates.get(day)
        if known is None:
            known = self._dates[day] = self.matches(dt.date.fromordinal(day + EPOCH_DAY))
        return known

    def matches(self, date: dt.date) -> bool:
        """Whether a date matches the three day fields."""
        if date.month not in self._month.values:
            return False
        length = calendar.monthrange(date.year, date.month)[1]
        weekday = date.isoweekday() % 7
        dom = (
            date.day in self._dom.values
            or length - date.day in self._dom.before_last
            or any(self._nearest(date, near or length, length) for near in self._dom.weekday_near)
        )
        dow = weekday in self._dow.values or any(
            weekday == wanted and (date.day + 7 > length if k is None else (date.day - 1) // 7 + 1 == k)
            for wanted, k in self._dow.nth
        )
        return (dom and dow) if self._dom.free or self._dow.free else (dom or dow)

    @staticmethod
    def _nearest(date: dt.date, near: int, length: int) -> bool:
        if near > length or date.isoweekday() > 5:
            return False
        wanted = date.replace(day=near)
        closest = min(
            (
                day
                for day in range(max(1, near - 2), min(length, near + 2) + 1)
                if date.replace(day=day).isoweekday() <= 5
            ),
            key=lambda day: (abs(day - wanted.day), day),
        )
        return closest == date.day

    def _plan(self, day: int) -> Plan:
        plan = self._plans.get(day)
        if plan is None:
            plan = self._plans[day] = self._planned(day)
        return plan

    def _planned(self, day: int) -> Plan:
        if not self.on(day):
            return Plan([], [], [])
        walls = [day * DAY + time for time in self.times]
        changes = self._clocks.near(day)
        if not changes:
            offset = self._clocks.offset_at(day * DAY)
            return Plan([wall - offset for wall in walls], [], [])
        plan = Plan([], [], [])
        offsets = {change.before for change in changes} | {change.after for change in changes}
        for wall in walls:
            shown = sorted(wall - offset for offset in offsets if self._clocks.offset_at(wall - offset) == offset)
            if len(shown) == 1:
                plan.plain.append(shown[0])
            elif shown:
                first, last = shown
                plan.twice.append((first, last))
            else:
                [gap] = [c for c in changes if c.at + c.before <= wall < c.at + c.after]
                plan.lost.append((gap.at, wall - gap.before))
        return plan

    def slots_of(self, day: int, gap: str | None, fold: str | None) -> list[int]:
        """The slots that come of a local day, in no order, some perhaps twice."""
        plan = self._plan(day)
        if not (plan.lost or plan.twice):
            return plan.plain
        gap = gap or ("skip" if self.by_instant else "run_after")
        fold = fold or ("both" if self.by_instant else "first")
        slots = list(plan.plain)
        if gap != "skip":
            slots += [after if gap == "run_after" else shifted for after, shifted in plan.lost]
        if fold != "last":
            slots += [first for first, _ in plan.twice]
        if fold != "first":
            slots += [last for _, last in plan.twice]
        return slots

    def next(self, t: int, gap: str | None = None, fold: str | None = None) -> int | None:
        """The first slot after ``t``."""
        day = (t + self._clocks.offset_at(t)) // DAY
        end = min(day + FIFTY_YEARS, LAST_DAY)
        best = None
        for look in range(day - 2, end + 1):
            if best is not None and look > end:
                break
            if self.on(look):
                later = [slot for slot in self.slots_of(look, gap, fold) if slot > t]
                if later:
                    if best is None:
                        end = min(end, look + 3)  # around a clock change the next day's slots may come before
                    best = min(best or later[0], *later)
        return best

    def last(self, t: int, gap: str | None = None, fold: str | None = None) -> int | None:
        """The last slot not after ``t``."""
        day = (t + self._clocks.offset_at(t)) // DAY
        end = max(day - FIFTY_YEARS, -2)
        best = None
        for look in range(min(day + 2, LAST_DAY), end - 1, -1):
            if best is not None and look < end:
                break
            if self.on(look):
                earlier = [slot for slot in self.slots_of(look, gap, fold) if 0 <= slot <= t]
                if earlier:
                    if best is None:
                        end = max(end, look - 3)
                    best = max(best or 0, *earlier)
        return best

    def count(self, after: int, until: int, gap: str | None = None, fold: str | None = None) -> int:
        """How many slots lie in (after, until]."""
        first = (after + self._clocks.offset_at(after)) // DAY - 2
        last = (until + self._clocks.offset_at(until)) // DAY + 2
        found: set[int] = set()
        for day in range(first, last + 1):
            if self.on(day):
                found.update(slot for slot in self.slots_of(day, gap, fold) if after < slot <= until)
        return len(found)
