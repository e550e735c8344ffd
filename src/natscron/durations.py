"""Durations as Go writes them (``1h30m``, ``1.5s``, ``250ms``), with ``d`` and ``w`` as additions of ours.

The grammar, the limits (64-bit nanoseconds) and the error texts are those of Go's ``time.ParseDuration``, because
users of the Go version know them. The work is linear in the text, and texts over :data:`MAX_LENGTH` are refused.
"""

from typing import Final

from natscron.errors import ValidationError

__all__ = ["MAX_LENGTH", "format_duration", "parse_duration", "parse_duration_ms"]

MAX_LENGTH: Final = 64
"""Characters of the longest text that is looked at; Go's own longest output has 26."""

_MICRO: Final = 1_000
_MILLI: Final = 1_000_000
_SECOND: Final = 1_000_000_000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_UNITS: Final = {
    "ns": 1,
    "us": _MICRO,
    "\u00b5s": _MICRO,  # U+00B5, the micro sign
    "\u03bcs": _MICRO,  # U+03BC, the Greek letter mu
    "ms": _MILLI,
    "s": _SECOND,
    "m": _MINUTE,
    "h": _HOUR,
    "d": 24 * _HOUR,
    "w": 7 * 24 * _HOUR,
}
_DIGITS: Final = frozenset("0123456789")
_NUMBER: Final = _DIGITS | {"."}
_LIMIT: Final = 1 << 63
_ASCII_END: Final = 0x80


def _quote(text: str) -> str:
    r"""Quoted as Go's time package does it: bytes that are not printable ASCII as ``\xNN``."""
    parts = ['"']
    for char in text:
        if char in '"\\':
            parts.append("\\" + char)
        elif char < " " or ord(char) >= _ASCII_END:
            parts.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
        else:
            parts.append(char)
    return "".join([*parts, '"'])


def _invalid(text: str) -> ValidationError:
    return ValidationError(f"time: invalid duration {_quote(text)}")


def _run(text: str, start: int, among: frozenset[str]) -> int:
    """The index of the first character at or after ``start`` that is not ``among``."""
    end = start
    while end < len(text) and text[end] in among:
        end += 1
    return end


def _fraction(digits: str, unit: int) -> int:
    """The nanoseconds of ``0.digits`` units, truncated as Go does it: in double precision."""
    value, scale = 0, 1.0
    for digit in digits:
        grown = value * 10 + int(digit)
        if grown > _LIMIT:
            break
        value, scale = grown, scale * 10
    return int(float(value) * (float(unit) / scale))


def _term(text: str, start: int) -> tuple[int, int]:
    """The nanoseconds of the number and unit at ``start``, and where the next one begins."""
    dot = _run(text, start, _DIGITS)
    end = _run(text, dot + 1, _DIGITS) if text[dot : dot + 1] == "." else dot
    whole, decimals = text[start:dot], text[dot + 1 : end]
    if not whole and not decimals:
        raise _invalid(text)
    after = end
    while after < len(text) and text[after] not in _NUMBER:
        after += 1
    name = text[end:after]
    if not name:
        raise ValidationError(f"time: missing unit in duration {_quote(text)}")
    unit = _UNITS.get(name)
    if unit is None:
        raise ValidationError(f"time: unknown unit {_quote(name)} in duration {_quote(text)}")
    return int(whole or "0") * unit + (_fraction(decimals, unit) if decimals else 0), after


def parse_duration(text: str) -> int:
    """The duration in nanoseconds; negative if the text begins with ``-``.

    Decimal numbers, each with a unit out of ``ns us ms s m h d w``, after an optional sign; ``0`` needs no unit.
    Bounds: a 64-bit count of nanoseconds (about 292 years). Raises :class:`~natscron.errors.ValidationError` with
    Go's text for anything else.
    """
    if len(text) > MAX_LENGTH:
        raise ValidationError(
            f"time: invalid duration {_quote(text[:MAX_LENGTH])}... (at most {MAX_LENGTH} characters)"
        )
    at = 1 if text[:1] in {"+", "-"} else 0
    if text[at:] == "0":
        return 0
    if at == len(text):
        raise _invalid(text)
    total = 0
    while at < len(text):
        ns, at = _term(text, at)
        total += ns
        if total > _LIMIT:
            raise _invalid(text)
    if text[0] == "-":
        return -total
    if total == _LIMIT:
        raise _invalid(text)
    return total


def parse_duration_ms(text: str) -> int:
    """The duration in milliseconds, a finer one rounded up. Raises as :func:`parse_duration`."""
    return -(-parse_duration(text) // _MILLI)


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(unit)) - 1, '0').rstrip('0')}"


def format_duration(ns: int, *, short: bool = False) -> str:
    """Go's text for ``ns`` nanoseconds (``1h30m0s``, ``1.5s``, ``250ms``); parsing it gives ``ns`` back.

    ``short`` (default False) leaves out the parts that are zero, for people: ``1h30m``.
    """
    sign, value = ("-", -ns) if ns < 0 else ("", ns)
    if value < _SECOND:
        for unit, name in ((_MILLI, "ms"), (_MICRO, "\u00b5s"), (1, "ns")):
            if value >= unit:
                return f"{sign}{_decimal(value, unit)}{name}"
        return "0s"
    hours, rest = divmod(value, _HOUR)
    minutes, rest = divmod(rest, _MINUTE)
    seconds = _decimal(rest, _SECOND)
    if short:
        parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{seconds}s" if rest else ""]
        return sign + "".join(parts)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{seconds}s"
