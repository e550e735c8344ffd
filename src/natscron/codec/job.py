"""Job JSON as the API and files carry it, in both forms, and back."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec

from natscron.codec import fields
from natscron.codec.gojson import as_object, decode, normalise
from natscron.codec.packed import unpacked
from natscron.codec.spec import read_schedule, schedule_json
from natscron.codec.times import ms_to_text
from natscron.durations import format_duration
from natscron.errors import ValidationError
from natscron.model import (
    DEFAULT_CATCHUP,
    DEFAULT_RETRY,
    CatchUp,
    Delivery,
    Job,
    JobState,
    Ms,
    Overlap,
    Retry,
    Skip,
)

__all__ = [
    "GO_TYPE",
    "VIEW_FIELDS",
    "ParsedJob",
    "envelope",
    "has_rare_fields",
    "job_from_fields",
    "job_to_json",
    "job_view",
    "merge_job",
    "parse_job",
    "read_fields",
    "subject_of",
]

GO_TYPE: Final = "scheduler.JobDefinition"
"""What the Go version calls the type; its error texts name it."""

VIEW_FIELDS: Final = frozenset(
    {
        "revision",
        "created_at",
        "updated_at",
        "next_run",
        "last_run",
        "state",
        "delivery_effective",
        "invalid",
        "natscron",
        "expected_revision",
    }
)
"""What replies and rows add: ignored on input, so that what was listed can be created again."""

JSON: TypeAlias = Any
Input: TypeAlias = bytes | str | Mapping[str, Any]
_Reader: TypeAlias = Callable[[JSON], Any]
_NOW_READERS: Final[dict[str, tuple[str, Callable[[JSON, Ms | None], Any]]]] = {
    "paused_until": ("paused_until_ms", fields.paused_until)
}
"""Readers of fields that may count from now."""

_READERS: Final[dict[str, tuple[str, _Reader]]] = {
    "subject": ("id", lambda value: fields.text(value, "JobDefinition.subject")),
    "target": ("target", fields.target),
    "schedule": ("schedule", read_schedule),
    "payload": ("payload", lambda value: msgspec.UNSET if value is None else value),
    "headers": ("headers", fields.headers),
    "delivery": ("delivery", fields.delivery),
    "catchup": ("catchup", fields.catchup),
    "overlap": ("overlap", fields.overlap),
    "timeout": ("timeout_ms", fields.timeout),
    "retry": ("retry", fields.retry),
    "labels": ("labels", fields.labels),
    "paused": ("paused", fields.paused),
    "note": ("note", fields.note),
    "priority": ("priority", fields.priority),
    "reports": ("reports", fields.reports),
    "pause_after_failures": ("pause_after_failures", fields.pause_after_failures),
    "skip": ("skip", fields.skip),
    "handler": ("handler", fields.handler),
    "concurrency": ("concurrency", fields.concurrency),
}
_NAMES: Final = {name: name for name in (*_READERS, *_NOW_READERS, *VIEW_FIELDS)}
_MOST_NAMED: Final = 10


class ParsedJob(msgspec.Struct, frozen=True):
    """A job read from input; ``given`` names the top-level fields that were there, ``warnings`` are for the caller."""

    job: Job
    given: frozenset[str]
    warnings: tuple[str, ...] = ()


def read_fields(data: Input) -> dict[str, Any]:
    """The top-level object of job input. Raises MalformedInputError."""
    value = normalise(dict(data)) if isinstance(data, Mapping) else decode(data)
    return as_object(value, GO_TYPE)


def subject_of(data: Input) -> str:
    """The subject that job input names, in either form; "" when it names none. Raises MalformedInputError."""
    values: dict[str, Any] = {}
    for key, value in read_fields(data).items():
        name = key.lower()
        if name in {"subject", "target"}:
            values[name] = _READERS[name][1](value)
    return str(values.get("subject") or values.get("target") or "")


def parse_job(data: Input, now_ms: Ms | None = None) -> ParsedJob:
    """Read a whole job. Raises MalformedInputError and ValidationError (also its text ``job subject is required``).

    Unknown top-level fields are kept in ``job.extra`` and named in a warning. ``paused_until: in 2h`` counts from
    ``now_ms`` and is refused without it.
    """
    return job_from_fields(read_fields(data), now_ms)


def job_from_fields(found: Mapping[str, Any], now_ms: Ms | None = None) -> ParsedJob:
    """:func:`parse_job` for an object that was read already."""
    values, extra, given = _read(found, now_ms)
    subject = values.pop("target", "")
    if values.get("id"):
        if subject and subject != values["id"]:
            raise ValidationError(f"subject {values['id']!r} and target.subject {subject!r} differ; give one of them")
    else:
        values["id"] = subject
    if not values["id"]:
        raise ValidationError("job subject is required")
    # Who gives both forms at once has read them from a reply, which shows the older form with a subject added.
    old_format = "target" in given
    if "payload" in values:
        values["payload"] = envelope(values["payload"], old_format=old_format)
    return ParsedJob(Job(old_format=old_format, extra=extra, **values), given, _unknown(extra))


def merge_job(old: Job, patch: Input, now_ms: Ms | None = None) -> ParsedJob:
    """``old`` with what ``patch`` gives: absent fields are kept, null resets to the default.

    A schedule is replaced as a whole. A subject may be given and must be the job's own. What the store owns is
    copied from ``old``. ``now_ms`` as in :func:`parse_job`. Raises MalformedInputError and ValidationError.
    """
    values, extra, given = _read(read_fields(patch), now_ms)
    for name in ("id", "target"):
        other = values.pop(name, "")
        if other and other != old.id:
            raise ValidationError(f"subject {other!r} is not the job's own, {old.id!r}: a subject cannot be changed")
    old_format = old.old_format or "target" in given
    if "payload" in values:
        values["payload"] = envelope(values["payload"], old_format=old_format)
    merged = {name: item for name, item in {**old.extra, **extra}.items() if item is not None}
    job = msgspec.structs.replace(old, old_format=old_format, extra=merged, invalid=None, **values)
    return ParsedJob(job, given, _unknown(extra))


def _read(found: Mapping[str, Any], now_ms: Ms | None) -> tuple[dict[str, Any], dict[str, Any], frozenset[str]]:
    values: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    given: set[str] = set()
    for key, value in found.items():
        name = _NAMES.get(key) or _NAMES.get(key.lower())
        if name is None:
            extra[key] = value
            given.add(key)
            continue
        given.add(name)
        reader = _READERS.get(name)
        if reader is not None:
            values[reader[0]] = reader[1](value)
        elif (timed := _NOW_READERS.get(name)) is not None:
            values[timed[0]] = timed[1](value, now_ms)
    return values, extra, frozenset(given)


def _unknown(extra: Mapping[str, Any]) -> tuple[str, ...]:
    if not extra:
        return ()
    names = ", ".join(repr(name[:64]) for name in list(extra)[:_MOST_NAMED])
    more = f" and {len(extra) - _MOST_NAMED} more" if len(extra) > _MOST_NAMED else ""
    return (f"unknown fields are kept and have no effect: {names}{more}",)


def envelope(payload: Any, *, old_format: bool) -> Any:  # noqa: ANN401 - any JSON value
    """The envelope with its own spelling; anything else as it is.

    An envelope has only ``type`` and ``data``, data a string. The older form knew nothing else, so there one of the
    two is enough.
    """
    if not isinstance(payload, dict) or not payload or len(payload) > 2:  # noqa: PLR2004 - type and data
        return payload
    if isinstance(payload.get("data"), str) and isinstance(payload.get("type"), str):
        return payload
    if len(payload) < 2 and not old_format:  # noqa: PLR2004 - as above
        return payload
    folded = {key.lower(): value for key, value in payload.items()}
    if not folded.keys() <= {"type", "data"} or (len(folded) < 2 and not old_format):  # noqa: PLR2004 - as above
        return payload
    kind, data = folded.get("type"), folded.get("data", "")
    if old_format and data is None:
        data = ""
    if not isinstance(data, str) or not (kind is None or isinstance(kind, str)):
        return payload
    return {"type": kind or "", "data": data}


def job_to_json(job: Job) -> dict[str, Any]:
    """The job's content as the API shows it; parse_job reads it back. Defaults are left out.

    A job in the older form is shown in it, with ``subject`` added, which every reader of the newer form needs.
    """
    return {"subject": job.id, **content(job)}


def content(job: Job) -> dict[str, Any]:
    """The job's content as it is written to a row, without the subject in the older form."""
    schedule = None if job.schedule is None else schedule_json(job.schedule)
    payload = None if job.payload is msgspec.UNSET else unpacked(job.payload)
    shown: dict[str, Any]
    if job.old_format:
        shown = {"target": {"subject": job.id}, "payload": payload, "schedule": schedule}
    else:
        shown = {"subject": job.id, "schedule": schedule, "payload": payload}
    shown = {name: value for name, value in shown.items() if value is not None}
    # Most jobs have none of the rarer fields, and rows are written 100,000 at a time.
    for name, show in _ALL_SHOWN if has_rare_fields(job) else _SHOWN:
        value = show(job)
        if value is not None:
            shown[name] = value
    shown.update(job.extra)
    return shown


