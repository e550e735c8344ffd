"""The command that shows one job to people: ``show``."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import rich_click as click

from natscron.cli.client import ApiClient, ApiError, Body, NoAnswerError
from natscron.cli.output import Output, schedule_text, when
from natscron.cli.session import Session, complete_subject, examples, with_session

__all__ = ["show"]

_THEN: Final = 2


@click.command()
@click.argument("subject", shell_complete=complete_subject, metavar="JOB")
@with_session()
@examples(
    "nats-cron show reports.daily",
    "nats-cron show reports.daily --json",
)
def show(session: Session, subject: str) -> None:
    """Show a job: its schedule in plain English, its next runs, its policies.

    `get` shows it as JSON.
    """

    async def work(client: ApiClient) -> tuple[Body, Body]:
        job = await client.call("jobs.get", {"subject": subject})
        try:
            # Behind the next run, which is behind what is skipped and behind a pause; a delayed run comes before the
            # next slot.
            after = {"after": job["next_run"]} if job.get("next_run") else {}
            return job, await client.call("jobs.preview", {"subject": subject, "count": _THEN, **after})
        except (ApiError, NoAnswerError):
            return job, {}  # it cannot be honoured, or the Go version, which has no preview

    job, found = session.run(work)
    if session.out.as_json:
        session.out.data(dict(sorted(job.items())) | {"description": found.get("description")})
        return
    _show(session.out, job, found, session.clock.now_ms())


def _show(out: Output, job: Body, found: Body, now_ms: int) -> None:
    schedule = job.get("schedule")
    zone = schedule.get("tz") if isinstance(schedule, dict) and isinstance(schedule.get("tz"), str) else None
    lines: list[tuple[str, str]] = [("Job", str(job.get("subject"))), ("State", _state(job, now_ms))]
    if job.get("invalid"):
        lines.append(("Invalid", str(job["invalid"])))
    lines.append(("Schedule", schedule_text(schedule)))
    if found.get("description"):
        lines.append(("In words", str(found["description"])))
    lines.append(("Next run", when(job.get("next_run"), now_ms, zone, missing="none")))
    if job.get("next_run"):
        lines += [("then", when(slot.get("due") or slot.get("at"), now_ms, zone)) for slot in found.get("slots") or []]
    lines.append(("Last run", when(job.get("last_run"), now_ms, zone, missing="none")))
    delivery, effective = str(job.get("delivery") or "auto"), job.get("delivery_effective")
    lines.append(("Delivery", f"{delivery} ({effective} now)" if effective not in {None, delivery} else delivery))
    lines += [(label, text(job[key])) for key, label, text in _SHOWN if job.get(key)]
    lines += [(label, _pairs(job[key])) for key, label in _MAPS if job.get(key)]
    lines.append(("Changed", f"{when(job.get('updated_at'), now_ms)}, revision {job.get('revision', '-')}"))
    width = max(len(label) for label, _ in lines) + 1
    for label, text in lines:
        out.line(f"{label + ':':<{width}} {text}")


def _state(job: Body, now_ms: int) -> str:
    state = str(job.get("state") or "-")
    if job.get("paused_until") and state == "paused":
        state += f", goes on {when(job['paused_until'], now_ms)}"
    skip = job.get("skip")
    if isinstance(skip, dict):
        state += f"; skipped up to the slot {when(skip.get('until'), now_ms)}"
    return state


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _pairs(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if not isinstance(value, dict):
        return _text(value)
    texts = {key: " or ".join(map(_text, one)) if isinstance(one, list) else _text(one) for key, one in value.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items())


_SHOWN: Final[tuple[tuple[str, str, Callable[[Any], str]], ...]] = (
    ("priority", "Priority", _text),
    ("timeout", "Timeout", _text),
    ("overlap", "Overlap", _text),
    ("reports", "Ends", lambda _: "as its workers report"),
    ("pause_after_failures", "Pauses", lambda count: f"after {count} failed runs in a row"),
    ("note", "Note", _text),
)
_MAPS: Final = (("catchup", "Catch-up"), ("retry", "Retry"), ("labels", "Labels"), ("headers", "Headers"))
