"""The command that says why a job ran, or did not, and what comes next: ``explain``."""

from itertools import groupby
from typing import Any, Final

import rich_click as click

from natscron.cli.client import Body
from natscron.cli.output import Output, instant_ms, rfc3339, shown_at, span
from natscron.cli.session import Session, complete_subject, examples, with_session

__all__ = ["explain", "instant_or_ago"]

_WORDS: Final = {
    "ran": "ran",
    "failed": "failed",
    "going": "running",
    "not_run": "skipped",
    "undecided": "pending",
    "no_record": "no record",
    "cut": "...",
    "will_run": "runs",
    "will_not_run": "skipped",
    "end": "end",
    "invalid": "invalid",
}
_MARKS: Final = {"moved": "moved by a clock change", "repeated": "second pass of a clock change"}
_ALIKE_MAX: Final = 6
"""So many lines in a row that say the same are shown; of more, the first, the last, and their number."""


@click.command()
@click.argument("job", shell_complete=complete_subject)
@click.option(
    "--since", metavar="DURATION|INSTANT", help="Where the past begins: 2h (ago), or RFC 3339. [default: 24h]"
)
@click.option("--until", metavar="DURATION|INSTANT", help="Where it ends: 30m (ago), or RFC 3339. [default: now]")
@click.option("--next", "-n", "count", type=click.IntRange(0, 100), default=5, show_default=True, help="Slots to come.")
@with_session()
@examples(
    "nats-cron explain reports.daily",
    "nats-cron explain reports.daily --since 7d --next 3",
    "nats-cron explain reports.daily --since 2026-10-24T00:00:00Z --until 2026-10-26T00:00:00Z",
    "nats-cron explain reports.daily --json",
)
def explain(session: Session, job: str, *, since: str | None, until: str | None, count: int) -> None:
    """Say why a job ran, or did not, and what comes next.

    The past: each slot of the window with its run, or with the reason why there was none (paused, skipped,
    caught up, taken away by a calendar, aged out of the history). The future: the next slots, and what the
    policies of now make of them. --json has a word for programs in each line.
    """
    now_ms = session.clock.now_ms()
    query: Body = {"subject": job, "next": count}
    if until is not None:
        query["until"] = rfc3339(instant_or_ago(until, now_ms, "--until"))
    end_ms = instant_ms(query.get("until")) or now_ms
    if since is not None:
        query["since"] = rfc3339(instant_or_ago(since, now_ms, "--since"))
        if (instant_ms(query["since"]) or 0) >= end_ms:
            raise click.BadParameter("must lie before --until", param_hint="--since")
    found = session.run(lambda client: client.call("jobs.explain", query))
    if session.out.as_json:
        session.out.data(found)
        return
    _show(session.out, found, now_ms)


def instant_or_ago(text: str, now_ms: int, flag: str) -> int:
    """An RFC 3339 instant, or a duration before now, as milliseconds. Raises BadParameter."""
    from natscron.durations import parse_duration_ms  # noqa: PLC0415 - not needed to draw help
    from natscron.errors import ValidationError  # noqa: PLC0415 - not needed to draw help

    at_ms = instant_ms(text)
    if at_ms is None:
        try:
            ago_ms = parse_duration_ms(text)
        except ValidationError:
            ago_ms = now_ms + 1
        if ago_ms < 0:
            raise click.BadParameter(f"{text!r} would lie in the future: 24h means 24h ago", param_hint=flag)
        at_ms = now_ms - ago_ms
    if at_ms < 0:
        raise click.BadParameter(
            f"{text!r} is neither a duration such as 24h nor an instant such as 2027-01-31T09:00:00Z", param_hint=flag
        )
    return at_ms


def _show(out: Output, found: Body, now_ms: int) -> None:
    zone = str(found.get("zone") or "UTC")
    out.line(f"{found.get('subject')}: {found.get('description')} ({found.get('state')})")
    for warning in found.get("warnings") or ():
        out.warn(str(warning))
    since, until, mark = (instant_ms(found.get(key)) for key in ("since", "until", "decided_until"))
    out.line()
    decided = "nothing is decided yet" if mark is None else f"decided until {shown_at(mark)}"
    out.line(f"Past, {shown_at(since or 0)} to {shown_at(until or now_ms)}; {decided}")
    _table(out, found.get("past") or [], zone, "no slots, and no runs")
    if found.get("future"):
        out.line()
        out.line("Next")
        _table(out, found["future"], zone, "")
    out.line()
    out.line("Policies")
    for line in found.get("policies") or ():
        out.line(f"  {line.get('reason')}: {line.get('text')}")


def _table(out: Output, lines: list[Body], zone: str, nothing: str) -> None:
    if not lines:
        out.line(f"  {nothing}")
        return
    utc = zone == "UTC"
    rows: list[tuple[str, ...]] = []
    for _, alike in groupby(lines, key=lambda line: (line.get("what"), line.get("reason"), line.get("source"))):
        group = list(alike)
        if len(group) > _ALIKE_MAX:
            between = f"{len(group) - 2} more like these"
            rows += [_row(group[0], zone), ("...", "...", "...", between), _row(group[-1], zone)]
        else:
            rows += [_row(line, zone) for line in group]
    if utc:
        out.table(("UTC", "WHAT", "WHY"), [(row[0], *row[2:]) for row in rows])
    else:
        out.table((zone.upper(), "UTC", "WHAT", "WHY"), rows)


def _row(line: Body, zone: str) -> tuple[str, str, str, str]:
    what = str(line.get("what"))
    run: dict[str, Any] = line.get("run") or {}
    word = str(run.get("status") or _WORDS.get(what, what))
    if str(line.get("reason")).startswith("before_"):
        word = "-"
    elif line.get("reason") == "waits":
        word = "waiting"
    text = str(line.get("text") or "")
    mark = _MARKS.get(str(line.get("mark")), "")
    due, at = instant_ms(line.get("due")), instant_ms(line.get("at"))
    if due is not None and at is not None and not what.startswith("will"):
        text = f"{text}; was due {span(due - at)} later (jitter)"
    if mark and mark not in text:
        text = f"{text}; {mark}"
    if line.get("earlier"):
        text = f"{text}; of an earlier schedule"
    return _when(line, zone), _when(line, "UTC"), word, text


def _when(line: Body, zone: str) -> str:
    at, first, last = (instant_ms(line.get(key)) for key in ("at", "from", "to"))
    if at is not None:
        return shown_at(at, zone)
    if first is not None and last is not None:
        return f"{shown_at(first, zone)} to {shown_at(last, zone)}"
    return "-"