_SHOWN: Final[tuple[tuple[str, Callable[[Job], Any]], ...]] = (
    ("headers", lambda job: job.headers or None),
    ("delivery", lambda job: None if job.delivery is Delivery.AUTO else job.delivery.value),
    ("catchup", lambda job: None if job.catchup == DEFAULT_CATCHUP else _catchup_json(job.catchup)),
    ("overlap", lambda job: None if job.overlap is Overlap.ALLOW else job.overlap.value),
    ("timeout", lambda job: None if job.timeout_ms is None else _span(job.timeout_ms)),
    ("retry", lambda job: None if job.retry == DEFAULT_RETRY else retry_json(job.retry)),
    ("labels", lambda job: job.labels or None),
    ("paused", lambda job: job.paused or None),
    ("note", lambda job: job.note or None),
)
"""What is shown of a job where it differs from the default (else None)."""
_ALL_SHOWN: Final[tuple[tuple[str, Callable[[Job], Any]], ...]] = (
    *_SHOWN,
    ("paused_until", lambda job: _instant(job.paused_until_ms)),
    ("priority", lambda job: job.priority or None),
    ("reports", lambda job: job.reports or None),
    ("pause_after_failures", lambda job: job.pause_after_failures or None),
    ("skip", lambda job: None if job.skip is None else _skip_json(job.skip)),
    ("handler", lambda job: job.handler or None),
    ("concurrency", lambda job: job.concurrency or None),
)
_rare: Final = attrgetter(
    "paused_until_ms", "priority", "reports", "pause_after_failures", "skip", "handler", "concurrency"
)
_NOTHING_RARE: Final = _rare(Job(id=""))


