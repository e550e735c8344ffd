"""Commands that act on stored jobs: ``delete``, ``pause``, ``resume``, ``skip``, ``trigger``."""

import sys
from collections.abc import Awaitable, Callable
from typing import Final

import rich_click as click

from natscron.cli.arguments import payload_of
from natscron.cli.client import ApiClient, ApiError, Body
from natscron.cli.output import instant_ms, rfc3339, when
from natscron.cli.session import Session, complete_subject, examples, with_session
from natscron.cli.write import warn
from natscron.errors import ValidationError
from natscron.model import Overlap

__all__ = ["confirmed", "delete", "pause", "resume", "skip", "trigger"]

_AT_ONCE: Final = 32
_UNKNOWN: Final = "404"


@click.command(aliases=["del"])
@click.argument("targets", shell_complete=complete_subject, metavar="SUBJECT|PATTERN...", nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Do not ask before deleting what a pattern matches.")
@click.option("--if-exists", is_flag=True, help="An unknown job is no error.")
@click.option("--expected-revision", type=int, metavar="N", help="Refuse if the job changed since this revision.")
@with_session()
@examples(
    "nats-cron delete reports.daily",
    "nats-cron delete reports.daily --if-exists",
    "nats-cron delete 'reports.*'",
    "nats-cron delete 'test.>' --yes",
)
def delete(
    session: Session, targets: tuple[str, ...], *, yes: bool, if_exists: bool, expected_revision: int | None
) -> int:
    """Delete jobs by subject, or all that match a pattern (which asks first).

    In a pattern * stands for one token, and a last > for one or more.
    """
    failed = 0
    for target in targets:
        if "*" in target or ">" in target:
            _check_pattern(target)
            if session.out.as_json and not yes:
                raise click.UsageError("a pattern with --json needs --yes: the question would be part of the output")
            failed += _delete_matching(session, target, yes=yes)
        else:
            _delete_one(session, target, if_exists=if_exists, revision=expected_revision)
    return 1 if failed else 0


@click.command()
@click.argument("subjects", shell_complete=complete_subject, metavar="SUBJECT...", nargs=-1, required=True)
@click.option("--note", metavar="TEXT", help="Why; kept as the job's note.")
@click.option("--until", metavar="DURATION|INSTANT", help="When it ends by itself: 2h, or RFC 3339.")
@with_session()
@examples(
    "nats-cron pause reports.daily",
    "nats-cron pause reports.daily billing.run --until 2h --note 'while the database moves'",
    "nats-cron pause reports.daily --until 2027-01-04T06:00:00Z",
)
def pause(session: Session, subjects: tuple[str, ...], note: str | None, until: str | None) -> int:
    """Pause jobs: they stay stored and do not run.

    Slots that pass while a job is paused are not made up for. --until lets it go on by itself.
    """
    body = {} if note is None else {"note": note}
    if until is not None:
        body["until"] = rfc3339(_until_ms(until, session.clock.now_ms()))
    return _each(session, subjects, "paused", lambda client, one: client.call("jobs.pause", {"subject": one, **body}))


@click.command()
@click.argument("subjects", shell_complete=complete_subject, metavar="SUBJECT...", nargs=-1, required=True)
@with_session()
@examples(
    "nats-cron resume reports.daily",
)
def resume(session: Session, subjects: tuple[str, ...]) -> int:
    """Let paused jobs run again, from now on."""
    return _each(session, subjects, "resumed", lambda client, one: client.call("jobs.resume", {"subject": one}))


@click.command()
@click.argument("subject", shell_complete=complete_subject, metavar="JOB")
@click.argument("count", type=click.IntRange(0, 1000), default=1)
@with_session()
@examples(
    "nats-cron skip reports.daily",
    "nats-cron skip reports.daily 3",
    "nats-cron skip reports.daily 0",
)
def skip(session: Session, subject: str, count: int) -> None:
    """Leave out a job's next COUNT runs (default 1).

    Again: those after them as well. A COUNT of 0 takes it back.
    """
    reply = session.run(lambda client: client.call("jobs.skip", {"subject": subject, "count": count}))
    if session.out.as_json:
        session.out.data({"subject": subject} | reply)
        return
    now_ms = session.clock.now_ms()
    if count:
        slots = reply.get("skipped") or []
        done = int(reply.get("count") or 0)
        session.out.line(f"Job '{subject}' skips {done} run(s):")
        for slot in slots:
            session.out.line(f"  - {when(slot, now_ms)}")
        if done > len(slots):
            session.out.line(f"  and {done - len(slots)} more")
    else:
        session.out.line(f"Job '{subject}' skips no run")
    session.out.line(f"Next run: {when(reply.get('next_run'), now_ms, missing='none')}")
    warn(session.out, reply)


@click.command()
@click.argument("subject", shell_complete=complete_subject)
@click.option("--data", metavar="TEXT", help="A body for this run, instead of the job's.")
@click.option("--payload-type", metavar="TYPE", help="json, text or base64 (decoded). [default: by --data]")
@click.option("--key", metavar="TEXT", help="The same key twice runs once: makes trying again safe.")
@click.option(
    "--overlap", type=click.Choice([one.value for one in Overlap]), help="If a run is going on. [default: the job's]"
)
@with_session()
@examples(
    "nats-cron trigger reports.daily",
    "nats-cron trigger sync.full --overlap skip",
    "nats-cron trigger cache.warm --data '{\"top\": 10}'",
    "nats-cron trigger billing.run --key invoice-2027-01",
)
def trigger(  # noqa: PLR0913 - one parameter an option
    session: Session, subject: str, *, data: str | None, payload_type: str | None, key: str | None, overlap: str | None
) -> None:
    """Run a job now, whatever its schedule."""
    body: Body = {"subject": subject}
    if data is not None:
        body["payload"] = payload_of(data, payload_type)
    elif payload_type is not None:
        raise click.UsageError("--payload-type goes with --data; without it the job's own body is sent")
    if key is not None:
        body["key"] = key
    if overlap is not None:
        body["overlap"] = overlap
    reply = session.run(lambda client: client.call("jobs.trigger", body))
    if session.out.as_json:
        session.out.data({"subject": subject} | reply)
        return
    session.out.line(f"Job '{subject}' triggered: run {reply.get('run_id', '?')}")
    warn(session.out, reply)


def _until_ms(text: str, now_ms: int) -> int:
    from natscron.durations import parse_duration_ms  # noqa: PLC0415 - only with --until

    at_ms = instant_ms(text)
    if at_ms is None:
        try:
            at_ms = now_ms + parse_duration_ms(text.removeprefix("in").strip())
        except ValidationError as error:
            raise click.BadParameter(
                f"{text!r} is neither a duration such as 2h nor an instant such as 2027-01-31T09:00:00Z",
                param_hint="--until",
            ) from error
    if at_ms <= now_ms:
        raise click.BadParameter(f"{text!r} is not in the future", param_hint="--until")
    return at_ms


def _each(
    session: Session,
    subjects: tuple[str, ...],
    done: str,
    act: Callable[[ApiClient, str], Awaitable[Body]],
) -> int:
    async def work(client: ApiClient) -> list[Body]:
        results = []
        for subject in subjects:
            try:
                results.append({"subject": subject} | await act(client, subject))
            except ApiError as error:
                results.append({"subject": subject, "error": str(error), "code": error.status})
        return results

    results = session.run(work)
    if session.out.as_json:
        session.out.data(results[0] if len(results) == 1 else results)
    for result in results:
        if session.out.as_json:
            continue
        if "error" in result:
            session.out.error(f"job '{result['subject']}': {result['error']}")
        else:
            session.out.line(f"Job '{result['subject']}' {done} successfully")
            warn(session.out, result)
    return 1 if any("error" in result for result in results) else 0


def _check_pattern(pattern: str) -> None:
    tokens = pattern.split(".")
    for number, token in enumerate(tokens, 1):
        whole = token == "*" or (token == ">" and number == len(tokens))  # noqa: S105 - a token of a subject
        if not token or (set(token) & {"*", ">"} and not whole):
            raise click.UsageError(
                f"{pattern!r} is not a pattern: * stands for one whole token, and > may only be the last one"
            )


def _delete_one(session: Session, subject: str, *, if_exists: bool, revision: int | None) -> None:
    body: Body = {"subject": subject}
    if revision is not None:
        body["expected_revision"] = revision
    try:
        reply = session.run(lambda client: client.call("jobs.delete", body))
    except ApiError as error:
        if not (if_exists and error.status == _UNKNOWN):
            raise
        reply = {"status": "absent"}
    if session.out.as_json:
        session.out.data({"subject": subject} | reply)
    elif reply["status"] == "absent":
        session.out.line(f"No such job: {subject}")
    else:
        session.out.line(f"Job deleted: {subject}")
        warn(session.out, reply)


def _delete_matching(session: Session, pattern: str, *, yes: bool) -> int:
    """How many could not be deleted."""
    out = session.out
    found = session.run(lambda client: client.subjects(pattern))
    if not found:
        if out.as_json:
            out.data({"pattern": pattern, "deleted": [], "failed": []})
        out.line(f"No jobs match pattern '{pattern}'")
        return 0
    out.line(f"Found {len(found)} job(s) matching pattern '{pattern}':")
    for subject in found:
        out.line(f"  - {subject}")
    out.line()
    if not yes and not confirmed(session, f"Delete these {len(found)} job(s)?"):
        out.line("Deletion cancelled")
        return 0
    failures = session.run(lambda client: _delete_all(client, found))
    for subject, text in failures.items():
        out.error(f"job '{subject}': {text}")
    if out.as_json:
        out.data({"pattern": pattern, "deleted": [one for one in found if one not in failures], "failed": [*failures]})
    done = len(found) - len(failures)
    out.line(f"Deleted {done} job(s)" + (f" ({len(failures)} failed)" if failures else ""))
    return len(failures)


def confirmed(session: Session, question: str) -> bool:
    """Ask; the end of the input is a no."""
    click.echo(f"{question} (y/N): ", nl=False)
    answer = sys.stdin.readline().strip().lower()
    session.out.line()
    return answer in {"y", "yes"}


async def _delete_all(client: ApiClient, subjects: list[str]) -> dict[str, str]:
    """Delete one by one, some at a time; the texts of what failed."""
    import asyncio  # noqa: PLC0415 - loading it takes longer than all of the plain commands

    gate = asyncio.Semaphore(_AT_ONCE)
    failures: dict[str, str] = {}

    async def remove(subject: str) -> None:
        async with gate:
            try:
                await client.call("jobs.delete", {"subject": subject})
            except ApiError as error:
                if error.status != _UNKNOWN:  # somebody else was quicker: it is gone, as asked
                    failures[subject] = str(error)

    await asyncio.gather(*map(remove, subjects))
    return failures
