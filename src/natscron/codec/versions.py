"""What an edit does to the fields that the store owns.

Versions are kept until the mark has passed them and those before them: each ends where the next begins, the last one
where what is in force begins, so none can be taken out of the middle. With jitter a version is not over where it ends,
and a pause is kept as long as a slot that was waiting in it may be due after it. A pause that was to end by itself
leaves two versions, the pause and the schedule after it, the second since the pause's planned end. The writer does not
know the stamp of its own write, so both are kept also when the edit comes before that end: the second then never came
into force, and the pause ends with the edit.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from natscron.codec.packed import unpacked
from natscron.durations import parse_duration_ms
from natscron.errors import ValidationError
from natscron.model import SERVER_LAG_MS, Calendar, CalendarVersion, Job, Mark, Ms, ScheduleSpec, Stamp, Version

__all__ = ["MAX_PREVIOUS", "MAX_PREVIOUS_BYTES", "successor", "successor_calendar"]

MAX_PREVIOUS: Final = 32
"""How many earlier schedules a row keeps while no leader has planned past them."""
MAX_PREVIOUS_BYTES: Final = 600 * 1024
"""How many bytes of earlier contents a calendar's row keeps, so that the row fits in a message of 1 MiB."""
MAX_JITTER_MS: Final[Ms] = 24 * 3_600_000
"""The longest jitter that a schedule may have."""


def successor(old: Job, new: Job, mark: Mark | None = None) -> Job:
    """``new`` with the store's fields filled in for writing it over the stored ``old``.

    Generation, creation and anchor are copied. If the schedule, ``paused`` or the end of a pause changed,
    ``counts_from`` is left empty (the reader takes it from this very write) and what was in force joins ``previous``,
    so that a slot due before the edit still runs; else both are copied. Versions whose end, and the jitter after it,
    the mark has passed are dropped. Raises ValidationError when more than :data:`MAX_PREVIOUS` would have to be kept.
    """
    # No store has to know the form that payloads have in the table.
    new = msgspec.structs.replace(new, payload=unpacked(new.payload))
    # A row that could not be honoured has planned nothing that anybody would have to finish.
    if old.invalid is not None:
        return msgspec.structs.replace(new, **_owned(old), counts_from=Stamp(), previous=())
    previous = _pending(old, mark)
    if _in_force(old) == _in_force(new):
        return msgspec.structs.replace(new, **_owned(old), counts_from=old.counts_from, previous=previous)
    previous = (*previous, *_versions(old))
    if len(previous) > MAX_PREVIOUS:
        raise ValidationError(
            f"job {old.id!r} has {MAX_PREVIOUS} earlier schedules that no leader has planned past: "
            "no leader is planning, so its schedule cannot be changed again now"
        )
    return msgspec.structs.replace(new, **_owned(old), counts_from=Stamp(), previous=previous)


def successor_calendar(old: Calendar, new: Calendar, mark: Mark | None = None, jitter_ms: Ms = 0) -> Calendar:
    """:func:`successor` for a calendar; ``jitter_ms``: the longest jitter among the jobs that refer to it.

    A note alone changes nothing that is planned by. Raises ValidationError when more than :data:`MAX_PREVIOUS` versions
    or :data:`MAX_PREVIOUS_BYTES` would have to be kept.
    """
    owned = {"revision": old.revision, "updated_at_ms": old.updated_at_ms}
    if old.invalid is not None:
        return msgspec.structs.replace(new, **owned, counts_from=Stamp(), previous=())
    passed = [mark is not None and _passed(mark, e, jitter_ms) for e in _ends(old.previous, old.counts_from)]
    previous = old.previous[[*passed, False].index(False) :]
    if msgspec.structs.replace(old.spec, note=new.spec.note) == new.spec:
        return msgspec.structs.replace(new, **owned, counts_from=old.counts_from, previous=previous)
    previous = (*previous, CalendarVersion(spec=msgspec.structs.replace(old.spec, note=""), since=old.counts_from))
    if len(previous) > MAX_PREVIOUS or len(msgspec.json.encode(previous)) > MAX_PREVIOUS_BYTES:
        raise ValidationError(
            f"calendar {old.name!r} has {len(previous) - 1} earlier contents that no leader has planned past, and no "
            "room for one more: it cannot be changed again now"
        )
    return msgspec.structs.replace(new, **owned, counts_from=Stamp(), previous=previous)


def _in_force(job: Job) -> tuple[ScheduleSpec | None, bool, Ms | None]:
    """What planning goes by: the end of a pause means nothing without the pause."""
    return job.schedule, job.paused, job.paused_until_ms if job.paused else None


def _versions(old: Job) -> tuple[Version, ...]:
    """What was in force until the edit; a pause with an end is two versions, see above."""
    since = old.counts_from
    if not old.paused:
        return (Version(schedule=old.schedule, since=since),)
    pause = Version(schedule=None, since=since)
    if old.paused_until_ms is None:
        return (pause,)
    return pause, Version(schedule=old.schedule, since=Stamp(max(old.paused_until_ms, since.at_ms), since.seq))


def _owned(old: Job) -> dict[str, int]:
    return {
        "generation": old.generation,
        "revision": old.revision,
        "created_at_ms": old.created_at_ms,
        "updated_at_ms": old.updated_at_ms,
        "anchor_ms": old.anchor_ms,
    }


def _pending(old: Job, mark: Mark | None) -> tuple[Version, ...]:
    if mark is None:
        return old.previous
    ends = _ends(old.previous, old.counts_from)
    waits = _delay_ms(old.schedule)
    jitters: list[Ms] = []
    for version in reversed(old.previous):
        jitters.append(waits if version.schedule is None else _delay_ms(version.schedule))
        waits = max(waits, jitters[-1])
    passed = [_passed(mark, end, jitter) for end, jitter in zip(ends, reversed(jitters), strict=True)]
    return old.previous[[*passed, False].index(False) :]


def _ends(versions: Sequence[Version | CalendarVersion], last: Stamp) -> list[Stamp]:
    """Where each version ends."""
    ends: list[Stamp] = []
    end, following = last, None
    for version in reversed(versions):
        # Of two versions of one write the second begins at a planned instant, which may lie beyond its end.
        if following is not None and (following.seq != version.since.seq or following.at_ms <= end.at_ms):
            end = following
        ends.append(end)
        following = version.since
    return ends[::-1]


def _passed(mark: Mark, end: Stamp, jitter_ms: Ms) -> bool:
    """The mark counts due instants: a slot before the end may be due as much as the jitter after it."""
    return mark.instant_ms >= end.at_ms + jitter_ms and mark.jobs_seq >= end.seq


def _delay_ms(spec: ScheduleSpec | None) -> Ms:
    """How much later than its slot a run may be due."""
    if spec is None:
        return 0
    if spec.timer is not None:
        return SERVER_LAG_MS
    if spec.jitter is None:
        return 0
    try:
        return min(max(parse_duration_ms(spec.jitter), 0), MAX_JITTER_MS)
    except ValidationError:
        return MAX_JITTER_MS
