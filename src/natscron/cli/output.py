"""What commands show: JSON for programs, lines and tables for people, errors on stderr.

Text that came from elsewhere (subjects, errors, results) never reaches a terminal with its control characters.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import rich_click as click

__all__ = ["Output", "instant_ms", "rfc3339", "schedule_text", "shown_at", "span", "when"]

_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000))
_STATES: Final = {
    "active": "green",
    "completed": "green",
    "stored": "green",
    "sent": "green",
    "paused": "yellow",
    "skipped": "yellow",
    "running": "cyan",
    "pending": "cyan",
    "invalid": "red",
    "failed": "red",
    "dead": "red",
}


class Output:
    """Where a command's results go. ``as_json``: results are JSON on stdout and errors JSON on stderr."""

    def __init__(self, *, as_json: bool = False, color: bool | None = None) -> None:
        """``color`` None: where the stream is a terminal."""
        self.as_json = as_json
        self._color = color

    @property
    def colourless(self) -> bool:
        """Whether colours were asked not to be shown."""
        return self._color is False

    def line(self, text: str = "") -> None:
        """A line for people; nothing with ``--json``."""
        if not self.as_json:
            click.echo(_printable(text, keep="\n"), color=self._color)

    def data(self, value: object) -> None:
        """An indented JSON document."""
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))

    def record(self, value: object) -> None:
        """One JSON document on one line, for streams of them."""
        click.echo(msgspec.json.encode(value))

    def warn(self, text: str) -> None:
        """A warning on stderr."""
        click.echo(click.style("Warning: ", fg="yellow") + _printable(text), err=True, color=self._color)

    def error(self, text: str, code: str | None = None) -> None:
        """An error on stderr."""
        if self.as_json:
            click.echo(msgspec.json.encode({"error": text} | ({"code": code} if code else {})), err=True)
        else:
            styled = click.style("Error: ", fg="red", bold=True) + _printable(text, keep="\n")
            click.echo(styled, err=True, color=self._color)

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Columns as wide as they must be; nothing is cut off, so that what is shown can be copied."""
        cells = [[_printable(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
        widths[-1] = 0  # no blanks at the ends of lines
        click.echo("  ".join(map(str.ljust, headings, widths)).rstrip(), color=self._color)
        for row in cells:
            # Coloured after padding: escape codes have no width.
            padded = "  ".join(map(_styled, row, map(str.ljust, row, widths)))
            click.echo(padded.rstrip(), color=self._color)


def _styled(cell: str, padded: str) -> str:
    colour = _STATES.get(cell)
    return click.style(padded, fg=colour) if colour else padded


def _printable(text: str, keep: str = "") -> str:
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape", "backslashreplace").decode()
        for one in text
    )


def instant_ms(value: object) -> int | None:
    """An instant from a reply: RFC 3339 text, or milliseconds; None for absent, unreadable and Go's zero time."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        return None
    if instant.tzinfo is None or instant.year <= 1:
        return None
    return int((instant - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def rfc3339(at_ms: int) -> str:
    """The instant as RFC 3339 with milliseconds and Z."""
    return _datetime(at_ms, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown_at(at_ms: int, zone: str | None = None) -> str:
    """The instant on a clock on the wall in ``zone`` (default and fallback UTC), with the zone's abbreviation."""
    at = _datetime(at_ms, _zone(zone))
    fraction = f".{at.microsecond // 1000:03d}" if at.microsecond else ""
    return f"{at:%Y-%m-%d %H:%M:%S}{fraction} {at.tzname()}"


def _zone(name: str | None) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def _datetime(at_ms: int, tz: tzinfo) -> datetime:
    seconds, ms = divmod(at_ms, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000).astimezone(tz)


def span(ms: float) -> str:
    """A length of time in its two greatest units: ``2d 21h``, ``4m 10s``, ``250ms``."""
    rest = abs(ms)
    if rest < _UNITS[-1][1]:
        return f"{rest:.0f}ms" if rest == int(rest) else f"{rest:.2f}ms"
    whole = int(rest)
    parts = []
    for unit, size in _UNITS:
        count, whole = divmod(whole, size)
        parts.append((count, unit))
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count)


def when(value: object, now_ms: int, zone: str | None = None, *, missing: str = "-") -> str:
    """An instant of a reply in relative and absolute time; ``missing`` where there is none."""
    at_ms = instant_ms(value)
    if at_ms is None:
        return missing
    away = at_ms - now_ms
    relative = f"in {span(away)}" if away > 0 else f"{span(away)} ago"
    return f"{relative} ({shown_at(at_ms, zone)})"


def schedule_text(schedule: object) -> str:
    """A schedule as one would write it on the command line."""
    if not isinstance(schedule, Mapping):
        return "-"
    union = schedule.get("any")
    if isinstance(union, Sequence) and not isinstance(union, str) and union:
        return " or ".join(map(schedule_text, union)) + _limits(schedule)
    solar = schedule.get("solar")
    if isinstance(solar, Mapping):
        place = f"{solar.get('latitude')},{solar.get('longitude')}"
        return f"{solar.get('event')}{_signed(solar.get('offset'))} at {place}" + _limits(schedule)
    if isinstance(schedule.get("calendar"), str):
        return f"calendar {schedule['calendar']}"
    for key in ("every", "cron", "at", "rrule"):
        value = schedule.get(key)
        if isinstance(value, str) and value:
            zone = schedule.get("tz")
            text = {"every": f"every {value}", "at": f"at {value}"}.get(key, value)
            return (f"{text} [{zone}]" if zone and not re.match(r"(CRON_)?TZ=", value) else text) + _limits(schedule)
    return msgspec.json.encode(schedule).decode() if schedule else "-"


def _signed(offset: object) -> str:
    text = str(offset or "")
    return text if not text or text[0] in "+-" else f"+{text}"


def _limits(schedule: Mapping[str, object]) -> str:
    """What narrows a schedule, in brackets."""
    found: list[str] = []
    without = schedule.get("except")
    if isinstance(without, Sequence) and not isinstance(without, str) and without:
        found.append("except " + ", ".join(map(schedule_text, without)))
    for key, words in (("not_before", "from"), ("not_after", "until"), ("max_runs", "runs"), ("jitter", "jitter")):
        if schedule.get(key):
            found.append(f"{words} {schedule[key]}")
    return f" ({'; '.join(found)})" if found else ""
