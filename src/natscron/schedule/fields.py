"""Reading the fields of a cron expression into bit masks.

Two dialects of strictness. *Strict* is for what users send now: everything that has a meaning is taken, everything
else is refused with the field, the value and the reason. *Lenient* is for rows that the Go version has stored: what
its parser let through is read the way it read it, and each such oddity is named in a warning.
"""

import hashlib
import re
from functools import lru_cache
from typing import Final, NamedTuple

from natscron.errors import ValidationError
from natscron.schedule.days import DayFields

__all__ = ["Fields", "parse_fields"]

_MONTH_NAMES: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_WEEKDAYS: Final = {n: i for i, n in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_H: Final = re.compile(r"H(?:\(([0-9]{1,4})-([0-9]{1,4})\))?|([0-9]{1,4})?~([0-9]{1,4})?")
_LAST: Final = re.compile(r"L(?:-([0-9]{1,2}))?", re.IGNORECASE)
_NEAR: Final = re.compile(r"([0-9]{1,2}|L)W", re.IGNORECASE)
_NTH: Final = re.compile(r"([0-9]|[A-Za-z]{3})(?:#([0-9]{1,4})|(L))", re.IGNORECASE)
_MAX_ITEMS: Final = 128
_HASHED_DAYS: Final = 28
_MAX_DIGITS: Final = 18
_MOST_OF_A_WEEKDAY: Final = 5
_EVERY_SECOND: Final = (1 << 60) - 1


class _Kind(NamedTuple):
    name: str
    low: int
    high: int
    names: dict[str, int]
    alias: int = 0
    """A value past the highest one that stands for the lowest: 7 is a Sunday too. 0: there is none."""


_SECOND: Final = _Kind("second", 0, 59, {})
_MINUTE: Final = _Kind("minute", 0, 59, {})
_HOUR: Final = _Kind("hour", 0, 23, {})
_DOM: Final = _Kind("day of month", 1, 31, {})
_MONTH: Final = _Kind("month", 1, 12, _MONTHS)
_DOW: Final = _Kind("day of week", 0, 6, _WEEKDAYS, 7)


class Fields(NamedTuple):
    """An expression's fields, parsed."""

    seconds: int
    minutes: int
    hours: int
    days: DayFields
    by_instant: bool
    """Minute or hour has ``*``, ``?`` or ``*/n``: an interval job when clocks change, else a wall-time job."""


class _Read:
    """One field being read: what its items have said so far."""

    def __init__(self, kind: _Kind, text: str, seed: str, warnings: list[str], *, lenient: bool) -> None:
        self.kind = kind
        self.text = text
        self.seed = seed
        self.warnings = warnings
        self.lenient = lenient
        self.mask = 0
        self.unrestricted = False
        """Has a ``*`` or ``?`` without a step over 1: what decides between both and either day field."""
        self.starred = False
        """Has a ``*`` or ``?``, with or without a step."""
        self.last: list[int] = []
        self.near: list[int] = []
        self.nth: list[tuple[int, int]] = []

    def fail(self, reason: str, remedy: str = "") -> ValidationError:
        span = f"{self.kind.low}-{self.kind.high}"
        return ValidationError(f"{reason} (field {self.kind.name} takes {remedy or span}; it has '{self.text}')")

    def odd(self, what: str) -> None:
        """Something that only the Go version's rows may have."""
        if not self.lenient:
            raise self.fail(what)
        self.warnings.append(f"{what} (field {self.kind.name}: '{self.text}'); read as the Go version does")

    def number(self, text: str) -> int:
        value = self.kind.names.get(text.lower())
        if value is not None:
            return value
        digits = text
        if text[:1] == "+":
            self.odd(f"'{text}' has a sign")
            digits = text[1:]
        if not (digits.isascii() and digits.isdigit()):
            reason = f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
            remedy = f"{self.kind.low}-{self.kind.high}" + (", or three-letter names" if self.kind.names else "")
            raise self.fail(reason, remedy)
        if len(digits.lstrip("0")) > _MAX_DIGITS:
            raise self.fail(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": value out of range')
        return int(digits)

    def read(self) -> None:
        items = self.text.split(",")
        if len(items) > _MAX_ITEMS:
            raise self.fail(f"more than {_MAX_ITEMS} list items")
        for item in items:
            if not item:
                self.odd("empty list item")
            elif not self.special(item):
                self.plain(item)

    def special(self, item: str) -> bool:
        """The forms that only the day fields have. False if ``item`` is none of them."""
        if self.kind is _DOM:
            return self.special_dom(item)
        return self.kind is _DOW and self.special_dow(item)

    def special_dom(self, item: str) -> bool:
        """``L``, ``L-n``, ``nW`` and ``LW``."""
        if found := _LAST.fullmatch(item):
            before = int(found[1] or 0)
            if before >= self.kind.high:
                raise self.fail(f"'{item}' lies before every month's first day")
            self.last.append(before)
            return True
        if found := _NEAR.fullmatch(item):
            is_last = found[1] in {"l", "L"}
            day = 0 if is_last else int(found[1])
            if not is_last and not 1 <= day <= self.kind.high:
                raise self.fail(f"'{item}' names a day that no month has")
            self.near.append(day)
            return True
        return False

    def special_dow(self, item: str) -> bool:
        """``n#k`` and ``nL``."""
        if item in {"L", "l"}:
            raise self.fail("'L' needs a weekday there", "0-7 or names, and nL such as 5L")
        found = _NTH.fullmatch(item)
        if not found:
            return False
        k = 0 if found[3] else int(found[2])
        if not found[3] and not 1 <= k <= _MOST_OF_A_WEEKDAY:
            raise self.fail(f"'{item}' asks for a number outside 1-{_MOST_OF_A_WEEKDAY} of a weekday in a month")
        weekday = self.number(found[1])
        if weekday > self.kind.alias:
            raise self.fail(f"end of range ({weekday}) above maximum ({self.kind.high}): {item}")
        self.nth.append((weekday % self.kind.alias, k))
        return True

    def hashed(self, base: str) -> tuple[int, int] | None:
        """The range that ``H``, ``H(a-b)``, ``~`` or ``a~b`` draws from; None if ``base`` is none of them."""
        found = _H.fullmatch(base)
        if not found:
            return None
        low = found[1] or found[3]
        high = found[2] or found[4]
        # A hash that fell on the 29th to 31st would leave months out.
        top = _HASHED_DAYS if self.kind is _DOM else self.kind.high
        a, b = int(low) if low else self.kind.low, int(high) if high else top
        if not self.kind.low <= a <= b <= self.kind.high:
            raise self.fail(f"'{base}' is not a range within {self.kind.low}-{self.kind.high}")
        return a, b

    def draw(self, count: int) -> int:
        """A stable number in 0..count-1 of the seed and the field."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.seed, self.kind.name):
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(4, "big") + raw)
        return int.from_bytes(digest.digest(), "big") % count

    def step(self, item: str, parts: list[str]) -> int:
        if len(parts) == 1:
            return 1
        step = self.number(parts[1])
        if len(parts) > 2:  # noqa: PLR2004 - base and step
            raise self.fail(f"too many slashes: {item}")
        if step == 0:
            raise self.fail(f"step of range should be a positive number: {item}")
        if step > self.kind.high - self.kind.low + 1:
            self.odd(f"step {step} is longer than the field's {self.kind.high - self.kind.low + 1} values")
        return step

    def plain(self, item: str) -> None:
        parts = item.split("/")
        base = parts[0]
        if drawn := self.hashed(base):
            low, high = drawn
            step = self.step(item, parts)
            span = high - low + 1
            low += self.draw(min(step, span) if len(parts) > 1 else span)
            self.add(low, high if len(parts) > 1 else low, step)
            return
        ends = base.split("-")
        if ends[0] in {"*", "?"}:
            if len(ends) > 1:
                self.odd(f"'{base}' is not a range")
            step = self.step(item, parts)
            self.starred = True
            self.unrestricted = self.unrestricted or step == 1
            self.add(self.kind.low, self.kind.high, step)
            return
        low = self.number(ends[0])
        if len(ends) > 2:  # noqa: PLR2004 - both ends of a range
            raise self.fail(f"too many hyphens: {item}")
        high = self.number(ends[1]) if len(ends) > 1 else low
        step = self.step(item, parts)
        self.ranged(item, low, high, step, open_end=len(ends) == 1 and len(parts) > 1)

    def ranged(self, item: str, low: int, high: int, step: int, *, open_end: bool) -> None:
        kind = self.kind
        limit = kind.alias or kind.high
        if low < kind.low or high < kind.low:
            raise self.fail(f"beginning of range ({min(low, high)}) below minimum ({kind.low}): {item}")
        if open_end:
            high = kind.high
        if high > limit:
            raise self.fail(f"end of range ({high}) above maximum ({kind.high}): {item}")
        if low > limit:
            raise self.fail(f"beginning of range ({low}) beyond end of range ({high}): {item}")
        if low > high and low == kind.alias:
            low = kind.low
        if low > high:  # over the end and on from the start
            high += kind.high - kind.low + 1
        self.add(low, high, step)

    def add(self, low: int, high: int, step: int) -> None:
        span = self.kind.high - self.kind.low + 1
        for value in range(low, high + 1, step):
            self.mask |= 1 << (value - self.kind.low) % span + self.kind.low


class _Field(NamedTuple):
    """What one field says."""

    mask: int
    unrestricted: bool
    starred: bool
    last: tuple[int, ...]
    near: tuple[int, ...]
    nth: tuple[tuple[int, int], ...]
    warnings: tuple[str, ...]


_KINDS: Final = (_SECOND, _MINUTE, _HOUR, _DOM, _MONTH, _DOW)


def _read(index: int, text: str, seed: str, *, lenient: bool) -> _Field:
    warnings: list[str] = []
    read = _Read(_KINDS[index], text, seed, warnings, lenient=lenient)
    read.read()
    if not (read.mask or read.last or read.near or read.nth):
        raise read.fail(f"'{text}' never matches")
    days = tuple(sorted(set(read.last))), tuple(sorted(set(read.near))), tuple(sorted(set(read.nth)))
    return _Field(read.mask, read.unrestricted, read.starred, *days, tuple(warnings))


# Expressions differ from job to job much more than single fields do, so these are read once each.
_read_shared: Final = lru_cache(maxsize=4096)(_read)


def parse_fields(texts: list[str], *, seed: str, lenient: bool) -> tuple[Fields, list[str]]:
    """Parse five fields (minute first) or six (second first), with what their author should know.

    ``seed`` is what ``H`` and ``~`` hash. Raises :class:`~natscron.errors.ValidationError` naming the field, the value
    and the reason. Whether the fields can ever match together is not looked at.
    """
    six = len(texts) == len(_KINDS)
    fields = []
    for index, text in enumerate(texts if six else ["0", *texts]):
        reader = _read if "H" in text or "~" in text else _read_shared
        fields.append(reader(index, text, "" if reader is _read_shared else seed, lenient=lenient))
    second, minute, hour, dom, month, dow = fields
    warnings = [warning for field in fields for warning in field.warnings]
    if six and second.mask == _EVERY_SECOND:
        warnings.append("the seconds field is '*': the job runs every second of each matching minute; 0 means once")
    both = dom.unrestricted or dow.unrestricted
    days = DayFields(dom.mask, month.mask, dow.mask, both, dom.last, dom.near, dow.nth)
    return Fields(second.mask, minute.mask, hour.mask, days, by_instant=minute.starred or hour.starred), warnings
