"""The tables of docs/dst.md that say what this project does, worked out by it.

Run ``python -m tests.tutorial.dst_table`` from the repository's root to write them anew.
"""

import datetime as dt
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from natscron.model import ScheduleSpec
from natscron.schedule import compile_schedule

PAGE = Path(__file__).parents[2] / "docs" / "dst.md"
GAPS = ("run_after", "skip", "shift")
FOLDS = ("first", "last", "both")


class Case(NamedTuple):
    """An expression near one clock change."""

    number: int
    cron: str
    zone: str
    change: str
    """The instant of the change."""
    hours: int
    """How far around it slots are shown."""
    kind: str
    """The column of the table on others: A to D."""


GAP_CASES = (
    Case(1, "30 2 * * *", "America/New_York", "2026-03-08T07:00Z", 3, "A"),
    Case(2, "0/10 2 * * *", "Europe/Berlin", "2026-03-29T01:00Z", 3, "A"),
    Case(3, "*/30 2 * * *", "Europe/Berlin", "2026-03-29T01:00Z", 3, "C"),
    Case(4, "20 * * * *", "Europe/Berlin", "2026-03-29T01:00Z", 2, "C"),
    Case(5, "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T15:30Z", 3, "A"),
    Case(6, "0 0 * * *", "Africa/Cairo", "2026-04-23T22:00Z", 3, "A"),
    Case(7, "0 9 * * *", "Pacific/Apia", "2011-12-30T10:00Z", 16, "A"),
)
FOLD_CASES = (
    Case(8, "30 1 * * *", "America/New_York", "2026-11-01T06:00Z", 3, "B"),
    Case(9, "*/30 * * * *", "America/New_York", "2026-11-01T06:00Z", 1, "D"),
    Case(10, "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T15:00Z", 3, "B"),
    Case(11, "30 23 * * *", "Africa/Cairo", "2026-10-29T21:00Z", 3, "B"),
    Case(12, "30 1 * * *", "Europe/Dublin", "2026-10-25T01:00Z", 3, "B"),
)


def slots(case: Case, **rules: str) -> str:
    """The slots around the change: the wall clock's time, and UTC in brackets."""
    spec = ScheduleSpec(cron=case.cron, tz=case.zone, **rules)  # type: ignore[arg-type]  # dst_gap and dst_fold only
    schedule = compile_schedule(spec, anchor_ms=0).schedule
    change = dt.datetime.fromisoformat(case.change)
    around = dt.timedelta(hours=case.hours)
    found = []
    slot = schedule.next_after(change - around - dt.timedelta(seconds=1))
    while slot is not None and slot <= change + around:
        wall = slot.astimezone(ZoneInfo(case.zone))
        day = f"{wall:%m-%d} " if case.hours > 12 else ""
        found.append(f"{day}{wall:%H:%M} ({slot:%H:%M}Z)")
        slot = schedule.next_after(slot)
    return ", ".join(found) or "none"


def clocks(case: Case) -> str:
    """What the clocks do: the zone, the date, and the times on both sides of the change."""
    zone = ZoneInfo(case.zone)
    change = dt.datetime.fromisoformat(case.change)
    before = change.astimezone(zone).replace(tzinfo=None)
    last = (change - dt.timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None) + dt.timedelta(seconds=1)
    day = f"{before:%m-%d} " if abs(before - last) >= dt.timedelta(days=1) else ""
    return f"{case.zone}, {last:%Y-%m-%d}: {last:%H:%M} becomes {day}{before:%H:%M}"


def table(cases: tuple[Case, ...], rule: str, values: tuple[str, ...]) -> str:
    """One table in Markdown."""
    heads = ["Case", "Expression", "Clocks", "By default", *(f"`{rule}: {value}`" for value in values)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for case in cases:
        chosen = [slots(case, **{rule: value}) for value in values]
        cells = [f"{case.number} {case.kind}", f"`{case.cron}`", clocks(case), slots(case), *chosen]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"gap": (GAP_CASES, "dst_gap", GAPS), "fold": (FOLD_CASES, "dst_fold", FOLDS)}


def written(page: str) -> str:
    """The page with its tables written anew."""
    for name, contents in TABLES.items():
        start, end = f"<!-- {name}: generated -->\n", "\n<!-- end -->"
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        page = before + start + table(*contents) + end + after
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
