"""JSON Schemas of requests and replies, as text for the endpoints' metadata. Data, no behaviour."""

from typing import Any, Final

import msgspec

from natscron.model import CatchUpPolicy, Delivery, JobState, Overlap, RunStatus, Trigger

__all__ = [
    "CALENDAR",
    "CALENDAR_PAGE",
    "CALENDAR_VIEW",
    "ERROR",
    "JOB",
    "JOB_PAGE",
    "JOB_VIEW",
    "RUN",
    "TEXTS",
    "of",
    "text",
]

_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_INSTANT: Final = {"type": ["string", "null"], "format": "date-time"}
_TEXT_MAP: Final = {"type": "object", "additionalProperties": _STRING}
_TEXT_LIST: Final = {"type": "array", "items": _STRING}
_OBJECT: Final = {"type": "object"}
_OBJECTS: Final = {"type": "array", "items": _OBJECT}
_SCHEDULE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "every": _STRING,
        "cron": _STRING,
        "at": _STRING,
        "rrule": _STRING,
        "solar": _OBJECT,
        "any": _OBJECTS,
        "kind": _STRING,
        "config": _STRING,
        "tz": _STRING,
        "start_at": _STRING,
        "run_at_start": {"type": "boolean"},
        "dst_gap": {"enum": ["run_after", "skip", "shift"]},
        "dst_fold": {"enum": ["first", "last", "both"]},
        "except": _OBJECTS,
        "not_before": _STRING,
        "not_after": _STRING,
        "max_runs": _INTEGER,
        "last_slot": _STRING,
        "jitter": _STRING,
    },
}
_FIELDS: Final[dict[str, Any]] = {
    "subject": _STRING,
    "schedule": _SCHEDULE,
    "payload": {},
    "headers": _TEXT_MAP,
    "delivery": {"enum": [*Delivery]},
    "catchup": {"anyOf": [{"enum": [*CatchUpPolicy]}, {"type": "object"}]},
    "overlap": {"enum": [*Overlap]},
    "timeout": _STRING,
    "retry": {"type": "object"},
    "labels": _TEXT_MAP,
    "paused": {"type": "boolean"},
    "paused_until": _STRING,
    "note": _STRING,
    "priority": _INTEGER,
    "reports": {"type": "boolean"},
    "pause_after_failures": _INTEGER,
    "skip": _OBJECT,
}
JOB: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["subject", "schedule"],
    "properties": {**_FIELDS, "expected_revision": {"type": ["integer", "string"]}},
}
"""A job as create and put take it; the older form with ``target`` is taken too."""
JOB_VIEW: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        **_FIELDS,
        "revision": _INTEGER,
        "created_at": _INSTANT,
        "updated_at": _INSTANT,
        "next_run": _INSTANT,
        "last_run": _INSTANT,
        "state": {"enum": [*JobState]},
        "delivery_effective": {"enum": [*Delivery, None]},
        "invalid": _STRING,
    },
}
JOB_PAGE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"jobs": {"type": ["array", "null"], "items": JOB_VIEW}, "next": _STRING, "total": _INTEGER},
}
_CONTENT: Final[dict[str, Any]] = {
    "name": _STRING,
    "dates": _TEXT_LIST,
    "weekly": _OBJECTS,
    "ical": _STRING,
    "tz": _STRING,
    "note": _STRING,
}
CALENDAR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name"],
    "properties": {**_CONTENT, "expected_revision": {"type": ["integer", "string"]}},
}
CALENDAR_VIEW: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {**_CONTENT, "revision": _INTEGER, "updated_at": _INSTANT, "jobs": _INTEGER, "invalid": _STRING},
}
CALENDAR_PAGE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"calendars": {"type": "array", "items": CALENDAR_VIEW}, "next": _STRING, "total": _INTEGER},
}
TEXTS: Final[dict[str, Any]] = _TEXT_MAP
RUN: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "run_id": _STRING,
        "job": _STRING,
        "scheduled_at": _INSTANT,
        "started_at": _INSTANT,
        "finished_at": _INSTANT,
        "status": {"enum": [*RunStatus]},
        "reason": _STRING,
        "attempt": _INTEGER,
        "trigger": {"enum": [*Trigger]},
        "delivery": {"enum": [*Delivery]},
        "lateness_ms": _INTEGER,
        "duration_ms": _INTEGER,
        "instance": _STRING,
        "error": _STRING,
        "result": _STRING,
        "from": _INSTANT,
        "to": _INSTANT,
        "count": _INTEGER,
    },
}
ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {"error": _STRING, "code": _STRING},
}


def of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema of a request type, without references."""
    (schema,), parts = msgspec.json.schema_components([kind], ref_template="{name}")
    found: dict[str, Any] = _plain(schema, parts)
    return found


def _plain(schema: Any, parts: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(schema, dict):
        if "$ref" in schema:
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return {**_plain(parts[schema["$ref"]], parts), **rest}
        # Titles and long descriptions of our types say nothing to a client.
        return {
            key: _plain(value, parts)
            for key, value in schema.items()
            if key != "title" and not (key == "description" and "properties" in schema)
        }
    return [_plain(item, parts) for item in schema] if isinstance(schema, list) else schema


def text(schema: dict[str, Any]) -> str:
    """A schema as compact JSON text."""
    return msgspec.json.encode(schema).decode()
