"""A job of the library from what its author gives. Pure."""

from collections.abc import Mapping
from typing import Any, Final, TypedDict

import msgspec

from natscron.codec import fields
from natscron.codec.job import retry_json
from natscron.errors import InvalidScheduleError, ValidationError
from natscron.model import CatchUp, Job, Overlap, Retry, ScheduleSpec, Timer
from natscron.schedule import registered_spec
from natscron.scheduler.values import Duration, job_id, millis, payload_of
from natscron.worker.registry import check_name

__all__ = ["Policies", "changed", "new_job", "spec_of", "timed", "timer_of"]


class Policies(TypedDict, total=False):
    """What can be said of a job besides its id and schedule. None means the default, as leaving it out does."""

    metadata: Mapping[str, str] | None
    """At most 64 texts by name."""
    payload: Any
    """Any JSON value, at most 512 KiB; handed to the handler."""
    handler: str | None
    """The name of the handler that runs it; default: the scheduler's global one."""
    overlap: Overlap | str | None
    """``skip`` (default), ``buffer_one``, ``buffer_all``, ``cancel_other`` or ``allow``."""
    concurrency: int | None
    """How many of its runs may go at once, over all processes; default: one, or any number with ``allow``."""
    timeout: Duration | None
    """How long one try may take; default: for ever."""
    retry: Retry | int | None
    """How failed tries are repeated; a number is that of the attempts, the first included. Default: one attempt."""
    catchup: CatchUp | str | None
    """What happens to slots older than the grace: ``latest`` (default), ``all`` or ``none``."""
    priority: int | None
    """Of runs that wait the higher goes first; -100 to 100, default 0."""
    pause_after_failures: int | None
    """After so many failed runs in a row the job is paused; default: never."""
    paused: bool | None
    """Whether it begins paused."""
    timer: Timer | str | None
    """Who says when it is due: ``leader``, or ``server`` (nats-server); default: the scheduler's."""
    note: str | None
    """Why it exists; at most 4,096 characters."""


_MOST_METADATA: Final = 64
_NAME: Final = 128
_VALUE: Final = 1_024
_NOTE: Final = 4_096


def spec_of(schedule: object) -> ScheduleSpec:
    """The schedule as data. Raises InvalidScheduleError for what is none."""
    if isinstance(schedule, ScheduleSpec):
        return schedule
    if schedule is None or isinstance(schedule, str | int | float):
        raise InvalidScheduleError(
            f"a schedule is made by every(), cron(), once(), daily_at() or union(); got {schedule!r:.80}"
        )
    return registered_spec(schedule)


def new_job(identity: str, schedule: object, policies: Policies, timer: Timer = Timer.LEADER) -> Job:
    """The job. Raises EmptyJobIDError first, then InvalidScheduleError, then ValidationError for a policy.

    ``timer``: of a job whose policies name none.
    """
    job = Job(id=job_id(identity), schedule=spec_of(schedule), overlap=Overlap.SKIP)
    return changed(job, policies if policies.get("timer") else {**policies, "timer": timer})


def changed(job: Job, policies: Policies) -> Job:
    """The job with these policies in place of its own. Raises ValidationError, which names the policy."""
    if unknown := sorted(set(policies) - set(Policies.__annotations__)):
        raise ValidationError(
            f"unknown argument {unknown[0]!r} for job {job.id!r}: one of {', '.join(Policies.__annotations__)}"
        )
    changes: dict[str, Any] = {}
    for name, value in policies.items():
        if name == "timer":
            changes["schedule"] = timed(job.schedule, _timer(value))
            continue
        field, read = _READERS[name]
        changes[field] = read(value)
    if changes.get("paused") is not None and not changes["paused"]:
        changes["paused_until_ms"] = None
    return msgspec.structs.replace(job, **changes)


def timed(spec: ScheduleSpec | None, timer: Timer) -> ScheduleSpec | None:
    """The schedule, timed so."""
    stored = None if timer is Timer.LEADER else str(timer)
    return spec if spec is None or spec.timer == stored else msgspec.structs.replace(spec, timer=stored)


def timer_of(spec: ScheduleSpec | None) -> Timer:
    """Who times the schedule."""
    return Timer.LEADER if spec is None or spec.timer is None else Timer(spec.timer)


def _timer(value: Any) -> Timer:  # noqa: ANN401 - whatever a caller gives
    try:
        return Timer.LEADER if value is None else Timer(value)
    except ValueError:
        raise ValidationError(f"timer must be one of {', '.join(Timer)}; got {value!r:.80}") from None


def _metadata(value: Any) -> dict[str, str]:  # noqa: ANN401 - whatever a caller gives
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValidationError(f"metadata must be a mapping of text to text; got {value!r:.80}")
    for name, item in value.items():
        if not isinstance(name, str) or not isinstance(item, str):
            raise ValidationError(f"metadata must be a mapping of text to text; got {name!r:.80}: {item!r:.80}")
        if not 1 <= len(name) <= _NAME or len(item) > _VALUE:
            raise ValidationError(
                f"metadata {name!r:.80}: a name has 1 to {_NAME} characters, a value {_VALUE} at most"
            )
    if len(value) > _MOST_METADATA:
        raise ValidationError(f"metadata has {len(value)} entries and may have {_MOST_METADATA}: use the payload")
    return dict(value)


def _handler(value: Any) -> str:  # noqa: ANN401 - whatever a caller gives
    return "" if value is None else check_name(value)


def _retry(value: Any) -> Retry:  # noqa: ANN401 - whatever a caller gives
    if isinstance(value, Retry):
        return fields.retry(retry_json(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return fields.retry({"attempts": value})
    if value is None:
        return Retry()
    raise ValidationError(f"retry must be a Retry or a number of attempts; got {value!r:.80}")


def _catchup(value: Any) -> CatchUp:  # noqa: ANN401 - whatever a caller gives
    if isinstance(value, CatchUp):
        return fields.catchup(
            {
                "policy": value.policy,
                "window": f"{value.window_ms}ms",
                "limit": value.limit,
                "grace": f"{value.grace_ms}ms",
            }
        )
    return fields.catchup(value)


def _note(value: Any) -> str:  # noqa: ANN401 - whatever a caller gives
    if value is not None and (not isinstance(value, str) or len(value) > _NOTE):
        raise ValidationError(f"note must be text of at most {_NOTE} characters; got {value!r:.80}")
    return value or ""


def _paused(value: Any) -> bool:  # noqa: ANN401 - whatever a caller gives
    if value is not None and not isinstance(value, bool):
        raise ValidationError(f"paused must be True or False; got {value!r:.80}")
    return bool(value)


def _overlap(value: Any) -> Overlap:  # noqa: ANN401 - whatever a caller gives
    return Overlap.SKIP if value is None or value == "" else fields.overlap(value)


_READERS: Final[dict[str, tuple[str, Any]]] = {
    "metadata": ("labels", _metadata),
    "payload": ("payload", payload_of),
    "handler": ("handler", _handler),
    "overlap": ("overlap", _overlap),
    "concurrency": ("concurrency", fields.concurrency),
    "timeout": ("timeout_ms", lambda value: None if value is None else millis(value, "timeout", least=1)),
    "retry": ("retry", _retry),
    "catchup": ("catchup", _catchup),
    "priority": ("priority", fields.priority),
    "pause_after_failures": ("pause_after_failures", fields.pause_after_failures),
    "paused": ("paused", _paused),
    "note": ("note", _note),
}
