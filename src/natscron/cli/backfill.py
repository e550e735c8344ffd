"""Commands that run past slots: ``backfill start``, ``backfill list``, ``backfill cancel``."""

from typing import Final

import rich_click as click

from natscron.cli.client import ApiClient, ApiError, Body
from natscron.cli.control import confirmed
from natscron.cli.explain import instant_or_ago
from natscron.cli.output import Output, instant_ms, rfc3339, shown_at
from natscron.cli.session import Session, complete_subject, examples, with_session
from natscron.cli.write import warn
from natscron.model import Overlap, RunStatus

__all__ = ["backfill"]

_HEADINGS: Final = ("BACKFILL", "JOB", "FROM", "TO", "DONE", "EVERY", "LEFT")
_NOT_FOUND: Final = "404"
_LOOK_S: Final = 0.5
_RECORD_TRIES: Final = 20
"""Looks for the record of a backfill that is in the list no more: records are written behind."""


@click.group()
@examples(
    "nats-cron backfill start reports.daily --from 7d --rate 2/s",
    "nats-cron backfill list",
    "nats-cron backfill cancel 01KAG8T3M0Y3N0F4S8V1XW2QZ7",
)
def backfill() -> None:
    """Run every slot of a past range once.

    As when a job was added late, or its worker did the wrong thing for a week.
    """


@backfill.command()
@click.argument("job", shell_complete=complete_subject)
@click.option(
    "--from", "from_", required=True, metavar="DURATION|INSTANT", help="The first slot's time: 24h (ago), or RFC 3339."
)
@click.option("--to", metavar="DURATION|INSTANT", help="The last slot's time: 1h (ago), or RFC 3339. [default: now]")
@click.option("--rate", default="10/s", show_default=True, metavar="N/UNIT", help="At most so many: 10/s, 30/m, 500/h.")
@click.option(
    "--overlap", type=click.Choice([one.value for one in Overlap]), help="If a run is going on. [default: the job's]"
)
@click.option("--key", metavar="TEXT", help="The same key twice is one backfill: makes trying again safe.")
@click.option("--dry-run", is_flag=True, help="Only say how many slots there are.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before it begins.")
@click.option("--watch", "-w", is_flag=True, help="Show how far it is, until it is over.")
@with_session()
@examples(
    "nats-cron backfill start reports.daily --from 2026-10-01T00:00:00Z --to 2026-10-31T23:59:59Z",
    "nats-cron backfill start metrics.rollup --from 24h --rate 2/s --overlap buffer_one --watch",
    "nats-cron backfill start metrics.rollup --from 7d --dry-run",
    "nats-cron backfill start reports.daily --from 30d --yes --json --key january",
)
def start(  # noqa: PLR0913 - one parameter an option
    session: Session,
    job: str,
    *,
    from_: str,
    to: str | None,
    rate: str,
    overlap: str | None,
    key: str | None,
    dry_run: bool,
    yes: bool,
    watch: bool,
) -> int:
    """Run every slot of JOB in a past range once.

    First it says how many slots there are, and asks. Each slot runs under its own id, however often the leader
    changes meanwhile.
    """
    out = session.out
    if out.as_json and not (yes or dry_run):
        raise click.UsageError("--json needs --yes (or --dry-run): the question would be part of the output")
    now_ms = session.clock.now_ms()
    body: Body = {"subject": job, "from": rfc3339(instant_or_ago(from_, now_ms, "--from")), "rate": rate}
    if to is not None:
        body["to"] = rfc3339(instant_or_ago(to, now_ms, "--to"))
    body |= {name: value for name, value in (("overlap", overlap), ("key", key)) if value is not None}
    if dry_run or not yes:
        held = _held(session, body)
        if dry_run or not held:
            return 0 if dry_run else 1
        if not confirmed(session, f"Run these {held} slot(s) now?"):
            out.line("Nothing was started")
            return 0
    reply = session.run(lambda client: client.call("jobs.backfill", body))
    return _started(session, job, reply, watch=watch)


