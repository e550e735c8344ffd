"""Commands that write jobs: ``add``, ``create``, ``update``."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import rich_click as click

from natscron.cli.arguments import SCHEDULE_KEYS, job_fields, job_options, parse_schedule, payload_of
from natscron.cli.client import ApiClient, ApiError, Body
from natscron.cli.jobfile import Found, read_jobs
from natscron.cli.output import Output
from natscron.cli.session import Session, complete_subject, examples, with_session

__all__ = ["add", "create", "update"]

_AT_ONCE: Final = 32
_REPLY_ONLY: Final = frozenset(
    {
        "revision",
        "created_at",
        "updated_at",
        "next_run",
        "last_run",
        "state",
        "delivery_effective",
        "generation",
        "error",
    }
)
"""What ``list --json`` shows beyond the job itself: taken off, so that its output can be created again."""


@click.command()
@click.argument("subject")
@click.argument("schedule")
@click.argument("data", required=False)
@job_options
@click.option("--replace", is_flag=True, help="Replace the job if there is one already.")
@with_session(timeout_flag=False)
@examples(
    "nats-cron add system.heartbeat 30s",
    "nats-cron add reports.daily '0 9 * * MON-FRI' --tz Europe/Berlin",
    "nats-cron add cache.warm @hourly '{\"top\": 100}' --label team=web",
    "nats-cron add orders.close 'in 45m' --delivery jetstream",
    "nats-cron add billing.run '0 2 1 * *' --delivery request --timeout 2m --retry-attempts 3",
    "nats-cron add reports.weekly '0 8 * * MON' --except-calendar holidays --jitter 5m",
    "nats-cron add sync.full 10m --reports --overlap skip --timeout 1h --pause-after-failures 5",
    "nats-cron add invoices.send 'FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17;BYMINUTE=0;BYSECOND=0' --tz Europe/Paris",
    'nats-cron add lights.on \'{"solar": {"event": "sunset", "latitude": 52.5, "longitude": 13.4}}\'',
)
def add(session: Session, /, subject: str, schedule: str, data: str | None, *, replace: bool, **flags: Any) -> None:  # noqa: ANN401 - the job's flags
    """Add a job: a message to SUBJECT on SCHEDULE.

    SCHEDULE is a duration (30s, 5m, 2h30m), a cron expression ('0 9 * * MON-FRI', @daily), once ('in 5m' or
    an RFC 3339 instant), a recurrence rule (FREQ=...), or a schedule object as JSON.
    DATA is the message's body; without it the body is the run's id.
    --timeout after the command's name is the job's; before it, how long to wait for the service.
    """
    fields = job_fields(flags)
    job = {"subject": subject, **fields, "schedule": parse_schedule(schedule) | fields.get("schedule", {})}
    if data is not None:
        job["payload"] = payload_of(data, flags["payload_type"])
    reply = session.run(lambda client: client.call("jobs.put" if replace else "jobs.create", job))
    if session.out.as_json:
        session.out.data({"subject": subject} | reply)
        return
    session.out.line(f"Job '{subject}' {'stored' if reply.get('status') == 'updated' else 'created'} successfully")
    session.out.line(f"  Schedule: {schedule}")
    if data is not None:
        session.out.line(f"  Data: {data}")
    warn(session.out, reply)


@click.command()
@click.argument("path", metavar="[FILE]", required=False)
@click.option("--file", "-f", "option", metavar="FILE", help="The same as the argument; - is standard input.")
@click.option("--replace", is_flag=True, help="Replace jobs that are there already.")
@with_session()
@examples(
    "nats-cron create job.json",
    "nats-cron create -f jobs.json --replace",
    "nats-cron --context old list --json | nats-cron --context new create -f -",
)
def create(session: Session, path: str | None, option: str | None, *, replace: bool) -> int:
    """Create jobs from a file: one JSON object, an array of them, or one object a line. - reads standard input.

    What `list --json` wrote can be created again. With several jobs each is tried, each failure is
    reported, and the exit code is 1 if any failed.
    """
    if (path is None) == (option is None):
        raise click.UsageError("missing job file: give one FILE, or -f FILE, or -f - for standard input")
    found, alone = read_jobs(path or option or "")
    endpoint = "jobs.put" if replace else "jobs.create"
    if alone and found[0].job is not None:
        job = _sent(found[0].job)
        reply = session.run(lambda client: client.call(endpoint, job))
        if session.out.as_json:
            session.out.data({"subject": _subject_of(job)} | reply)
        else:
            session.out.line(f"Job {'stored' if replace else 'created'}: {reply.get('status', '')}")
            warn(session.out, reply)
        return 0
    # What cannot be read is an error of that job alone, as what the service refuses.
    results: list[Body] = [{"subject": "", "error": f"{one.place}: {one.wrong}"} for one in found]
    if any(one.job is not None for one in found):
        results = session.run(lambda client: _create_all(client, endpoint, found, results))
    return _report(session.out, found, results)


@click.command()
@click.argument("subject", shell_complete=complete_subject, metavar="SUBJECT|FILE")
@click.argument("schedule", required=False)
@click.argument("data", required=False)
@job_options
@click.option("--unset", multiple=True, metavar="KEY", help="Take a field back to its default; repeatable.")
@click.option("--expected-revision", type=int, metavar="N", help="Refuse if the job changed since this revision.")
@with_session(timeout_flag=False)
@examples(
    "nats-cron update system.heartbeat 1m",
    "nats-cron update reports.daily '0 8 * * *' --tz Europe/Paris",
    "nats-cron update reports.daily --note 'asked for by billing' --label team=billing",
    "nats-cron update reports.daily --unset retry",
    "nats-cron update job.json",
)
def update(
    session: Session,
    /,
    subject: str,
    schedule: str | None,
    data: str | None,
    *,
    unset: tuple[str, ...],
    **flags: Any,  # noqa: ANN401 - the job's flags
) -> None:
    """Change a job. What is not given stays as it is.

    Either SUBJECT and a new SCHEDULE (and DATA), or SUBJECT and flags, or only a FILE with a job's JSON.
    --unset takes a field back to its default.
    """
    fields = job_fields(flags)
    _check_unset(unset)
    if schedule is None and not fields and not unset:
        _update_from_file(session, subject)
        return
    change: Body = {"subject": subject, **fields, **dict.fromkeys(unset)}
    if schedule is not None:
        change["schedule"] = parse_schedule(schedule) | fields.get("schedule", {})
    if data is not None:
        change["payload"] = payload_of(data, flags["payload_type"])
    partial = {key for key in ("schedule", "retry", "catchup", "headers", "labels") if key in fields}
    if schedule is not None:
        partial.discard("schedule")
    reply = session.run(lambda client: _merge(client, change, partial))
    if session.out.as_json:
        session.out.data({"subject": subject} | reply)
        return
    session.out.line(f"Job '{subject}' updated successfully")
    if schedule is not None:
        session.out.line(f"  Schedule: {schedule}")
    if data is not None:
        session.out.line(f"  Data: {data}")
    warn(session.out, reply)


def _update_from_file(session: Session, name: str) -> None:
    if name != "-" and not Path(name).exists():
        raise click.UsageError(f"there is no file {name}; to change the job {name} give a SCHEDULE or flags")
    found, _ = read_jobs(name)
    if len(found) != 1:
        raise click.UsageError(f"{name} holds {len(found)} jobs; update takes one, `create --replace` takes many")
    if found[0].job is None:
        raise click.ClickException(f"{found[0].place}: {found[0].wrong}")
    job = _sent(found[0].job)
    reply = session.run(lambda client: client.call("jobs.update", job))
    if session.out.as_json:
        session.out.data({"subject": _subject_of(job)} | reply)
    else:
        session.out.line(f"Job updated: {reply.get('status', '')}")
        warn(session.out, reply)


def _check_unset(keys: tuple[str, ...]) -> None:
    """Refuse what lies within a field. Names that nobody knows pass: a job may have fields of its owner's."""
    for key in keys:
        outer, dot, _ = key.partition(".")
        if dot or key in SCHEDULE_KEYS:
            outer = outer if dot else "schedule"
            how = "give a new SCHEDULE without it" if outer == "schedule" else f"--unset {outer} takes all of it back"
            raise click.BadParameter(f"{key!r} is a part of {outer!r}: {how}", param_hint="--unset")
        if key in {"subject", "schedule"}:
            raise click.BadParameter(f"no job is without its {key}", param_hint="--unset")


