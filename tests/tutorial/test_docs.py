"""What the documents say about names, defaults and formats is what the code has."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from click import Context, Group

from natscron.cli.main import cli
from natscron.codec.calendar import parse_calendar
from natscron.codec.job import parse_job
from natscron.codec.run import decode_run, run_to_json
from natscron.config import Settings, load_settings
from natscron.durations import parse_duration
from natscron.model import Reason
from natscron.schedule.calendar import compile_calendar
from natscron.server import Server, requests, schemas

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])
UNSET_DEFAULTS = {None, "", ()}


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in a text, headings left out."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines if not set(line) <= set("|- ")]


def section(path: Path, heading: str) -> str:
    return path.read_text().split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("table", [field.name for field in msgspec.structs.fields(Settings)])
def test_every_setting_is_documented_with_its_default(table: str) -> None:
    kind: Any = type(getattr(Settings(), table))
    documented = {
        cells[0].strip("`"): cells[2].strip("`")
        for cells in rows(section(ROOT / "docs" / "configuration.md", f"## [{table}]"))
        if cells[0].startswith("`")
    }
    fields = {field.name.removesuffix("_ms"): field for field in msgspec.structs.fields(kind)}
    assert set(documented) == set(fields)
    for key, field in fields.items():
        if field.default in UNSET_DEFAULTS:
            continue
        if field.name.endswith("_ms"):
            assert parse_duration(documented[key]) == field.default * 1_000_000, key
        else:
            assert documented[key] == str(field.default).lower(), key


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_configuration_file_shown_loads(path: Path, tmp_path: Path) -> None:
    for block in blocks(path, "toml"):
        file = tmp_path / "natscron.toml"
        file.write_text(block)
        assert isinstance(load_settings(file=file), Settings)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_job_shown_is_one_without_warnings(path: Path) -> None:
    for block in blocks(path, "json"):
        value = msgspec.json.decode(block)
        if "schedule" in value:
            assert parse_job(block.encode()).warnings == ()


def test_the_run_shown_has_the_fields_of_a_run() -> None:
    [block] = [one for one in blocks(ROOT / "docs" / "message-format.md", "json") if '"run_id"' in one]
    assert run_to_json(decode_run(block.encode())) == msgspec.json.decode(block)


def test_every_reason_is_documented() -> None:
    text = section(ROOT / "docs" / "message-format.md", "## Runs")
    documented = {cells[0].strip("`") for cells in rows(text) if cells[0].startswith("`")}
    assert documented == {reason.value for reason in Reason}


@pytest.mark.anyio
async def test_every_endpoint_and_field_of_the_status_is_documented(nats_url: str, service: Server) -> None:
    assert service.is_running
    client = await nats.connect(nats_url)
    info = json.loads((await client.request("$SRV.INFO.nats-cron", timeout=5)).data)
    status = json.loads((await client.request("nats-cron.status", timeout=5)).data)
    await client.close()
    page = ROOT / "docs" / "api.md"
    endpoints = [cells[0].strip("`") for cells in rows(section(page, "## Endpoints")) if cells[0].startswith("`")]
    assert endpoints == [endpoint["subject"] for endpoint in info["endpoints"]]
    documented = {name for cells in rows(section(page, "## Status")) for name in re.findall(r"`(\w+)`", cells[0])}
    assert documented == set(status) | {"warnings"}


def test_every_field_of_a_job_and_of_its_schedule_is_documented() -> None:
    page = ROOT / "docs" / "message-format.md"
    documented = {name for cells in rows(section(page, "## Jobs")) for name in re.findall(r"`(\w+)`", cells[0])}
    documented |= set(re.findall(r"^\* `(\w+)`", section(page, "## Jobs"), re.MULTILINE)) | {"config"}
    kinds: set[str] = set(schemas.JOB["properties"]) | set(schemas.JOB["properties"]["schedule"]["properties"])
    calendar = set(schemas.CALENDAR["properties"]) - {"name"}
    assert documented == (kinds | calendar) - {"expected_revision"}


def test_every_field_of_a_request_is_documented() -> None:
    endpoints = rows(section(ROOT / "docs" / "api.md", "## Endpoints"))
    documented = {cells[0].strip("`").removeprefix("nats-cron."): " ".join(cells[1:]) for cells in endpoints}
    for endpoint, kind in (
        ("jobs.pause", requests.PauseRequest),
        ("jobs.trigger", requests.TriggerRequest),
        ("jobs.preview", requests.PreviewRequest),
        ("jobs.skip", requests.SkipRequest),
        ("jobs.backfill", requests.BackfillRequest),
        ("backfills.list", requests.BackfillsRequest),
        ("backfills.cancel", requests.CancelRequest),
        ("calendars.get", requests.CalendarRequest),
        ("calendars.list", requests.CalendarsRequest),
        ("runs.list", requests.RunsRequest),
        ("runs.get", requests.RunRequest),
        ("runs.report", requests.ReportRequest),
    ):
        fields = set(kind.__struct_encode_fields__) - {"expected_revision"}
        named = set(re.findall(r"[\"`](\w+)[\"`]", documented[endpoint]))
        assert fields <= named, endpoint


def test_every_calendar_shown_is_one() -> None:
    found = 0
    for path in DOCS:
        for block in blocks(path, "json"):
            value = msgspec.json.decode(block)
            if "dates" in value or "weekly" in value:
                compile_calendar(parse_calendar(block.encode()).calendar.spec)
                found += 1
    assert found


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_and_flag_shown_exists(path: Path) -> None:
    text = path.read_text()
    inline = re.findall(r"`(nats-cron [^`\n]+)`", text)
    typed = re.findall(r"^\$ (nats-cron .+)$", text, re.MULTILINE)
    for line in inline + typed:
        _, name, *words = line.split("|")[0].split()
        if name.startswith("-"):
            continue
        command = cli.get_command(Context(cli), name)
        assert command is not None, line
        if isinstance(command, Group) and words:
            command = command.get_command(Context(command), words[0])
            assert command is not None, line
        flags = {
            flag for parameter in [*command.params, *cli.params] for flag in parameter.opts + parameter.secondary_opts
        }
        assert {word for word in words if word.startswith("-") and word != "-"} <= flags, line