def has_rare_fields(job: Job) -> bool:
    """Whether the job has any field of its own that came with reader version 2."""
    return bool(_rare(job) != _NOTHING_RARE)


def job_view(  # noqa: PLR0913 - what a view is made of, each by its name
    job: Job,
    *,
    state: JobState,
    next_run_ms: Ms | None,
    last_run_ms: Ms | None,
    delivery_effective: Delivery | None,
    failure: str | None = None,
) -> dict[str, Any]:
    """:func:`job_to_json` and what replies add; instants as RFC 3339, null where there is none.

    ``invalid`` carries the reason of a row that cannot be honoured, or else ``failure``, why its schedule could not
    find its next slot; it is absent if there is neither.
    """
    shown = job_to_json(job)
    shown["revision"] = job.revision
    shown["created_at"] = _instant(job.created_at_ms or None)
    shown["updated_at"] = _instant(job.updated_at_ms or None)
    shown["next_run"] = _instant(next_run_ms)
    shown["last_run"] = _instant(last_run_ms)
    shown["state"] = state.value
    shown["delivery_effective"] = None if delivery_effective is None else delivery_effective.value
    reason = job.invalid if job.invalid is not None else failure
    if reason is not None:
        shown["invalid"] = reason
    return shown


def _instant(instant_ms: Ms | None) -> str | None:
    return None if instant_ms is None else ms_to_text(instant_ms)


def _span(millis: Ms) -> str:
    return format_duration(millis * 1_000_000)


def _catchup_json(found: CatchUp) -> Any:  # noqa: ANN401 - a word or an object
    shown: dict[str, Any] = {"policy": found.policy.value}
    if found.window_ms != DEFAULT_CATCHUP.window_ms:
        shown["window"] = _span(found.window_ms)
    if found.limit != DEFAULT_CATCHUP.limit:
        shown["limit"] = found.limit
    if found.grace_ms != DEFAULT_CATCHUP.grace_ms:
        shown["grace"] = _span(found.grace_ms)
    return shown if len(shown) > 1 else found.policy.value


def _skip_json(found: Skip) -> dict[str, Any]:
    return {"from": ms_to_text(found.from_ms), "until": ms_to_text(found.until_ms)}


def retry_json(found: Retry) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "attempts": found.attempts,
        "backoff": _span(found.backoff_ms),
        "factor": found.factor,
        "max_backoff": _span(found.max_backoff_ms),
        "jitter": f"{round(found.jitter * 100, 6):g}%",
    }
    if found.only:
        shown["only"] = list(found.only)
    if found.never:
        shown["never"] = list(found.never)
    return shown