async def _merge(client: ApiClient, change: Body, partial: Iterable[str]) -> Body:
    """Send a change; where a flag names a part of a field, its other parts are read first and kept.

    What was read is what may be replaced: the write is bound to that revision.
    """
    if partial:
        job = await client.call("jobs.get", {"subject": change["subject"]})
        for key in partial:
            there = job.get(key)
            if key == "catchup" and isinstance(there, str):
                there = {"policy": there}
            if isinstance(there, dict):
                if key == "schedule" and "max_runs" in change[key]:
                    # It is what the number before came to; the new one counts from now.
                    there = {name: value for name, value in there.items() if name != "last_slot"}
                change[key] = there | change[key]
        if "revision" in job:
            change.setdefault("expected_revision", int(job["revision"]))
    return await client.call("jobs.update", change)


def _sent(job: Body) -> Body:
    """A job of a file without what only replies have."""
    return {key: value for key, value in job.items() if key not in _REPLY_ONLY}


def _subject_of(job: Body) -> str:
    folded = {key.lower(): value for key, value in job.items()}
    target = folded.get("target")
    inner = {key.lower(): value for key, value in target.items()} if isinstance(target, dict) else {}
    return str(folded.get("subject") or inner.get("subject") or "")


async def _create_all(client: ApiClient, endpoint: str, found: list[Found], results: list[Body]) -> list[Body]:
    """One result a job, in the file's order; jobs with the same subject go one after the other."""
    import asyncio  # noqa: PLC0415 - loading it takes longer than all of the plain commands

    gate = asyncio.Semaphore(_AT_ONCE)
    numbered = sorted(
        ((number, _sent(one.job)) for number, one in enumerate(found) if one.job is not None),
        key=lambda one: _subject_of(one[1]),
    )

    async def same_subject(group: list[tuple[int, Body]]) -> None:
        async with gate:
            for number, job in group:
                subject = _subject_of(job)
                try:
                    results[number] = {"subject": subject} | await client.call(endpoint, job)
                except ApiError as error:
                    results[number] = {"subject": subject, "error": str(error), "code": error.status}

    groups = [list(group) for _, group in itertools.groupby(numbered, key=lambda one: _subject_of(one[1]))]
    await asyncio.gather(*map(same_subject, groups))
    return results


def _report(out: Output, found: list[Found], results: list[Body]) -> int:
    failed = sum("error" in result for result in results)
    if out.as_json:
        out.data(results)
        return 1 if failed else 0
    for number, (one, result) in enumerate(zip(found, results, strict=True), 1):
        if one.job is None:
            out.error(result["error"])
        elif "error" in result:
            out.error(f"job {number} ('{result['subject']}'): {result['error']}")
        else:
            out.line(f"Job '{result['subject']}' {result.get('status', 'created')} successfully")
            warn(out, result)
    out.line(f"Stored {len(results) - failed} job(s)" + (f" ({failed} failed)" if failed else ""))
    return 1 if failed else 0


def warn(out: Output, reply: Body) -> None:
    """Show a reply's warning, if it has one."""
    if reply.get("warning"):
        out.warn(str(reply["warning"]))
