"""A job as the value of its KV row.

The row is the job JSON with the Go version's fields first, so that both versions read it, and one object ``natscron``
with what the store owns. A writer cannot know the timestamp and sequence that its write will get; so a creating write
leaves out generation, creation and anchor, a write that changes the schedule leaves out ``counts_from``, and a reader
takes them from the row's own message. Every later write copies them into the row. An import from another store says
them explicitly, but for the sequence that planning goes by, which it leaves to the reader (:data:`THIS_WRITE`).
"""

import json
from functools import partial
from typing import Any, Final

import msgspec

from natscron.codec.gojson import MAX_BYTES, MAX_DEPTH, as_object, decode
from natscron.codec.job import GO_TYPE, content, envelope, has_rare_fields, job_from_fields
from natscron.codec.keys import id_of, key_of
from natscron.codec.spec import schedule_json, uses_later
from natscron.errors import NatscronError, ValidationError
from natscron.model import (
    DEFAULT_CATCHUP,
    DEFAULT_RETRY,
    CatchUp,
    Job,
    Overlap,
    Retry,
    ScheduleSpec,
    Stamp,
    Version,
)

__all__ = ["READER", "THIS_WRITE", "decode_row", "encode_row", "needs_newer", "own_stamp"]

READER: Final = 2
"""The highest reader version that this code honours."""
THIS_WRITE: Final = -1
"""As a stamp's sequence in a row that is to be written: that of this very write. For a row whose instants come from
another store, since a writer does not know its sequence."""

_OWN: Final = "natscron"
_SHARED_LIMIT: Final = 10_000
_NOTHING: Final[dict[str, Any]] = {}
"""Stands in for every empty mapping of a stored job; jobs are frozen, and nobody writes into one."""


class _Owned(msgspec.Struct, omit_defaults=True):
    """What the store owns of a row. None: to be taken from the row's own message."""

    reader: int = 0
    generation: int | None = None
    created_at: int | None = None
    anchor: int | None = None
    counts_from: Stamp | None = None
    previous: tuple[Version, ...] = ()