def _started(session: Session, job: str, reply: Body, *, watch: bool) -> int:
    """Say what was begun, and follow it if that is asked for."""
    out = session.out
    if not out.as_json:
        out.line(f"Backfill {reply.get('id')} of job '{job}' started: {reply.get('count')} slot(s)")
        warn(out, reply)
    if not watch:
        if out.as_json:
            out.data({"subject": job} | reply)
        return 0
    end = session.run(lambda client: _follow(client, out, job, str(reply.get("id"))))
    if out.as_json:
        out.data({"subject": job} | reply | {"end": end})
    elif end is None:
        out.warn("it is over; no record says how")
    else:
        out.line(f"{end.get('reason')}: {end.get('result')}" + (f" ({end['error']})" if end.get("error") else ""))
    return 0 if end is None or end.get("status") == "completed" else 1


@backfill.command("list")
@click.argument("job", shell_complete=complete_subject, required=False)
@with_session()
@examples(
    "nats-cron backfill list",
    "nats-cron backfill list reports.daily --json",
)
def list_(session: Session, job: str | None) -> None:
    """List the backfills going on, of all jobs or of one."""
    query = None if job is None else {"job": job}
    found = session.run(lambda client: client.call("backfills.list", query)).get("backfills") or []
    if session.out.as_json:
        session.out.data(found)
    elif found:
        session.out.table(_HEADINGS, map(_row, found))
    else:
        session.out.line("No backfill is going on")


@backfill.command()
@click.argument("backfill_id", metavar="BACKFILL")
@with_session()
@examples(
    "nats-cron backfill cancel 01KAG8T3M0Y3N0F4S8V1XW2QZ7",
)
def cancel(session: Session, backfill_id: str) -> None:
    """End a backfill: no further slot of it is run. Those that were stay run."""
    reply = session.run(lambda client: client.call("backfills.cancel", {"id": backfill_id}))
    if session.out.as_json:
        session.out.data(reply)
    else:
        session.out.line(f"Backfill {backfill_id} cancelled")


def _held(session: Session, body: Body) -> int:
    """Say what the range holds; how many slots."""
    out = session.out
    held = session.run(lambda client: client.call("jobs.backfill", body | {"dry_run": True}))
    count = int(held.get("count") or 0)
    if out.as_json:
        out.data({"subject": body["subject"]} | held)
    elif count:
        first, last = (_at(held.get(name)) for name in ("first", "last"))
        found = f"has {count} slot(s) from {first} to {last}; at {body['rate']} that takes {held.get('estimate')}"
        out.line(f"Job '{body['subject']}' {found}")
    else:
        out.line(f"Job '{body['subject']}' has no slot in this range")
    warn(out, held)
    return count


def _at(value: object) -> str:
    at_ms = instant_ms(value)
    return "-" if at_ms is None else shown_at(at_ms)


def _row(one: Body) -> tuple[str, ...]:
    return (
        str(one.get("id")),
        str(one.get("job")),
        _at(one.get("from")),
        _at(one.get("to")),
        f"{one.get('done')} of {one.get('count')}",
        str(one.get("every")),
        str(one.get("estimate")),
    )


async def _follow(client: ApiClient, out: Output, job: str, backfill_id: str) -> Body | None:
    """Wait for the end; the record of it, None where there is none."""
    import asyncio  # noqa: PLC0415 - loading it takes longer than all of the plain commands

    shown = None
    tries = 0
    while tries < _RECORD_TRIES:
        page = await client.call("backfills.list", {"job": job})
        going = next((one for one in page.get("backfills") or [] if one.get("id") == backfill_id), None)
        if going is None:
            tries += 1
            try:
                found = await client.call("runs.get", {"run_id": backfill_id, "job": job})
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
            else:
                run: Body = found.get("run") or {}
                if run.get("status") != RunStatus.RUNNING:
                    return run
        elif going.get("done") != shown:
            shown = going.get("done")
            out.line(f"{shown} of {going.get('count')} slot(s), {going.get('estimate')} left")
        await asyncio.sleep(_LOOK_S)
    return None
