"""Turns arguments and flags into the JSON of a job."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import rich_click as click

from natscron.cli.client import JSON_ERRORS
from natscron.durations import parse_duration
from natscron.errors import ValidationError
from natscron.model import CatchUpPolicy, Delivery, Overlap

__all__ = ["SCHEDULE_KEYS", "job_fields", "job_options", "looks_like_schedule", "parse_schedule", "payload_of"]

SCHEDULE_KEYS: Final = (
    *("tz", "start_at", "run_at_start", "dst_gap", "dst_fold"),
    *("not_before", "not_after", "max_runs", "jitter"),
)
_PLAIN_FLAGS: Final = (
    *("delivery", "overlap", "timeout", "note", "paused", "paused_until", "expected_revision"),
    *("priority", "reports", "pause_after_failures"),
)
_RETRY_FLAGS: Final = ("attempts", "backoff", "factor", "max_backoff", "jitter")
_CATCHUP_FLAGS: Final = ("window", "limit", "grace")
_WHEN: Final = "When it runs"
_HOW: Final = "How it runs"
_ABOUT: Final = "What it carries"


def parse_schedule(text: str) -> dict[str, Any]:
    """A SCHEDULE argument as the API's schedule object.

    A duration (``30s``), a cron expression (has a blank, or begins with ``@``), ``in 5m`` or an RFC 3339 instant, a
    recurrence rule (``FREQ=MONTHLY;BYDAY=-1FR``), or a whole schedule object as JSON. Whether an expression or a rule
    is right, the service says.

    Raises:
        click.UsageError: with what can be written.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except (*JSON_ERRORS, UnicodeEncodeError) as error:  # bytes of the command line that are no text
            raise click.UsageError(f"the schedule is not a JSON object: {error}") from error
    if _is_rule(text):
        return {"rrule": text}
    if re.match(r"in\s+\S+$", text):
        return {"at": text}
    if _is_instant(text):
        if datetime.fromisoformat(text).tzinfo is None:
            raise click.UsageError(f"{text!r} has no offset; append Z for UTC, or an offset such as +01:00")
        return {"at": text}
    if text.startswith("@") or re.search(r"\s", text):
        return {"cron": text}
    try:
        parse_duration(text)
    except ValidationError as error:
        raise click.UsageError(
            f"invalid duration '{text}' ({error})\n"
            "Duration format: number + unit (e.g., '30s', '5m', '2h')\n"
            "Cron format: 'minute hour day month weekday' (e.g., '0 9 * * *')\n"
            "Once: 'in 5m', or an instant (e.g., '2027-01-31T09:00:00Z')\n"
            "Any other: a rule ('FREQ=MONTHLY;BYDAY=-1FR'), or a schedule object as JSON"
        ) from error
    return {"every": text}


def looks_like_schedule(text: str) -> bool:
    """Whether an argument that may be a schedule or a job's subject is a schedule: no subject has a blank."""
    if text.startswith(("@", "{")) or _is_rule(text) or re.search(r"\s", text) or _is_instant(text):
        return True
    try:
        parse_duration(text)
    except ValidationError:
        return False
    return True


def _is_rule(text: str) -> bool:
    return re.match(r"((RRULE|DTSTART)\b|FREQ=)", text, re.IGNORECASE) is not None


