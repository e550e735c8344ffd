"""Every example in the page about schedules is read, compiled, described and run as its reader would."""

import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from natscron.cli.arguments import parse_schedule
from natscron.codec.spec import read_schedule, schedule_json
from natscron.errors import InvalidScheduleError
from natscron.model import CalendarSpec, ScheduleSpec
from natscron.schedule import compile_schedule, describe, parse_instant, preview, resolve_spec
from natscron.schedule.calendar import compile_calendar
from natscron.schedule.kinds import forget_schedule

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf-8")
NOW = parse_instant("2029-12-31T12:00:00Z")
_KINDS = frozenset({"every", "cron", "at", "rrule", "solar", "any", "kind"})


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def schedules() -> list[dict[str, Any]]:
    """The schedules among the JSON blocks: those of jobs, too."""
    found = []
    for text in blocks("json"):
        value = msgspec.json.decode(text)
        value = value.get("schedule", value)
        if _KINDS & value.keys():
            found.append(value)
    return found


def calendars() -> list[dict[str, Any]]:
    """All other JSON blocks: calendars, perhaps with their names."""
    values = [msgspec.json.decode(text) for text in blocks("json")]
    others = [value for value in values if not _KINDS & value.get("schedule", value).keys()]
    return [{name: item for name, item in value.items() if name != "name"} for value in others]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [shlex.split(line[2:]) for line in lines if line.startswith("$ nats-cron")]


def registered() -> None:
    """What the page's own Python registers."""
    for text in blocks("python"):
        exec(compile(text, "schedules.md", "exec"), {})  # noqa: S102 - it is our page


def check(value: dict[str, Any]) -> None:
    spec = read_schedule(value)
    assert spec is not None
    holidays = CalendarSpec(dates=("2030-12-25",))
    calendars = {item.calendar: holidays for item in spec.except_ if item.calendar}
    saved = resolve_spec(spec, NOW, calendars=calendars)
    compiled = compile_schedule(saved, anchor_ms=NOW, seed="job", calendars=calendars)
    assert compiled.warnings == ()
    assert compiled.schedule.next_after_ms(NOW) is not None
    assert preview(saved, NOW, 3, seed="job", calendars=calendars)
    assert describe(saved, seed="job")
    assert read_schedule(schedule_json(saved)) == saved


@pytest.mark.parametrize("value", schedules(), ids=str)
def test_every_schedule_on_the_page_can_be_saved(value: dict[str, Any]) -> None:
    registered()
    try:
        check(value)
    finally:
        forget_schedule("myapp.full-hours")


def test_every_other_example_on_the_page_is_a_calendar() -> None:
    for value in calendars():
        compile_calendar(msgspec.convert(value, CalendarSpec))


@pytest.mark.parametrize("words", commands(), ids=shlex.join)
def test_every_command_on_the_page_names_a_schedule(words: list[str]) -> None:
    if words[1] in {"next", "add"}:
        schedule = parse_schedule(words[2] if words[1] == "next" else words[3])
        check(schedule | ({"tz": words[words.index("--tz") + 1]} if "--tz" in words else {}))


def test_the_page_has_examples_to_check() -> None:
    assert len(schedules()) >= 12
    assert len(commands()) >= 3
    assert len(blocks("python")) >= 2


def test_special_forms_and_aliases_mean_what_the_page_says() -> None:
    for form in ("L", "L-3", "15W", "LW"):
        assert f"`{form}`" in PAGE
        compile_schedule(ScheduleSpec(cron=f"0 0 {form} * *"), anchor_ms=0)
    for form in ("5L", "FRI#2", "FRI-MON", "SUN", "7"):
        assert form in PAGE
        compile_schedule(ScheduleSpec(cron=f"0 0 * * {form}"), anchor_ms=0)
    rows = re.findall(r"^\| (`@.*?) \| `(.*?)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for aliases, meaning in rows:
        spec = ScheduleSpec(every="5m") if meaning.startswith("{") else ScheduleSpec(cron=meaning)
        for alias in re.findall(r"`(.*?)`", aliases):
            assert describe(ScheduleSpec(cron=alias)) == describe(spec)


def test_what_the_page_says_about_exceptions_is_so() -> None:
    hour = ScheduleSpec(cron="* 12 * * *")
    fine = compile_schedule(ScheduleSpec(cron="*/10 * * * *", except_=(hour,)), anchor_ms=0).schedule
    assert fine.count(NOW - 1, NOW + 3_600_000 - 1, 100) == 0
    seconds = compile_schedule(ScheduleSpec(cron="* * * * * *", except_=(hour,)), anchor_ms=0).schedule
    assert seconds.count(NOW - 1, NOW + 60_000 - 1, 100) == 59
    assert compile_schedule(ScheduleSpec(every="1h", except_=(hour,)), anchor_ms=NOW).warnings
    with pytest.raises(InvalidScheduleError):
        compile_schedule(ScheduleSpec(cron="*/10 12 * * *", except_=(hour,)), anchor_ms=0)