class _PlainSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schedule of reader version 1: all of its fields are texts, so there is little to check."""

    every: str | None = None
    cron: str | None = None
    at: str | None = None
    tz: str | None = None
    start_at: str | None = None
    run_at_start: bool = False
    dst_gap: str | None = None
    dst_fold: str | None = None


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """The row of an ordinary job, for the fast path. Whatever does not fit goes the long way, which also knows why."""

    subject: str
    schedule: _PlainSpec | None = None
    payload: Any = msgspec.UNSET
    labels: dict[str, str] | None = None
    overlap: Overlap = Overlap.ALLOW
    handler: str = ""
    paused: bool = False
    note: str = ""
    natscron: _Owned | None = None


_plain: Final = msgspec.json.Decoder(_Plain)


class _Shared:
    """Equal values of stored jobs are kept once. Bounded: a full table starts again, which costs memory only."""

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}

    def __call__(self, value: Any) -> Any:  # noqa: ANN401 - hands back what it is given
        kept = self._kept
        if len(kept) >= _SHARED_LIMIT:
            kept.clear()
        return kept.setdefault(value, value)


_schedules = _Shared()
_plain_schedules: dict[_PlainSpec, ScheduleSpec] = {}
"""The same for schedules of the fast path; bounded alike."""
_policies = _Shared()


class NewerRowError(ValidationError):
    """The row needs a higher reader version."""


def encode_row(job: Job) -> bytes:
    """The row for ``job``. ``created_at_ms`` 0: a creating write; ``counts_from`` empty: counts from this write."""
    shown = content(job)
    own: dict[str, Any] = {"reader": 2 if _needs_second(job) else 1}
    if job.created_at_ms:
        own["generation"] = job.generation
        own["created_at"] = job.created_at_ms
        own["anchor"] = job.anchor_ms
    if job.counts_from != Stamp():
        own["counts_from"] = job.counts_from
    if job.previous:
        own["previous"] = [_version(version) for version in job.previous]
    shown[_OWN] = own
    try:
        return msgspec.json.encode(shown)
    except OverflowError:
        shown[_OWN] = msgspec.to_builtins(own)
        return json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()


def _needs_second(job: Job) -> bool:
    """Whether an instance with reader version 1 could not honour the job."""
    return bool(
        has_rare_fields(job)
        or job.overlap not in _FIRST_OVERLAPS
        or job.retry.only
        or job.retry.never
        or uses_later(job.schedule)
        or (job.previous and any(uses_later(version.schedule) for version in job.previous))
    )


_FIRST_OVERLAPS: Final = (Overlap.ALLOW, Overlap.SKIP)


def _version(version: Version) -> dict[str, Any]:
    shown: dict[str, Any] = {"since": version.since}
    if version.schedule is not None:
        shown["schedule"] = schedule_json(version.schedule)
    return shown


def decode_row(key: str, value: bytes, stamp: Stamp, limit: int | None = None) -> Job:
    """The job stored under ``key`` by the message with ``stamp``. Never raises: see ``Job.invalid``.

    A row of the Go version has generation 0 and counts from its own message.
    ``limit`` is the most bytes a row may have (default: the decoder's own).
    """
    job_id = id_of(key)
    try:
        if limit is not None and len(value) > limit:
            raise ValidationError(f"row of {len(value)} bytes is over the limit of {limit}")
        return _decode(key, job_id, value, stamp)
    except (NatscronError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Job(
            id=job_id,
            invalid=str(error) or type(error).__name__,
            newer=isinstance(error, NewerRowError),
            headers=_NOTHING,
            labels=_NOTHING,
            extra=_NOTHING,
            revision=stamp.seq,
            created_at_ms=stamp.at_ms,
            updated_at_ms=stamp.at_ms,
            anchor_ms=stamp.at_ms,
            counts_from=stamp,
        )


def _decode(key: str, job_id: str, value: bytes, stamp: Stamp) -> Job:
    plain = _decode_plain(value)
    if plain is not None and plain.subject == key == key_of(key):
        payload = msgspec.UNSET if plain.payload is None else envelope(plain.payload, old_format=False)
        return Job(
            id=key,
            schedule=None if plain.schedule is None else _plain_schedule(plain.schedule),
            payload=payload,
            headers=_NOTHING,
            labels=plain.labels or _NOTHING,
            overlap=plain.overlap,
            handler=plain.handler,
            paused=plain.paused,
            note=plain.note,
            extra=_NOTHING,
            revision=stamp.seq,
            updated_at_ms=stamp.at_ms,
            **_stored(plain.natscron, stamp),
        )
    found = as_object(decode(value), GO_TYPE)
    own = found.pop(_OWN, None)
    owned = None if own is None else _owned(own)
    parsed = job_from_fields(found).job
    if parsed.id != job_id or key_of(parsed.id) != key:
        raise ValidationError(f"the row's subject {parsed.id[:256]!r} does not belong to its key {key!r}")
    return msgspec.structs.replace(
        parsed,
        schedule=_schedule(parsed.schedule),
        headers=parsed.headers or _NOTHING,
        catchup=_catchup(parsed.catchup),
        retry=_retry(parsed.retry),
        labels=parsed.labels or _NOTHING,
        extra=parsed.extra or _NOTHING,
        revision=stamp.seq,
        updated_at_ms=stamp.at_ms,
        **_stored(owned, stamp),
    )


def _decode_plain(value: bytes) -> _Plain | None:
    if value.count(b"[") + value.count(b"{") > MAX_DEPTH or len(value) > MAX_BYTES:
        return None
    try:
        plain = _plain.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    spec, owned = plain.schedule, plain.natscron
    # An empty text counts as absent, and a newer row may mean something else by the same fields.
    if spec is not None and "" in (spec.every, spec.cron, spec.at, spec.tz, spec.start_at, spec.dst_gap, spec.dst_fold):
        return None
    return plain if owned is None or owned.reader <= READER else None


def _stored(owned: _Owned | None, stamp: Stamp) -> dict[str, Any]:
    """The store's fields; what the row does not say comes from its own message. None: a row of the Go version."""
    if owned is None:
        return {"created_at_ms": stamp.at_ms, "anchor_ms": stamp.at_ms, "counts_from": stamp}
    return {
        "generation": stamp.seq if owned.generation is None else owned.generation,
        "created_at_ms": stamp.at_ms if owned.created_at is None else owned.created_at,
        "anchor_ms": stamp.at_ms if owned.anchor is None else owned.anchor,
        "counts_from": own_stamp(owned.counts_from, stamp),
        "previous": tuple(map(partial(_own_version, stamp=stamp), owned.previous)) if owned.previous else (),
    }


def own_stamp(found: Stamp | None, stamp: Stamp) -> Stamp:
    """A stamp that a row has, completed by that of its own message; None: the row does not say it."""
    if found is None:
        return stamp
    return Stamp(found.at_ms, stamp.seq) if found.seq == THIS_WRITE else found


def _own_version(version: Version, stamp: Stamp) -> Version:
    return msgspec.structs.replace(version, since=own_stamp(version.since, stamp))


def needs_newer(own: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """Why this version must not read a row whose own part is ``own``; None: it may."""
    reader = own.get("reader", 0) if isinstance(own, dict) else 0
    if isinstance(reader, int) and reader > READER:
        return f"the row needs reader version {reader}; this version reads up to {READER}"
    return None


def _owned(own: Any) -> _Owned:  # noqa: ANN401 - any JSON value
    # The reader comes first: a later version may have changed the shape of all the rest.
    newer = needs_newer(own)
    if newer is not None:
        raise NewerRowError(newer)
    return msgspec.convert(own, _Owned)


def _schedule(spec: ScheduleSpec | None) -> ScheduleSpec | None:
    shared: ScheduleSpec | None = None if spec is None else _schedules(spec)
    return shared


def _plain_schedule(found: _PlainSpec) -> ScheduleSpec:
    if found.at is not None:
        return _spec_of(found)  # instants are seldom shared
    shared = _plain_schedules.get(found)
    if shared is None:
        if len(_plain_schedules) >= _SHARED_LIMIT:
            _plain_schedules.clear()
        shared = _plain_schedules[found] = _schedules(_spec_of(found))
    return shared


def _spec_of(found: _PlainSpec) -> ScheduleSpec:
    return ScheduleSpec(
        every=found.every,
        cron=found.cron,
        at=found.at,
        tz=found.tz,
        start_at=found.start_at,
        run_at_start=found.run_at_start,
        dst_gap=found.dst_gap,
        dst_fold=found.dst_fold,
    )


def _catchup(found: CatchUp) -> CatchUp:
    shared: CatchUp = DEFAULT_CATCHUP if found == DEFAULT_CATCHUP else _policies(found)
    return shared


def _retry(found: Retry) -> Retry:
    shared: Retry = DEFAULT_RETRY if found == DEFAULT_RETRY else _policies(found)
    return shared