def _is_instant(text: str) -> bool:
    if not re.match(r"\d{4}-\d\d-\d\d[T ]", text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def payload_of(data: str, payload_type: str | None) -> dict[str, str]:
    """The payload envelope of a DATA argument: its bytes are sent as they are written, unless base64."""
    if payload_type is None:
        try:
            msgspec.json.decode(data)
        except (*JSON_ERRORS, UnicodeEncodeError):
            payload_type = "text"
        else:
            payload_type = "json"
    return {"type": payload_type, "data": data}


def job_options(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that are a job's JSON keys."""
    options = [
        click.option("--tz", metavar="ZONE", help="Zone of a cron schedule, such as Europe/Berlin.", panel=_WHEN),
        click.option("--start-at", metavar="INSTANT", help="What an interval counts from, RFC 3339.", panel=_WHEN),
        click.option("--run-at-start", is_flag=True, default=None, help="Also run once right away.", panel=_WHEN),
        click.option("--not-before", metavar="INSTANT", help="No run before this; RFC 3339 or 'in 2h'.", panel=_WHEN),
        click.option("--not-after", metavar="INSTANT", help="No run after this; RFC 3339 or 'in 2h'.", panel=_WHEN),
        click.option("--max-runs", type=int, metavar="N", help="So many runs from now on, then no more.", panel=_WHEN),
        click.option(
            "--jitter",
            metavar="DURATION",
            help="Delay each run by up to this; how much follows from subject and run.",
            panel=_WHEN,
        ),
        click.option(
            "--except-calendar",
            "calendars",
            multiple=True,
            metavar="NAME",
            help="Not when this calendar says so; repeatable.",
            panel=_WHEN,
        ),
        click.option(
            "--except",
            "exceptions",
            multiple=True,
            metavar="SCHEDULE",
            help="Without the runs that this schedule has at the same instant; repeatable.",
            panel=_WHEN,
        ),
        click.option(
            "--dst-gap",
            type=click.Choice(["run_after", "skip", "shift"]),
            help="Times that a clock change skips.",
            panel=_WHEN,
        ),
        click.option(
            "--dst-fold",
            type=click.Choice(["first", "last", "both"]),
            help="Times that a clock change repeats.",
            panel=_WHEN,
        ),
        click.option(
            "--delivery",
            type=click.Choice([one.value for one in Delivery if one is not Delivery.HANDLER]),
            help="How messages go out.",
            panel=_HOW,
        ),
        click.option(
            "--catchup",
            type=click.Choice([one.value for one in CatchUpPolicy]),
            help="Which missed runs are made up for.",
            panel=_HOW,
        ),
        click.option("--catchup-window", metavar="DURATION", help="How old a missed run may be.", panel=_HOW),
        click.option("--catchup-limit", type=int, metavar="N", help="How many missed runs at most.", panel=_HOW),
        click.option("--catchup-grace", metavar="DURATION", help="Younger missed runs always run.", panel=_HOW),
        click.option(
            "--overlap",
            type=click.Choice([one.value for one in Overlap]),
            help="When the last one still runs; all but allow need delivery request or --reports.",
            panel=_HOW,
        ),
        click.option("--timeout", metavar="DURATION", help="How long one try may take.", panel=_HOW),
        click.option(
            "--retry-attempts", "--retry", type=int, metavar="N", help="Tries, the first included.", panel=_HOW
        ),
        click.option("--retry-backoff", metavar="DURATION", help="Wait before the second try.", panel=_HOW),
        click.option("--retry-factor", type=float, metavar="X", help="How much longer each wait is.", panel=_HOW),
        click.option("--retry-max-backoff", metavar="DURATION", help="Longest wait.", panel=_HOW),
        click.option("--retry-jitter", metavar="PERCENT", help="Random part of a wait, such as 10%.", panel=_HOW),
        click.option(
            "--retry-only", multiple=True, metavar="ERROR", help="Try again after these alone; repeatable.", panel=_HOW
        ),
        click.option(
            "--retry-never", multiple=True, metavar="ERROR", help="Not after these (5*); repeatable.", panel=_HOW
        ),
        click.option(
            "--pause-after-failures", type=int, metavar="N", help="Pause after N failed runs in a row.", panel=_HOW
        ),
        click.option(
            "--reports/--no-reports", default=None, help="Workers say how runs end (runs.report).", panel=_HOW
        ),
        click.option(
            "--priority", type=int, metavar="N", help="-100 to 100: of runs due at once the higher first.", panel=_HOW
        ),
        click.option("--paused/--no-paused", default=None, help="Stored, not run.", panel=_HOW),
        click.option("--paused-until", metavar="INSTANT", help="Stored, and run from then on; or 'in 2h'.", panel=_HOW),
        click.option(
            "--payload-type", metavar="TYPE", help="json, text or base64 (decoded). [default: by DATA]", panel=_ABOUT
        ),
        click.option(
            "--header", "headers", multiple=True, metavar="K=V", help="A message header; repeatable.", panel=_ABOUT
        ),
        click.option("--label", "labels", multiple=True, metavar="K=V", help="A label; repeatable.", panel=_ABOUT),
        click.option("--note", metavar="TEXT", help="Why the job exists.", panel=_ABOUT),
    ]
    for option in reversed(options):
        fn = option(fn)
    for panel in (_ABOUT, _HOW, _WHEN):
        fn = click.option_panel(panel)(fn)
    return fn


def job_fields(flags: dict[str, Any]) -> dict[str, Any]:
    """The job's JSON fields that were given as flags; nested ones hold only what was given.

    Raises:
        click.BadParameter: a header or label is not ``K=V``.
    """
    job: dict[str, Any] = {key: flags[key] for key in _PLAIN_FLAGS if flags.get(key) is not None}
    nested: dict[str, dict[str, Any]] = {
        "schedule": {key: flags[key] for key in SCHEDULE_KEYS if flags.get(key) is not None},
        "retry": {key: flags[f"retry_{key}"] for key in _RETRY_FLAGS if flags.get(f"retry_{key}") is not None},
        "catchup": {key: flags[f"catchup_{key}"] for key in _CATCHUP_FLAGS if flags.get(f"catchup_{key}") is not None},
        "headers": _pairs("--header", flags.get("headers") or ()),
        "labels": _pairs("--label", flags.get("labels") or ()),
    }
    if flags.get("catchup") is not None:
        nested["catchup"]["policy"] = flags["catchup"]
    for name in ("only", "never"):
        if flags.get(f"retry_{name}"):
            nested["retry"][name] = list(flags[f"retry_{name}"])
    without = [{"calendar": name} for name in flags.get("calendars") or ()]
    without += [parse_schedule(text) for text in flags.get("exceptions") or ()]
    if without:
        nested["schedule"]["except"] = without
    return job | {key: value for key, value in nested.items() if value}


def _pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=flag)
        pairs[key] = value
    return pairs
